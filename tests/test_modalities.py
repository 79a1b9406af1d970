"""Three modalities that nothing but their entry script knows of, from training to the tables of a sweep."""

import csv
import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from harness import watched
from matplotlib.text import Text
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from three_modalities import CLASSES, MODALITIES, main, parse

from dataset.errors import InputError
from models.balancing import METHOD_FLAGS, METHODS
from models.fusion import FUSIONS
from scripts import analyse
from scripts.probe import main as probe
from scripts.sweep import main as sweep
from utils.training import checkpoint, modalities, train

pytestmark = pytest.mark.usefixtures("without_pictures")

NAMES = ("rgb", "flow", "audio")
SHAPES = {"rgb": (3, 8, 8), "flow": (2, 8, 8), "audio": (1, 257, 7)}  # of the inputs of the encoders
CPU = ["--device", "cpu", "--num_workers", "0"]
METHOD_SETTINGS = {"ogm": ["--alpha", "0.5"], "ogm_ge": ["--alpha", "0.5"], "gblend": ["--blend_epochs", "2"],
                   "lfm_learned": ["--lfm_rate", "10"], "dnr": ["--relearn_every", "1", "--relearn_times", "1"],
                   "pmr": ["--pmr_entropy", "5"], "opm": ["--opm_warmup", "1"],
                   "mslr": ["--mslr_factors", "0.5,1,2"], "reconboost": ["--recon_epochs", "1"],
                   "remix": ["--remix_warmup", "1"]}


def train_argv(folder: Path, name: str, *more: str) -> list[str]:
    return ["--train", *CPU, "--amp", "off", "--ckpt_path", str(folder), "--run_name", name, *more]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, without_pictures) -> dict[str, Path]:
    """Two finished runs of all modalities. Not to be written into."""
    root = tmp_path_factory.mktemp("runs")
    main(train_argv(root, "plain"))
    main(train_argv(root, "mmcosine", "--mmcosine"))
    return {name: root / name for name in ("plain", "mmcosine")}


def weights(folder: Path, name: str = "last.pt") -> dict[str, torch.Tensor]:
    content = checkpoint.load(folder / name)
    return {**content["model"], **content.get("method", {})}


def figures(result: dict) -> dict[str, float]:
    """What is measured of the network and of each modality."""
    return {name: value for name, value in result.items() if name.startswith(("accuracy", "loss", "logit"))}


# ---- one run


def test_every_modality_reaches_the_network_and_everything_that_a_run_leaves(tmp_path):
    with watched() as borders:
        result = main(train_argv(tmp_path, "run", "--mmcosine"))
    for one in (*borders.training, *borders.evaluation):
        assert {name: tuple(x.shape[1:]) for name, x in one.inputs.items()} == SHAPES
    assert result["modalities"] == list(NAMES) and result["modality"] == "all"
    measured = {f"{what}_{name}" for what in ("accuracy", "loss", "logit") for name in NAMES}
    assert figures(result).keys() == {"accuracy", "loss"} | measured
    last = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1])
    assert last.keys() >= {f"{part}_{name}" for part in ("train", "test") for name in measured}
    assert last.keys() >= {f"train_weight_norm_{name}" for name in NAMES}
    assert np.load(tmp_path / "run/class_norms.npy").shape == (2, 3, len(CLASSES))
    tags = set(EventAccumulator(str(tmp_path / "run")).Reload().Tags()["scalars"])
    assert {f"{tag}_{name}" for tag in ("iteration/logit", "eval/accuracy", "result/accuracy", "train/weight_norm")
            for name in NAMES} <= tags
    rows = list(csv.DictReader((tmp_path / "run/per_class.csv").read_text().splitlines()))
    for what, name in (("joint", "accuracy"), *((name, f"accuracy_{name}") for name in NAMES)):
        accuracies = [float(row[f"accuracy_{what}"]) for row in rows]
        assert sum(accuracies) / len(CLASSES) == pytest.approx(result[name])


def test_metrics_of_a_modality_are_of_its_own_logits(tmp_path):
    with watched() as borders:
        result = main(train_argv(tmp_path, "run", "--epochs", "1"))
    output = [one.output for one in borders.evaluation[:2]]  # then again for the confusions
    logits = torch.cat([one.modality_logits for one in output], 1)  # (M, B, C)
    labels = torch.arange(6) % len(CLASSES)
    for place, name in enumerate(NAMES):
        assert result[f"accuracy_{name}"] == pytest.approx((logits[place].argmax(1) == labels).float().mean().item())
        assert result[f"logit_{name}"] == pytest.approx(logits[place, range(6), labels].mean().item(), rel=1e-4)
    torch.testing.assert_close(torch.cat([one.logits for one in output]), logits.sum(0))


def interrupted_in_the_second(go_on: Callable = train.train_one_epoch) -> Callable:
    """train_one_epoch, which stops the run in its second call."""
    calls = iter([go_on])

    def train_one_epoch(*arguments: object) -> dict:
        if call := next(calls, None):
            return call(*arguments)
        raise KeyboardInterrupt

    return train_one_epoch


@pytest.mark.parametrize("name", METHODS)
def test_a_run_under_every_balancing_method_resumes_to_the_weights_of_the_uninterrupted_one(tmp_path, runs, name,
                                                                                            monkeypatch):
    kind = METHODS[name]
    argv = ["--modulation", name, *METHOD_SETTINGS.get(name, []), "--modality", *NAMES[:kind.most_modalities],
            "--fusion_method", (*kind.fusions, "concat")[0], "--epochs", "3" if name == "reconboost" else "2"]
    for teacher in NAMES if kind.needs_teachers else ():
        argv += [f"--{teacher}_teacher", str(runs["mmcosine"] / "best.pt")]
    whole = main(train_argv(tmp_path, "whole", *argv))
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(train, "train_one_epoch", interrupted_in_the_second())
        main(train_argv(tmp_path, "part", *argv))
    resumed = main(["--resume", str(tmp_path / "part")])
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "part")
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    assert figures(resumed) == figures(whole) and resumed["modulation"] == name
    if name == "gblend":
        blend = [whole[f"blend_weight_{what}"] for what in ("joint", *NAMES)]
        assert sum(blend) == pytest.approx(1) and min(blend) >= 0
    if name != "none":
        other = weights(runs["plain"])
        assert any(not torch.equal(a[key], other[key]) for key in a.keys() & other.keys()), "the method changes nothing"


def test_settings_of_the_methods_above_are_flags():
    assert {flag.removeprefix("--") for argv in METHOD_SETTINGS.values() for flag in argv[::2]} <= METHOD_FLAGS.keys()


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("mmcosine", ["False", "True"])
def test_every_fusion_trains_and_its_best_checkpoint_gives_its_metrics(tmp_path, fusion, mmcosine):
    result = main(train_argv(tmp_path, "run", "--fusion_method", fusion, "--mmcosine", mmcosine, "--epochs", "1",
                             "--lam", "0.1"))
    evaluated = main(["--ckpt_path", str(tmp_path / "run/best.pt"), *CPU])
    assert figures(evaluated) == pytest.approx(figures(result))
    assert (result["fusion"], result["mmcosine"]) == (fusion, mmcosine == "True")


# ---- some of the modalities


@pytest.mark.parametrize(("words", "setting", "names"), [
    (["rgb", "flow"], "rgb+flow", ["rgb", "flow"]), (["audio", "rgb"], "rgb+audio", ["rgb", "audio"]),
    (["flow"], "flow", ["flow"])])
def test_some_modalities_alone_are_loaded_trained_measured_and_evaluated(tmp_path, words, setting, names):
    with watched() as borders:
        result = main(train_argv(tmp_path, "run", "--modality", *words, "--epochs", "1"))
    for one in (*borders.training, *borders.evaluation):
        assert {name: tuple(x.shape[1:]) for name, x in one.inputs.items()} == {name: SHAPES[name] for name in names}
    assert (result["modality"], result["modalities"]) == (setting, names)
    measured = {f"{what}_{name}" for what in ("accuracy", "loss", "logit") for name in names}
    assert figures(result).keys() == {"accuracy", "loss"} | measured
    encoders = {key.split("_net.")[0] for key in weights(tmp_path / "run") if "_net." in key}
    assert encoders == set(names)
    evaluated = main(["--ckpt_path", str(tmp_path / "run/best.pt"), *CPU])
    assert figures(evaluated) == pytest.approx(figures(result))
    with pytest.raises(InputError, match=rf"was trained with --modality {setting}".replace("+", r"\+")):
        main(["--ckpt_path", str(tmp_path / "run/best.pt"), "--modality", "all", *CPU])


def test_part_of_the_modalities_differs_from_all_in_the_names_of_runs(tmp_path):
    names = set()
    for words in (["all"], ["rgb", "flow"], ["rgb"], ["flow"]):
        main(["--train", *CPU, "--ckpt_path", str(tmp_path), "--epochs", "1", "--modality", *words])
        new = {path.name.rsplit("-", 2)[0] for path in tmp_path.iterdir()} - names
        assert len(new) == 1, words
        names |= new
    assert sum("flow" in name for name in names) == 2


@pytest.mark.parametrize("words", [["all"], ["rgb", "flow", "audio"], ["audio", "flow", "rgb"], ["rgb+flow+audio"]])
def test_all_modalities_in_any_words_are_the_same(words):
    args = parse(["--train", "--modality", *words])
    assert args.modality == parse(["--train"]).modality == "all"
    assert [each.name for each in modalities.chosen(MODALITIES, args.modality)] == list(NAMES)


@pytest.mark.parametrize(("argv", "message"), [
    (["--modality", "rgb", "depth"], "invalid choice: 'depth' (choose from all, rgb, flow, audio)"),
    (["--modality", "all", "rgb"], "'all' stands for every modality"), (["--modality", "rgb", "rgb"], "given twice"),
    (["--modality", "rgb", "--lam", "1"], "leave it out with --modality rgb"),
    (["--flow_encoder", "se_resnet34"], "argument --flow_encoder: invalid choice"),
    (["--imagenet", "flow", "--modality", "rgb"], "leave it out")])
def test_wrong_modalities_are_refused_with_status_2(argv, message, capsys):
    with pytest.raises(SystemExit) as exit:
        parse(["--train", *argv])
    assert exit.value.code == 2 and message in capsys.readouterr().err


def test_fusions_of_several_modalities_refuse_one(tmp_path):
    several = [name for name, kind in FUSIONS.items() if kind.least_modalities > 1]
    assert several
    for fusion in several:
        with pytest.raises(InputError, match="needs at least two modalities"):
            parse(["--train", "--modality", "flow", "--fusion_method", fusion])


def test_an_encoder_starts_from_a_run_of_other_modalities(tmp_path):
    main(train_argv(tmp_path, "first", "--modality", "rgb", "flow", "--image_size", "10", "--epochs", "1"))
    start = tmp_path / "first/best.pt"
    result = main(train_argv(tmp_path, "second", "--flow_pretrain", str(start), "--epochs", "1", "--learning_rate",
                             "1e-300", "--weight_decay", "0"))
    assert result["pretrained"].keys() == {"flow"}
    before, after = weights(tmp_path / "first", "best.pt"), weights(tmp_path / "second")
    for modality, same in (("flow", True), ("rgb", False)):
        assert torch.equal(before[f"{modality}_net.0.weight"], after[f"{modality}_net.0.weight"]) is same
    with pytest.raises(InputError, match="--audio_pretrain"):
        main(train_argv(tmp_path, "third", "--modality", "rgb", "--audio_pretrain", str(start)))


def test_encoders_are_chosen_by_modality(tmp_path):
    main(train_argv(tmp_path, "run", "--modality", "rgb", "flow", "--flow_encoder", "resnet18", "--image_size", "64",
                    "--epochs", "1", "--clips", "4"))
    found = weights(tmp_path / "run")
    assert found["flow_net.conv1.weight"].shape == (64, 2, 7, 7) and found["rgb_net.0.weight"].shape == (8, 3, 3, 3)
    with pytest.raises(InputError, match="was trained with --flow_encoder resnet18"):
        main(["--ckpt_path", str(tmp_path / "run/best.pt"), "--flow_encoder", "tiny", *CPU])


# ---- many runs


def test_probes_are_of_every_encoder_and_of_all_together(runs, tmp_path, capsys):
    """The flow encoder is silenced: its probe alone falls to chance."""
    folder = Path(shutil.copytree(runs["plain"], tmp_path / "run"))
    content = checkpoint.load(folder / "best.pt")
    content["model"]["flow_net.5.weight"].zero_()
    (folder / "best.pt").unlink()
    checkpoint.save(folder / "best.pt", content)
    probes = probe([str(folder), *CPU])[folder]
    assert [name for name in probes if isinstance(probes[name], float)][:4] == [*NAMES, "concatenated"]
    assert probes["rgb"] == probes["concatenated"] == 1 and probes["flow"] == pytest.approx(1 / 3)
    assert "gap" not in probes
    header, _, row = capsys.readouterr().out.splitlines()[-3:]
    assert cells(header)[1:] == ["rgb probe", "flow probe", "audio probe", "probe of all", "network", "its rgb logits",
                                 "its flow logits", "its audio logits"]
    result = json.loads((folder / "result.json").read_text())
    shown = [probes[name] for name in (*NAMES, "concatenated")]
    shown += [result[name] for name in ("accuracy", *(f"accuracy_{name}" for name in NAMES))]
    assert cells(row)[1:] == [f"{100 * value:.2f}" for value in shown]


@pytest.fixture
def pictures(monkeypatch) -> dict[str, set[str]]:
    """{picture: all texts in it} of those that analyse.py writes."""
    found = {}

    def note(path: Path, print_png: object) -> None:
        found[path.stem] = {text.get_text() for text in print_png.__self__.figure.findobj(Text)}

    monkeypatch.setattr(analyse, "write_whole", note)
    return found


def test_pictures_show_every_modality_of_runs_side_by_side(runs, tmp_path, pictures, capsys):
    analyse.main([*map(str, runs.values()), "--out", str(tmp_path), "--use_tensorboard", "False", *CPU])
    assert pictures.keys() == {"accuracy", "logits", "weight_norms", "angles", "tsne", "confusion"}
    for name in ("accuracy", "logits", "weight_norms", "angles"):
        assert all(any(modality in text for text in pictures[name]) for modality in NAMES), name
    told = capsys.readouterr().out
    assert "gap.png left out: a gap is between two modalities, not 3" in told
    assert "balance.png left out: no run has a balancing method that reports anything" in told


def test_the_picture_of_balance_has_every_quantity_of_the_method_and_of_the_gradients(tmp_path, pictures, monkeypatch):
    main(train_argv(tmp_path, "ogm", "--modulation", "ogm", "--epochs", "2", "--log_gradients"))
    main(train_argv(tmp_path, "tcmax", "--modulation", "tcmax", "--epochs", "1"))
    drawn = {}
    draw = analyse.figures.balance
    monkeypatch.setattr(analyse.figures, "balance", lambda runs, title: drawn.update(runs) or draw(runs, title))
    analyse.main([str(tmp_path / "ogm"), str(tmp_path / "tcmax"), "--only", "balance", "--out", str(tmp_path),
                  "--use_tensorboard", "False", *CPU])
    assert {"method ratio", "method coefficient", "gradient norm", "gradient ratio", "gradient cosine",
            "method total_correlation", "not recorded", *NAMES} <= pictures["balance"]
    of_ogm, of_tcmax = drawn.values()
    assert of_tcmax.keys() == {"method_total_correlation"} and of_tcmax["method_total_correlation"].keys() == {""}
    for line in (tmp_path / "ogm" / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        for quantity, curves in of_ogm.items():
            for name in NAMES:
                assert [record["epoch"], record[f"{quantity}_{name}"]] in curves[name].tolist()


def test_the_gap_is_between_any_two_modalities(tmp_path, pictures):
    main(train_argv(tmp_path, "run", "--modality", "rgb", "flow", "--epochs", "1"))
    analyse.main([str(tmp_path / "run"), "--only", "gap", "--out", str(tmp_path), "--use_tensorboard", "False", *CPU])
    assert any("rgb" in text and "flow" in text for text in pictures["gap"])
    assert not any("audio" in text or "visual" in text for text in pictures["gap"])


def test_a_sweep_over_modalities_has_a_column_for_each(tmp_path, capsys):
    """Its commands are run in this process, then it finds its runs finished."""
    grid = ["--script", "tests/three_modalities.py", "--output", str(tmp_path), "--modality", "all", "rgb+flow", "flow"]
    sweep([*grid, "--dry_run", "--", "--epochs", "1", *CPU])
    for command in capsys.readouterr().out.splitlines():
        main(shlex.split(command.removeprefix("python tests/three_modalities.py ")))
    sweep([*grid, "--", "--epochs", "1", *CPU])
    assert "3 runs: 3 done" in capsys.readouterr().out
    results = {path.parent.name: json.loads(path.read_text()) for path in tmp_path.glob("*/result.json")}
    assert {result["modality"] for result in results.values()} == {"all", "rgb+flow", "flow"}
    lines = [cells(line) for line in (tmp_path / "table.md").read_text().splitlines() if line.startswith("|")]
    assert lines[0][2:6] == ["joint", *NAMES]
    shown = [line[2:6] for line in lines[2:5]]  # all modalities, then some, then one
    expected = []
    for result in sorted(results.values(), key=lambda result: -len(result["modalities"])):
        names = result["modalities"]
        measured = ({"joint": "accuracy", **{name: f"accuracy_{name}" for name in names}} if len(names) > 1 else
                    {names[0]: "accuracy"})
        expected.append([f"{100 * result[measured[column]]:.2f}" if column in measured else ""
                         for column in ("joint", *NAMES)])
    assert shown == expected
    rows = list(csv.DictReader((tmp_path / "runs.csv").read_text().splitlines()))
    assert {row["run"] for row in rows} == results.keys()
    assert rows[0].keys() >= {f"accuracy_{name}" for name in NAMES}


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def test_a_data_set_without_the_hooks_of_the_cache_is_refused_with_a_sentence(tmp_path):
    with pytest.raises(InputError, match=r"--cache ram: clips of MadeClips cannot be kept, it has no labels, .*"
                                         r"dataset/packed\.py\): leave out --cache"):
        main(train_argv(tmp_path, "run", "--cache", "ram"))
