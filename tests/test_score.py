"""scripts/score.py: anybody's scores against a trial list."""

from pathlib import Path

import pytest
from conftest import REAL_DATA, needs_real_data

from dataset.errors import InputError
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


def test_costs_are_passed_on_and_curves_of_all_systems_drawn(tmp_path, trials):
    files = [write_scores(tmp_path / name, [f"{sign * score} {a} {b}" for score, (a, b) in
                                            zip(SCORES, PAIRS, strict=True)]) for name, sign in (("x", 1), ("y", -1))]
    found = main(["--trials", str(trials), "--scores", *map(str, files), "--p_target", "0.2", "--c_miss", "3",
                  "--c_fa", "2", "--det", str(tmp_path / "det.png")])
    assert found[str(files[0])]["min_dcf_0.2"] == min_dcf(SCORES, LABELS, 0.2, 3, 2)
    assert found[str(files[1])]["eer"] == pytest.approx(1 - found[str(files[0])]["eer"])
    assert (tmp_path / "det.png").stat().st_size > 10_000


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
    with pytest.raises(InputError, match=r"no score file .*gone"):
        main(["--trials", str(trials), "--scores", str(tmp_path / "gone")])
    with pytest.raises(InputError, match=r"no .*lost\.txt\. Give the trial list"):
        main(["--trials", str(tmp_path / "lost.txt"), "--scores", str(trials)])


@needs_real_data
def test_a_published_system_gets_its_published_figures(capsys):
    folder = REAL_DATA / "voxsrc2023"
    path = folder / "VoxSRC2023_val_score.txt"
    found = main(["--trials", str(folder / "VoxSRC2023_val.txt"), "--scores", str(path)])[str(path)]
    assert (round(100 * found["eer"], 4), round(found["min_dcf_0.05"], 5)) == (4.0948, 0.21424)
    assert "EER 4.0948 %" in capsys.readouterr().out
