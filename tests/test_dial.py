"""The controlled study: its best possible accuracies, its worlds, its rows, and what its tables say."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from dataset.errors import InputError
from scripts.studies import dial
from scripts.studies.dial import World


@pytest.mark.parametrize("classes, alpha_ratio", [(3, 1.0), (10, 1.5), (50, 2.5)])
def test_bayes_accuracy_is_that_of_the_best_rule_on_many_clips(classes, alpha_ratio, monkeypatch):
    monkeypatch.setitem(dial.STRENGTH, 3, 2.0)
    world, rng = World(classes, alpha_ratio, 1.0), np.random.default_rng(0)
    labels = rng.integers(0, classes, 100_000)
    signals, means = dial.signals(world, labels, rng), dial.simplex(classes)
    # log posterior of class c: -|s - alpha mu_c|^2 / 2, summed over the modalities
    log = [-((s[:, None, :] - alpha * means[None]) ** 2).sum(-1) / 2 if classes < 20 else alpha * s @ means.T
           for s, alpha in zip(signals, world.alpha, strict=True)]
    found = {"joint": log[0] + log[1], "audio": log[0], "visual": log[1]}
    for name, expected in world.bayes().items():
        assert abs((found[name].argmax(1) == labels).mean() - expected) < 4 * 0.5 / math.sqrt(len(labels)), name


def test_two_classes_are_told_apart_as_on_a_line():
    """Two means at a distance of 2 alpha: the best rule errs with probability Phi(-alpha)."""
    for alpha in (0.3, 1.0, 2.5):
        assert dial.bayes_accuracy(2, alpha) == pytest.approx(norm.cdf(alpha), abs=1e-9)
    assert dial.bayes_accuracy(7, 0.0) == pytest.approx(1 / 7, abs=1e-9)


def test_the_class_means_are_a_regular_simplex():
    means = dial.simplex(6)
    np.testing.assert_allclose(means @ means.T, np.where(np.eye(6) == 1, 1, -1 / 5), atol=1e-12)
    np.testing.assert_allclose(means.sum(0), 0, atol=1e-12)


def test_inputs_can_be_undone_so_that_nothing_is_lost():
    """f, Q and kappa inverted give the signals back, whatever kappa; so the best accuracy does not depend on it."""
    x = np.linspace(-6, 6, 4001)
    assert (np.diff(dial.invertible(x)) > 0).all()
    for kappa_ratio in (0.2, 5.0):
        world = World(10, 1.5, kappa_ratio)
        labels, rotations = np.arange(200) % 10, [np.linalg.qr(np.random.default_rng(m).normal(size=(64, 64)))[0]
                                                  for m in range(2)]
        made = dial.inputs_of(world, labels, np.random.default_rng(1), rotations)
        rng = np.random.default_rng(1)
        expected = dial.signals(world, labels, rng)
        for inputs, kappa, rotation, signal in zip(made, world.kappa, rotations, expected, strict=True):
            undone = np.interp(inputs, dial.invertible(np.linspace(-40, 40, 400_001)), np.linspace(-40, 40, 400_001))
            np.testing.assert_allclose((undone @ rotation)[:, :10] / kappa, signal, atol=2e-3 / min(1, kappa))
        assert world.bayes() == World(10, 1.5, 1.0).bayes()


def line(row: str, rate: float | str, val: float, joint: float, **more: object) -> dict:
    return {"world": "w", "classes": 10, "alpha_ratio": 1.0, "kappa_ratio": 1.0, "seed": 0, "bayes_joint": 0.9,
            "bayes_audio": 0.8, "bayes_visual": 0.6, "row": row, "rate": rate, "val": val, "joint": joint,
            "audio": 0.45, "visual": 0.35, "probe_audio": 0.8, "probe_visual": 0.1, **more}


def test_validation_clips_choose_the_rate_and_the_optimum_attains_one():
    import pandas

    lines = pandas.DataFrame([line("joint", 0.01, 0.70, 0.50), line("joint", 0.03, 0.71, 0.70),
                              line("mla", 0.01, 0.9, 0.90), line("mla", 0.03, 0.8, 0.99)])
    best = dial.gains(dial.chosen_lines(lines)).set_index("row")
    assert best.loc["joint", "joint"] == 0.70, "by validation, never by test clips"
    assert best.loc["mla", "attained_joint"] == pytest.approx(1) and best.loc["mla", "attained_probe_audio"] == 1
    assert best.loc["joint", "attained_joint"] == pytest.approx(0.6 / 0.8)
    assert best.loc["joint", "attained_audio"] == pytest.approx(0.35 / 0.7)
    assert best.loc["joint", "attained_probe_visual"] == pytest.approx(0)
    assert best.loc["mla", "gain"] == pytest.approx(0.25) and best.loc["joint", "gain"] == 0
    assert dial.rate_gain(lines) == pytest.approx((0.7 - 0.5) / 0.8)
    assert "| mla | 1 | 100.0 | 50.0 | 50.0 | 100.0 | 0.0 | +25.0 [+25.0, +25.0] | 1 of 1 |" in dial.table(
        best.reset_index())


def test_a_small_study_runs_resumes_and_is_reported(tmp_path, monkeypatch, capsys):
    for name, value in {"CLIPS": {"train": 100, "val": 40, "test": 60}, "EPOCHS": 2, "DECAY": 1, "RATES": (0.03,),
                        "SCALES": (0.5, 2.0), "ALPHA_RATIOS": (1.0,), "KAPPA_RATIOS": (1.0, 5.0)}.items():
        monkeypatch.setattr(dial, name, value)
    monkeypatch.setattr(dial, "carry_out", lambda jobs, workers: [dial.run_world(*job) for job in jobs])
    argv = ["--output", str(tmp_path), "--seeds", "0", "--classes", "10", "--methods", "ogm_ge", "lfm"]
    dial.main([*argv, "--dry_run"])
    assert "2 worlds and seeds, 0 done; 16 runs to do" in capsys.readouterr().out and not list(tmp_path.iterdir())
    dial.main(argv)
    for name in ("dial.csv", "dial.md", "map_C10.png", "map_C10.pdf", "theory.png", "theory.pdf"):
        assert (tmp_path / name).stat().st_size > 500, name
    text = (tmp_path / "dial.md").read_text()
    assert "10 classes, 2 worlds" in text and "sum of logits" in text and "0 of 20 runs ended" in text
    rows = {text.split("|")[1].strip() for text in text.splitlines() if text[:2] == "| "}
    assert {"joint", "audio", "audio + audio", "MMCosine 0.5 s1", "ogm_ge", "lfm"} <= rows
    monkeypatch.setattr(dial, "run_world", None)  # everything is there
    dial.main(argv)
    with pytest.raises(InputError, match="no world has been tried"):
        dial.main(["--output", str(tmp_path / "none"), "--report_only"])
