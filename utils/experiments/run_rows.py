"""Runs as rows of a runs.csv, and back: what a table needs of a run is in its row."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from dataset.errors import InputError
from dataset.lists import read_table
from dataset.whole_files import read_json
from utils.experiments.entry_script import not_compared
from utils.experiments.finished_run import FinishedRun, check_is_of_a_run
from utils.training.experiment import RECORDED
from utils.training.presets import departures
from utils.training.run import is_finished

ALSO_CALLED = {"fusion_method": "fusion", "random_seed": "seed"}  # {setting: its name in result.json}
NEEDED = ("run", "dataset", "modality", "mmcosine", "scaling", "seed", "modalities")
NOTHING = "None"  # a setting without a value; that of a run which does not have it is an empty cell
TEXTS = ("lists", "test_list", "git_commit")  # digests, which may look like numbers
WORDS = {NOTHING: None, "True": True, "False": False}


class RunRow(NamedTuple):
    """A finished run without its folder, or the mean of several: as `FinishedRun` has these."""

    name: str
    settings: Mapping[str, object]
    result: Mapping[str, object]
    modalities: Sequence[str]


def csv_row(run: FinishedRun) -> dict[str, object]:
    """What result.json holds without lists and nested values, but for the trials of the first list; and the other
    settings, named as flags."""
    plain = {name: value for name, value in run.result.items() if not isinstance(value, dict | list)}
    if "trials" in run.result:
        plain["trials"] = next(iter(run.result["trials"].values()))
    if told := departures(run.result):
        plain["preset_changes"] = told
    return {"run": run.name, **plain, "modalities": "+".join(run.modalities), **flags(run.settings, plain)}


def flags(settings: Mapping[str, object], known: Mapping[str, object]) -> dict[str, object]:
    """But for lists, for what says where a run ran, and for those of RECORDED that are `known`."""
    recorded = {name for name in RECORDED if ALSO_CALLED.get(name, name) in known}
    left_out = not_compared(settings.get("script")) | recorded | {"preset_changes"}
    return {f"--{name}": NOTHING if value is None else value for name, value in settings.items()
            if name not in left_out and not isinstance(value, list)}


def unfinished_rows(output: Path) -> list[dict[str, object]]:
    """The runs below a folder that were begun and have no result of all their epochs: their names and settings."""
    return [{"run": path.parent.name, **flags(read_json(path), {})} for path in sorted(output.glob("*/args.json"))
            if not is_finished(path.parent)]


def read_csv(path: Path) -> tuple[list[RunRow], list[str]]:
    """A runs.csv -> the finished runs, the names of the others. Raises InputError: no such file, or no table of
    runs."""
    rows = [row for _, row in read_table(path, NEEDED, "Name the runs.csv of a sweep.")]
    if not rows:
        raise InputError(f"{path} lists no run: name the runs.csv of a sweep")
    return ([row_of(cells, path) for cells in rows if cells["modalities"]],
            [cells["run"] for cells in rows if not cells["modalities"]])


def row_of(cells: Mapping[str, str], path: Path) -> RunRow:
    """Of a row of the file `path`. Raises InputError: a value of another kind than a run's."""
    values = {name: cell if name in TEXTS else value_of(cell) for name, cell in cells.items() if name and cell}
    settings = {name.removeprefix("--"): value for name, value in values.items() if name.startswith("--")}
    settings |= {name: values[other] for name in RECORDED if (other := ALSO_CALLED.get(name, name)) in values}
    result = {name: value for name, value in values.items() if not name.startswith("--")}
    result["modalities"] = cells["modalities"].split("+")
    check_is_of_a_run(result, path, ())
    return RunRow(cells["run"], settings, result, result["modalities"])


def value_of(cell: str) -> object:
    """`True` -> True, `3` -> 3, `0.5` -> 0.5, `None` -> None; anything else is text."""
    if cell in WORDS:
        return WORDS[cell]
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return cell
