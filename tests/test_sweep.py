"""Sweeps: which runs a grid has, what survives a kill, and what the tables say of them."""

import csv
import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPO, SMALL
from processes import start_command, status_at_end
from scipy import stats

from dataset.errors import InputError
from models.balancing import METHOD_FLAGS, METHODS
from scripts.sweep import main
from utils.experiments import comparison, entry_script, grid, jobs, run_rows, table_notes
from utils.experiments.jobs import Job, alone_in, run_jobs
from utils.experiments.paper_results import paper_result
from utils.experiments.run_rows import RunRow
from utils.experiments.tables import holm, paired_difference
from utils.training.experiment import without_meaning
from utils.training.precision import Choice

FAKE = str(REPO / "tests" / "fake_entry.py")
GRID = ["--mmcosine", "False", "True", "--random_seed", "0", "1"]
PRETRAINED = {"audio_pretrain": "runs/audio/best.pt", "visual_pretrain": "runs/visual/best.pt"}
RECIPES = sorted(REPO.glob("scripts/ablation_*.sh"))


@pytest.fixture
def sweep(tmp_path):
    """sweep(flags) of the fake entry script, into tmp_path/out."""
    return lambda *argv: main(["--script", FAKE, "--output", str(tmp_path / "out"), *argv])


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out"


def commands(capsys, sweep, *argv: str) -> list[list[str]]:
    sweep("--dry_run", *argv)
    return [shlex.split(line) for line in capsys.readouterr().out.splitlines()]


def names(capsys, sweep, *argv: str) -> list[str]:
    return [line[-1] for line in commands(capsys, sweep, *argv)]


def starts(out: Path) -> dict[str, list[str]]:
    """{run: what its log tells of every start}."""
    return {path.stem: re.findall("begins|goes on", path.read_text()) for path in out.glob("*.log")}


def table_rows(out: Path) -> dict[str, list[str]]:
    """{first cell: the others} of table.md."""
    return rows_of((out / "table.md").read_text().partition("\nPoints to")[0])


def difference_rows(out: Path) -> dict[str, list[str]]:
    """{method: differences to plain, joint, audio, visual} of table.md."""
    return dict(list(rows_of((out / "table.md").read_text().partition("\nPoints to")[2]).items())[2:])


def rows_of(text: str) -> dict[str, list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {first: others for first, *others in cells}


# ---- the precision


def leave_run(folder: Path, settings: dict, result: dict | None) -> None:
    """A run of a sweep as it stands in its folder; without a result it has begun."""
    folder.mkdir(parents=True)
    (folder / "args.json").write_text(json.dumps(settings))
    (folder / "last.pt").touch()
    if result:
        (folder / "result.json").write_text(json.dumps(result))


def planned_runs(out: Path, *argv: str) -> list[grid.PlannedRun]:
    script = entry_script.load(Path(FAKE))
    return grid.plan(script, {"random_seed": ["0", "1"]}, argv, out)


@pytest.mark.parametrize("before, here, amp", [("bfloat16", "float32", "bf16"), ("float32", "bfloat16", "off"),
                                               ("bfloat16", "bfloat16", None)])
def test_new_runs_get_the_precision_of_those_that_are_there(before, here, amp, capsys, sweep, out, monkeypatch):
    """A sweep that goes on on another machine, whose --amp auto would choose `here`."""
    monkeypatch.setattr(grid, "choice", lambda *_: Choice(getattr(torch, here), "because"))
    first, second = planned_runs(out)
    leave_run(first.folder, dict(first.settings), {"precision": before})
    done, new = commands(capsys, sweep, "--random_seed", "0", "1")[-2:]
    assert done == ["#", first.name, "is", "done"]
    assert ("--amp" in new) == bool(amp) and (not amp or new[new.index("--amp") + 1] == amp)
    if amp:  # the next start finds a run with that flag in place of auto
        leave_run(second.folder, {**second.settings, "amp": amp}, {"precision": before})
        assert commands(capsys, sweep, "--random_seed", "0", "1")[-1] == ["#", second.name, "is", "done"]


def test_a_run_that_has_begun_goes_on_in_its_own_precision_beside_others(capsys, sweep, out, monkeypatch):
    monkeypatch.setattr(grid, "choice", lambda *_: Choice(torch.float32, "because"))
    first, second = planned_runs(out)
    leave_run(first.folder, dict(first.settings), {"precision": "bfloat16"})
    leave_run(second.folder, dict(second.settings), None)
    resumed = commands(capsys, sweep, "--random_seed", "0", "1")[-1]
    assert resumed[-2:] == ["--resume", str(second.folder)] and "--amp" not in resumed


def test_a_run_in_the_precision_of_an_explicit_flag_is_the_same_run_and_one_in_another_is_not(sweep, out, capsys):
    first = planned_runs(out)[0]
    leave_run(first.folder, dict(first.settings), {"precision": "bfloat16"})
    assert commands(capsys, sweep, "--random_seed", "0", "--", "--amp", "bf16") == [["#", first.name, "is", "done"]]
    with pytest.raises(InputError, match=r"other settings \(amp auto, now off\)"):
        sweep("--dry_run", "--random_seed", "0", "--", "--amp", "off")


def test_jobs_that_may_run_on_different_machines_are_told_of_the_precision(sweep, out, capsys):
    slurm = ["--dry_run", "--launcher", "slurm", "--random_seed", "0", "1"]
    sweep(*slurm)
    assert capsys.readouterr().out.startswith("note: --amp auto leaves the precision to each job's machine")
    sweep(*slurm, "--", "--amp", "bf16")
    assert "note" not in capsys.readouterr().out
    first = planned_runs(out)[0]
    leave_run(first.folder, dict(first.settings), {"precision": "bfloat16"})
    sweep(*slurm)
    assert "--amp bf16" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize("precisions, said", [
    (["bfloat16", "float32", "float32"], "Of several precisions (--amp): bfloat16 (1 runs); float32 (2 runs)."),
    (["bfloat16", "bfloat16"], ""), (["bfloat16", None], "")])
def test_a_table_of_runs_in_several_precisions_says_so(precisions, said):
    runs = [RunRow(str(number), {}, {"precision": precision} if precision else {}, ["audio"])
            for number, precision in enumerate(precisions)]
    assert table_notes.several_precisions(runs) == said


# ---- the grid


def test_combinations_that_differ_in_nothing_that_counts_are_one_run(capsys, sweep):
    found = names(capsys, sweep, "--fusion_method", "concat", "film", "--mmcosine", "no", "yes", "0", "--scaling", "2",
                  "2.0", "10", "--modality", "both", "audio", "--lam", "0", "1")
    assert len(found) == len(set(found))
    assert sorted(found) == sorted(
        [f"fake-{fusion}-{head}{lam}-seed0" for fusion in ("concat", "film") for lam in ("", "-lam1")
         for head in ("plain", "mmcosine2", "mmcosine10")]
        + [f"fake-audio-{head}-seed0" for head in ("plain", "mmcosine2", "mmcosine10")])


def test_flags_of_a_balancing_method_go_to_runs_that_use_it_and_into_names_when_not_the_default(capsys, sweep):
    assert names(capsys, sweep, "--modulation", "none", "ogm", "gblend", "--alpha", "0.3", "0.8") == [
        f"fake-concat-plain{rest}-seed0" for rest in ("", "-ogm-alpha0.3", "-ogm", "-gblend")]


def test_any_flag_of_the_script_is_an_axis_and_in_the_names_where_it_is_not_the_default(capsys, sweep):
    assert names(capsys, sweep, "--learning_rate", "0.001", "1e-2", "--weight_decay=0", "--random_seed", "0", "1") == [
        f"fake-concat-plain{rate}-weight_decay0-seed{seed}" for seed in (0, 1) for rate in ("", "-learning_rate0.01")]
    found = commands(capsys, sweep, "--skip_missing", "--num_workers", "7", "--batch_size", "8", "16")
    assert [line[-1] for line in found] == [f"fake-concat-plain-skip_missingTrue-batch_size{n}-seed0" for n in (8, 16)]
    assert found[0][2:8] == ["--train", "--skip_missing", "--num_workers", "7", "--batch_size", "8"]


def test_table_rows_name_the_axes_in_which_runs_differ(sweep, out):
    sweep("--seconds", "0", "0.01", "--random_seed", "0", "1")
    assert {name: cells[0] for name, cells in table_rows(out).items() if name.startswith("concat")} == {
        "concat, plain, seconds 0.0": "2", "concat, plain, seconds 0.01": "2"}


def test_defaults_of_the_demo_are_not_in_the_names_of_its_runs(capsys):
    main(["--demo", "--dry_run", "--learning_rate", "0.01", "0.001", "--output", "runs/nowhere"])
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()] == [
        "demo-concat-plain-seed0", "demo-concat-plain-learning_rate0.001-seed0"]


def test_a_word_of_a_list_flag_is_one_value_and_encoders_that_are_not_trained_have_no_meaning(capsys):
    argv = ["--script", "tests/three_modalities.py", "--dry_run", "--output", "runs/nowhere"]
    main([*argv, "--modality", "all", "flow", "rgb+audio", "--audio_encoder", "tiny", "resnet18"])
    found = [shlex.split(line)[3:] for line in capsys.readouterr().out.splitlines()]
    assert [line[-1] for line in found] == [
        "three-concat-plain-seed0", "three-concat-plain-audio_encoderresnet18-seed0", "three-flow-plain-seed0",
        "three-rgb+audio-concat-plain-seed0", "three-rgb+audio-concat-plain-audio_encoderresnet18-seed0"]
    assert found[2][:4] == ["--modality", "flow", "--ckpt_path", "runs/nowhere"]
    assert found[4][:5] == ["--modality", "rgb", "audio", "--audio_encoder", "resnet18"]


def test_an_axis_without_any_effect_is_refused(sweep):
    with pytest.raises(InputError, match="--scaling has no effect in any of these runs"):
        sweep("--dry_run", "--mmcosine", "False", "--scaling", "5", "10")


def test_an_imagenet_start_is_an_axis_beside_modalities_that_it_does_not_start(capsys):
    main(["--dry_run", "--output", "runs/nowhere", "--imagenet", "False", "True", "--modality", "visual", "audio"])
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()] == [
        "CREMAD-visual-plain-seed0", "CREMAD-visual-plain-imagenetTrue-seed0", "CREMAD-audio-plain-seed0"]


def test_an_ensemble_has_its_row_whatever_the_data_set_is_called_and_is_made_where_its_members_ran(capsys):
    main(["--dry_run", "--output", "runs/nowhere", "--modality", "audio", "visual", "ensemble", "--", "--dataset",
          "my-audio-set", "--device", "cpu", "--num_workers", "3"])
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.endswith("--device cpu --num_workers 3")
    assert "scripts/ensemble.py" in last and "runs/nowhere/my-audio-set-ensemble-plain-seed0" in last


@pytest.mark.parametrize(("settings", "idle"), [
    ({"modality": "both", "mmcosine": True, "modulation": "ogm"},
     {*METHOD_FLAGS} - {"alpha", "modulation_starts", "modulation_ends"}),
    ({"modality": "both", "mmcosine": False, "modulation": "none"}, {"scaling", *METHOD_FLAGS}),
    ({"modality": "audio", "mmcosine": True, "modulation": "ogm"},
     {"fusion_method", "modulation", "lam", *METHOD_FLAGS})])
def test_settings_without_meaning_are_those_that_nothing_reads(settings, idle):
    assert without_meaning(settings) == {"cache_size", "test_every_epoch", "imagenet", *idle}
    assert without_meaning({**settings, "cache": "ram", "val_fraction": 0.1, "imagenet": "audio"}) == idle


def test_a_run_has_its_name_whichever_axes_were_given(capsys, sweep):
    short = names(capsys, sweep, "--mmcosine", "True")
    assert short == names(capsys, sweep, "--mmcosine", "True", "--scaling", "10", "--lam", "0", "--random_seed", "0",
                          "--fusion_method", "concat", "--modality", "both") == ["fake-concat-mmcosine10-seed0"]


@pytest.mark.parametrize(("argv", "message"), [
    (["--script", "main_XY.py"], r"no entry script .*main_XY\.py: name one with --script"),
    (["--script", "tests/conftest.py"], r"conftest\.py is not an entry script \(it has no get_args_parser"),
    (["--", "--lam", "1"], "--lam stands behind the --: give it before the --, it is an axis"),
    (["--", "--epochs", "3", "--resume=x"], "--resume stands behind the --: give it to no run"),
    (["--lerning_rate", "1"], r"--lerning_rate is a flag neither of .* \(did you mean --learning_rate\?\): see --help"),
    (["--ouptut", "x", "--report_only"], r"--ouptut is a flag neither of .* \(did you mean --output\?\)"),
    (["--resume", "x"], "--resume is set by the sweep for each of its runs: leave it out"),
    (["--data_root", "a", "b"], "--data_root does not change results and cannot be compared: give it one value"),
    (["--epochs", "3", "--", "--epochs", "4"], "--epochs stands behind the --: give it before the --, it is an axis"),
    (["--audio_pretrain", "a/b", "a_b"], r"two combinations are both called .* \(audio_pretrain a/b, now a_b\)"),
    (["--workers", "2", "--", "--gpu_ids", "0,1"], "--gpu_ids, or --device with an index, gives"),
    (["--workers", "2", "--", "--device", "cuda:1"], "--gpu_ids, or --device with an index, gives"),
    (["--report_only"], "no finished run .*name the --output of a sweep")])
def test_what_a_sweep_cannot_do_is_one_sentence(tmp_path, argv, message):
    with pytest.raises(InputError, match=message):
        main(["--output", str(tmp_path), *argv])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("argv", "message"), [
    (["--fusion_method", "concat", "gatd"], "argument --fusion_method: invalid choice: 'gatd'"),
    (["--scaling", "2", "0", "--mmcosine", "True"], "argument --scaling: 0 is out of range"),
    (["--", "--epoch", "3"], "unrecognized arguments: --epoch")])
def test_values_that_the_script_refuses_stop_the_sweep_before_its_first_run(sweep, out, capsys, argv, message):
    with pytest.raises(SystemExit) as exit:
        sweep(*argv)
    assert exit.value.code == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


# ---- running, and starting again


def test_a_finished_sweep_started_again_runs_nothing(sweep, out, capsys):
    sweep(*GRID)
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/*")}
    assert len(sweep(*GRID)) == 4
    assert "4 runs: 4 done, 0 to resume, 0 to start" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/*")} == before
    sweep(*GRID, "--fusion_method", "concat", "film")
    assert list(starts(out).values()) == [["begins"]] * 8, "a larger grid begins only what is new"


def test_a_failed_run_stops_no_other_and_is_named_with_its_log(sweep, out, capsys):
    argv = [*GRID, "--", "--fails", "0"]
    with pytest.raises(InputError) as error:
        sweep(*argv)
    for name in ("fake-concat-plain-seed0", "fake-concat-mmcosine10-seed0"):
        assert f"{name} (exit status 1): fake_entry.py: error: bad luck (log: {out / name}.log)" in str(error.value)
    assert str(error.value).startswith("2 of 4 runs failed:")
    assert table_rows(out)["concat, plain"][0] == "1", "the table has the other seed"
    (out / "mended").touch()
    assert len(sweep(*argv)) == 4
    assert sorted(map(tuple, starts(out).values())) == [("begins",)] * 2 + [("begins", "goes on")] * 2


def test_a_run_that_leaves_no_result_has_failed(tmp_path):
    script = tmp_path / "mute.py"
    script.write_text(Path(FAKE).read_text().replace("    main()\n", "    pass\n"))
    with pytest.raises(InputError, match=r"1 of 1 runs failed:\n.*exit status 0\): no output \(log: "):
        main(["--script", str(script), "--output", str(tmp_path / "out")])


def test_failed_runs_are_exit_status_2_without_a_traceback(out, tmp_path):
    argv = ["--script", FAKE, "--output", str(out), "--", "--fails", "0"]
    assert status_at_end(start_command("scripts.sweep", *argv, output=tmp_path / "told")) == 2
    told = (tmp_path / "told").read_text()
    assert "sweep.py: error: 1 of 1 runs failed:\n  fake-concat-plain-seed0" in told
    assert "Traceback" not in told


def test_other_settings_under_the_same_name_are_refused_before_anything_runs(sweep, out):
    sweep("--random_seed", "1")
    with pytest.raises(InputError, match=r"plain-seed1 holds a run with other settings \(epochs 3, now 5\): choose"):
        sweep(*GRID, "--", "--epochs", "5")
    assert not (out / "fake-concat-plain-seed0").exists()
    assert len(sweep("--random_seed", "1", "--", "--num_workers", "7", "--device", "cpu")) == 1, "where it runs is free"


def test_a_finished_run_of_data_elsewhere_is_not_taken_for_this_one(sweep, out, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    sweep("--", "--data_root", f"{tmp_path}/one")
    assert len(sweep("--", "--data_root", f"{tmp_path}/two/../one/")) == 1
    with pytest.raises(InputError, match=r"is a finished run of the data in .*/one, not of .*/two: choose another --o"):
        sweep("--", "--data_root", f"{tmp_path}/two")
    (tmp_path / "one").rename(tmp_path / "three")
    (tmp_path / "one").symlink_to(tmp_path / "three")
    assert len(sweep("--", "--data_root", f"{tmp_path}/three")) == 1


@pytest.mark.parametrize("argv", [["--dataset", "a/b"], ["--", "--dataset", "../x"]])
def test_a_dataset_that_is_no_name_is_refused_before_anything_runs(sweep, out, argv, capsys):
    with pytest.raises(SystemExit) as exit:
        sweep(*argv)
    assert exit.value.code == 2 and "is not a plain name" in capsys.readouterr().err
    assert not out.exists()


def test_a_folder_that_is_no_run_is_left_alone(sweep, out):
    folder = out / "fake-concat-plain-seed0"
    folder.mkdir(parents=True)
    (folder / "thesis.tex").touch()
    with pytest.raises(InputError, match=r"no last\.pt but thesis\.tex: no run of a sweep\. Move it away"):
        sweep()
    assert (folder / "thesis.tex").exists()


def wait_until(condition, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.02)


@pytest.mark.parametrize(("stop", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_killed_sweep_started_again_repeats_nothing_and_loses_nothing(sweep, out, stop, status, tmp_path):
    flags = [*GRID, "--workers", "2", "--", "--seconds", "0.5"]
    argv = ["--script", FAKE, "--output", str(out), *flags]
    process = start_command("scripts.sweep", *argv, output=tmp_path / "told")
    seeds = [out / f"fake-concat-{head}-seed1" for head in ("plain", "mmcosine10")]
    wait_until(lambda: all((folder / "last.pt").exists() and (folder / "last.pt").stat().st_size for folder in seeds))
    os.kill(process.pid, stop)
    assert status_at_end(process) == status
    told = (tmp_path / "told").read_text()
    with alone_in(out):  # a killed sweep's runs end before this is granted
        logs = [folder.with_name(f"{folder.name}.log").read_text() for folder in seeds]
    assert all(log.endswith("stopped\n") for log in logs), "the runs were not told to stop"
    assert stop == signal.SIGKILL or "stopping 2 runs; start the same command again" in told
    assert not [folder for folder in seeds if (folder / "result.json").exists()]
    sweep(*flags)
    assert starts(out) == {folder.name: ["begins", "goes on"] if folder in seeds else ["begins"]
                           for folder in map(Path, (path.with_suffix("") for path in out.glob("*.log")))}
    assert len(starts(out)) == 4
    for path in out.glob("*/last.pt"):
        assert path.read_text().split() == ["1", "2", "3"], "an epoch was repeated or lost"


def test_a_run_that_does_not_stop_is_killed_after_the_grace(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "GRACE", 0.3)
    deaf = ("import os, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
            "open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(60)")
    script, told = tmp_path / "deaf.py", tmp_path / "pid"
    script.write_text(deaf)
    with alone_in(tmp_path) as lock:
        process = jobs.start(Job("deaf", [str(script), str(told)], tmp_path / "log"), dict(os.environ), lock)
        wait_until(lambda: told.exists() and told.read_text())
        jobs.stop([process])
    assert process.returncode == -signal.SIGKILL


def test_a_second_sweep_waits_for_the_first(out, tmp_path):
    told = tmp_path / "told"
    with alone_in(out):
        process = start_command("scripts.sweep", "--script", FAKE, "--output", str(out), output=told)
        wait_until(lambda: told.exists() and told.read_text().startswith("waiting for another sweep in"))
        assert not list(out.glob("fake*"))
    assert status_at_end(process) == 0 and told.read_text().splitlines()[1].startswith("1 runs: 0 done")


@pytest.mark.parametrize(("workers", "cards", "seen"), [(2, ["3", "GPU-5"], {"3", "GPU-5"}), (2, ["7"], {"7"}),
                                                        (2, [], {""}), (1, ["3", "5"], {""})])
def test_each_worker_has_its_own_card_and_one_alone_has_all(tmp_path, monkeypatch, workers, cards, seen):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    script = tmp_path / "card.py"
    script.write_text("import os, time; time.sleep(0.3); print(os.environ.get('CUDA_VISIBLE_DEVICES', ''))")
    found = []
    with alone_in(tmp_path) as lock:
        for job, status in run_jobs([Job(str(i), [str(script)], tmp_path / f"{i}.log") for i in range(4)], workers,
                                    cards, lock):
            found.append(job.log.read_text().strip())
            assert status == 0
    assert set(found) == seen
    assert len(found) == 4


def test_cards_are_counted_through_what_the_sweep_itself_may_see(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, 6")
    assert jobs.visible_gpus() == ["4", "6"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert jobs.visible_gpus() == ["0", "1"]


def test_workers_that_end_at_the_same_moment_share_what_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "POLL", 1.0)  # so that the first two end between two checks
    script = tmp_path / "quick.py"
    script.write_text("")
    with alone_in(tmp_path) as lock:
        ended = run_jobs([Job(str(i), [str(script)], tmp_path / f"{i}.log") for i in range(3)], 2, [], lock)
        assert [(job.name, status) for job, status in ended] == [("0", 0), ("1", 0), ("2", 0)]


# ---- statistics


@pytest.mark.parametrize("n", [2, 3, 10])
def test_paired_difference_is_scipys_paired_t_interval(n):
    a, b = np.random.default_rng(n).normal(size=(2, n))
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    found = paired_difference(dict(enumerate(a)), dict(enumerate(b)))
    assert (found.low, found.high) == pytest.approx(expected)
    assert (found.mean, found.n) == (pytest.approx((a - b).mean()), n)


def test_holms_p_values_by_hand_and_against_scipys_paired_test():
    # 4 * 0.01, 3 * 0.02, then 2 * 0.021 = 0.042 may not be below the one before it, 1 * 0.9
    assert holm([0.9, 0.02, 0.01, 0.021]) == pytest.approx([0.9, 0.06, 0.04, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0] and holm([]) == []
    a, b = np.random.default_rng(3).random((2, 5))
    assert paired_difference(dict(enumerate(a)), dict(enumerate(b))).p == pytest.approx(stats.ttest_rel(a, b).pvalue)
    same = {0: 0.5, 1: 0.5}
    assert (paired_difference(same, same).p, paired_difference({0: 1.0, 1: 1.0}, same).p) == (1.0, 0.0)


@pytest.mark.parametrize(("changes", "size", "figure"), [
    ({}, 744, 60.08), ({"mmcosine": True, "scaling": 2.0}, 744, 63.44), ({"mmcosine": True, "scaling": 3.0}, 744, None),
    ({"mmcosine": True, "scaling": 50.0, "fusion_method": "gated"}, 744, 66.40), ({"lam": 0.1}, 744, 61.56),
    ({"lam": 0.1, "mmcosine": True}, 744, 64.02), ({}, 745, None), ({"modulation": "ogm_ge"}, 744, None),
    ({"modality": "audio"}, 744, None),
    ({"dataset": "UCF101", "modality": "rgb+flow"}, 3783, 81.15),
    ({"dataset": "UCF101", "modality": "all"}, 3783, 82.29),
    ({"dataset": "UCF101", "modality": "all", "mmcosine": True}, 3783, 83.22), ({"dataset": "UCF101"}, 3783, None),
    ({"dataset": "UCF101", "modality": "rgb+flow", "mmcosine": True, "scaling": 5.0}, 3783, 82.02),
    ({"dataset": "UCF101", "modality": "all"}, 3734, None), ({"dataset": "UCF101", "modality": "flow"}, 3783, None),
    ({"dataset": "VoxCeleb", "fusion_method": "film"}, 27270, 11.50),
    ({"dataset": "VoxCeleb", "mmcosine": True, "scaling": 40.0}, 9822, 5.91),
    ({"dataset": "SSW60", "mmcosine": True, "scaling": 20.0, "fusion_method": "gated", **PRETRAINED}, 1938, 75.70),
    ({"val_fraction": 0.1}, 744, None)])
def test_published_figures_stand_beside_the_same_settings_and_test_set_only(changes, size, figure):
    plain = {"dataset": "CREMAD", "modality": "both", "modulation": "none", "lam": 0.0, "fusion_method": "concat",
             "mmcosine": False, "scaling": 10.0}
    assert paper_result({**plain, **changes}, size) == figure


@pytest.mark.parametrize(("dataset", "size", "changes", "score"), [
    ("CREMAD", 744, {"visual_encoder": "resnet18"}, 60.08), ("CREMAD", 744, {"visual_encoder": "resnet50"}, None),
    ("CREMAD", 744, {"imagenet": True}, None), ("CREMAD", 744, {"audio_frontend": "ogm_ge"}, None),
    ("CREMAD", 744, {"audio_pretrain": "runs/a/best.pt"}, None), ("SSW60", 1938, {"imagenet": True}, None),
    ("SSW60", 1938, {"imagenet": True, **PRETRAINED}, 73.32),
    ("VoxCeleb", 27270, {"audio_encoder": "se_resnet34", "visual_encoder": "resnet34"}, 6.81),
    ("VoxCeleb", 27270, {"audio_encoder": "resnet18", "visual_encoder": "resnet34"}, None)])
def test_the_papers_result_is_of_its_own_encoders_and_inputs(dataset, size, changes, score):
    settings = {"dataset": dataset, "modality": "both", "modulation": "none", "lam": 0.0, "fusion_method": "concat",
                "mmcosine": False, "scaling": 10.0, **changes}
    assert paper_result(settings, size) == score


@pytest.mark.parametrize(("result", "size"), [({"n_test": 744}, 744), ({}, None),
                                              ({"n_test": 3984, "trials": {"vox1": 27270, "vox2": 9822}}, 27270)])
def test_a_test_set_is_as_large_as_its_first_trial_list_or_its_clips(result, size):
    assert comparison.test_size(result) == size


# ---- tables


def test_one_seed_gives_no_interval_and_no_spread(sweep, out):
    sweep("--mmcosine", "False", "True")
    assert table_rows(out)["concat, MMCosine s=10"] == ["1", "60.00", "30.00", "", "59.00", "", ""]
    assert difference_rows(out) == {} and "Points to" not in (out / "table.md").read_text()


def test_runs_that_differ_in_more_than_the_axes_are_never_averaged(tmp_path, sweep, out):
    sweep("--random_seed", "0")
    sweep("--random_seed", "1", "--", "--epochs", "5")
    assert set(table_rows(out)) >= {"concat, plain, epochs 3", "concat, plain, epochs 5"}


def test_a_run_that_is_there_twice_is_not_counted_twice(sweep, out):
    sweep()
    (out / "fake-concat-plain-seed0").rename(out / "copy")
    with pytest.raises(InputError, match="copy and fake-concat-plain-seed0 are the same settings and seed"):
        sweep()


def test_a_damaged_result_is_named(sweep, out):
    sweep()
    folder = out / "fake-concat-plain-seed0"
    (folder / "args.json").write_text("{}")
    with pytest.raises(InputError, match=r"args\.json has no .*modality.*: it is damaged, or of another version"):
        sweep("--report_only")
    (folder / "result.json").write_text("{")
    with pytest.raises(InputError, match=r"result\.json is missing or damaged"):
        sweep("--report_only")


# ---- the real thing


def test_two_real_runs_of_main_cd_give_a_table(tiny_data, out):
    argv = ["--script", "main_CD.py", "--output", str(out), "--mmcosine", "False", "True", "--", "--dataset", "tiny",
            "--data_root", str(tiny_data), "--epochs", "1", *SMALL]
    runs = main(argv)
    assert [run.name for run in runs] == ["tiny-concat-plain-seed0", "tiny-concat-mmcosine10-seed0"]
    for run in runs:
        assert json.loads((out / run.name / "result.json").read_text()) == run.result
    plain, cosine = (table_rows(out)[f"concat, {method}"] for method in ("plain", "MMCosine s=10"))
    assert plain[1] == f"{100 * runs[0].result['accuracy']:.2f}"
    assert cosine[3] == f"{100 * runs[1].result['accuracy_visual']:.2f}"
    with pytest.raises(InputError, match=r"learning_rate 0\.001, now 0\.1"):
        main([*argv, "--learning_rate", "0.1"])


@pytest.fixture
def recipe(tmp_path, monkeypatch, capsys):
    """recipe(line) -> the commands that a line which begins with a recipe, read by the shell, and --dry_run print."""
    told, python = tmp_path / "argv", tmp_path / "python"
    python.write_text(f"#!/bin/sh\ncase $1 in *sweep.py) printf '%s\\n' \"$@\" > {told};; esac\n")
    python.chmod(0o755)
    monkeypatch.setenv("PYTHON", str(python))

    def commands(line: str) -> list[str]:
        subprocess.run(["bash", "-euc", line], cwd=REPO, check=True)
        script, *argv = told.read_text().splitlines()
        assert (REPO / script).resolve() == REPO / "scripts" / "sweep.py"
        assert not main(["--dry_run", *argv])
        return capsys.readouterr().out.splitlines()

    return commands


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_take_further_flags_of_the_sweep_and_of_its_runs(path, recipe):
    assert subprocess.run(["bash", "-n", path]).returncode == 0
    lines = recipe(f"scripts/{path.name} --demo --random_seed 3 -- --epochs 1")
    assert len(lines) > 1
    for line in lines:
        assert line.startswith("python main_CD.py --train --random_seed 3 ") and "--demo --epochs 1 " in line
        assert f"--ckpt_path runs/{path.stem} --run_name demo-" in line


@pytest.mark.parametrize("line", [line for path in (REPO / "README.md", *RECIPES) for line in re.findall(
    r"^#? +(scripts/ablation_\w+\.sh.*?)(?:  +#|$)", path.read_text(), re.MULTILINE)])
def test_commands_with_recipes_that_readers_see_are_accepted(line, recipe):
    assert recipe(line)


@pytest.fixture
def noting_python(tmp_path) -> tuple[Path, Path]:
    """(file, program): a python that does nothing but write its arguments into the file, a line a call."""
    told, python = tmp_path / "argv", tmp_path / "python"
    python.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$*\" >> {told}\n")
    python.chmod(0o755)
    return told, python


def test_the_comparison_of_methods_has_every_method_and_every_plain_row(noting_python, tmp_path, capsys):
    told, python = noting_python
    command = ["scripts/compare_methods.sh", "--demo", "--dry_run", "--", "--epochs", "24"]
    env = {**os.environ, "PYTHON": str(python), "SEEDS": "3 4", "OUTPUT": str(tmp_path / "out")}
    subprocess.run(command, cwd=REPO, check=True, env=env)
    lines = []
    for line in told.read_text().splitlines():
        assert not main(line.split()[1:])
        lines += capsys.readouterr().out.splitlines()
    assert len(set(lines)) == len(lines) and all("--demo" in line or "ensemble.py" in line for line in lines)

    def runs(*parts: str, seed: int = 3) -> list[str]:
        return [line for line in lines if all(f" {part} " in f"{line} " for part in (*parts, f"--random_seed {seed}"))]

    for seed in (3, 4):
        for name in METHODS:
            both = {line.split("--mmcosine ")[1].split()[0] for line in runs(f"--modulation {name}", seed=seed)}
            if name != "none":
                assert both == ({"False"} if "mmcosine" in METHODS[name].without else {"False", "True"}), name
        for what in ("pretrain", "teacher"):
            found = [line for line in runs(seed=seed) if f"_{what} " in line]
            assert len(found) == 2 and all(f"/*-{name}-plain*-seed{seed}/best.pt" in line.split(f"--{name}_{what} ")[1]
                                           .split()[0] for name in ("audio", "visual") for line in found), what
            assert sum("--freeze_encoders True" in line for line in found) == (1 if what == "pretrain" else 0)
            assert sum("--modulation umt" in line for line in found) == (2 if what == "teacher" else 0)
        assert [len(runs(f"--modality {name}", seed=seed)) for name in ("audio", "visual")] == [1, 1]
    assert sum("scripts/ensemble.py" in line for line in lines) == 2
    for flag, advice in (("--random_seed", 'SEEDS="0 1 2"'), ("--scaling", "SCALING=20")):
        refused = subprocess.run([*command[:1], flag, "1"], cwd=REPO, env=env, capture_output=True, text=True)
        assert refused.returncode == 2 and advice in refused.stderr


@pytest.mark.parametrize(("script", "modalities"), [
    ("main_CD.py", "audio visual"), ("main_SSW.py", "audio visual"), ("main_UCF.py", "rgb flow")])
def test_the_comparison_of_methods_runs_on_every_demo_and_takes_parameters_of_methods(script, modalities, noting_python,
                                                                                      tmp_path, capsys):
    told, python = noting_python
    env = {**os.environ, "PYTHON": str(python), "SEEDS": "3", "OUTPUT": str(tmp_path / "out"), "MODALITIES": modalities,
           "PARAMETERS": "--relearn_every 5 --alpha 0.5", "SCALING": "20"}
    subprocess.run(["scripts/compare_methods.sh", "--demo", "--dry_run", "--script", script], cwd=REPO, check=True,
                   env=env)
    commands = [line.split()[1:] for line in told.read_text().splitlines()]
    assert all(not main(command) for command in commands)
    lines = capsys.readouterr().out.splitlines()
    of_methods = sum(1 if "mmcosine" in kind.without else 2 for name, kind in METHODS.items() if name != "none")
    assert sum(line.startswith(f"python {script} --train ") for line in lines) == 8 + of_methods  # 8: the plain rows
    assert all(("--scaling 20 " in line) == ("--mmcosine True" in line) for line in lines if "--train" in line)
    for flag, methods in (("--relearn_every 5", {"dnr"}), ("--alpha 0.5", {"ogm", "ogm_ge"})):
        assert {line.split("--modulation ")[1].split()[0] for line in lines if flag in line} == methods


def test_the_comparison_of_methods_takes_the_encoder_alone_and_no_network_that_started_from_it(noting_python,
                                                                                              tmp_path):
    told, python = noting_python
    started = "x-concat-plain-audio_pretrainx-audio-plain-seed3-visual_pretrainx-visual-plain-seed3-seed3"
    for name in ("x-visual-plain-seed3", "x-audio-plain-seed3", started, started.replace("_pretrain", "_teacher")):
        (tmp_path / "out" / name).mkdir(parents=True)
        (tmp_path / "out" / name / "best.pt").touch()
    env = {**os.environ, "PYTHON": str(python), "SEEDS": "3", "OUTPUT": str(tmp_path / "out")}
    subprocess.run(["scripts/compare_methods.sh"], cwd=REPO, env=env, check=True, capture_output=True)
    assert f"--visual_pretrain {tmp_path / 'out' / 'x-visual-plain-seed3'}/best.pt" in told.read_text()
    other = tmp_path / "out" / "x-visual-plain-learning_rate0.1-seed3"
    other.mkdir()
    (other / "best.pt").touch()
    refused = subprocess.run(["scripts/compare_methods.sh"], cwd=REPO, env=env, capture_output=True, text=True)
    assert refused.returncode == 2 and "several runs of the visual encoder alone" in refused.stderr
    assert "not everything could be run" not in refused.stderr
    python.write_text("#!/usr/bin/env bash\nexit 2\n")
    other.rename(tmp_path / "elsewhere")
    failed = subprocess.run(["scripts/compare_methods.sh"], cwd=REPO, env=env, capture_output=True, text=True)
    assert failed.returncode == 2 and "not everything could be run: see the messages above" in failed.stderr


def test_a_recipe_runs_as_it_stands():
    done = subprocess.run(["scripts/ablation_fusion.sh", "--dry_run"], text=True, capture_output=True, cwd=REPO,
                          env={**os.environ, "PYTHON": sys.executable})
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 27  # three fusions, plain and two scales, three seeds


def test_a_method_with_a_default_of_its_own_for_a_flag_of_the_run_is_compared_with_the_plain_runs(finished_runs,
                                                                                                   tmp_path):
    """ReconBoost has another weight decay; one that differs from both has nothing to be compared with."""
    runs = (("plain", "none", 1e-4), ("turns", "reconboost", 5e-4), ("other", "reconboost", 1e-3))
    for (name, method, decay), seed in itertools.product(runs, (0, 1)):
        folder = tmp_path / f"{name}{seed}"
        folder.mkdir()
        more = {"modulation": method, "weight_decay": decay, "fusion_method": "sum", "random_seed": seed}
        for kind in ("args.json", "result.json"):
            content = json.loads((finished_runs["plain"] / kind).read_text())
            content = content | more | ({"seed": seed} if "result" in kind else {})
            (folder / kind).write_text(json.dumps(content))
    report = comparison.report(comparison.read_runs(tmp_path)).partition("\nPoints to")[2]
    rows = dict(line.strip("| ").split(" | ")[:2] for line in report.splitlines() if "reconboost" in line)
    assert rows == {"sum, plain, reconboost, weight_decay 0.0005": "+0.00 [+0.00, +0.00], n=2",
                    "sum, plain, reconboost, weight_decay 0.001": "n/a"}


def test_the_table_tells_which_methods_trained_on_fewer_clips_than_the_other_rows(finished_runs, tmp_path):
    counts = {"none": 24, "lfm_learned": 22, "mslr": 21, "dnr": 24}  # of 24
    for method, trained in counts.items():
        (tmp_path / method).mkdir()
        for name in ("args.json", "result.json"):
            content = json.loads((finished_runs["plain"] / name).read_text()) | {"modulation": method}
            more = {"n_trained": trained} if "result" in name and method != "none" else {}
            (tmp_path / method / name).write_text(json.dumps({**content, **more}))
    told = ("part of the training clips, the others being held out by the method: lfm_learned on 22 of 24, mslr on "
            "21 of 24.\n")
    assert f"Trained on a {told}" in comparison.report(comparison.read_runs(tmp_path))
    for method in ("lfm_learned", "mslr"):
        (tmp_path / method / "result.json").unlink()
    assert "part of the training clips" not in comparison.report(comparison.read_runs(tmp_path))


def test_the_table_has_the_selection_bonus_and_tells_folds_and_rows_of_fewer_runs(finished_runs, tmp_path):
    for method, seeds in (("none", (0, 1, 2)), ("ogm", (0, 1))):
        for seed in seeds:
            (tmp_path / f"{method}{seed}").mkdir()
            more = {"random_seed": seed, "seed": seed, "modulation": method, "test_list": f"fold {seed}", "n_test": 50,
                    "accuracy": 0.5, "best_test_accuracy": 0.6 + seed / 100, "selection_bonus": 0.1 + seed / 100}
            for name in ("args.json", "result.json"):
                content = json.loads((finished_runs["plain"] / name).read_text())
                kept = more if name == "result.json" else {name: more[name] for name in ("random_seed", "modulation")}
                (tmp_path / f"{method}{seed}" / name).write_text(json.dumps({**content, **kept}))
    text = comparison.report(comparison.read_runs(tmp_path))
    rows = rows_of(text.partition("\nPoints to")[0])
    assert rows[""][-4:] == ["best test epoch", "bonus", "paper", "time"]
    assert [cells[-4:-2] for cells in list(rows.values())[-2:]] == [["61.00 +- 1.00", "11.00 +- 1.00"],
                                                                    ["60.50 +- 0.71", "10.50 +- 0.71"]]
    # sqrt(0.5 * 0.5 / 150) = 4.08 points
    assert "the binomial standard error of the 150 clips of 3 test lists together is 4.1." in text
    assert "Of fewer runs than other rows: concat, plain, ogm (2 of 3)." in text and "bonus: how much more" in text


def rows_of_folds(folds: dict[str, dict[int, tuple[str, int]]]) -> list[RunRow]:
    """{method: {seed: (its test list, number of clips)}} -> runs of 50 % and 2 % more with every seed."""
    return [RunRow(f"{method}{seed}", {**PLAIN, "modulation": method, "random_seed": seed},
                   {"accuracy": 0.5 + 0.02 * seed, "test_list": name, "n_test": count}, ["audio", "visual"])
            for method, seeds in folds.items() for seed, (name, count) in seeds.items()]


PLAIN = {"dataset": "x", "modality": "both", "fusion_method": "concat", "lam": 0.0, "mmcosine": False, "scaling": 10.0}


def test_runs_on_other_test_clips_are_not_paired_and_are_told():
    folds = {seed: (f"fold {seed}", 50) for seed in range(4)}
    text = comparison.report(rows_of_folds({"none": folds, "multiloss": {**folds, 1: folds[0], 3: folds[0]}}))
    assert "+0.00 [+0.00, +0.00], n=2" in text
    assert "are compared with: concat, plain, multiloss (1, 3)." in text
    text = comparison.report(rows_of_folds({"none": folds, "multiloss": folds}))
    assert "+0.00 [+0.00, +0.00], n=4" in text and "NOT PAIRED" not in text


def test_rows_of_several_variants_of_the_data_are_told():
    runs = rows_of_folds({"none": {seed: ("a", 50) for seed in range(3)}})
    for run, level in zip(runs, (-5.0, -5.0, 5.0), strict=True):
        run.result["variant"] = f"babble_snr {level}"
    told = "NOT COMPARABLE, of several variants of the data: babble_snr -5.0 (2 runs); babble_snr 5.0 (1 runs)."
    assert told in comparison.report(runs)
    assert "NOT COMPARABLE" not in comparison.report(runs[:2])


def test_the_binomial_error_is_of_all_clips_of_folds_of_unequal_size_too():
    folds = {0: ("a", 199), 1: ("b", 200), 2: ("c", 200)}
    text = comparison.report(rows_of_folds({"none": folds, "multiloss": folds}))
    # p = 0.52: sqrt(0.52 * 0.48 / 599) = 2.04 points
    assert "machine. The binomial standard error of the 599 clips of 3 test lists together is 2.0." in text
    assert "binomial" not in comparison.report(rows_of_folds({"none": {**folds, 3: ("a", 198)}}))


def test_rows_that_lack_a_seed_that_was_asked_for_are_told(sweep, out):
    sweep("--random_seed", "0", "1")
    sweep("--mmcosine", "True")
    main(["--output", str(out), "--report_only", "--random_seed", "0", "1", "5"])
    told = "Without a result for seeds that were asked for: concat, plain (5); concat, MMCosine s=10 (1, 5)."
    assert told in (out / "table.md").read_text()
    with pytest.raises(InputError, match="--random_seed x: expected whole numbers"):
        main(["--output", str(out), "--report_only", "--random_seed", "x"])


def test_probes_of_the_best_epoch_are_columns_of_the_table_and_the_csv(finished_runs, tmp_path, capsys):
    best = json.loads((finished_runs["plain"] / "result.json").read_text())["best_epoch"]
    for seed, (audio, visual, epoch) in enumerate([(0.9, 0.3, best), (0.8, 0.5, best), (0.1, 0.1, best + 1)]):
        folder = tmp_path / f"run{seed}"
        folder.mkdir()
        for name in ("args.json", "result.json"):
            content = json.loads((finished_runs["plain"] / name).read_text())
            content["random_seed" if name == "args.json" else "seed"] = seed
            (folder / name).write_text(json.dumps(content))
        (folder / "probes.json").write_text(json.dumps({"audio": audio, "visual": visual, "best_epoch": epoch}))
    runs = comparison.read_runs(tmp_path)
    assert f"{tmp_path / 'run2' / 'probes.json'} left out" in capsys.readouterr().out
    rows = rows_of(comparison.report(runs))
    where = rows[""].index("audio probe")
    assert rows[""][where - 1:where + 3] == ["visual", "audio probe", "visual probe", "last epoch"]
    assert list(rows.values())[-1][where:where + 2] == ["85.00 +- 7.07", "40.00 +- 14.14"]
    assert [run_rows.csv_row(run).get("probe_visual") for run in runs] == [0.3, 0.5, None]


@pytest.mark.parametrize(("runs", "page", "lines"), [
    ("grid_babble.csv", "2026-11-28_grid_babble.md", 43),
    ("grid_babble_rate.csv", "2026-11-28_grid_babble.md", 7),
    ("grid_digits_methods.csv", "2026-11-28_grid_digits_methods.md", 20),
    ("grid_digits_mla.csv", "2026-11-28_grid_digits_methods.md", 4),
    ("demo_actions_methods.csv", "2026-11-28_demo_actions_methods.md", 80)])
def test_the_tables_of_a_page_come_out_of_its_csv(runs, page, lines, capsys):
    main(["--table_of", str(REPO / "docs" / "results" / runs)])
    table, text = capsys.readouterr().out, (REPO / "docs" / "results" / page).read_text()
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert len(rows) >= lines and [line for line in rows if line not in text.splitlines()] == []


@pytest.mark.parametrize(("runs", "dataset", "page"), [
    ("grid_babble.csv", "digits-snr-5", "2026-11-28_grid_babble.md"),
    ("grid_babble.csv", "digits-snr5", "2026-11-28_grid_babble.md"),
    ("demo_actions_methods.csv", "demo_actions", "2026-11-28_demo_actions_methods.md")])
def test_the_ensemble_by_the_sum_of_logits_is_told_beside_the_tables(runs, dataset, page):
    rows = csv.DictReader((REPO / "docs" / "results" / runs).read_text().splitlines())
    found = [float(run["accuracy_of_mean_logits"]) for run in rows
             if run["dataset"] == dataset and run["modality"] == "ensemble"]
    assert len(found) == 5 and f"{100 * np.mean(found):.1f}" in (REPO / "docs" / "results" / page).read_text()


def test_a_csv_that_is_no_table_of_runs_is_refused(tmp_path):
    (tmp_path / "other.csv").write_text("clip,reason\na,b\n")
    with pytest.raises(InputError, match="has no column run, dataset"):
        main(["--table_of", str(tmp_path / "other.csv")])
    with pytest.raises(InputError, match=r"missing\.csv is missing\. Name the runs\.csv"):
        main(["--table_of", str(tmp_path / "missing.csv")])


def test_a_value_may_name_the_seed_of_its_run(capsys, sweep):
    lines = [" ".join(line) for line in commands(capsys, sweep, "--random_seed", "3", "5", "--audio_pretrain",
                                                 "a-seed{random_seed}/best.pt", "--", "--data_root",
                                                 "data/fold{random_seed}")]
    assert [f"--audio_pretrain a-seed{seed}/best.pt --data_root data/fold{seed} " in line
            for seed, line in zip((3, 5), lines, strict=True)] == [True, True]
