"""EER, minDCF and the curve behind them, against scikit-learn's ROC, explicit loops and a published evaluation."""

import numpy as np
import pytest
from conftest import REAL_DATA, needs_real_data
from scipy.interpolate import interp1d
from scipy.optimize import brentq
from sklearn.metrics import roc_curve

from utils.training.metrics import equal_error_rate, error_rates, min_dcf

SEEDS = range(8)


def draw(seed: int, levels: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(scores, labels) of 5 to 400 trials of both kinds, with `levels` different scores when given."""
    rng = np.random.default_rng(seed)
    labels = np.append([0, 1], rng.integers(0, 2, rng.integers(3, 400)))
    scores = labels * rng.uniform(0, 2) + rng.normal(size=len(labels))
    return (scores if levels is None else np.round(scores * levels) / levels), labels


def naive_rates(scores: np.ndarray, labels: np.ndarray) -> list[tuple[float, float]]:
    """(miss, false alarm) of accepting what scores at least a threshold, for every threshold."""
    rates = []
    for threshold in [np.inf, *sorted(set(scores), reverse=True)]:
        accepted = [score >= threshold for score in scores]
        misses = [not taken for taken, label in zip(accepted, labels, strict=True) if label == 1]
        alarms = [taken for taken, label in zip(accepted, labels, strict=True) if label == 0]
        rates.append((sum(misses) / len(misses), sum(alarms) / len(alarms)))
    return rates


@pytest.mark.parametrize("levels", [None, 1, 3])
@pytest.mark.parametrize("seed", SEEDS)
def test_error_rates_are_those_of_every_threshold(seed, levels):
    scores, labels = draw(seed, levels)
    found = np.stack(error_rates(scores, labels), axis=1)
    assert found == pytest.approx(np.array(naive_rates(scores, labels)), abs=1e-12)


@pytest.mark.parametrize("levels", [None, 1, 3])
@pytest.mark.parametrize("seed", SEEDS)
def test_eer_is_where_scikit_learns_roc_crosses_the_diagonal(seed, levels):
    scores, labels = draw(seed, levels)
    false_alarm, hit, _ = roc_curve(labels, scores, drop_intermediate=False)
    expected = brentq(lambda x: 1 - x - interp1d(false_alarm, hit)(x), 0, 1)
    assert equal_error_rate(scores, labels) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("p_target, c_miss, c_fa", [(0.01, 1, 1), (0.05, 1, 1), (0.5, 10, 1), (0.9, 1, 3)])
@pytest.mark.parametrize("seed", SEEDS)
def test_min_dcf_is_the_least_cost_over_the_cheaper_refusal(seed, p_target, c_miss, c_fa):
    scores, labels = draw(seed, 4)
    costs = [c_miss * p_target * miss + c_fa * (1 - p_target) * alarm for miss, alarm in naive_rates(scores, labels)]
    expected = min(costs) / min(c_miss * p_target, c_fa * (1 - p_target))
    assert min_dcf(scores, labels, p_target, c_miss, c_fa) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("levels", [None, 2])
def test_figures_do_not_depend_on_the_order_of_the_trials(levels):
    scores, labels = draw(3, levels)
    for seed in SEEDS:
        order = np.random.default_rng(seed).permutation(len(scores))
        assert equal_error_rate(scores[order], labels[order]) == equal_error_rate(scores, labels)
        assert min_dcf(scores[order], labels[order], 0.05) == min_dcf(scores, labels, 0.05)


def test_figures_depend_on_the_ranks_of_the_scores_alone():
    scores, labels = draw(5)
    assert equal_error_rate(np.exp(3 * scores) - 7, labels) == equal_error_rate(scores, labels)


def test_known_cases():
    assert equal_error_rate([1, 1, 1, 1], [0, 1, 0, 1]) == 0.5 and min_dcf([1, 1, 1], [0, 1, 1], 0.01) == 1
    assert equal_error_rate([0.9, 0.8, 0.2, 0.1], [1, 1, 0, 0]) == 0 and min_dcf([2, 1], [1, 0], 0.05) == 0
    assert equal_error_rate([0.1, 0.9], [True, False]) == 1
    assert equal_error_rate([4, 3, 2, 1], [1, 0, 1, 0]) == 0.5


@pytest.mark.parametrize("scores, labels, message", [
    ([0.1, np.nan, 0.2], [0, 1, 1], "1 of 3 scores are NaN or infinite"), ([0.1, np.inf], [0, 1], "infinite"),
    ([0.1, 0.2], [1, 1], r"no non-target \(label 0\) among 2"), ([0.1, 0.2], [0, 0], "no target"),
    ([], [], "no target"), ([0.1], [0, 1], "a score and a label a trial"), ([0.1, 0.3], [0, 2], "labels must be 1"),
    ([[0.1], [0.2]], [[0], [1]], "a score and a label a trial")])
def test_trials_that_have_no_error_rate_are_refused(scores, labels, message):
    for figure in (equal_error_rate, lambda s, t: min_dcf(s, t, 0.01)):
        with pytest.raises(ValueError, match=message):
            figure(scores, labels)


@pytest.mark.parametrize("p_target, c_miss", [(0, 1), (1, 1), (1.5, 1), (0.1, 0), (0.1, -1)])
def test_costs_that_make_no_sense_are_refused(p_target, c_miss):
    with pytest.raises(ValueError, match="0 < p_target < 1 and positive costs"):
        min_dcf([0.1, 0.2], [0, 1], p_target, c_miss)


@needs_real_data
def test_a_published_evaluation_is_reproduced_in_any_order():
    folder = REAL_DATA / "voxsrc2023"
    rows = [line.split() for line in (folder / "VoxSRC2023_val.txt").read_text().splitlines()]
    scored = [line.split() for line in (folder / "VoxSRC2023_val_score.txt").read_text().splitlines()]
    by_pair = {(a, b): float(score) for score, a, b in scored}
    labels, scores = np.array([int(row[0]) for row in rows]), np.array([by_pair[a, b] for _, a, b in rows])
    for order in (np.arange(len(rows)), np.random.default_rng(0).permutation(len(rows)), np.argsort(labels)):
        assert round(100 * equal_error_rate(scores[order], labels[order]), 4) == 4.0948
        assert round(min_dcf(scores[order], labels[order], 0.05), 5) == 0.21424
