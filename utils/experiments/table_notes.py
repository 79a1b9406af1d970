"""What is said below a table of runs: how to read it, and what a reader has to know about these runs."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence

from utils.experiments.finished_run import FinishedRun
from utils.experiments.run_rows import RunRow
from utils.experiments.tables import LEVEL
from utils.training.presets import departures

NOTES = """n: seeds. +-: standard deviation over seeds (n - 1). last epoch: on the test set, of the joint network or the
encoder alone. paper: published result on a test set of this size, at any scale where the paper gives none. time:
median seconds of a training epoch, as a multiple of what it is compared with. Points: mean over the common seeds (n)
with its {level:.0%} confidence interval (Student's t); * where the interval excludes 0, as one in twenty does by
chance. p: of a paired t test, corrected for the number of rows by Holm's method: chance alone puts any
row of a table below 0.05 in at most one table of twenty.
Networks are compared with the plain network of the same modalities (from scratch, if there is one), encoders alone and
their ensemble with that of all modalities, or of the most that there are runs of; with one of another learning rate
where that is the only one. The intervals cover the noise of seeds, not that of the choice of test data or of the
machine. {more}

Epoch: {chosen}. Commits: {commits}."""
BONUS = ("best test epoch: what choosing the epoch on the test set would have reported; bonus: how much more that is "
         "than what the validation clips chose.")


def notes(runs: Sequence[FinishedRun | RunRow], measure: str, counts: Mapping[str, int],
          unpaired: Mapping[str, Sequence[int]], missing: Mapping[str, Sequence[int]]) -> str:
    """counts: {label of a row: its number of runs}. unpaired: {label: seeds whose runs have other test clips than what
    they are compared with}. missing: {label: seeds that were asked for and have no result}."""
    chosen = sorted({str(run.result["selection"]) for run in runs if "selection" in run.result})
    commits = Counter(str(run.result.get("git_commit")) for run in runs)
    bonus = BONUS if any("selection_bonus" in run.result for run in runs) else ""
    more = " ".join(filter(None, [noise_of_test_data(runs, measure), fewer_clips(runs), bonus, fewer_runs(counts),
                                  of_seeds(missing, "Without a result for seeds that were asked for"),
                                  of_seeds(unpaired, "NOT PAIRED, as these seeds have other test clips than in the row "
                                                     "that they are compared with"), several_variants(runs),
                                  several_precisions(runs), of_presets(runs)]))
    return NOTES.format(level=LEVEL, more=more, chosen="; or ".join(chosen),
                        commits=", ".join(f"{name} ({count} runs)" for name, count in commits.items()))


def noise_of_test_data(runs: Sequence[FinishedRun | RunRow], measure: str) -> str:
    """A sentence: how many points one test clip is, and the binomial standard error of the mean accuracy; of several
    test lists, such as folds, that of all their clips."""
    listed = [run for run in runs if "test_list" in run.result] or runs
    sizes = {(run.result.get("test_list"), run.result.get("n_test")) for run in listed}
    counts = [count for _, count in sizes if count]
    if measure != "accuracy" or not len({name for name, _ in sizes}) == len(sizes) == len(counts):
        return ""
    n, p = sum(counts), statistics.fmean(run.result[measure] for run in runs)
    one = f"One of {counts[0]} clips is {100 / counts[0]:.3f} points, the" if len(set(counts)) == 1 else "The"
    of = f" of the {n} clips of {len(counts)} test lists together" if len(counts) > 1 else ""
    return f"{one} binomial standard error{of} is {100 * (p * (1 - p) / n) ** 0.5:.1f}."


def fewer_clips(runs: Sequence[FinishedRun | RunRow]) -> str:
    """A sentence: which methods trained on fewer clips than the other rows, because they hold some out."""
    found = {run.settings["modulation"]: f"{run.result['n_trained']} of {run.result.get('n_train', 'all')}"
             for run in runs if run.result.get("n_trained", run.result.get("n_train")) != run.result.get("n_train")}
    told = ", ".join(f"{method} on {counts}" for method, counts in found.items())
    return f"Trained on a part of the training clips, the others being held out by the method: {told}." if told else ""


def fewer_runs(counts: Mapping[str, int]) -> str:
    """A sentence: which rows are means over fewer runs than others."""
    most = max(counts.values())
    told = "; ".join(f"{label} ({count} of {most})" for label, count in counts.items() if count < most)
    return f"Of fewer runs than other rows: {told}." if told else ""


def of_seeds(seeds: Mapping[str, Sequence[int]], what: str) -> str:
    """A sentence: in which rows that is so of which seeds."""
    told = "; ".join(f"{label} ({', '.join(map(str, own))})" for label, own in seeds.items() if own)
    return f"{what}: {told}." if told else ""


def several_variants(runs: Sequence[FinishedRun | RunRow]) -> str:
    """A sentence: the runs are of data under the same names with other files, such as other levels of noise."""
    found = Counter(str(run.result["variant"]) for run in runs if "variant" in run.result)
    told = "; ".join(f"{name} ({count} runs)" for name, count in found.items())
    return f"NOT COMPARABLE, of several variants of the data: {told}." if len(found) > 1 else ""


def several_precisions(runs: Sequence[FinishedRun | RunRow]) -> str:
    """A sentence: the runs were computed in different precisions, as --amp auto may choose on different machines."""
    found = Counter(str(run.result["precision"]) for run in runs if run.result.get("precision"))
    told = "; ".join(f"{name} ({count} runs)" for name, count in found.items())
    return f"Of several precisions (--amp): {told}." if len(found) > 1 else ""


def of_presets(runs: Sequence[FinishedRun | RunRow]) -> str:
    """A sentence: the presets of the runs, and in what they depart from them."""
    found = Counter((str(run.settings["preset"]), departures(run.result)) for run in runs
                    if run.settings.get("preset"))
    told = "; ".join(f"{name}{f' but for {changed}' if changed else ''} ({count} run{'s' * (count > 1)})"
                     for (name, changed), count in found.items())
    return f"Presets: {told}." if told else ""
