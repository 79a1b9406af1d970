"""Numbers as cells of a table: means and standard deviations over seeds, paired differences; Markdown."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

LEVEL = 0.95  # of the confidence intervals
EQUAL = 1e-12  # fractions that differ by less differ by rounding alone


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
    mean, low, high, _ = t_test(values) if len(values) > 1 else (values[0], values[0], values[0], 1.0)
    return mean, (high - low) / 2


def paired_difference(values: Mapping[int, float],
                      baseline: Mapping[int, float]) -> Difference | None:
    """{seed: value} minus {seed: value} over the seeds that both have, with Student's t interval; None for fewer than
    two common seeds."""
    seeds = sorted(values.keys() & baseline.keys())
    if len(seeds) < 2:
        return None
    mean, low, high, p = t_test([values[seed] - baseline[seed] for seed in seeds])
    return Difference(mean, low, high, len(seeds), p)


def t_test(values: Sequence[float]) -> tuple[float, float, float, float]:
    """(mean, low and high end of its confidence interval, p of the t test that the mean is 0) of
    two or more values. Of equal values, for which no t test is defined, the interval is the mean,
    and p is 1 where they are 0, else 0."""
    mean = float(np.mean(values))
    if np.ptp(values) < EQUAL:
        return mean, mean, mean, float(abs(mean) < EQUAL)
    test = stats.ttest_1samp(values, 0.0)
    low, high = test.confidence_interval(LEVEL)
    return mean, float(low), float(high), float(test.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """p values of several tests, corrected for their number by Holm's method: where nothing but
    chance is at work, any of them is below 0.05 in at most one of twenty such tables."""
    from statsmodels.stats.multitest import multipletests  # slow to import

    return multipletests(p_values, method="holm")[1].tolist() if p_values else []


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
