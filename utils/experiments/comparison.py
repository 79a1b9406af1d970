"""Finished runs side by side: a csv with one row per run, and tables of mean +- std over seeds with the paired
difference to the plain network. Metrics are fractions, tables show percent."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from dataset.errors import InputError, first_few
from models.balancing import METHODS
from utils.experiments.entry_script import not_compared
from utils.experiments.finished_run import FinishedRun
from utils.experiments.paper_results import paper_result
from utils.experiments.run_rows import RunRow
from utils.experiments.splits import means_over_splits
from utils.experiments.table_notes import notes
from utils.experiments.tables import Difference, holm, markdown, paired_difference, percent, points, probability
from utils.training.experiment import CORE, SHARED, label, seedless, without_meaning
from utils.training.modalities import ENSEMBLE, JOINT, is_joint, predicts_jointly
from utils.training.run import is_finished

BASELINE = {"mmcosine": False, "modulation": "none", "lam": 0.0}  # what a run is compared with
SCRATCH = {"freeze_encoders": False, "imagenet": False}  # and no pretrained encoders, if there is such a run
IN_ORDER = ("modality", "fusion_method", "modulation", "lam", "mmcosine", "scaling", "random_seed")
MEASURES = {"accuracy": "accuracy %, higher is better", "eer": "equal error rate %, lower is better"}

BONUS = ("best test epoch", "bonus")  # columns

Group = Mapping[int, FinishedRun | RunRow]  # by seed: runs that differ in nothing else


def read_runs(output: Path) -> list[FinishedRun]:
    """The finished runs below a folder, those of one method together; in their results their probes (probe_<m>), too.
    Raises InputError: none, or a damaged file."""
    runs = [FinishedRun(path.parent) for path in sorted(output.glob("*/result.json"))]
    runs = [run for run in runs if is_finished(run.folder)]
    if not runs:
        raise InputError(f"no finished run (a folder with a result.json of all its epochs) in {output}: name the "
                         "--output of a sweep")
    for run in runs:
        run.result.update({f"probe_{name}": value for name, value in run.probes().items()})
    return sorted(runs, key=sort_key)


def sort_key(run: FinishedRun) -> list:
    """All modalities first, single encoders last; methods in the order of METHODS."""
    values = {**run.settings, "modulation": list(METHODS).index(run.settings["modulation"])}
    modality = run.settings["modality"]
    return [not predicts_jointly(modality), modality not in JOINT, *map(values.get, IN_ORDER)]


# ---- which runs belong together


def varying(runs: Sequence[FinishedRun]) -> list[str]:
    """The settings in which these runs differ, without the seed and settings of the machine."""
    names = dict.fromkeys(name for run in runs for name in run.settings)
    every = [seedless(run.settings) for run in runs]
    values = {name: {json.dumps(settings[name]) for settings in every if name in settings} for name in names}
    left_out = {"random_seed", "preset_changes"}.union(*(not_compared(settings.get("script")) for settings in every))
    return [name for name in names if len(values[name]) > 1 and name not in left_out]


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


def report(runs: Sequence[FinishedRun | RunRow], unfinished: Sequence[str] = (), seeds: Sequence[int] = ()) -> str:
    """Markdown: for each data set a table of means and one of differences, and notes; the same of the means over its
    splits, where runs are on several. unfinished: names of runs without a result, which are in no table. seeds: that
    every row should have."""
    datasets = dict.fromkeys(run.settings["dataset"] for run in runs)
    sections = []
    for dataset in datasets:
        own = [run for run in runs if run.settings["dataset"] == dataset]
        means = means_over_splits(own)
        sections += [section(own, seeds), *([section(means, seeds, mean=True)] if means else [])]
    if unfinished:
        sections.append(f"In no table, for want of a result: {len(unfinished)} runs: {first_few(unfinished)}.\n")
    return "\n".join(sections)


def section(runs: Sequence[FinishedRun | RunRow], seeds: Sequence[int], mean: bool = False) -> str:
    """Of the runs of one data set. mean: these are means over its splits."""
    names, measure, columns = varying(runs), measure_of(runs[0]), columns_of(runs)
    groups = make_groups(runs, names)
    demo = " (DEMO DATA: synthetic, not a benchmark)" if runs[0].result.get("demo") else ""
    bonus = any("selection_bonus" in run.result for run in runs)
    probed = [name for name in columns if any(f"probe_{name}" in run.result for run in runs)]
    plain = {name: baseline(group, groups, names) for name, group in groups.items()}  # what each is compared with
    rows = [[*row(group, names, measure, columns, bonus, probed), time(group, plain[name])]
            for name, group in groups.items()]
    differences = [differences_of(group, plain[name], names, measure, columns)
                   for name, group in groups.items() if plain[name] is not group]
    splits = f", mean over the splits {runs[0].settings['split']}" if mean else ""
    lines = [f"## {runs[0].settings['dataset']}{splits}{demo}: {MEASURES[measure]}", "",
             markdown(["", "n", *columns, *(f"{name} probe" for name in probed), "last epoch", *BONUS * bonus,
                       "paper", "time"], rows), ""]
    if any(found for _, every in differences for found in every):
        lines += ["Points to the joint plain network with the same fusion, paired over seeds:", "",
                  markdown(["", *columns, f"p of {columns[0]}, Holm"], difference_rows(differences)), ""]
    titles = {cells[0]: name for cells, name in zip(rows, groups, strict=True)}
    unpaired = {title: sorted(groups[name].keys() - pairs(groups[name], plain[name]).keys())
                for title, name in titles.items()}
    missing = {title: [seed for seed in seeds if seed not in groups[name]] for title, name in titles.items()}
    counts = {title: len(groups[name]) for title, name in titles.items()}
    return "\n".join([*lines, notes(runs, measure, counts, unpaired, missing), ""])


def columns_of(runs: Sequence[FinishedRun]) -> list[str]:
    """`joint`, where a run has several modalities, and the modalities of all runs."""
    joint = ["joint"] if any(predicts_jointly(run.settings["modality"]) for run in runs) else []
    return list(dict.fromkeys([*joint, *(name for run in runs for name in run.modalities)]))


def measure_of(run: FinishedRun) -> str:
    """The metric that chose the epoch."""
    for name in MEASURES:
        if name in run.result:
            return name
    raise InputError(f"the result of {run.name} has no {' and no '.join(MEASURES)}: move the run away")


def row(group: Group, names: Sequence[str], measure: str, columns: Sequence[str], bonus: bool,
        probed: Sequence[str]) -> list[str]:
    run = next(iter(group.values()))
    shown = metric_names(run, measure)
    if not predicts_jointly(run.settings["modality"]):
        del shown["joint"]
    cells = [percent(list(by_seed(group, shown.get(column)).values())) for column in columns]
    more = [*(f"probe_{name}" for name in probed), f"last_test_{measure}",
            *[f"best_test_{measure}", "selection_bonus"] * bonus]
    more = [percent(list(by_seed(group, name).values())) for name in more]
    paper = paper_result(run.settings, test_size(run.result))
    return [label(seedless(run.settings), names), str(len(group)), *cells, *more, f"{paper:.2f}" if paper else ""]


def time(group: Group, plain: Group) -> str:
    """`1.30x`: an epoch's seconds, the median over the runs, compared with the baseline's; "" where not recorded."""
    mine, theirs = (list(by_seed(one, "epoch_seconds").values()) for one in (group, plain))
    return f"{statistics.median(mine) / statistics.median(theirs):.2f}x" if mine and theirs else ""


def metric_names(run: FinishedRun, measure: str) -> dict[str, str]:
    """{column: name of the metric}; of an encoder alone the joint one is its own."""
    if not predicts_jointly(run.settings["modality"]):
        return {"joint": measure, run.settings["modality"]: measure}
    return {"joint": measure, **{name: f"{measure}_{name}" for name in run.modalities}}


def by_seed(group: Group, metric: str | None) -> dict[int, float]:
    return {seed: run.result[metric] for seed, run in group.items() if metric in run.result}


def test_size(result: Mapping[str, object]) -> int | None:
    """Trials of the first list, which are all that a csv has, or test clips."""
    trials = result.get("trials", result.get("n_test"))
    return next(iter(trials.values())) if isinstance(trials, Mapping) else trials


def differences_of(group: Group, compared: Group, names: Sequence[str], measure: str,
                   columns: Sequence[str]) -> tuple[str, list[Difference | None]]:
    """(the group's label, its paired differences to what it is compared with)."""
    run = next(iter(group.values()))
    mine, plain = metric_names(run, measure), {}
    if compared:
        plain = metric_names(next(iter(compared.values())), measure)
    paired = pairs(group, compared)
    found = [paired_difference(by_seed(paired, mine.get(column)), by_seed(compared, plain.get(column)))
             for column in columns]
    return label(seedless(run.settings), names), found


def pairs(group: Group, compared: Group) -> Group:
    """Without the runs that were tested on other clips than the run of their seed that they are compared with."""
    lists = {seed: {run.result.get("test_list"), compared[seed].result.get("test_list")} - {None}
             for seed, run in group.items() if seed in compared}
    return {seed: run for seed, run in group.items() if len(lists.get(seed, ())) < 2}


def difference_rows(differences: Sequence[tuple[str, Sequence[Difference | None]]]) -> list[list[str]]:
    """Cells in points, and the p values of the first column, corrected for the number of rows that have one."""
    corrected = iter(holm([found[0].p for _, found in differences if found[0]]))
    return [[name, *map(points, found), probability(next(corrected) if found[0] else None)]
            for name, found in differences]


def baseline(group: Group, groups: Mapping[str, Group], names: Sequence[str]) -> Group:
    """The group of the plain network from scratch, else of the one that starts as this group does; {} for neither. Of
    either, one with another learning rate will do if it is the only one, as where a rate was searched for each."""
    plain = baseline_of(next(iter(group.values())), groups)
    scratch = {**plain, **SCRATCH, **{name: None for name in plain if name.endswith("_pretrain")}}
    names = [name for name in names if name != "preset"]  # the name of settings, which are compared themselves
    for wanted in (scratch, plain):
        for compared in (names, [name for name in names if name != "learning_rate"]):
            found = [other for other in groups.values()
                     if identity(next(iter(other.values())).settings, compared) == identity(wanted, compared)]
            if len(found) == 1:
                return found[0]
    return {}


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
    of_method = METHODS[run.settings["modulation"]].default_settings
    usual = {name: SHARED[name].default for name, value in of_method.items() if run.settings.get(name) == value}
    return {**run.settings, **usual, **BASELINE}
