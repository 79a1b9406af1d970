"""main_Vox.py from its command line to its run folder."""

import json
import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import REAL_DATA, needs_real_data
from processes import run_together
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import main_Vox
from dataset.errors import InputError
from main_Vox import load_data, main, parse
from scripts import export
from scripts.score import main as score_files
from utils.training import checkpoint
from utils.training.verification import VerificationData

pytestmark = pytest.mark.usefixtures("tiny_encoders", "without_pictures")

SMALL = ["--image_size", "64", "--audio_frames", "33", "--test_frames", "40", "--batch_size", "4", "--num_workers", "0",
         "--device", "cpu"]
FIGURES = ("eer", "eer_audio", "eer_visual", "min_dcf_0.01", "min_dcf_0.05")


@pytest.fixture
def train_argv(tiny_voices, tmp_path) -> list[str]:
    return ["--train", "--dataset", "tiny", "--data_root", str(tiny_voices), "--epochs", "1", "--learning_rate", "0.01",
            "--ckpt_path", str(tmp_path), "--run_name", "run", *SMALL]


@pytest.fixture
def damaged(tiny_voices, tmp_path) -> Path:
    """A copy of the tiny data, to be damaged."""
    return Path(shutil.copytree(tiny_voices, tmp_path / "copy"))


def load(train_argv: list[str], root: Path, *more: str) -> VerificationData:
    return load_data(parse([*train_argv, "--data_root", str(root), *more]))


# ---- what a run leaves


def test_run_leaves_what_its_checkpoint_gives_again(train_argv, tmp_path, tiny_voices, capsys, with_pictures):
    result = main([*train_argv, "--fusion_method", "gated", "--mmcosine", "True", "--scaling", "7.5"])
    folder = tmp_path / "run"
    assert json.loads((folder / "result.json").read_text()) == result
    assert result.keys() >= {*FIGURES, *(f"last_test_{name}" for name in FIGURES), "best_epoch", "selection"}
    assert (result["n_identities"], result["n_train"], result["n_test"], result["trials"]) == (
        4, 8, 6, {"test_pairs": 15})
    assert (result["mmcosine"], result["scaling"], result["score"], result["n_val"]) == (True, 7.5, "logits", 0)
    epoch = json.loads((folder / "metrics.jsonl").read_text())
    assert epoch["test_eer"] == result["eer"] and epoch["train_loss"] > 0 and "test_loss" not in epoch
    scores = folder / "test_pairs.scores.txt"
    alone = score_files(["--trials", str(tiny_voices / "test_pairs.csv"), "--scores", str(scores)])[str(scores)]
    assert alone == pytest.approx({name: result[name] for name in alone})
    assert min((folder / name).stat().st_size for name in ("det.png", "curves.png")) > 10_000
    tags = EventAccumulator(str(folder)).Reload().Tags()
    assert "result/det" in tags["images"]
    assert {"data/logit_a", "data/logit_v", "eval/eer", "result/eer", "result/min_dcf_0.01"} <= set(tags["scalars"])

    again = main(["--ckpt_path", str(folder / "best.pt"), "--num_workers", "0",
                  "--scores_path", str(tmp_path / "again")])
    assert {name: again[name] for name in FIGURES} == {name: result[name] for name in FIGURES}
    assert (tmp_path / "again/test_pairs.scores.txt").read_bytes() == scores.read_bytes()
    assert "test_pairs (15 trials): eer" in capsys.readouterr().out


def test_several_lists_are_scored_in_one_run_each_with_its_name(train_argv, tmp_path, tiny_voices):
    rows = (tiny_voices / "test_pairs.csv").read_text().splitlines()
    official = tmp_path / "official.txt"
    official.write_text("\n".join(row.replace(",", " /") for row in rows[:8]))
    result = main([*train_argv, "--trials", "test_pairs.csv", f"o={official}"])
    assert result["trials"] == {"test_pairs": 15, "o": 8} and result.keys() >= {"eer", "o_eer", "o_min_dcf_0.05"}
    both = {path.name for path in (tmp_path / "run").glob("*.scores.txt")}
    assert both == {"test_pairs.scores.txt", "o.scores.txt"}
    alone = main(["--ckpt_path", str(tmp_path / "run/best.pt"), "--num_workers", "0", "--trials", str(official),
                  "--score", "embedding"])
    assert alone["trials"] == {"official": 8}
    with pytest.raises(InputError, match="two lists named official"):
        load(train_argv, tiny_voices, "--trials", str(official), f"official={official}")
    with pytest.raises(InputError, match=r"NAME: '\.\./x' is not the name of one file"):
        load(train_argv, tiny_voices, "--trials", f"../x={official}")
    with pytest.raises(InputError, match=r"--trials lost\.txt: there is neither .*voices/lost\.txt nor /.*lost\.txt"):
        load(train_argv, tiny_voices, "--trials", "lost.txt")


def test_lists_of_the_data_folder_come_before_those_of_the_current_one(train_argv, tiny_voices, tmp_path, monkeypatch):
    rows = (tiny_voices / "test_pairs.csv").read_text().splitlines()
    (tmp_path / "test_pairs.csv").write_text("\n".join(rows[:8]))
    monkeypatch.chdir(tmp_path)
    assert load(train_argv, tiny_voices).test.counts() == {"test_pairs": 15}
    folder = tmp_path / "s=10"
    folder.mkdir()
    (folder / "t.csv").write_text("\n".join(rows[:8]))
    assert load(train_argv, tiny_voices, "--trials", "s=10/t.csv").test.counts() == {"t": 8}


@pytest.mark.parametrize("modality", ["audio", "visual"])
def test_one_encoder_trains_alone_and_starts_another_run(train_argv, tmp_path, modality):
    result = main([*train_argv, "--modality", modality])
    assert "eer" in result and f"eer_{modality}" not in result
    main([*train_argv, "--run_name", "joint", "--learning_rate", "1e-300", "--weight_decay", "0",
          f"--{modality}_pretrain", str(tmp_path / "run/best.pt")])
    alone, joint = (checkpoint.load(tmp_path / name / "last.pt")["model"] for name in ("run", "joint"))
    first = next(name for name in alone if name.startswith(f"{modality}_net") and name.endswith("conv2.weight"))
    assert torch.equal(alone[first], joint[first])


def test_epoch_is_chosen_on_trials_of_held_out_identities(train_argv, tmp_path):
    result = main([*train_argv, "--val_fraction", "0.5", "--scores_path", str(tmp_path / "scores")])
    assert {path.name for path in (tmp_path / "scores").iterdir()} == {"test_pairs.scores.txt", "det.png"}
    assert not list((tmp_path / "run").glob("*.scores.txt"))
    epoch = json.loads((tmp_path / "run/metrics.jsonl").read_text())
    assert (result["n_identities"], result["n_train"], result["n_val"]) == (2, 4, 4)
    assert "validation" in result["selection"] and "val_eer" in epoch and "test_eer" not in epoch


def test_the_bonus_of_choosing_on_test_trials_is_told(train_argv, tmp_path):
    result = main([*train_argv, "--val_fraction", "0.5", "--test_every_epoch", "--epochs", "2"])
    eers = [json.loads(line)["test_eer"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert result["best_test_eer"] == min(eers) and eers[result["best_epoch"] - 1] == pytest.approx(result["eer"])
    assert result["selection_bonus"] == pytest.approx(result["eer"] - min(eers))


def test_validation_trials_choose_the_epoch_of_several_test_lists(train_argv, tmp_path, tiny_voices):
    (tmp_path / "few.csv").write_text("\n".join((tiny_voices / "test_pairs.csv").read_text().splitlines()[:8]))
    result = main([*train_argv, "--val_fraction", "0.5", "--trials", "test_pairs.csv", f"few={tmp_path / 'few.csv'}"])
    assert result.keys() >= {"eer", "few_eer", "last_val_eer"} and "last_val_few_eer" not in result
    log = (tmp_path / "run/train.log").read_text()
    assert "val eer joint" in log and len(list((tmp_path / "run").glob("*.scores.txt"))) == 2


def test_a_run_is_not_resumed_with_other_trials(train_argv, tmp_path, damaged):
    argv = [*train_argv, "--data_root", str(damaged)]
    main(argv)
    path = damaged / "test_pairs.csv"
    path.write_text("".join(f"{1 - int(row[0])}{row[1:]}\n" for row in path.read_text().splitlines()))
    with pytest.raises(InputError, match=r"trained on other data \(trial_lists"):
        main(["--resume", str(tmp_path / "run"), "--epochs", "2"])


def test_a_run_without_some_files_is_not_resumed_without_others(train_argv, tmp_path, damaged):
    """As many, of the same identities."""
    first, second = (damaged / f"train/wav/id10000/v0/0000{i}.wav" for i in (0, 1))
    first.rename(tmp_path / "a.wav")
    main([*train_argv, "--data_root", str(damaged), "--skip_missing"])
    second.rename(first)
    with pytest.raises(InputError, match=r"trained on other data \(train_utterances"):
        main(["--resume", str(tmp_path / "run"), "--epochs", "2"])


def test_other_validation_trials_have_another_digest(train_argv, tiny_voices):
    def digest(*more: str) -> dict | None:
        return load(train_argv, tiny_voices, *more).facts["val_trials"]

    first, again, other = (digest("--val_fraction", "0.5", "--random_seed", seed) for seed in "001")
    assert first == again != other and digest() is None


def test_an_evaluation_leaves_the_runs_files_alone_and_keeps_its_network(train_argv, tmp_path):
    main([*train_argv, "--mmcosine"])
    files = {path: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    best = ["--ckpt_path", str(tmp_path / "run/best.pt"), "--num_workers", "0"]
    main([*best, "--score", "embedding"])
    after = {path: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    assert after.pop(tmp_path / "run/evaluation.json") and after == files
    assert (tmp_path / "run/best_evaluated/test_pairs.scores.txt").is_file()
    with pytest.raises(InputError, match="was trained with --mmcosine True: leave that out"):
        main([*best, "--mmcosine", "False"])


def test_several_processes_give_the_scores_of_one_on_the_same_weights(train_argv, tmp_path):
    """Six utterances in one batch: the second process has none."""
    main(train_argv)
    argv = ["--ckpt_path", str(tmp_path / "run/best.pt"), "--num_workers", "0", "--batch_size", "6", "--scores_path"]
    alone = main([*argv, str(tmp_path / "1")])
    assert run_together("main_Vox", *argv, str(tmp_path / "2"), folder=tmp_path) == [0, 0]
    together = json.loads((tmp_path / "run/evaluation.json").read_text())
    assert (alone["processes"], together["processes"]) == (1, 2) and together["eer"] == alone["eer"]
    assert (tmp_path / "1/test_pairs.scores.txt").read_bytes() == (tmp_path / "2/test_pairs.scores.txt").read_bytes()


def test_demo_makes_its_data_and_says_so(tmp_path, monkeypatch, capsys):
    few = partial(main_Vox.make_demo, train_identities=3, train_utterances=2, test_identities=2, test_utterances=2)
    monkeypatch.setattr(main_Vox, "make_demo", few)
    result = main(["--train", "--demo", "--data_root", str(tmp_path / "demo"), "--ckpt_path", str(tmp_path),
                   "--run_name", "run", "--epochs", "1", *SMALL])
    assert (result["dataset"], result["demo"], result["n_train"]) == ("demo_identities", True, 6)
    assert capsys.readouterr().out.count("DEMO DATA") == 2


# ---- bad input


def test_missing_files_are_counted_and_named_and_left_out_only_when_asked(train_argv, damaged, capsys):
    (damaged / "train/wav/id10000/v0/00000.wav").unlink()
    shutil.rmtree(damaged / "train/faces/id10001")
    with pytest.raises(InputError, match=r"(?s)3 of 8 training utterances cannot.*id10000/v0/00000\.wav.*no faces"):
        load(train_argv, damaged)
    data = load(train_argv, damaged, "--skip_missing")
    assert len(data.train) == 5 and list(data.identities) == ["id10000", "id10002", "id10003"]
    assert "3 of 8 training utterances" in capsys.readouterr().out
    assert len(load(train_argv, damaged, "--skip_missing", "--modality", "audio").train) == 7


def test_trials_of_an_utterance_that_is_not_there_are_counted_and_left_out_only_when_asked(train_argv, damaged, capsys):
    path = damaged / "test_pairs.csv"
    path.write_text(path.read_text() + "0,id20000/v0/00000.wav,id20009/v0/00000.wav\n")
    with pytest.raises(InputError, match=r"(?s)1 of 7 trial utterances cannot.*id20009/v0/00000\.wav is missing"):
        load(train_argv, damaged)
    assert len(load(train_argv, damaged, "--skip_missing").test.lists["test_pairs"].labels) == 15
    assert "trials test_pairs: 15 of 16 left" in capsys.readouterr().out
    result = main([*train_argv, "--data_root", str(damaged), "--skip_missing"])
    assert (result["n_test"], result["trials"]) == (6, {"test_pairs": 15})
    again = main(["--ckpt_path", str(damaged.parent / "run/best.pt"), "--num_workers", "0"])
    assert {name: again[name] for name in FIGURES} == {name: result[name] for name in FIGURES}
    shutil.rmtree(damaged / "test/faces/id20000")
    shutil.rmtree(damaged / "test/faces/id20001")
    with pytest.raises(InputError, match="trials test_pairs: 1 of 16 can be used; error rates need"):
        load(train_argv, damaged, "--skip_missing")


def test_identities_trained_on_are_refused_by_folder_and_in_evaluation_too(train_argv, damaged, tmp_path):
    main(train_argv)
    shutil.copytree(damaged / "train/wav/id10002", damaged / "test/wav/id10002")
    path = damaged / "test_pairs.csv"
    path.write_text(path.read_text() + "1,id10002/v0/00000.wav,id10002/v0/00001.wav\n")
    exported = export.main([str(tmp_path / "run"), "--output", str(tmp_path / "export")])["output"]
    for trained in (tmp_path / "run/best.pt", exported):
        with pytest.raises(InputError, match="are trained on: id10002"):
            main(["--ckpt_path", str(trained), "--data_root", str(damaged)])
    rows = [row.split(",") for row in (damaged / "train.csv").read_text().splitlines()]
    numbered = [f"{wav},{faces},{identity[-1]},{n}\n" for wav, faces, identity, n in rows]
    (damaged / "train.csv").write_text("".join(numbered))
    with pytest.raises(InputError, match="are trained on: id10002"):
        load(train_argv, damaged)


def test_evaluation_refuses_trained_folders_of_other_names_and_identities_that_chose_the_epoch(
        train_argv, damaged, tmp_path):
    rows = [row.split(",") for row in (damaged / "train.csv").read_text().splitlines()]
    (damaged / "train.csv").write_text("".join(f"{wav},{faces},c{identity[-1]},{n}\r\n"
                                               for wav, faces, identity, n in rows))
    main([*train_argv, "--data_root", str(damaged), "--val_fraction", "0.5"])
    path = damaged / "test_pairs.csv"
    trials = path.read_text()
    for identity in ("id10000", "id10001", "id10002", "id10003"):  # two of them are held out
        path.write_text(f"{trials}0,{identity}/v0/00000.wav,id20000/v0/00000.wav\n")
        with pytest.raises(InputError, match=f"are trained on: {identity}"):
            main(["--ckpt_path", str(tmp_path / "run/best.pt")])


@pytest.mark.parametrize("name", [os.fsdecode(b"caf\xe9"), "a\nb", "a\x7f"])
def test_a_name_of_trials_that_no_file_can_have_is_refused_by_the_parser(train_argv, name, capsys):
    with pytest.raises(SystemExit):
        parse([*train_argv, "--trials", f"{name}=test_pairs.csv"])
    assert "argument --trials: files cannot be named" in capsys.readouterr().err


def test_an_unusable_place_for_scores_is_told_before_training(train_argv, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"--scores_path .*file cannot be made"):
        main([*train_argv, "--scores_path", str(tmp_path / "file")])


def test_too_few_identities_are_refused(train_argv, damaged):
    for identity in ("id10000", "id10001", "id10002"):
        shutil.rmtree(damaged / "train/wav" / identity)
    with pytest.raises(InputError, match="1 training identities are left"):
        load(train_argv, damaged, "--skip_missing")


def test_a_file_that_breaks_after_the_check_is_named(train_argv, damaged, monkeypatch):
    monkeypatch.setattr(main_Vox, "find_problems", lambda *_: {})
    soundfile.write(damaged / "train/wav/id10000/v0/00000.wav", np.full(40000, np.nan, np.float32), 16000,
                    subtype="FLOAT")
    with pytest.raises(InputError, match=r"00000\.wav holds NaN"):
        main([*train_argv, "--data_root", str(damaged)])


def test_checkpoint_of_an_encoder_alone_cannot_be_evaluated(tmp_path, tiny_voices):
    checkpoint.save(tmp_path / "encoder.pt", {"conv1.weight": torch.zeros(2, 2)})
    with pytest.raises(InputError, match="holds no classifier"):
        main(["--ckpt_path", str(tmp_path / "encoder.pt"), "--data_root", str(tiny_voices), *SMALL])


@needs_real_data
def test_real_identities_are_read_whole(train_argv):
    data = load(train_argv, REAL_DATA / "identities")
    trials = data.test.lists["test_pairs"]
    assert (len(data.identities), len(data.train), len(trials.labels), trials.labels.sum()) == (30, 120, 4950, 450)
    assert data.train[5]["visual"].shape == (2, 3, 64, 64) and data.test.utterances[7]["visual"].shape[0] == 1
