"""Demo data: drawn faces and synthesised voices in the layout of dataset/cremad.py, to try training
without a download. No real person is shown, and results say nothing about real data.

It is unbalanced on purpose, as CREMA-D is: the emotion is easy to hear in the voice, but hard to see in the face, where
it is small against identity, pose, light and random movement, and partly lost in training crops. Trained alone for 12
epochs, a ResNet-18 classifies 85 to 89 % of the test voices and 64 to 68 % of the faces (80 pixels) correctly.

This file writes the folder; dataset/demo/faces.py draws the faces, dataset/demo/voices.py synthesises the voices.
"""

from pathlib import Path

import cv2
import soundfile

from dataset.cremad import AUDIO_FOLDER, EMOTIONS, audio_path, frames_folder
from dataset.demo.faces import FRAMES, film, random_face
from dataset.demo.folder import fill_folder, generator
from dataset.demo.voices import SAMPLE_RATE, random_voice, speak
from dataset.errors import InputError
from dataset.lists import Clip, Lists, write_lists
from dataset.whole_files import write_whole

LISTS = ("stat.csv", "train.csv", "test.csv")
MADE_BY = "dataset/demo.py, version 2"  # marks demo folders; raise the version when the bytes change
TAKES = 5  # clips per emotion and speaker


def make_demo(root: Path, seed: int = 0, train_per_class: int = 50, test_per_class: int = 20,
              face_difficulty: float = 1.0, voice_difficulty: float = 1.0) -> Lists:
    """Writes the demo data into `root`, a folder that is missing, empty or held demo data before; returns its lists.

    The same parameters give the same bytes. Complete data of the same parameters is kept, incomplete data is written
    again, data of other parameters is replaced; other files in the folder are kept. As in the paper's lists of CREMA-D,
    training and test share the speakers (dataset.lists.split_by_speaker makes disjoint lists). A difficulty scales
    the random variation that hides the emotion in face or voice; 0: none.
    Raises InputError: `root` holds something else, or less than one clip per class and list.
    """
    if min(train_per_class, test_per_class) < 1:
        raise InputError(f"the demo needs at least 1 clip per class for training and for testing, not "
                         f"{train_per_class} and {test_per_class}")
    parameters = {"made_by": MADE_BY, "seed": seed, "train_per_class": train_per_class,
                  "test_per_class": test_per_class, "face_difficulty": face_difficulty,
                  "voice_difficulty": voice_difficulty}
    lists = demo_lists(seed, train_per_class, test_per_class)

    def fill() -> None:
        for clip in clips:
            write_clip(root, clip, seed, face_difficulty, voice_difficulty)
        write_lists(root, lists)

    clips = lists.train + lists.test
    fill_folder(root, parameters, demo_files(root, clips), [*LISTS, AUDIO_FOLDER, frames_folder(root).name], fill)
    return lists


def demo_lists(seed: int, train_per_class: int, test_per_class: int) -> Lists:
    """Clips `<speaker>_DEM_<EMOTION>_<take>`, each class distributed over the speakers, then split at random."""
    train, test = [], []
    per_class = train_per_class + test_per_class
    speakers = max(2, round(per_class / TAKES))
    for label in EMOTIONS:
        clips = [Clip(f"{9001 + i % speakers}_DEM_{label}_{i // speakers + 1:02d}", label) for i in range(per_class)]
        generator(seed, f"split {label}").shuffle(clips)
        train += clips[:train_per_class]
        test += clips[train_per_class:]
    return Lists(sorted(EMOTIONS), sorted(train), sorted(test))


def frame_path(root: Path, name: str, number: int) -> Path:
    return frames_folder(root) / name / f"frame_{number:05d}.jpg"


def demo_files(root: Path, clips: list[Clip]) -> list[Path]:
    """Every file of a complete demo except its marker."""
    frames = [frame_path(root, clip.name, number) for clip in clips for number in range(1, FRAMES + 1)]
    sounds = [audio_path(root, clip.name) for clip in clips]
    return [*(root / name for name in LISTS), *sounds, *frames]


def write_clip(root: Path, clip: Clip, seed: int, face_difficulty: float, voice_difficulty: float) -> None:
    """Writes the sound and the frames of one clip."""
    speaker = clip.name.split("_")[0]
    voice = speak(clip.label, random_voice(generator(seed, f"voice {speaker}")),
                  generator(seed, f"sound {clip.name}"), voice_difficulty)
    write_whole(audio_path(root, clip.name),
                lambda path: soundfile.write(path, voice, SAMPLE_RATE, subtype="PCM_16"))
    pictures = film(clip.label, random_face(generator(seed, f"face {speaker}")),
                    generator(seed, f"image {clip.name}"), face_difficulty)
    for number, picture in enumerate(pictures, start=1):
        encoded = cv2.imencode(".jpg", picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
        write_whole(frame_path(root, clip.name, number), lambda path, data=encoded: data.tofile(path))
