"""Runs on the several splits of a data set: UCF-101's result is the mean over its three."""

import json
import statistics
from collections.abc import Sequence

from utils.experiments.entry_script import not_compared
from utils.experiments.finished_run import FinishedRun
from utils.experiments.run_rows import RunRow


def means_over_splits(runs: Sequence[FinishedRun]) -> list[RunRow]:
    """One for each group of runs that differ in the split alone; groups without a run on every split that occurs are
    left out. [] where there is one split."""
    groups: dict[str, dict[int, FinishedRun]] = {}
    for run in runs:
        if "split" in run.settings:
            left_out = not_compared(run.settings.get("script")) | {"split"}
            same = {name: value for name, value in run.settings.items() if name not in left_out}
            groups.setdefault(json.dumps(same, sort_keys=True), {})[run.settings["split"]] = run
    splits = sorted({split for group in groups.values() for split in group})
    if len(splits) < 2:
        return []
    return [mean_of([group[split] for split in splits]) for group in groups.values() if len(group) == len(splits)]


def mean_of(runs: Sequence[FinishedRun]) -> RunRow:
    first = runs[0]
    result = {name: statistics.fmean(run.result[name] for run in runs) if isinstance(value, float) else value
              for name, value in first.result.items() if all(name in run.result for run in runs)}
    if "n_test" in result:
        result["n_test"] = sum(run.result["n_test"] for run in runs)
    settings = {**first.settings, "split": "+".join(str(run.settings["split"]) for run in runs)}
    return RunRow(first.name, settings, result, first.modalities)
