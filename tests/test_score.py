"""scripts/score.py: anybody's scores against a trial list."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import REAL_DATA, needs_real_data
from finished import pictures
from scipy import stats

from dataset.errors import InputError
from scripts import score
from scripts.score import main
from utils.training.metrics import equal_error_rate, min_dcf

PAIRS = [("id1/a.wav", "id1/b.wav"), ("id1/a.wav", "id2/a.wav"), ("id2/a.wav", "id2/b.wav"), ("id1/b.wav", "id2/b.wav")]
LABELS, SCORES = [1, 0, 1, 0], [0.9, 0.4, 0.3, -0.1]


@pytest.fixture
def trials(tmp_path) -> Path:
    path = tmp_path / "trials.txt"
    path.write_text("".join(f"{label} {a} {b}\n" for label, (a, b) in zip(LABELS, PAIRS, strict=True)))
    return path


def write_scores(path: Path, rows: list[str]) -> Path:
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.mark.parametrize("form", ["{score} {a} {b}", "{a} {b} {score}", "{score},/{a},/{b}", "  {score}   {a}\t{b}"])
def test_scores_of_every_form_are_matched_to_the_trials_in_any_order(tmp_path, trials, form, capsys):
    rows = [form.format(score=score, a=a, b=b) for score, (a, b) in zip(SCORES, PAIRS, strict=True)]
    path = write_scores(tmp_path / "scores", [*rows[::-1], form.format(score=5, a="id9/x.wav", b="id1/a.wav")])
    found = main(["--trials", str(trials), "--scores", str(path), "--p_target", "0.05", "0.5"])[str(path)]
    assert found == {"eer": equal_error_rate(SCORES, LABELS), "min_dcf_0.05": min_dcf(SCORES, LABELS, 0.05),
                     "min_dcf_0.5": min_dcf(SCORES, LABELS, 0.5)}
    assert "1 scores of pairs that are no trials" in capsys.readouterr().out


def test_names_may_be_numbers_and_pairs_in_either_order(tmp_path):
    trials = tmp_path / "trials"
    trials.write_text("1 0001 0002\n0 0003 0001\n")
    path = write_scores(tmp_path / "scores", ["0002 0001 0.9", "0.1 0001 0003"])
    assert main(["--trials", str(trials), "--scores", str(path)])[str(path)]["eer"] == 0


@pytest.mark.parametrize("change, message", [
    (lambda rows: rows[:3], r"lacks 1 of 4 trials: id1/b\.wav id2/b\.wav\. Score them"),
    (lambda rows: [*rows, "nan id1/a.wav id9/a.wav"], "line 5: the score is nan"),
    (lambda rows: [*rows, "0.8 id1/a.wav id1/b.wav"], r"line 5: id1/a\.wav id1/b\.wav was scored 0\.9 before, now"),
    (lambda rows: [*rows, "0.8 id1/a.wav"], "line 5: expected score utt1 utt2"),
    (lambda rows: [*rows, "high id1/a.wav id9/b.wav"], "line 5: expected score utt1 utt2")])
def test_scores_that_cannot_be_used_are_refused(tmp_path, trials, change, message):
    rows = [f"{score} {a} {b}" for score, (a, b) in zip(SCORES, PAIRS, strict=True)]
    path = write_scores(tmp_path / "scores", change(rows))
    with pytest.raises(InputError, match=message):
        main(["--trials", str(trials), "--scores", str(path)])


def test_missing_files_are_told_by_name(tmp_path, trials):
    with pytest.raises(InputError, match=r"gone is missing\. main_Vox\.py writes"):
        main(["--trials", str(trials), "--scores", str(tmp_path / "gone")])
    with pytest.raises(InputError, match=r"lost\.txt is missing\. Give the trial list"):
        main(["--trials", str(tmp_path / "lost.txt"), "--scores", str(trials)])


@needs_real_data
def test_a_published_system_gets_its_published_figures(capsys):
    folder = REAL_DATA / "voxsrc2023"
    path = folder / "VoxSRC2023_val_score.txt"
    found = main(["--trials", str(folder / "VoxSRC2023_val.txt"), "--scores", str(path)])[str(path)]
    assert (round(100 * found["eer"], 4), round(found["min_dcf_0.05"], 5)) == (4.0948, 0.21424)
    assert "EER 4.0948 %" in capsys.readouterr().out


def rates(scores: Sequence[float], labels: Sequence[int], threshold: float) -> tuple[float, float]:
    """(misses, false alarms) when scores from `threshold` on are taken for the same identity."""
    missed = [score < threshold for score, label in zip(scores, labels, strict=True) if label == 1]
    alarms = [score >= threshold for score, label in zip(scores, labels, strict=True) if label == 0]
    return float(np.mean(missed)), float(np.mean(alarms))


def test_scores_of_each_system_are_matched_to_their_trials_and_drawn_as_misses_over_false_alarms(tmp_path, capsys):
    rng = np.random.default_rng(2)
    labels = np.arange(100) % 4 == 0  # 25 targets, 75 non-targets
    names = [(f"id{number}/a.wav", f"id{number + 100 * (not same)}/b.wav") for number, same in enumerate(labels)]
    (tmp_path / "trials").write_text("".join(f"{same:d} {a} {b}\n" for same, (a, b) in zip(labels, names, strict=True)))
    systems = {"ours.txt": rng.normal(size=100) + 2.0 * labels, "theirs.txt": rng.normal(size=100) + 1.0 * labels}
    for name, scores in systems.items():
        order = rng.permutation(100)
        (tmp_path / name).write_text("".join(f"{scores[i]} {names[i][0]} {names[i][1]}\n" for i in order))
    files = [str(tmp_path / name) for name in systems]
    with pictures() as found:
        told = score.main(["--trials", str(tmp_path / "trials"), "--scores", *files, "--p_target", "0.05", "0.3",
                           "--c_miss", "3", "--c_fa", "2", "--det", str(tmp_path / "d.png")])
    printed = capsys.readouterr().out
    assert "100 trials, 25 targets" in printed
    lines = {line.get_label(): line.get_xydata() for line in found["d"].axes[0].lines}
    for name, scores in systems.items():
        thresholds = [*scores, np.inf]
        every = np.array([rates(scores, labels, threshold) for threshold in thresholds])
        for p in (0.05, 0.3):
            cost = (3 * p * every[:, 0] + 2 * (1 - p) * every[:, 1]).min() / min(3 * p, 2 * (1 - p))
            assert told[str(tmp_path / name)][f"min_dcf_{p}"] == pytest.approx(cost)
            assert f"min_dcf_{p} {cost:.5f}" in next(line for line in printed.splitlines() if f"{name}: EER" in line)
        near = np.abs(every[:, 0] - every[:, 1]).argmin()
        eer = told[str(tmp_path / name)]["eer"]
        assert every[near].min() - 1e-9 <= eer <= every[near].max() + 1e-9, "between misses and false alarms there"
        assert f"{tmp_path / name}: EER {100 * eer:.4f} %" in printed
        label, points = next((label, points) for label, points in lines.items() if name in label)
        assert label.endswith(f"(EER {eer:.2%})")
        drawn_rates = {tuple(pair) for pair in stats.norm.cdf(points).round(4)}
        inside = {tuple(pair) for pair in every[:, ::-1].clip(1e-6, 1 - 1e-6).round(4)}  # false alarms to the right
        assert inside == drawn_rates and {pair[::-1] for pair in inside} != inside
    assert told[str(tmp_path / "ours.txt")]["eer"] < told[str(tmp_path / "theirs.txt")]["eer"]
    axes = found["d"].axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("false alarms (%)", "misses (%)")
