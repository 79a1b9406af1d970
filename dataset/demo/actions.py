"""Demo data: drawn shapes that move, in the layout of dataset/ucf101.py, to try training without a download. Results
say nothing about real data.

Six classes differ in appearance alone: coloured shapes, which move anyhow. Three differ in motion alone: a grey shape
that rises, sinks or comes nearer. No single modality distinguishes all: in RGB frames the three are one class, and
motion says little about the six. RGB leads, as in UCF-101. Training may mirror clips: all motions stay what they are.

This file writes the folder; dataset/demo/shapes.py draws the clips.
"""

from collections.abc import Iterator
from pathlib import Path

from dataset.demo.folder import fill_folder, generator
from dataset.demo.shapes import MOTIONS, Scene, film_shape, random_scene
from dataset.errors import InputError
from dataset.lists import Clip
from dataset.preparation import motion
from dataset.ucf101 import KINDS, LISTS, NOTE, SPLITS, flow_folder, frames_folder, image_path
from dataset.whole_files import write_whole

MADE_BY = "dataset/demo/actions.py, version 1"  # marks demo folders; raise the version when the bytes change
LOOKS = {f"{colour}{shape}": (colour, shape) for colour, shape in (
    ("Blue", "Disc"), ("Green", "Star"), ("Orange", "Disc"), ("Purple", "Star"), ("Red", "Disc"), ("Yellow", "Star"))}
MOVES = {f"Grey{name}": name for name in ("Nearing", "Rising", "Sinking")}
CLASSES = sorted([*LOOKS, *MOVES])
GROUPS = 9  # scenes per class, three for the test of each split
VIDEO_FRAMES = 24
SETTINGS = {"frames": {"num_frames": 1}, "flow": {"flow": "dis", "flow_frames": 4}}


def make_demo(root: Path, seed: int = 0, clips_per_group: int = 4, difficulty: float = 1.0) -> None:
    """Writes the demo data into `root`, a folder that is missing, empty or held this demo before.

    The same parameters give the same bytes; see folder.fill_folder for a folder that already has data. difficulty
    scales the random variation of appearance and motion; 0: none.
    Raises InputError: `root` holds something else, or no clip.
    """
    if clips_per_group < 1:
        raise InputError(f"the demo needs at least 1 clip per group, not {clips_per_group}")
    clips = list_clips(clips_per_group)

    def write() -> None:
        for clip in clips:
            write_clip(root, clip, seed, difficulty)
        write_lists(root, clips)

    parameters = {"made_by": MADE_BY, "seed": seed, "clips_per_group": clips_per_group, "difficulty": difficulty}
    own = [LISTS, frames_folder(root).name, flow_folder(root, "dis").name]
    fill_folder(root, parameters, [path for clip in clips for path in clip_files(root, clip)], own, write)


def list_clips(clips_per_group: int) -> list[Clip]:
    return [Clip(f"{label}/v_{label}_g{group:02d}_c{number:02d}", label) for label in CLASSES
            for group in range(1, GROUPS + 1) for number in range(1, clips_per_group + 1)]


def numbers(kind: str) -> tuple[int, ...]:
    """The frames that have images of this kind."""
    return motion.evenly_spaced(SETTINGS[kind]["num_frames" if kind == "frames" else "flow_frames"], VIDEO_FRAMES)


def clip_files(root: Path, clip: Clip) -> Iterator[Path]:
    for kind, folder in (("frames", frames_folder(root)), ("flow", flow_folder(root, "dis"))):
        yield folder / clip.name / NOTE
        yield from (image_path(folder / clip.name, name, number) for name in KINDS[kind] for number in numbers(kind))


def write_clip(root: Path, clip: Clip, seed: int, difficulty: float) -> None:
    """Writes the frames and the flow of one clip."""
    scene = random_scene(generator(seed, f"scene {clip.name.rpartition('_')[0]}"), difficulty)
    wanted = sorted({number + step for kind in KINDS for number in numbers(kind) for step in (0, 1)})
    frames = dict(zip(wanted, film(clip, scene, wanted, seed, difficulty), strict=True))
    motion.write_frames(frames_folder(root) / clip.name, VIDEO_FRAMES, frames, numbers("frames"), SETTINGS["frames"])
    motion.write_flow(flow_folder(root, "dis") / clip.name, VIDEO_FRAMES, frames, numbers("flow"), SETTINGS["flow"])


def film(clip: Clip, scene: Scene, wanted: list[int], seed: int, difficulty: float) -> list:
    """The wanted frames, (H, W, 3) uint8 BGR."""
    rng = generator(seed, f"clip {clip.name}")
    colour, shape = LOOKS.get(clip.label, ("Grey", "Disc"))
    moves = MOVES.get(clip.label) or list(MOTIONS)[rng.integers(len(MOTIONS))]
    return film_shape(colour, shape, moves, scene, [number - VIDEO_FRAMES / 2 for number in wanted], rng, difficulty)


def write_lists(root: Path, clips: list[Clip]) -> None:
    """The official lists: the test of split 1 has the first third of the groups."""
    write_whole(root / LISTS / "classInd.txt", "".join(f"{n} {name}\n" for n, name in enumerate(CLASSES, 1)))
    for split in SPLITS:
        first = (split - 1) * GROUPS // len(SPLITS)
        tests = {f"_g{group:02d}_" for group in range(first + 1, first + GROUPS // len(SPLITS) + 1)}
        rows = {"train": "", "test": ""}
        for clip in clips:
            in_test = any(group in clip.name for group in tests)
            rows["test" if in_test else "train"] += (
                f"{clip.name}.avi\n" if in_test else f"{clip.name}.avi {CLASSES.index(clip.label) + 1}\n")
        for name, text in rows.items():
            write_whole(root / LISTS / f"{name}list{split:02d}.txt", text)
