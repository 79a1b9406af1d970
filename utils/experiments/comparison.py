"""Finished runs side by side: a csv with one row per run, and tables of mean +- std over seeds with the paired
difference to the plain network. Metrics are fractions, tables show percent."""

import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from dataset.errors import InputError
from utils.balancing import METHODS
from utils.experiments.finished_run import FinishedRun
from utils.experiments.paper_results import paper_result
from utils.experiments.splits import MeanRun, means_over_splits
from utils.experiments.tables import LEVEL, Difference, holm, markdown, paired_difference, percent, points, probability
from utils.training.experiment import CORE, NOT_COMPARED, label, seedless, without_meaning
from utils.training.modalities import ENSEMBLE, JOINT, is_joint, predicts_jointly
from utils.training.run import is_finished

BASELINE = {"mmcosine": False, "modulation": "none", "lam": 0.0}  # what a run is compared with
SCRATCH = {"freeze_encoders": False, "imagenet": False}  # and no pretrained encoders, if there is such a run
IN_ORDER = ("modality", "fusion_method", "modulation", "lam", "mmcosine", "scaling", "random_seed")
MEASURES = {"accuracy": "accuracy %, higher is better", "eer": "equal error rate %, lower is better"}

Group = Mapping[int, FinishedRun]  # by seed: runs that differ in nothing else


def read_runs(output: Path) -> list[FinishedRun]:
    """The finished runs below a folder, those of one method together. Raises InputError: none, or a damaged file."""
    runs = [FinishedRun(path.parent) for path in sorted(output.glob("*/result.json"))]
    for run in runs:
        missing = [name for name in IN_ORDER if name not in run.settings]
        if missing:
            raise InputError(f"{run.folder / 'args.json'} has no {', '.join(missing)}: a run of an older version. Move "
                             "it away")
    runs = [run for run in runs if is_finished(run.folder)]
    if not runs:
        raise InputError(f"no finished run (a folder with a result.json of all its epochs) in {output}: name the "
                         "--output of a sweep")
    return sorted(runs, key=sort_key)


def sort_key(run: FinishedRun) -> list:
    """All modalities first, single encoders last; methods in the order of METHODS."""
    values = {**run.settings, "modulation": list(METHODS).index(run.settings["modulation"])}
    modality = run.settings["modality"]
    return [not predicts_jointly(modality), modality not in JOINT, *map(values.get, IN_ORDER)]


def csv_row(run: FinishedRun) -> dict[str, object]:
    """What result.json holds, without lists and nested values."""
    plain = {name: value for name, value in run.result.items() if not isinstance(value, dict | list)}
    return {"run": run.name, **plain}


# ---- which runs belong together


def varying(runs: Sequence[FinishedRun]) -> list[str]:
    """The settings in which these runs differ, without the seed and settings of the machine."""
    names = dict.fromkeys(name for run in runs for name in run.settings)
    every = [seedless(run.settings) for run in runs]
    values = {name: {json.dumps(settings[name]) for settings in every if name in settings} for name in names}
    return [name for name in names if len(values[name]) > 1 and name not in NOT_COMPARED | {"random_seed"}]


def identity(settings: Mapping[str, object], names: Sequence[str]) -> str:
    """The same for settings that mean the same, whatever their seed: of the core settings, and of `names`."""
    meant, settings = {*CORE, *names} - {"random_seed"} - without_meaning(settings), seedless(settings)
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


def report(runs: Sequence[FinishedRun]) -> str:
    """Markdown: for each data set a table of means and one of differences, and notes; the same of the means over its
    splits, where runs are on several."""
    datasets = dict.fromkeys(run.settings["dataset"] for run in runs)
    sections = []
    for dataset in datasets:
        own = [run for run in runs if run.settings["dataset"] == dataset]
        means = means_over_splits(own)
        sections += [section(own), *([section(means)] if means else [])]
    return "\n".join(sections)


def section(runs: Sequence[FinishedRun | MeanRun]) -> str:
    """Of the runs of one data set."""
    names, measure, columns = varying(runs), measure_of(runs[0]), columns_of(runs)
    groups = make_groups(runs, names)
    demo = " (DEMO DATA: synthetic, not a benchmark)" if runs[0].result.get("demo") else ""
    rows = [[*row(group, names, measure, columns), time(group, baseline(group, groups, names))]
            for group in groups.values()]
    differences = [found for group in groups.values()
                   if (found := differences_of(group, groups, names, measure, columns))]
    mean = f", mean over the splits {runs[0].settings['split']}" if isinstance(runs[0], MeanRun) else ""
    lines = [f"## {runs[0].settings['dataset']}{mean}{demo}: {MEASURES[measure]}", "",
             markdown(["", "n", *columns, "last epoch", "paper", "time"], rows), ""]
    if differences:
        lines += ["Points to the joint plain network with the same fusion, paired over seeds:", "",
                  markdown(["", *columns, f"p of {columns[0]}, Holm"], difference_rows(differences)), ""]
    return "\n".join([*lines, notes(runs, measure), ""])


def columns_of(runs: Sequence[FinishedRun]) -> list[str]:
    """`joint`, where a run has several modalities, and the modalities of all runs."""
    joint = ["joint"] if any(predicts_jointly(run.settings["modality"]) for run in runs) else []
    return list(dict.fromkeys([*joint, *(name for run in runs for name in run.modalities)]))


def measure_of(run: FinishedRun) -> str:
    """The metric that chose the epoch."""
    for name in MEASURES:
        if name in run.result:
            return name
    raise InputError(f"{run.folder / 'result.json'} has no {' and no '.join(MEASURES)}: move the folder away")


def row(group: Group, names: Sequence[str], measure: str, columns: Sequence[str]) -> list[str]:
    run = next(iter(group.values()))
    shown = metric_names(run, measure)
    if not predicts_jointly(run.settings["modality"]):
        del shown["joint"]
    cells = [percent(list(by_seed(group, shown.get(column)).values())) for column in columns]
    last = percent(list(by_seed(group, f"last_test_{measure}").values()))
    paper = paper_result(run.settings, test_size(run.result))
    return [label(seedless(run.settings), names), str(len(group)), *cells, last, f"{paper:.2f}" if paper else ""]


def time(group: Group, plain: Group) -> str:
    """`1.30x`: an epoch's seconds compared with the baseline's; "" where they were not recorded."""
    mine, theirs = (list(by_seed(one, "epoch_seconds").values()) for one in (group, plain))
    return f"{statistics.fmean(mine) / statistics.fmean(theirs):.2f}x" if mine and theirs else ""


def metric_names(run: FinishedRun, measure: str) -> dict[str, str]:
    """{column: name of the metric}; of an encoder alone the joint one is its own."""
    if not predicts_jointly(run.settings["modality"]):
        return {"joint": measure, run.settings["modality"]: measure}
    return {"joint": measure, **{name: f"{measure}_{name}" for name in run.modalities}}


def by_seed(group: Group, metric: str | None) -> dict[int, float]:
    return {seed: run.result[metric] for seed, run in group.items() if metric in run.result}


def test_size(result: Mapping[str, object]) -> int | None:
    """Trials of the first list, or test clips."""
    return next(iter(result["trials"].values())) if "trials" in result else result.get("n_test")


def differences_of(group: Group, groups: Mapping[str, Group], names: Sequence[str], measure: str,
                   columns: Sequence[str]) -> tuple[str, list[Difference | None]] | None:
    """(the group's label, its paired differences to its baseline); None: it is a baseline itself."""
    run, compared = next(iter(group.values())), baseline(group, groups, names)
    if compared is group:
        return None
    mine, plain = metric_names(run, measure), {}
    if compared:
        plain = metric_names(next(iter(compared.values())), measure)
    found = [paired_difference(by_seed(group, mine.get(column)), by_seed(compared, plain.get(column)))
             for column in columns]
    return label(seedless(run.settings), names), found


def difference_rows(differences: Sequence[tuple[str, Sequence[Difference | None]]]) -> list[list[str]]:
    """Cells in points, and the p values of the first column, corrected for the number of rows that have one."""
    corrected = iter(holm([found[0].p for _, found in differences if found[0]]))
    return [[name, *map(points, found), probability(next(corrected) if found[0] else None)]
            for name, found in differences]


def baseline(group: Group, groups: Mapping[str, Group], names: Sequence[str]) -> Group:
    """The group of the plain network from scratch, else of the one that starts as this group does; {} for neither."""
    plain = baseline_of(next(iter(group.values())), groups)
    scratch = {**plain, **SCRATCH, **{name: None for name in plain if name.endswith("_pretrain")}}
    return groups.get(identity(scratch, names)) or groups.get(identity(plain, names), {})


def baseline_of(run: FinishedRun, groups: Mapping[str, Group]) -> dict[str, object]:
    """The settings of the plain network of the same modalities and fusion; for an encoder alone, of all modalities, or
    else of the most that it is trained with in any of the groups; for an ensemble, of the fewest that have its own. An
    encoder alone has no fusion: it is compared with the first one that there are plain runs of."""
    modality = run.settings["modality"]
    if not is_joint(modality):
        others = [next(iter(group.values())) for group in groups.values()]
        joint = [other for other in others if is_joint(other.settings["modality"])
                 and set(run.modalities) <= set(other.modalities)]
        plain = [other for other in joint if all(other.settings[name] == value for name, value in BASELINE.items())]
        choose = min if modality == ENSEMBLE else max
        chosen = choose(plain or joint, key=lambda other: len(other.modalities), default=None)
        fusion = {"fusion_method": chosen.settings["fusion_method"]} if chosen else {}
        modality = chosen.settings["modality"] if chosen else JOINT[0]
        return {**run.settings, **BASELINE, **fusion, "modality": modality}
    return {**run.settings, **BASELINE}


NOTES = """n: seeds. +-: standard deviation over seeds (n - 1). last epoch: on the test set, of the joint network or the
encoder alone. paper: published result on a test set of this size, at any scale where the paper gives none. time:
seconds of a training epoch, as a multiple of what it is compared with. Points: mean over the common seeds (n) with its
{level:.0%} confidence interval (Student's t); * where the interval excludes 0, as one in twenty does by chance. p: of a
paired t test, corrected for the number of rows by Holm's method: chance alone puts any row of a table below 0.05 in at
most one table of twenty.
Networks are compared with the plain network of the same modalities (from scratch, if there is one), encoders alone and
their ensemble with that of all modalities, or of the most that there are runs of. The intervals cover the noise of
seeds, not that of the choice of test data or of the machine. {more}

Epoch: {chosen}. Commits: {commits}."""


def notes(runs: Sequence[FinishedRun], measure: str) -> str:
    chosen = sorted({str(run.result.get("selection")) for run in runs})
    commits = Counter(str(run.result.get("git_commit")) for run in runs)
    more = " ".join(filter(None, [noise_of_test_data(runs, measure), fewer_clips(runs)]))
    return NOTES.format(level=LEVEL, more=more, chosen="; or ".join(chosen),
                        commits=", ".join(f"{name} ({count} runs)" for name, count in commits.items()))


def noise_of_test_data(runs: Sequence[FinishedRun], measure: str) -> str:
    """A sentence: how many points one test clip is, and the binomial standard error of the mean accuracy."""
    clips = {run.result.get("n_test") for run in runs}
    if measure != "accuracy" or len(clips) > 1 or None in clips:
        return ""
    n, p = clips.pop(), statistics.fmean(run.result[measure] for run in runs)
    error = (p * (1 - p) / n) ** 0.5
    return f"One of {n} clips is {100 / n:.3f} points, the binomial standard error is {100 * error:.1f}."


def fewer_clips(runs: Sequence[FinishedRun | MeanRun]) -> str:
    """A sentence: which methods trained on fewer clips than the other rows, because they hold some out."""
    found = {run.settings["modulation"]: f"{run.result['n_trained']} of {run.result['n_train']}" for run in runs
             if run.result.get("n_trained", run.result.get("n_train")) != run.result.get("n_train")}
    told = ", ".join(f"{method} on {counts}" for method, counts in found.items())
    return f"Trained on a part of the training clips, the others being held out by the method: {told}." if told else ""
