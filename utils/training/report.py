"""Texts about a run: an epoch's line, result.json, the closing table."""

import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import torch

from dataset.errors import InputError, report_problems
from models.balancing import METHOD_FLAGS, METHODS
from utils.distributed import print_once
from utils.training import experiment

SELECTION = {"test": "best test epoch (the paper's protocol: there is no validation set)",
             "val": "best validation epoch; the test set was evaluated once"}
WATCHED = "best validation epoch; the test set was evaluated after every epoch too and chose nothing"
LINE_WIDTH = 99  # columns of an epoch's line


def prefixed(prefix: str, metrics: Mapping[str, float]) -> dict[str, float]:
    return {f"{prefix}_{name}": value for name, value in metrics.items()}


def metric_names(measure: str, modalities: Sequence[str]) -> dict[str, str]:
    """{what is measured: name of the metric}, joint first; one modality alone has no joint."""
    each = {name: f"{measure}_{name}" for name in modalities}
    return {"joint": measure, **each} if len(each) > 1 else {modalities[0]: measure}


def epoch_line(record: Mapping[str, float], split: str, shown: Mapping[str, str], epochs: int) -> str:
    """`epoch  3/12  train loss 1.203  test joint 54.1%  audio 50.2%  visual 33.0%  loss 1.310  12 s`.

    After the first of `shown`, a part that would make it wider than LINE_WIDTH is left out.
    """
    first, *others = (f"{what} {record[f'{split}_{name}']:.1%}" for what, name in shown.items())
    measured = f"{split}_loss" in record  # trials have no loss
    measure = "" if measured else f"{next(iter(shown.values()))} "
    line = (f"epoch {record['epoch']:{len(str(epochs))}}/{epochs}  train loss {record['train_loss']:.3f}  "
            f"{split} {measure}{first}")
    loss = [f"loss {record[f'{split}_loss']:.3f}"] if measured else []
    for part in (*others, *loss, f"{record['train_seconds']:.0f} s"):
        if len(line) + len(part) + 2 <= LINE_WIDTH:
            line += f"  {part}"
    return line


def result(settings: Mapping[str, object], last: Mapping[str, float], best_epoch: int, split: str,
           scores: Mapping[str, float]) -> dict:
    """The settings that name an experiment, its metrics (`scores`), and the same of the last epoch's record."""
    named = {"script": settings.get("script"), "fusion": settings["fusion_method"], "seed": settings["random_seed"]}
    unused = {*METHOD_FLAGS} - METHODS[settings["modulation"]].uses()
    same = [name for name in experiment.RECORDED if name not in {"fusion_method", "random_seed", *unused}]
    at_the_end = {f"last_{part}_{name}": last[f"{part}_{name}"] for part in dict.fromkeys((split, "test"))
                  for name in scores if f"{part}_{name}" in last}
    weights = {name.replace("train", "last"): value for name, value in last.items() if "weight_norm" in name}
    departures = {"preset_changes": settings["preset_changes"]} if settings.get("preset_changes") else {}
    return {**{name: settings[name] for name in same}, **named, **departures, "best_epoch": best_epoch, **scores,
            **at_the_end,
            **weights, "selection": WATCHED if settings.get("test_every_epoch") else SELECTION[split],
            "command": settings["command"]}


def whole_epochs(count: int) -> str:
    return f"{count} whole epoch{'s' * (count != 1)}"


def time_left(seconds: float, done: int, epochs: int) -> str:
    """`, 1:20:05 left` after `done` of `epochs` took so many seconds; "" before the first has ended."""
    return f", {timedelta(seconds=round(seconds / done * (epochs - done)))} left" if done else ""


def environment() -> dict[str, str | None]:
    return {"git_commit": git_commit(), "torch_version": torch.__version__, "python_version": platform.python_version()}


def git_commit() -> str | None:
    """The commit of this code, "+changes" behind it when files differ; None outside a git checkout."""
    here = Path(__file__).resolve().parents[2]
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        changed = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=here, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("+changes" if changed.stdout else "")


def described(device: torch.device, precision: torch.dtype) -> dict[str, str]:
    """What computes, and how: facts of a run."""
    return {"device": device_name(device), "precision": str(precision).removeprefix("torch.")}


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({torch.cpu.get_capabilities().get('cpu_name', platform.machine())})"


def parts_of(facts: Mapping[str, object]) -> list[str]:
    """The parts of the dataset that a run is about, where it has several."""
    return list(facts.get("parts") or [])


def summary(title: str, result: Mapping[str, object], shown: Mapping[str, str], split: str, folder: Path,
            events_folder: Path | None) -> str:
    """The closing table, and where to look further."""
    measure = next(iter(shown.values()))
    width = max(map(len, [*shown, f"{measure} %"]))
    lines = [f"\n{title}{'  (DEMO DATA: synthetic, not a benchmark)' if result['demo'] else ''}",
             f"{measure + ' %':{width}} {'test, epoch ' + str(result['best_epoch']):>16} {split + ', last epoch':>18}"]
    lines += [f"{what:{width}} {100 * result[name]:16.2f} {100 * result[f'last_{split}_{name}']:18.2f}"
              for what, name in shown.items()]
    if "selection_bonus" in result:
        lines.append(f"bonus:     {100 * result['selection_bonus']:.2f} points, had the test set chosen the epoch "
                     f"({100 * result[f'best_test_{measure}']:.2f})")
    lines += [f"chosen by: {result['selection']}", f"run:       {folder}", f"curves:    {folder / 'curves.png'}"]
    videos = "VIDEO OTHER_VIDEO" if measure == "eer" else "VIDEO"
    lines.append(f"predict:   python scripts/predict.py {shlex.quote(str(folder))} {videos}")
    if events_folder:
        program = "tensorboard"
        if not shutil.which(program):  # make demo does not activate its environment
            program = os.path.relpath(Path(sys.executable).with_name(program))
        lines.append(f"tensorboard: {program} --logdir {shlex.quote(str(events_folder.parent))}")
    return "\n".join(lines)


def accept_problems(problems: Mapping[str, str], total: int, skip_missing: bool, what: str = "clips") -> None:
    """Prints which clips cannot be used; without --skip_missing raises InputError."""
    if not problems:
        return
    text = report_problems(problems, total, what)
    if not skip_missing:
        raise InputError(f"{text}\nFix them (the scripts/prepare_*.py extract frames and check files), or continue "
                         "without them: --skip_missing")
    print_once(f"{text}\nContinuing without them (--skip_missing).")


def evaluation(scores: Mapping[str, float], shown: Mapping[str, str], path: Path, clips: str, precision: str) -> str:
    """The metrics of an evaluated checkpoint. clips: what it was evaluated on, such as `120 test clips`."""
    lines = [f"{what:10} {100 * scores[name]:6.2f} % {name}" for what, name in shown.items()]
    return "\n".join([f"{path} on {clips} in {precision}, loss {scores['loss']:.4f}", *lines])


def verification(metrics: Mapping[str, float], trials: Mapping[str, int]) -> str:
    """One line per trial list: equal error rates in %, and minDCF. trials: {list: number of trials}; metrics of all
    lists but the first are prefixed with the list's name."""
    lines = []
    for index, (name, count) in enumerate(trials.items()):
        before = f"{name}_" if index else ""
        own = [key.removeprefix(before) for key in metrics if key.startswith(f"{before}eer") or
               key.startswith(f"{before}min_dcf")]
        values = [f"{key} {metrics[before + key]:.2%}" if "eer" in key else f"{key} {metrics[before + key]:.4f}"
                  for key in own]
        lines.append(f"{name} ({count} trials): {', '.join(values)}")
    return "\n".join(lines)
