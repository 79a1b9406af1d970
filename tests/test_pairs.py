"""predict.py on two videos: the score that an evaluation gives the prepared pair, and its place among the trials."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import norm
from test_prepare_videos import make_video

import main_Vox
from dataset.errors import InputError
from dataset.trials import read_trials
from scripts import export, predict, prepare_voxceleb
from utils.experiments.pairs import draw_pair, read_scored_trials

CPU = ["--device", "cpu"]
NAMES = ("id7/v/1", "id7/v/2", "id8/v/1", "id8/v/2")


@pytest.fixture(scope="module")
def run(tiny_voices, tmp_path_factory, tiny_encoders) -> Path:
    root = tmp_path_factory.mktemp("voices")
    main_Vox.main(["--train", "--mmcosine", "--scaling", "7", "--dataset", "tiny", "--data_root", str(tiny_voices),
                   "--epochs", "1", "--ckpt_path", str(root), "--run_name", "run", "--image_size", "64", "--amp", "off",
                   "--audio_frames", "33", "--test_frames", "40", "--batch_size", "4", "--num_workers", "0", *CPU])
    return root / "run"


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Of two speakers, with different pictures, and sound that begins later and later."""
    root = tmp_path_factory.mktemp("speakers")
    for number, name in enumerate(NAMES):
        make_video(root / f"{name}.mp4", 1.2, shade=50 * number, late=0.1 * number)
    return root


def paths(videos: Path) -> list[str]:
    return [str(videos / f"{name}.mp4") for name in NAMES]


@pytest.fixture(scope="module")
def prepared(videos, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("prepared")
    prepare_voxceleb.main(["--video", str(videos), "--split", "test", "--data_root", str(root), "--fps", "5"])
    return root


@pytest.mark.parametrize("kind", ["logits", "embedding"])
def test_the_score_of_a_pair_is_the_evaluations_of_the_prepared_videos(kind, run, videos, prepared, tmp_path,
                                                                       tiny_encoders):
    content = torch.load(run / "best.pt", weights_only=True)
    run = Path(shutil.copytree(run, tmp_path / "run"))
    torch.save({**content, "args": {**content["args"], "score": kind}}, run / "best.pt")
    main_Vox.main(["--ckpt_path", str(run / "best.pt"), "--data_root", str(prepared), "--num_workers", "0",
                   "--score", kind, "--scores_path", str(tmp_path / "scores"), *CPU])
    expected = {}
    for line in (tmp_path / "scores" / "test_pairs.scores.txt").read_text().splitlines():
        value, first, second = line.split()
        expected[frozenset((first, second))] = float(value)
    found = {frozenset(f"{one.relative_to(videos).with_suffix('')}.wav" for one in (pair.first, pair.second)): pair
             for pair in predict.main([str(run), *paths(videos), "--fps", "5", *CPU])}
    assert len(expected) >= 4 and len(found) == 6
    for names, value in expected.items():
        assert found[names].score == pytest.approx(value, abs=1e-5)
    assert np.ptp([pair.score for pair in found.values()]) > 1e-4
    other = predict.main([str(run), *paths(videos)[:2], *CPU])[0]  # 2 faces a second: another face is evaluated
    assert abs(other.scores["visual"] - found[frozenset(f"{name}.wav" for name in NAMES[:2])].scores["visual"]) > 1e-4


def test_the_rates_at_a_score_are_those_of_the_runs_trials(run, tiny_voices, videos, tmp_path, capsys, tiny_encoders):
    trials, listed = read_scored_trials(run), read_trials(tiny_voices / "test_pairs.csv", "")
    assert trials.labels.tolist() == listed.labels.tolist()
    pair, = predict.main([str(run), *paths(videos)[1:3], "--out", str(tmp_path), *CPU])
    targets = [value for value, label in zip(trials.scores, listed.labels, strict=True) if label]
    others = [value for value, label in zip(trials.scores, listed.labels, strict=True) if not label]
    for threshold in (pair.score, sorted(targets)[1], -1.1, 1.1):
        assert trials.rates_at(threshold) == (sum(value >= threshold for value in others) / len(others),
                                              sum(value < threshold for value in targets) / len(targets))
    false_alarm, miss = trials.rates_at(pair.score)
    assert f"{false_alarm:.2%} false acceptance, {miss:.2%} misses" in capsys.readouterr().out
    with (tmp_path / "predictions.csv").open() as file:
        row, = csv.DictReader(file)
    assert (float(row["false_acceptance"]), float(row["miss"])) == (false_alarm, miss)
    assert float(row["joint_score"]) == pytest.approx(pair.score, abs=1e-6)
    assert json.loads((tmp_path / "predictions.json").read_text())[0]["trials"] == "test_pairs"
    assert (tmp_path / "2_and_1.png").is_file()
    middle = pair._replace(scores={"joint": sorted(targets)[1]})
    star = draw_pair(middle, trials).get_axes()[0].lines[-1]
    rates = np.clip(trials.rates_at(middle.score), 0.0005, 0.85)
    assert (star.get_xdata()[0], star.get_ydata()[0]) == pytest.approx(tuple(norm.ppf(rates)))


def test_an_export_scores_alike_and_says_that_it_holds_no_trials(run, videos, tmp_path, capsys, tiny_encoders):
    out = export.main([str(run), "--output", str(tmp_path / "shared")])["output"]
    card = (tmp_path / "shared" / "README.md").read_text()
    result = json.loads((run / "result.json").read_text())
    assert f"| eer | {100 * result['eer']:.2f} % |" in card and "compares two videos" in card
    before, = predict.main([str(run), *paths(videos)[:2], *CPU])
    capsys.readouterr()
    after, = predict.main([out, *paths(videos)[:2], "--out", str(tmp_path / "out"), *CPU])
    assert after.scores == before.scores
    example = card.split("```python\n")[1].split("```")[0]
    for word, place in (("CODE", Path(main_Vox.__file__).parent), ("THIS_FOLDER", out), ("a.mp4", paths(videos)[0]),
                        ("b.mp4", paths(videos)[1])):
        example = example.replace(f'"{word}"', repr(str(place)))
    exec(example, {})
    assert "holds no" in capsys.readouterr().out and not list((tmp_path / "out").glob("*.png"))


def test_trials_whose_labels_are_not_known_are_not_used(run, tmp_path, tiny_encoders):
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    scores = copy / "test_pairs.scores.txt"
    lines = scores.read_text().splitlines()
    for text, told in (("\n".join(line.replace("/", "_") for line in lines), "who is who"),
                       ("\n".join(line.replace("id20000/", "id20001/") for line in lines), "other labels"),
                       ("0.1 a/1.wav\n", "damaged")):
        scores.write_text(text)
        with pytest.raises(InputError, match=told):
            read_scored_trials(copy)


def test_what_cannot_be_compared_is_named(run, videos, tmp_path, capsys, tiny_encoders):
    silent = make_video(tmp_path / "silent.mp4", 0.5, sound=False)
    with pytest.raises(InputError, match=r"1 of 3 videos could not be read:\n  .*silent\.mp4 has no sound stream"):
        predict.main([str(run), *paths(videos)[:2], str(silent), *CPU])
    assert "score joint" in capsys.readouterr().out
    with pytest.raises(InputError, match="at least two"):
        predict.main([str(run), str(silent), *CPU])
    with pytest.raises(InputError, match="whole videos"):
        predict.main([str(run), *paths(videos), "--every", "1", *CPU])
