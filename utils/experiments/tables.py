"""Numbers as cells of a table: means and standard deviations over seeds, paired differences; Markdown."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

LEVEL = 0.95  # of the confidence intervals


class Difference(NamedTuple):
    """Mean of n paired differences, its confidence interval, and the p value of the paired t test."""

    mean: float
    low: float
    high: float
    n: int
    p: float


def mean_and_std(values: Sequence[float]) -> tuple[float, float | None]:
    """std over n - 1; None for one value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """(mean, half the width of its 95 % interval by Student's t); the half is 0 for one value."""
    mean, std = mean_and_std(values)
    return mean, 0.0 if std is None else float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * std / len(values)**0.5)


def paired_difference(values: Mapping[int, float], baseline: Mapping[int, float]) -> Difference | None:
    """{seed: value} minus {seed: value} over the seeds that both have, with Student's t interval; None for fewer than
    two common seeds."""
    seeds = sorted(values.keys() & baseline.keys())
    if len(seeds) < 2:
        return None
    differences = np.array([values[seed] - baseline[seed] for seed in seeds])
    mean, error = differences.mean(), differences.std(ddof=1) / np.sqrt(len(seeds))
    half = stats.t.ppf((1 + LEVEL) / 2, len(seeds) - 1) * error
    p = 2 * stats.t.sf(abs(mean) / error, len(seeds) - 1) if error else float(mean == 0)
    return Difference(float(mean), float(mean - half), float(mean + half), len(seeds), float(p))


def holm(p_values: Sequence[float]) -> list[float]:
    """p values of several tests, corrected for their number: where nothing but chance is at work, any of them is
    below 0.05 in at most one of twenty such tables.

    Source: Holm, A simple sequentially rejective multiple test procedure, 1979.
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = largest
    return corrected


def percent(values: Sequence[float]) -> str:
    """Fractions -> `61.20 +- 0.35`, mean and standard deviation in percent; "" for no values."""
    if not values:
        return ""
    mean, std = mean_and_std(values)
    return f"{100 * mean:.2f}" + (f" +- {100 * std:.2f}" if std is not None else "")


def points(difference: Difference | None) -> str:
    """`+1.20 [+0.10, +2.30] *, n=3` in percentage points; * where the interval excludes 0."""
    if difference is None:
        return "n/a"
    mark = " *" if difference.low > 0 or difference.high < 0 else ""
    mean, low, high = (100 * value for value in difference[:3])
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]{mark}, n={difference.n}"


def probability(p: float | None) -> str:
    return "n/a" if p is None else f"{p:.3f}" if p >= 0.001 else "<0.001"


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table: a header, and one line per row."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (columns, ["---"] * len(columns), *rows))
