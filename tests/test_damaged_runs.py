"""Damaged or foreign files of our own: one sentence that names the file, whatever is wrong with it."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL

from dataset.demo.birds import make_demo as make_birds
from dataset.errors import InputError
from dataset.preparation.lists import check_settings
from main_CD import build, main, parse
from scripts import prepare_ssw60, prepare_voxceleb
from scripts.analyse import main as analyse
from scripts.probe import main as probe
from scripts.sweep import main as sweep
from utils.training import checkpoint
from utils.training.engine import Learner
from utils.training.restore import restore

pytestmark = pytest.mark.usefixtures("tiny_encoders", "without_pictures")

HERE = ["--device", "cpu", "--num_workers", "0"]


def changed(content: dict, place: str, value: object) -> dict:
    """A copy with content[a][b] = value for the place "a.b" ("a.0.b": of a list's first item); without it for the value
    Ellipsis."""
    name, _, rest = place.partition(".")
    if isinstance(content, list):
        return [changed(one, rest, value) if str(k) == name else one for k, one in enumerate(content)]
    if rest:
        return {**content, name: changed(content[name], rest, value)}
    return {key: one for key, one in {**content, name: value}.items() if one is not ...}


def replace(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a new file: the old one may be a hard link."""
    path.unlink()
    write(path)


@pytest.fixture(scope="module")
def last_pt(finished_runs) -> dict:
    return checkpoint.load(finished_runs["plain"] / "last.pt")


@pytest.fixture(scope="module")
def begun(finished_runs) -> tuple:
    """A task, and what learns it before last.pt is read."""
    task = build(parse(["--resume", str(finished_runs["plain"]), *HERE]), torch.device("cpu"))
    return task, Learner(task.model, task.compute, "sgd", 0.01, 1e-4, 100, 0.1)


@pytest.fixture
def resumed(tmp_path, last_pt, begun, monkeypatch) -> Callable[[str, object], None]:
    """resumed(place, value): a run whose last.pt has this value there, up to its first epoch. (The real ways to write,
    read and start would take long.)"""
    def resume(place: str, value: object) -> None:
        monkeypatch.setattr(torch, "load", lambda *_, **__: changed(last_pt, place, value))
        last = parse(["--resume", str(tmp_path), *HERE]).trained
        task, learner = begun
        restore(last, learner, task.facts, task.clips)

    (tmp_path / "last.pt").write_text("see above")
    return resume


OF_ANOTHER_KIND = {
    "args": [5, None, [], "text"], "args.scaling": ["ten", -1, {}], "args.modality": [3, "smell"],
    "args.epochs": [0.5, "many"], "args.mmcosine": ["maybe"], "args.fusion_method": [["concat"], "glue"],
    "args.gpu_ids": ["x"], "args.data_root": [7], "facts": [5, [], ...], "facts.classes": ["ANG", 3, ...],
    "clips": [[], {"train": []}], "epoch": [...], "model": [[], 3], "method": [[], {"x": torch.zeros(1)}],
    "optimizer": [{}, [], {"state": {}, "param_groups": []}], "scheduler": [...], "history": [...],
}


@pytest.mark.parametrize("place", OF_ANOTHER_KIND)
def test_a_last_pt_with_parts_of_another_kind_is_refused_by_name(resumed, tmp_path, place):
    for value in OF_ANOTHER_KIND[place]:
        with pytest.raises(InputError) as error:
            resumed(place, value)
        assert str(error.value).startswith(str(tmp_path / "last.pt")), value


def test_a_state_of_another_device_is_resumed_and_computes_as_this_device_does(resumed, monkeypatch):
    learners, load = [], Learner.load_state_dict
    monkeypatch.setattr(Learner, "load_state_dict", lambda self, state: learners.append(self) or load(self, state))
    resumed("optimizer.param_groups.0.fused", True)
    assert not learners[0].optimizer.param_groups[0]["fused"]


def test_the_undamaged_last_pt_is_resumed(resumed):
    resumed("iterations", 6)


def flipped(path: Path, place: float) -> None:
    """Changes one bit of a file, at this part of its length."""
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 4
    replace(path, lambda new: new.write_bytes(content))


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_a_bit_that_changed_on_the_disk_ends_the_command_before_anything_is_written(copied_runs, place):
    folder = copied_runs["plain"]
    for name, flag in (("last.pt", "--resume"), ("best.pt", "--ckpt_path")):
        flipped(folder / name, place)
        before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
        with pytest.raises(InputError, match=f"^{folder / name} is damaged"):
            main([flag, str(folder), *HERE])
        assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == before


@pytest.mark.parametrize(("place", "value"), [
    ("args", 5), ("args.image_size", "big"), ("args.modality", "smell"), ("facts", 3), ("facts.classes", 3),
    ("facts.classes", [1, 2, 3, 4, 5, 6]), ("clips", 3), ("model", {})])
def test_a_best_pt_of_another_program_is_refused_by_name(finished_runs, tiny_data, tmp_path, place, value):
    path = tmp_path / "best.pt"
    torch.save(changed(checkpoint.load(finished_runs["plain"] / "best.pt"), place, value), path)
    with pytest.raises(InputError, match=f"^{path}"):
        main(["--ckpt_path", str(path), "--data_root", str(tiny_data), *SMALL])


# ---- files that are read back by the scripts


ACCURACIES = {"test_accuracy": 0.5, "test_accuracy_audio": 0.5, "test_accuracy_visual": 0.5}
RESULT_OF_ANOTHER_KIND = [("classes", ...), ("best_epoch", ...), ("accuracy", "0.5"), ("accuracy", True),
                          ("modalities", ...), ("last_test_accuracy", []), ("accuracy_audio", ...)]
SETTINGS_OF_ANOTHER_KIND = [("modulation", "magic"), *((name, ...) for name in ("modality", "mmcosine", "random_seed"))]


@pytest.mark.parametrize(("name", "only", "texts"), [
    ("metrics.jsonl", "accuracy", ["3", "[1]", "{}", "null", '{"test_accuracy": 0.5}\n', "\udcff", "[" * 100_000,
                                   json.dumps(ACCURACIES) + '\n{"test_accuracy": "high"}']),
    ("result.json", "accuracy", ["3", "[]", "{", "", "\udcff", "[" * 100_000]),
    ("args.json", "accuracy", ["3", "[]", "{", ""]),
    ("probes.json", "gap", ["3", "[]", '{"best_epoch": BEST}', '{"best_epoch": BEST, "audio": "x", "visual": 0.5}'])])
def test_text_files_of_a_run_that_hold_something_else_are_refused_by_name(copied_runs, name, only, texts):
    folder = copied_runs["plain"]
    path, best = folder / name, json.loads((folder / "result.json").read_text())["best_epoch"]
    for text in texts:
        path.unlink(missing_ok=True)
        path.write_bytes(text.replace("BEST", str(best)).encode(errors="surrogateescape"))
        with pytest.raises(InputError, match=f"^{path}"):
            analyse([str(folder), "--only", only, *HERE])


@pytest.mark.parametrize(("name", "changes"), [("result.json", RESULT_OF_ANOTHER_KIND),
                                               ("args.json", SETTINGS_OF_ANOTHER_KIND)])
def test_results_and_settings_of_another_kind_are_refused_by_name(copied_runs, name, changes):
    path = copied_runs["plain"] / name
    whole = json.loads(path.read_text())
    for place, value in changes:
        text = json.dumps(changed(whole, place, value))
        replace(path, partial(Path.write_text, data=text))
        for script, more in ((analyse, ["--only", "accuracy"]), (probe, [])):
            with pytest.raises(InputError, match=f"^{path}"):
                script([str(path.parent), *more, *HERE])


@pytest.mark.parametrize("norms", [np.zeros(3), np.zeros((2, 2, 7)), np.array({"a": 1}, dtype=object)])
def test_class_norms_of_another_shape_are_refused_by_name(copied_runs, norms):
    path = copied_runs["plain"] / "class_norms.npy"
    replace(path, lambda new: np.save(new, norms, allow_pickle=True))
    with pytest.raises(InputError, match=f"^{path} is damaged"):
        analyse([str(path.parent), "--only", "weight_norms", *HERE])


def test_results_without_what_is_only_told_beside_the_numbers_make_tables_and_pictures(copied_runs, with_pictures):
    told = ("selection", "command", "n_test", "git_commit")
    for folder in copied_runs.values():
        for name, without in (("result.json", told), ("args.json", ["tensorboard_path"])):
            left = {key: value for key, value in json.loads((folder / name).read_text()).items() if key not in without}
            replace(folder / name, partial(Path.write_text, data=json.dumps(left)))
    sweep(["--report_only", "--output", str(copied_runs["plain"].parent)])
    assert analyse([str(copied_runs["plain"]), "--only", "logits", *HERE])


def test_a_damaged_result_stops_the_table_of_a_sweep_by_name(copied_runs):
    path = copied_runs["mmcosine"] / "result.json"
    whole = json.loads(path.read_text())
    replace(path, lambda new: new.write_text(json.dumps({**whole, "accuracy": "high"})))
    with pytest.raises(InputError, match=f"^{path} is damaged, or of another version: accuracy is 'high'"):
        sweep(["--report_only", "--output", str(path.parent.parent)])


# ---- files of the preparations


@pytest.mark.parametrize("text", ["5", "[]", "[1]", "{", "", "null"])
def test_settings_of_preparations_that_hold_something_else_are_refused_by_name(tmp_path, text):
    (tmp_path / "faces").mkdir()
    for name, read in (("prepare.json", lambda path: prepare_voxceleb.read_settings(path.parent)),
                       ("prepare_grid.json", lambda path: check_settings(path, {}, tmp_path / "AudioWAV"))):
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=f"^{tmp_path / name} is missing or damaged: remove it if"):
            read(tmp_path / name)


def test_reports_that_hold_something_else_are_refused_by_name_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_ssw60, "prepare_all", lambda *_: pytest.fail("work has begun"))
    make_birds(tmp_path, species=2, train_per_class=1, test_per_class=1)
    for name in ("prepare_report.csv", "prepare_failures.csv"):
        path = tmp_path / name
        for text in (b"name,value\nx,3\n", b"clip,reason\na\n", b"\xff\xfe", b"", b"collection,split\nx,y\n"):
            path.write_bytes(text)
            with pytest.raises(InputError, match=f"^{path}"):
                prepare_ssw60.main(["--data_root", str(tmp_path)])
        path.unlink()
