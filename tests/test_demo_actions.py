"""The made actions: UCF-101's layout, the same bytes for the same parameters, classes alike in colour or in motion."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from test_demo import content, write_times

from dataset.demo.actions import CLASSES, LOOKS, MOVES, make_demo
from dataset.errors import InputError
from dataset.ucf101 import find_clips, read_classes, read_split

EVERY = ("rgb", "flow", "difference")


@pytest.fixture(scope="module")
def actions(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("made") / "actions"
    make_demo(root, clips_per_group=1, difficulty=0.5)
    return root


def test_every_split_is_whole_and_the_splits_have_different_test_groups(actions):
    classes = read_classes(actions, "")
    assert classes == CLASSES and len(classes) == len(LOOKS) + len(MOVES) == 9
    tests = []
    for split in (1, 2, 3):
        train, test = read_split(actions, split, classes, "")
        assert (len(train), len(test)) == (54, 27)
        good, problems = find_clips(actions, train + test, EVERY, "dis")
        assert len(good) == 81 and not problems
        assert {(len(clip.rgb), len(clip.next), len(clip.u), len(clip.v)) for clip in good} == {(1, 1, 4, 4)}
        tests.append({clip.name for clip in test})
    assert len(set.union(*tests)) == 81


def mean_flow(root: Path, label: str) -> np.ndarray:
    """Median over clips of the flow (u, v) in the middle of the picture, in levels from 128."""
    found = []
    for folder in (root / "flow_dis" / label).iterdir():
        parts = [np.mean([cv2.imread(str(path), 0)[28:52, 28:52].mean() - 128 for path in folder.glob(f"{name}_*.jpg")])
                 for name in "uv"]
        found.append(parts)
    return np.median(found, axis=0)


def mean_colour(root: Path, label: str) -> np.ndarray:
    return np.median([cv2.imread(str(path))[32:48, 32:48].mean((0, 1)) for path in
                      (root / "frames" / label).rglob("rgb_*.jpg")], axis=0)


def test_some_classes_differ_in_motion_and_not_in_colour_and_the_others_in_colour(actions):
    rising, sinking = (mean_flow(actions, label) for label in ("GreyRising", "GreySinking"))
    assert rising[1] < -2 and sinking[1] > 2, "up is negative"
    greys = [mean_colour(actions, label) for label in MOVES]
    assert max(np.abs(a - b).max() for a in greys for b in greys) < 30
    colours = [mean_colour(actions, label) for label in LOOKS]
    assert min(np.abs(a - b).max() for i, a in enumerate(colours) for b in colours[:i]) > 25


def test_same_seed_gives_the_same_bytes_and_complete_actions_are_left_alone(actions, tmp_path):
    before, times = content(actions), write_times(actions)
    make_demo(actions, clips_per_group=1, difficulty=0.5)
    assert write_times(actions) == times
    next((actions / "flow_dis").rglob("u_*.jpg")).unlink()
    make_demo(actions, clips_per_group=1, difficulty=0.5)
    assert content(actions) == before


def test_other_folders_are_left_alone_and_no_clip_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds no demo data"):
        make_demo(tmp_path)
    with pytest.raises(InputError, match="at least 1 clip per group"):
        make_demo(tmp_path / "other", clips_per_group=0)
