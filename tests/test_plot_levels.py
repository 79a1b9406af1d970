"""scripts/studies/plot_levels.py: which runs stand where in the picture, by the committed runs of docs/results."""

import csv
import statistics

import pytest
from conftest import REPO
from scipy import stats

from dataset.errors import InputError
from scripts.studies.plot_levels import curves_of, draw, main
from utils.experiments.run_rows import read_csv

RUNS = REPO / "docs" / "results" / "grid_babble.csv"
LEVELS = ("digits", "digits-snr5", "digits-snr-5")


def points(axes) -> list[tuple[float, float, float]]:
    """(place, mean, half of the interval) of every point of a panel, from left to right."""
    found = []
    for line, _, (spans,) in axes.containers:
        for place, mean, span in zip(*line.get_data(), spans.get_segments(), strict=True):
            if mean == mean:  # else there are no runs at this level
                found.append((place, mean, (span[1, 1] - span[0, 1]) / 2))
    return sorted(found)


def expected(dataset: str, metric: str, **settings: str) -> tuple[float, float]:
    with RUNS.open(newline="") as file:
        values = [float(row[metric]) for row in csv.DictReader(file)
                  if row["dataset"] == dataset and all(row[name] == value for name, value in settings.items())]
    assert len(values) == 5
    return statistics.fmean(values), stats.t.interval(0.95, 4, scale=stats.sem(values))[1]


def test_every_point_is_the_mean_of_a_methods_runs_at_its_level():
    figure = draw(curves_of(read_csv(RUNS)[0], LEVELS), ["none", "+5", "-5"])
    prediction, audio, visual = figure.axes
    plain = {"modality": "both", "mmcosine": "False", "modulation": "none", "fusion": "concat",
             "--audio_pretrain": "None"}
    cosine = {**plain, "mmcosine": "True"}
    wanted = [(prediction, "digits", "accuracy", plain, 0), (prediction, "digits-snr-5", "accuracy", cosine, 2),
              (prediction, "digits-snr5", "accuracy", {"modality": "ensemble"}, 1),
              (audio, "digits-snr5", "accuracy", {"modality": "audio"}, 1),
              (prediction, "digits-snr5", "accuracy", cosine, 1), (visual, "digits-snr5", "probe_visual", plain, 1),
              (audio, "digits", "probe_audio", cosine, 0), (visual, "digits-snr-5", "accuracy_visual", plain, 2),
              (visual, "digits", "accuracy", {"modality": "visual"}, 0), (visual, "digits", "probe_visual", plain, 0)]
    for axes, dataset, metric, settings, level in wanted:
        there = [found for place, *found in points(axes) if round(place) == level]
        assert pytest.approx(list(expected(dataset, metric, **settings))) in there, (dataset, metric)
    strong, _ = expected("digits", "accuracy", modality="audio")
    assert all(mean != pytest.approx(strong) for _, mean, _ in points(visual)), "an encoder of another modality"
    weak, _ = expected("digits", "accuracy", modality="visual")
    assert all(mean != pytest.approx(weak) for _, mean, _ in points(prediction)), "an encoder that is weaker throughout"
    assert [label.get_text() for label in visual.get_xticklabels()] == ["none", "+5", "-5"]


def test_the_picture_is_written(tmp_path):
    levels = [f"{name}={name}" for name in LEVELS]
    assert main([str(RUNS), "--levels", *levels, "--out", str(tmp_path / "a" / "x.png")]).read_bytes()[1:4] == b"PNG"


def test_what_cannot_be_drawn_is_refused(tmp_path):
    for levels, told in ((["digits=a", "digits=b"], "--levels names a data set twice"),
                         (["digits", "words"], r"no runs on words: its data sets are digits, digits-snr-5"),
                         (["digits"], "no method of .* is on two of")):
        with pytest.raises(InputError, match=told):
            main([str(RUNS), "--levels", *levels, "--out", str(tmp_path / "x.png")])
    several = tmp_path / "several.csv"
    several.write_text(RUNS.read_text().replace("plain-learning_rate0.03-seed0,digits-snr-5,False,10.0,none,both,0.0,0.03",
                                                "plain-learning_rate0.03-seed0,digits-snr-5,False,10.0,none,both,0.0,0.1"))
    assert several.read_text() != RUNS.read_text()
    with pytest.raises(InputError, match="joint training has several settings on digits-snr-5"):
        main([str(several), "--levels", *LEVELS, "--out", str(tmp_path / "x.png")])
    assert not (tmp_path / "x.png").exists()
