"""Cuts the GRID audio-visual corpus into single spoken words, laid out as main_CD.py reads them.

    # https://zenodo.org/records/3625687: s1.zip (videos) and alignments.zip, unpacked below one folder
    python scripts/prepare_grid.py --grid_root data/GRID --data_root data/grid_digits --speaker s1 --column digit
    python scripts/prepare_grid.py --grid_root data/GRID --data_root data/grid_digits --babble_snr clean 5 -5 --folds 5
    python scripts/prepare_grid.py --grid_root data/GRID --data_root data/people --speakers s1 s2 s3 --split speaker

GRID: Cooke, Barker, Cunningham, Shao, "An audio-visual corpus for speech perception and automatic speech recognition"
(2006), CC BY 4.0. Each sentence has six words: command colour preposition letter digit adverb.

Reads    <grid_root>/**/<speaker>/**/<clip>.mpg and <clip>.align, anywhere below <grid_root>; alignments may
         also be in a folder without a speaker's name. The default --rows and --columns fit the 360x288 videos.
Writes   <data_root>/AudioWAV/<clip>.wav                          the word -/+ 60 ms, channels averaged, 16 kHz
         <data_root>/Image-01-FPS/<clip>/frame_00001.jpg ...      the mouth at 1/4, 1/2, 3/4 of the word
         <data_root>/train.csv, test.csv, stat.csv                class: the word in capitals; existing lists are kept
         <data_root>/prepare_grid.json, prepare_lists.json        how the words were cut, how the lists were made
         <data_root>/prepare_failures.csv                         clip,reason; only when clips failed

--babble_snr: data sets <data_root>-snr<DB> in which six other sentences of the same part of the split babble over each
word, DB weaker than it (a mixture that would clip is made quieter as a whole); which ones depends on --seed, the clip
and the clips of its part. Words that cannot be mixed, such as silent ones, are not in their lists. --folds: data sets
<data_root>-fold<K>, in which every clip is tested once. Both: <data_root>-fold<K>-snr<DB>. Frames are links to
<data_root>.
If it is interrupted, run the same command again: finished clips are kept.
Exit status: 0 if every clip is usable, 2 otherwise (all usable clips are still prepared).
"""

import argparse
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils import startup

if __name__ == "__main__":
    startup.explain_import_errors()

import numpy as np

from dataset.cremad import AUDIO_FOLDER, audio_path, clip_folder, frames_folder
from dataset.errors import InputError
from dataset.names import canonical, last_name
from dataset.preparation import clips as prep
from dataset.preparation import lists as prep_lists
from dataset.preparation import reader
from dataset.preparation.grid import variants
from dataset.preparation.grid.alignments import COLUMNS, Word, read_words
from dataset.whole_files import remove_leftovers
from utils import cli

SAMPLE_RATE = 16000
MARGIN = 0.06  # seconds of sound kept before and after the word
FRAME_PLACES = (0.25, 0.5, 0.75)  # fractions of the word
JPEG_QUALITY = 92


def get_args_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(description=__doc__, formatter_class=cli.DocstringHelpFormatter)
    parser.add_argument("--grid_root", required=True, help="folder of the videos and the alignments")
    parser.add_argument("--data_root", default="data/grid_digits", help="output folder: of these speakers and --column")
    parser.add_argument("--speaker", "--speakers", nargs="+", default=["s1"], metavar="S",
                        help="folders of the videos: s1 to s34; clips of several are called <speaker>_<clip>")
    parser.add_argument("--split", choices=prep_lists.SPLITS, default="stratified", help="speaker: test other people")
    parser.add_argument("--babble_snr", nargs="+", type=level, metavar="DB", help="levels of noise: clean, or dB")
    parser.add_argument("--folds", type=cli.number(int, 2, 100), help="data sets of which each tests another part")
    parser.add_argument("--column", choices=COLUMNS, default="digit", help="which word of the sentence is cut out")
    parser.add_argument("--rows", type=int, nargs=2, default=[156, 268], help="pixel rows of the mouth: first, end")
    parser.add_argument("--columns", type=int, nargs=2, default=[101, 213], help="pixel columns of it: first, end")
    parser.add_argument("--test_fraction", type=cli.number(float, 0, 1, exclusive=True), default=0.2,
                        help="test part of the clips of every class")
    parser.add_argument("--seed", type=cli.number(int, 0), default=0, help="random seed of the split")
    parser.add_argument("--workers", type=cli.number(int, 1, 1024), default=os.cpu_count(), help="decoded in parallel")
    return parser


def level(text: str) -> float | None:
    """`clean` is None."""
    return None if text == "clean" else cli.number(float, -40, 40)(text)


def check_box(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    for flag, (first, end) in (("--rows", args.rows), ("--columns", args.columns)):
        if not 0 <= first < end:
            parser.error(f"{flag} {first} {end}: expected the first pixel and the one after the last, 0 <= first < end")


def find_files(grid_root: Path, suffix: str, speakers: Sequence[str | None]) -> dict[str, Path]:
    """{clip: path} of the files that belong to one of `speakers`. Raises InputError: two files of a clip."""
    found: dict[str, Path] = {}
    paths = sorted(Path(place, file) for place, files in prep.walk(grid_root) for file in files)
    for path in paths:
        if Path(canonical(path.name)).suffix != suffix or speaker_of(path.relative_to(grid_root)) not in speakers:
            continue
        if path.stem in found and os.path.realpath(path) != os.path.realpath(found[path.stem]):
            raise InputError(f"two files of clip {path.stem}: {found[path.stem]} and {path}. Name a folder with only "
                             "one of them with --grid_root")
        found[path.stem] = path
    return found


def speaker_of(path: Path) -> str | None:
    """The last folder of `path` named as a speaker (s1, s2, ...), None without such a folder."""
    return next((part for part in reversed(path.parts[:-1]) if re.fullmatch(r"s\d+", part)), None)


def named(found: dict[str, Path], speaker: str, speakers: Sequence[str]) -> dict[str, Path]:
    """By the clips' names: several speakers say sentences of the same names."""
    return found if len(speakers) == 1 else {f"{speaker}_{name}": path for name, path in found.items()}


def find_videos(grid_root: Path, speakers: Sequence[str]) -> dict[str, Path]:
    if not grid_root.is_dir():
        raise InputError(f"no folder {grid_root}: name the folder of the GRID corpus with --grid_root")
    videos = {}
    for speaker in speakers:
        found = find_files(grid_root, ".mpg", [speaker])
        if not found:
            raise InputError(f"no .mpg below a folder {speaker} in {grid_root}. Get {speaker}.zip and alignments.zip "
                             "from https://zenodo.org/records/3625687, unpack both below it, or choose another "
                             "--speaker")
        videos |= named(found, speaker, speakers)
    return videos


def find_alignments(grid_root: Path, speakers: Sequence[str]) -> dict[str, Path]:
    """{clip: path}; for a single speaker, files in a folder without a speaker's name do where there are no others."""
    found = find_files(grid_root, ".align", [None]) if len(speakers) == 1 else {}
    for speaker in speakers:
        found |= named(find_files(grid_root, ".align", [speaker]), speaker, speakers)
    return found


def cut_word(name: str, video: Path, word: Word, root: Path, rows: Sequence[int], columns: Sequence[int]) -> None:
    """Writes the sound and the frames of one word, unless they exist. Raises InputError."""
    wav, folder = audio_path(root, name), clip_folder(root, 1, name)
    if wav.is_file() and prep.has_frames(folder):
        return
    sound = cut_sound(video, word)
    times = [word.start + place * (word.end - word.start) for place in FRAME_PLACES]
    images = [crop(image, rows, columns, video) for image in reader.read_frames(video, times)]
    prep.write_sound(wav, sound, SAMPLE_RATE)
    prep.write_frames(folder, images, JPEG_QUALITY)  # last, so that a clip with frames has its sound


def cut_sound(video: Path, word: Word) -> np.ndarray:
    """The word with its margins, within the sound: int16 (N,). Raises InputError."""
    sound = reader.read_sound(video, SAMPLE_RATE)
    if len(sound) < (word.end - MARGIN) * SAMPLE_RATE:  # alignments may exceed the sound by some milliseconds
        raise InputError(f"the sound of {video} ends at {len(sound) / SAMPLE_RATE:.2f} s, before the word "
                         f"{word.text!r} ends ({word.end:.2f} s): download it again")
    first = max(0, round((word.start - MARGIN) * SAMPLE_RATE))
    return sound[first:round((word.end + MARGIN) * SAMPLE_RATE)]


def crop(image: np.ndarray, rows: Sequence[int], columns: Sequence[int], video: Path) -> np.ndarray:
    """The box of an image (H, W, 3). Raises InputError: it is not inside the image."""
    height, width = image.shape[:2]
    if rows[1] > height or columns[1] > width:
        raise InputError(f"{video} is {width}x{height}: rows {rows} and columns {columns} are not inside (see --rows, "
                         "--columns)")
    return image[rows[0]:rows[1], columns[0]:columns[1]]


def cut_words(videos: dict[str, Path], words: dict[str, Word], root: Path, args: argparse.Namespace) -> dict[str, str]:
    """{clip: reason} of the words that could not be cut."""
    for folder in (root, root / AUDIO_FOLDER, frames_folder(root)):
        remove_leftovers(folder)

    def work(name: str) -> None:
        cut_word(name, videos[name], words[name], root, args.rows, args.columns)

    return prep.run_parallel(work, list(words), args.workers, "words")


def span(word: Word) -> slice:
    """Where the word is in its clip, in samples."""
    first = round(min(word.start, MARGIN) * SAMPLE_RATE)
    return slice(first, first + round((word.end - word.start) * SAMPLE_RATE))


def main(argv: list[str]) -> dict[str, int]:
    """Counts of clips found, failed, and listed for training and test. Raises InputError: a clip failed."""
    parser = get_args_parser()
    args = parser.parse_args(argv)
    check_box(parser, args)
    grid_root, root = Path(args.grid_root), Path(args.data_root)
    videos = find_videos(grid_root, args.speaker)
    words, problems = read_words(videos, find_alignments(grid_root, args.speaker), args.column)
    prep.check_some_usable(grid_root, videos, problems)
    settings = {name: getattr(args, name) for name in ("column", "rows", "columns")}  # and, as it was noted before:
    settings["speaker"] = args.speaker[0] if len(args.speaker) == 1 else args.speaker
    prep_lists.check_settings(root / "prepare_grid.json", settings, root / AUDIO_FOLDER)
    how = {name: getattr(args, name) for name in ("split", "test_fraction", "seed")}
    # before the long work, so that mistakes in them show at once; folds are made of all listed clips
    lists = prep_lists.read_own_lists(root, None if args.folds else how)
    problems |= cut_words(videos, words, root, args)
    prep.check_some_usable(grid_root, videos, problems)
    labels = {name: word.text.upper() for name, word in words.items() if name not in problems}
    lists = prep_lists.settle_lists(root, lists, labels, problems, videos, fps=1, **how)
    prep_lists.report_lists(lists, labels)
    spans = {name: span(word) for name, word in words.items()}
    made, unmixed = variants.make_all(root, lists, args.folds, args.split, args.babble_snr, videos, spans, args.seed,
                                      args.workers)
    problems |= unmixed
    if unmixed:
        prep.write_failures(root, problems, len(videos))
    prep.finish(root, problems, shlex.join([
        "python", "main_CD.py", "--train", "--mmcosine", "True", "--dataset", last_name(made[-1]),
        "--data_root", str(made[-1]), "--image_size", "112", "--audio_seconds", "1", "--learning_rate", "0.01"]))
    return {"clips": len(videos), "failed": len(problems), "train": len(lists.train), "test": len(lists.test)}


if __name__ == "__main__":
    cli.run(main)
