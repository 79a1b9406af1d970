"""Lists of the same size with other clips: noticed by resume, evaluation, probes and pictures, and named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import SMALL

import main_SSW
from dataset.cremad import VARIANT_NOTE, variant_of
from dataset.demo.birds import make_demo as make_birds
from dataset.errors import InputError
from dataset.whole_files import read_json
from main_CD import main
from scripts.analyse import main as analyse
from scripts.probe import main as probe
from utils.training import checkpoint
from utils.training.same_data import digest_of

pytestmark = pytest.mark.usefixtures("tiny_encoders", "without_pictures")

HERE = ["--device", "cpu", "--num_workers", "0"]


@pytest.fixture
def other_data(tiny_data, tmp_path) -> Path:
    """The tiny data with lists of its own, to be changed."""
    root = tmp_path / "other"
    root.mkdir()
    for path in tiny_data.iterdir():
        if path.suffix == ".csv":
            shutil.copy(path, root)
        else:
            (root / path.name).symlink_to(path)
    return root


def rows_of(path: Path) -> list[str]:
    return path.read_text().splitlines()


def exchange_first_clips(root: Path) -> tuple[str, str]:
    """Swaps the first test clip with a training clip of its class -> the names of the training and the test clip."""
    train, test = (rows_of(root / name) for name in ("train.csv", "test.csv"))
    place = next(i for i, row in enumerate(train) if row.split(",")[1] == test[0].split(",")[1])
    train[place], test[0] = test[0], train[place]
    (root / "train.csv").write_text("\n".join(train))
    (root / "test.csv").write_text("\n".join(test))
    return test[0].split(",")[0], train[place].split(",")[0]


def exchange_labels(root: Path) -> None:
    rows = [row.split(",") for row in rows_of(root / "train.csv")]
    assert rows[0][1] != rows[-1][1]
    rows[0][1], rows[-1][1] = rows[-1][1], rows[0][1]
    (root / "train.csv").write_text("\n".join(map(",".join, rows)))


def replace(path: Path, content: dict) -> None:
    """Replaces a file that may be a hard link."""
    path.unlink()
    torch.save(content, path)


def resume(folder: Path, root: Path) -> None:
    main(["--resume", str(folder), "--data_root", str(root)])


def look(script: Callable, *more: str) -> Callable:
    return lambda folder, root: script([str(folder), "--data_root", str(root), *HERE, *more])


OPENED = {"resume": resume, "probe": look(probe), "analyse": look(analyse, "--only", "confusion")}


@pytest.mark.parametrize("how", OPENED)
def test_lists_of_the_same_size_with_exchanged_clips_are_refused_by_name(copied_runs, other_data, how):
    trained, tested = exchange_first_clips(other_data)
    with pytest.raises(InputError, match=r"other data: 2 clips have another split or label") as error:
        OPENED[how](copied_runs["plain"], other_data)
    assert f"{trained} (train, " in str(error.value) and f"{tested} (test, " in str(error.value)
    assert not any((copied_runs["plain"] / name).exists() for name in ("probes.json", "figures/confusion.png"))


def note_variant(root: Path, snr: float | None, test_list: str) -> None:
    (root / VARIANT_NOTE).write_text(json.dumps({"babble_snr": snr, "seed": 0, "test_clips_sha256": test_list}))


def test_another_level_of_noise_under_the_same_names_is_other_data(tiny_data, other_data, tmp_path, train_argv):
    note_variant(other_data, -5.0, "1a")
    run = tmp_path / "run"
    found = main([*train_argv, "--epochs", "1", "--data_root", str(other_data)])
    assert found["variant"] == "babble_snr -5.0, seed 0" == read_json(run / "result.json")["variant"]
    note_variant(other_data, 5.0, "1a")
    for root, now in ((other_data, r"babble_snr 5\.0, seed 0"), (tiny_data, "None")):
        for look_at in OPENED.values():
            with pytest.raises(InputError, match=rf"other data \(variant babble_snr -5\.0, seed 0, now {now}\)"):
                look_at(run, root)
    moved = other_data.rename(tmp_path / "moved")
    note_variant(moved, -5.0, "1a")
    resume(run, moved)


def test_folds_of_the_same_files_are_no_variant(tmp_path):
    note_variant(tmp_path, None, "1a")
    assert variant_of(tmp_path) is None
    note_variant(tmp_path, 0.0, "1a")
    assert variant_of(tmp_path) == "babble_snr 0.0, seed 0"


def test_exchanged_labels_are_other_data(copied_runs, other_data):
    exchange_labels(other_data)
    with pytest.raises(InputError, match=r"other data: 2 clips.*\(train, [A-Z]+, now train, [A-Z]+\)"):
        resume(copied_runs["plain"], other_data)


def test_the_digest_is_of_names_labels_and_splits_in_any_order():
    clips = {"train": {"a": "X", "b": "Y"}, "test": {"c": "X"}}
    assert digest_of(clips) == digest_of({"test": {"c": "X"}, "train": {"b": "Y", "a": "X"}})
    others = [{"train": {"a": "Y", "b": "X"}, "test": {"c": "X"}}, {"train": {"a": "X", "c": "X"}, "test": {"b": "Y"}},
              {"train": {"a": "X", "b": "Y"}, "val": {"c": "X"}}, {"train": {"a": "X", "b": "Y"}, "test": {}}]
    assert len({digest_of(one) for one in (clips, *others)}) == 5


def test_rows_in_another_order_are_the_same_data_but_resume_says_what_follows(copied_runs, other_data, capsys):
    folder = copied_runs["plain"]
    lists = checkpoint.load(folder / "last.pt")["facts"]["lists"]
    path = other_data / "train.csv"
    path.write_text("\n".join(reversed(rows_of(path))))
    OPENED["analyse"](folder, other_data)
    assert "another order" not in capsys.readouterr().out
    resume(folder, other_data)
    assert "the training clips are in another order than" in capsys.readouterr().out
    assert read_json(folder / "result.json")["lists"] == lists


def test_test_clips_that_were_trained_on_are_refused_unless_allowed(finished_runs, other_data, capsys):
    trained, _ = exchange_first_clips(other_data)
    argv = ["--ckpt_path", str(finished_runs["plain"] / "best.pt"), "--data_root", str(other_data), *HERE]
    with pytest.raises(InputError, match=f"1 of the 12 test clips were in the training list of .*: {trained}"):
        main(argv)
    assert main([*argv, "--allow_overlap"])["n_test"] == 12
    assert "note: 1 of the 12 test clips were in the training list" in capsys.readouterr().out


def test_test_clips_that_chose_the_epoch_count_as_trained_on(copied_runs, tiny_data):
    path = copied_runs["plain"] / "best.pt"
    content = checkpoint.load(path)
    moved = next(iter(content["clips"]["test"]))
    replace(path, {**content, "clips": {**content["clips"], "val": {moved: "ANG"}}})
    with pytest.raises(InputError, match=f"1 of the 12 test clips.*{moved}"):
        main(["--ckpt_path", str(path), *HERE])


def test_allow_overlap_is_refused_in_training(train_argv, capsys):
    with pytest.raises(SystemExit):
        main([*train_argv, "--allow_overlap"])
    assert "--allow_overlap is for checkpoints" in capsys.readouterr().err


def test_runs_from_before_clips_were_recorded_still_open_with_a_note(copied_runs, tiny_data, capsys):
    folder = copied_runs["plain"]
    for name in ("best.pt", "last.pt"):
        content = checkpoint.load(folder / name)
        del content["clips"], content["facts"]["lists"]
        replace(folder / name, content)
    main(["--ckpt_path", str(folder / "best.pt"), *HERE])
    assert "whether it was trained on any of the test clips is not checked" in capsys.readouterr().out
    OPENED["analyse"](folder, tiny_data)
    assert "only the numbers of clips are compared" in capsys.readouterr().out
    resume(folder, tiny_data)
    assert "only the numbers of clips are compared" in capsys.readouterr().out


def test_main_ssw_records_its_clips_and_refuses_test_videos_that_were_trained_on(tmp_path):
    root = tmp_path / "birds"
    make_birds(root, species=2, train_per_class=2, test_per_class=1)
    argv = ["--train", "--dataset", "birds", "--data_root", str(root), "--ckpt_path", str(tmp_path), "--run_name",
            "run", "--epochs", "1", "--num_frames", "1", "--modality", "visual", *SMALL]
    main_SSW.main(argv)
    clips = checkpoint.load(tmp_path / "run/best.pt")["clips"]
    assert {split: len(part) for split, part in clips.items()} == {"train": 8, "test": 4}
    table = root / "video_ml.csv"
    text, name = table.read_text(), next(iter(clips["train"])).removeprefix("video_ml/")
    assert f"{name},0,train," in text
    table.write_text(text.replace(f"{name},0,train,", f"{name},0,test,"))
    with pytest.raises(InputError, match=f"1 of the 5 test clips were in the training list.*video_ml/{name}"):
        main_SSW.main(["--ckpt_path", str(tmp_path / "run/best.pt"), *HERE])
