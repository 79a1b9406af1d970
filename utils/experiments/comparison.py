"""Finished runs side by side: a csv with a row a run, and tables of mean +- std over seeds with the paired difference
to the plain network. Figures are fractions, tables show percent."""

import csv
import io
import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

from utils.balancing import METHODS
from utils.errors import InputError
from utils.experiments.grid import AXES, WHERE, without_meaning
from utils.experiments.paper_results import published
from utils.training.run import is_finished, read_json

LEVEL = 0.95  # of the intervals
BASELINE = {"mmcosine": False, "modulation": "none", "lam": 0.0, "modality": "both"}  # what a run is compared with
IN_ORDER = ("modality", "fusion_method", "modulation", "lam", "mmcosine", "scaling", "random_seed")
KINDS = ("joint", "audio", "visual")
MEASURES = {"accuracy": "accuracy %, higher is better", "eer": "equal error rate %, lower is better"}


class FinishedRun(NamedTuple):
    """settings: of args.json. result: of result.json."""

    name: str
    settings: Mapping[str, object]
    result: Mapping[str, object]


class Difference(NamedTuple):
    """mean: of the differences of n pairs, low to high: its interval."""

    mean: float
    low: float
    high: float
    n: int


Group = Mapping[int, FinishedRun]  # by seed: runs that differ in nothing else


def read_runs(output: Path) -> list[FinishedRun]:
    """The finished runs below a folder, those of one method together. Raises InputError: none, or a damaged file."""
    found = [read_run(path.parent) for path in sorted(output.glob("*/result.json"))]
    runs = [run for run in found if is_finished(output / run.name)]
    if not runs:
        raise InputError(f"no finished run (a folder with a result.json of all its epochs) in {output}: name the "
                         "--output of a sweep")
    return sorted(runs, key=place)


def place(run: FinishedRun) -> list:
    """To sort by: encoders alone at the end, methods as they stand in METHODS."""
    at = {**run.settings, "modulation": list(METHODS).index(run.settings["modulation"])}
    return [run.settings["modality"] != "both", *map(at.get, IN_ORDER)]


def read_run(folder: Path) -> FinishedRun:
    run = FinishedRun(folder.name, read_json(folder / "args.json"), read_json(folder / "result.json"))
    missing = [name for name in IN_ORDER if name not in run.settings]
    if missing:
        raise InputError(f"{folder / 'args.json'} has no {', '.join(missing)}: a run of an older version. Move it away")
    return run


# ---- a row a run


def csv_text(runs: Sequence[FinishedRun]) -> str:
    """What result.json holds in a line, under a head; a column that a run does not have is empty in its row."""
    rows = [{"run": run.name, **plain_values(run.result)} for run in runs]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def plain_values(result: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in result.items() if not isinstance(value, dict | list)}


# ---- statistics


def mean_and_std(values: Sequence[float]) -> tuple[float, float | None]:
    """std over n - 1; None for one value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def paired_difference(values: Mapping[int, float], baseline: Mapping[int, float]) -> Difference | None:
    """{seed: value} minus {seed: value} over the seeds that both have, with Student's interval of LEVEL; None for fewer
    than two seeds."""
    seeds = sorted(values.keys() & baseline.keys())
    if len(seeds) < 2:
        return None
    differences = np.array([values[seed] - baseline[seed] for seed in seeds])
    mean, error = differences.mean(), differences.std(ddof=1) / np.sqrt(len(seeds))
    half = stats.t.ppf((1 + LEVEL) / 2, len(seeds) - 1) * error
    return Difference(float(mean), float(mean - half), float(mean + half), len(seeds))


# ---- which runs belong together


def varying(runs: Sequence[FinishedRun]) -> list[str]:
    """The settings, beside seed and place, in which these runs differ."""
    names = dict.fromkeys(name for run in runs for name in run.settings)
    values = {name: {json.dumps(run.settings[name]) for run in runs if name in run.settings} for name in names}
    return [name for name in names if len(values[name]) > 1 and name not in WHERE | {"random_seed"}]


def identity(settings: Mapping[str, object], names: Sequence[str]) -> str:
    """The same for settings that mean the same, whatever their seed: of the axes, and of `names`."""
    meant = {*AXES, *names} - {"random_seed"} - without_meaning(settings)
    return json.dumps({name: settings.get(name) for name in sorted(meant)})


def make_groups(runs: Sequence[FinishedRun], names: Sequence[str]) -> dict[str, Group]:
    """{identity: group}. Raises InputError: two runs differ in nothing, not even the seed."""
    groups: dict[str, dict[int, FinishedRun]] = {}
    for run in runs:
        group, seed = groups.setdefault(identity(run.settings, names), {}), run.settings["random_seed"]
        if seed in group:
            raise InputError(f"{group[seed].name} and {run.name} are the same settings and seed: move one of them away")
        group[seed] = run
    return groups


# ---- tables


def markdown(runs: Sequence[FinishedRun]) -> str:
    """A table a data set, with what there is to know about it below."""
    datasets = dict.fromkeys(run.settings["dataset"] for run in runs)
    tables = [dataset_table([run for run in runs if run.settings["dataset"] == dataset]) for dataset in datasets]
    return "\n".join(tables)


def dataset_table(runs: Sequence[FinishedRun]) -> str:
    names, measure = varying(runs), measure_of(runs[0])
    groups = make_groups(runs, names)
    demo = " (DEMO DATA: rendered, not a benchmark)" if runs[0].result.get("demo") else ""
    rows = [row(group, names, measure) for group in groups.values()]
    differences = [difference_row(group, groups, names, measure) for group in groups.values()]
    lines = [f"## {runs[0].settings['dataset']}{demo}: {MEASURES[measure]}", ""]
    lines += table(["", "n", *KINDS, "last epoch", "paper"], rows)
    lines += ["", "Points to the joint plain network with the same fusion, paired over seeds:", ""]
    lines += table(["", *KINDS], list(filter(None, differences)))
    return "\n".join([*lines, "", *notes(runs, measure), ""])


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (columns, ["---"] * len(columns), *rows)]


def measure_of(run: FinishedRun) -> str:
    """The figure that chose the epoch."""
    for name in MEASURES:
        if name in run.result:
            return name
    raise InputError(f"the result.json of {run.name} has none of the figures {', '.join(MEASURES)}: move it away")


def row(group: Group, names: Sequence[str], measure: str) -> list[str]:
    run = next(iter(group.values()))
    shown = measured(run, measure)
    if run.settings["modality"] != "both":
        del shown["joint"]
    cells = [spread(by_seed(group, shown.get(kind))) for kind in KINDS]
    paper = published(run.settings, test_size(run.result))
    return [label(run.settings, names), str(len(group)), *cells, spread(by_seed(group, f"last_test_{measure}")),
            f"{paper:.2f}" if paper else ""]


def measured(run: FinishedRun, measure: str) -> dict[str, str]:
    """{kind: name of the figure}; the joint one is what the run decides by, which may be one encoder alone."""
    modality = run.settings["modality"]
    if modality != "both":
        return {"joint": measure, modality: measure}
    return {kind: measure if kind == "joint" else f"{measure}_{kind}" for kind in KINDS}


def by_seed(group: Group, figure: str | None) -> dict[int, float]:
    return {seed: run.result[figure] for seed, run in group.items() if figure in run.result}


def spread(values: Mapping[int, float]) -> str:
    """Fractions -> `61.20 +- 0.35`, in percent; nothing for none."""
    if not values:
        return ""
    mean, std = mean_and_std(list(values.values()))
    return f"{100 * mean:.2f}" + (f" +- {100 * std:.2f}" if std is not None else "")


def test_size(result: Mapping[str, object]) -> int | None:
    """Trials of the first list, or test clips."""
    return next(iter(result["trials"].values())) if "trials" in result else result.get("n_test")


def label(settings: Mapping[str, object], names: Sequence[str]) -> str:
    """Fusion, method, and in what else these settings differ from others of the table (`names`)."""
    meant = {name: value for name, value in settings.items() if name not in without_meaning(settings)}
    parts = [meant.get("fusion_method", f"{settings['modality']} encoder alone"),
             f"MMCosine s={settings['scaling']:g}" if settings["mmcosine"] else "plain"]
    if meant.get("modulation", "none") != "none":
        parts.append(meant["modulation"])
    told = ("fusion_method", "mmcosine", "scaling", "modulation", "modality")
    others = [name for name in dict.fromkeys(["lam", *names]) if name not in told and meant.get(name)]
    return ", ".join([*parts, *(f"{name} {meant[name]}" for name in others)])


def difference_row(group: Group, groups: Mapping[str, Group], names: Sequence[str], measure: str) -> list[str] | None:
    """The group's paired differences to the plain network with the same fusion, in points; None: it is that."""
    run = next(iter(group.values()))
    baseline = groups.get(identity({**run.settings, **BASELINE}, names), {})
    if baseline is group:
        return None
    mine, plain = measured(run, measure), measured(next(iter(baseline.values())), measure) if baseline else {}
    found = [paired_difference(by_seed(group, mine.get(kind)), by_seed(baseline, plain.get(kind))) for kind in KINDS]
    return [label(run.settings, names), *map(points, found)]


def points(found: Difference | None) -> str:
    if found is None:
        return "n/a"
    mark = " *" if found.low > 0 or found.high < 0 else ""
    return f"{100 * found.mean:+.2f} [{100 * found.low:+.2f}, {100 * found.high:+.2f}]{mark}, n={found.n}"


NOTES = """n: seeds. +-: standard deviation over seeds (n - 1). last epoch: on the test set, of the joint network or the
encoder alone. paper: published, for a test set of this size, at whatever scale where it names none. Points: the mean
over common seeds (n of them) with its {level:.0%} interval (Student's t); * where the interval leaves out 0, as one in
twenty does by chance. joint: an encoder alone stands against the joint network. Intervals know the noise of seeds, not
that of the choice of test data, and not that of another machine.
{noise}

Epoch: {chosen}. Commits: {commits}."""


def notes(runs: Sequence[FinishedRun], measure: str) -> list[str]:
    chosen = sorted({str(run.result.get("selection")) for run in runs})
    commits = Counter(str(run.result.get("git_commit")) for run in runs)
    return [NOTES.format(level=LEVEL, noise=noise_of_test_data(runs, measure), chosen="; or ".join(chosen),
                         commits=", ".join(f"{name} ({count} runs)" for name, count in commits.items()))]


def noise_of_test_data(runs: Sequence[FinishedRun], measure: str) -> str:
    """A sentence: how much of a percent a test clip is, and the binomial standard error of the mean accuracy."""
    clips = {run.result.get("n_test") for run in runs}
    if measure != "accuracy" or len(clips) > 1 or None in clips:
        return ""
    n, p = clips.pop(), statistics.fmean(run.result[measure] for run in runs)
    error = (p * (1 - p) / n) ** 0.5
    return f"One of {n} clips is {100 / n:.3f} points, the binomial standard error is {100 * error:.1f}."
