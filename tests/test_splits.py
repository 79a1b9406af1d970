"""Runs on the three splits of UCF-101 in one table: a row per split, and the mean over the splits by seed."""

import json
from pathlib import Path

import pytest

import main_UCF
from utils.experiments import comparison
from utils.experiments.splits import means_over_splits
from utils.training import options

SIZES = {1: 3783, 2: 3734, 3: 3696}


def write_run(root: Path, split: int, seed: int, accuracy: float, *flags: str) -> None:
    argv = ["--train", "--split", str(split), "--random_seed", str(seed), *flags]
    settings = options.settings(main_UCF.parse(argv))
    folder = root / f"{settings['modality']}-{settings['mmcosine']}-{split}-{seed}"
    folder.mkdir()
    names = ("rgb", "flow") if "+" in settings["modality"] else (settings["modality"],)
    result = {**settings, "accuracy": accuracy, **{f"accuracy_{name}": accuracy / 2 for name in names},
              "last_test_accuracy": accuracy - 0.1, "modalities": list(names), "n_test": SIZES[split], "split": split,
              "selection": "best", "git_commit": "c0ffee", "classes": ["a", "b"]}
    (folder / "args.json").write_text(json.dumps(settings))
    (folder / "result.json").write_text(json.dumps(result))


@pytest.fixture
def root(tmp_path) -> Path:
    """Plain and MMCosine, splits 1 to 3, seeds 0 and 1; rgb alone on split 1, flow alone on splits 1 and 2."""
    for split in SIZES:
        for seed in (0, 1):
            write_run(tmp_path, split, seed, 0.5 + 0.03 * split + 0.01 * seed)
            write_run(tmp_path, split, seed, 0.6 + 0.03 * split + 0.02 * seed, "--mmcosine")
    write_run(tmp_path, 1, 0, 0.4, "--modality", "rgb")
    for split in (1, 2):
        write_run(tmp_path, split, 0, 0.3, "--modality", "flow")
    return tmp_path


def rows(text: str) -> dict[str, list[str]]:
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:2] == "| "]
    return {first: others for first, *others in cells}


def test_the_mean_over_the_splits_is_taken_by_seed_then_over_seeds(root):
    by_split, means = comparison.report(comparison.read_runs(root)).split("## UCF101, mean over the splits 1+2+3:")
    found = rows(means.partition("Points to")[0])
    plain, mmcosine = (dict(zip(found[""], next(cells for name, cells in found.items() if head in name), strict=True))
                       for head in ("plain", "MMCosine"))
    assert (plain["n"], plain["joint"]) == ("2", "56.50 +- 0.71")
    assert (mmcosine["n"], mmcosine["joint"]) == ("2", "67.00 +- 1.41")
    assert plain["last epoch"] == "46.50 +- 0.71" and plain["paper"] == "", "the paper's results are of split 1"
    assert "+10.50 [+4.15, +16.85] *, n=2" in means
    assert f"One of {sum(SIZES.values())} clips" in means
    assert not any("alone" in name for name in found), "they have no run on split 3"
    assert sum("split 3" in name for name in rows(by_split.partition("Points to")[0])) == 2
    assert "81.15" in by_split and "82.02" in by_split


def test_an_encoder_alone_is_compared_with_the_joint_runs_that_are_there(root):
    write_run(root, 1, 1, 0.41, "--modality", "rgb")
    table = comparison.report(comparison.read_runs(root)).partition("## UCF101, mean")[0].partition("Points to")[2]
    row = next(cells for name, cells in rows(table).items() if "rgb encoder alone" in name)
    assert row[1] == "+13.75 [+10.57, +16.93] *, n=2"  # 40 and 41 against 26.5 and 27 of the joint run's rgb logits


def test_runs_of_one_split_or_without_splits_have_no_means(root):
    runs = comparison.read_runs(root)
    assert means_over_splits([run for run in runs if run.settings["split"] == 1]) == []
    for run in runs:
        del run.settings["split"]
    assert means_over_splits(runs) == []
