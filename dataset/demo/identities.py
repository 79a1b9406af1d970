"""Demo data for verification: synthetic identities, each with a drawn face and a synthesised voice, in the layout of
dataset/voxceleb.py. No real person is shown, and results say nothing about real data.

Mood, way of speaking, pose, light and room change from utterance to utterance. The pictures are grey, because drawn
faces could be recognised by their colours alone. Training and trials have different identities.
"""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import soundfile

from dataset.cremad import EMOTIONS
from dataset.demo.faces import film, random_face
from dataset.demo.folder import fill_folder, generator
from dataset.demo.voices import SAMPLE_RATE, VOWELS, Prosody, Voice, random_voice, speak
from dataset.errors import InputError
from dataset.trials import Trials, format_trials, identity_of
from dataset.whole_files import write_whole

MADE_BY = "dataset/demo_identities.py, version 1"  # marks demo folders; raise the version when the bytes change
# standard deviation, over speakers, of the way of speaking: rate, accent, tremor and breath differ
MANNER = Prosody(fall=0.1, accent=0.15, rate=1.2, attack=0.15, dark=0.2, breath=0.15, tremor=0.04)
FACES = 2  # pictures per utterance, as drawn by dataset.demo.faces.film


def make_demo(root: Path, seed: int = 0, train_identities: int = 40, train_utterances: int = 6,
              test_identities: int = 12, test_utterances: int = 6) -> None:
    """Writes the demo data into `root`, a folder that is missing, empty or held demo data before.

    The same parameters give the same bytes; complete data of the same parameters is kept. The trials are all pairs of
    test utterances. Raises InputError: `root` holds something else, fewer than 2 identities or test utterances.
    """
    if min(train_identities, test_identities, test_utterances) < 2 or train_utterances < 1:
        raise InputError("the demo needs at least 2 identities for training, and for testing 2 with 2 utterances each")
    parameters = {"made_by": MADE_BY, "seed": seed, "train_identities": train_identities, "train_utterances":
                  train_utterances, "test_identities": test_identities, "test_utterances": test_utterances}
    names = {"train": utterance_names(10000, train_identities, train_utterances),
             "test": utterance_names(20000, test_identities, test_utterances)}

    def fill() -> None:
        for folder, stems in names.items():
            for stem in stems:
                write_utterance(root / folder, stem, seed)
        rows = [f"{stem}.wav,{stem},{identity_of(stem)},{FACES}\n" for stem in names["train"]]
        write_whole(root / "train.csv", "".join(rows))
        write_whole(root / "test_pairs.csv", format_trials(all_pairs(names["test"])))

    files = [path for folder, stems in names.items() for stem in stems for path in utterance_files(root / folder, stem)]
    own = ["train", "test", "train.csv", "test_pairs.csv"]
    fill_folder(root, parameters, [*files, *(root / name for name in own[2:])], own, fill)


def utterance_names(first: int, identities: int, utterances: int) -> list[str]:
    """id<number>/<video>/<utterance>, two utterances per video."""
    return [f"id{first + i}/v{k // 2}/{k:05d}" for i in range(identities) for k in range(utterances)]


def all_pairs(stems: Sequence[str]) -> Trials:
    pairs = np.array(list(combinations(range(len(stems)), 2)))
    labels = np.array([identity_of(stems[a]) == identity_of(stems[b]) for a, b in pairs])
    return Trials([f"{stem}.wav" for stem in stems], pairs, labels)


def utterance_files(folder: Path, stem: str) -> list[Path]:
    """The wav, then the faces."""
    faces = [folder / "faces" / stem / f"{number:07d}.png" for number in range(FACES)]
    return [folder / "wav" / f"{stem}.wav", *faces]


def write_utterance(folder: Path, stem: str, seed: int) -> None:
    identity = identity_of(stem)
    wav, *faces = utterance_files(folder, stem)
    rng = generator(seed, f"sound {stem}")
    sound = speak("NEU", random_speaker(generator(seed, f"voice {identity}")), rng, 0.5)
    write_whole(wav, lambda path: soundfile.write(path, sound, SAMPLE_RATE, subtype="PCM_16"))
    rng = generator(seed, f"image {stem}")
    pictures = film(rng.choice(list(EMOTIONS)), random_face(generator(seed, f"face {identity}")), rng, 1.0)
    for path, picture in zip(faces, pictures, strict=True):
        encoded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY))[1]
        write_whole(path, lambda temporary, data=encoded: data.tofile(temporary))


def random_speaker(rng: np.random.Generator) -> Voice:
    """A voice with random formants and a random way of speaking."""
    voice = random_voice(rng)
    manner = rng.normal(0, MANNER)
    return voice._replace(formants=voice.formants * (1 + 0.08 * rng.normal(size=VOWELS.shape[1])),
                          manner=Prosody(*manner))
