"""The teachers of --modulation umt: what is descended, what stays frozen, where they come from, what is refused."""

import pytest
import torch
from conftest import SMALL
from one_step import (
    DIM,
    NAMES,
    assert_same,
    clips,
    distance,
    feature,
    joint_loss,
    learner_of,
    naive_gradients,
    network,
    stepped,
    total,
)
from torch import nn

from dataset.errors import InputError
from main_CD import main, parse
from models.balancing import METHODS
from models.balancing.method import Batch
from utils.training import checkpoint

pytestmark = pytest.mark.usefixtures("tiny_encoders", "without_pictures")


def educate(method: nn.Module) -> None:
    """Teachers that are not the encoders."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in method.teachers.parameters():
            parameter += 0.5 * torch.randn_like(parameter)


@pytest.mark.parametrize("mmcosine", [False, True])
@pytest.mark.parametrize("modalities", [2, 3])
def test_umt_descends_the_joint_loss_and_the_squared_distances_to_the_teachers_features(modalities, mmcosine):
    before, descent, method = stepped("umt", {"umt_weight": 0.3}, modalities, mmcosine, educate)
    teachers = {f"{modality}_net.{name}": value for modality in NAMES[:modalities]
                for name, value in method.teachers[modality].state_dict().items()}

    def distances(state, inputs, labels):
        return sum((feature(state, NAMES[m], clip)[d] - feature(teachers, NAMES[m], clip)[d]) ** 2
                   for m, x in enumerate(inputs) for clip in x for d in range(DIM)) / len(labels)

    loss = total((1.0, joint_loss(modalities, mmcosine)), (0.3, distances))
    assert_same(descent, naive_gradients(loss, {name: value for name, value in before.items() if "method" not in name},
                                         modalities))
    assert distance(descent, stepped("none", {}, modalities, mmcosine)[1]) > 0.01


def test_teachers_stay_as_they_are_bit_for_bit_and_the_encoders_come_nearer():
    model = network(2)
    for name in NAMES[:2]:
        model.encoder(name).add_module("norm", nn.BatchNorm1d(DIM).double())
    method = METHODS["umt"](model, umt_weight=0.05).double()
    educate(method)
    learner = learner_of(model, method)
    start = {name: value.clone() for name, value in method.state_dict().items()}
    assert start and len(learner.optimizer.param_groups[0]["params"]) == len(list(model.parameters()))
    inputs, labels = clips(2)

    @torch.no_grad()
    def apart() -> list[float]:
        return [float((model.encoder(name)(x) - method.teachers[name](x)).square().sum(1).mean())
                for name, x in zip(NAMES, inputs, strict=False)]

    learner.train()
    first = apart()
    for _ in range(20):
        method.step(learner, Batch(inputs, labels, 1.0, 0.0))
    assert all(last < 0.5 * begun for last, begun in zip(apart(), first, strict=True))
    assert all(torch.equal(value, start[name]) for name, value in method.state_dict().items())
    assert all(parameter.grad is None for parameter in method.parameters())


def test_distances_to_the_teachers_are_of_this_steps_clips_and_in_float32():
    model, (inputs, labels) = network(2).float(), clips(2)
    method = METHODS["umt"](model, umt_weight=1e4)
    educate(method)
    learner = learner_of(model, method, torch.bfloat16)
    learner.optimizer.param_groups[0]["lr"] = 0.0
    batches = [Batch([x.float() for x in shifted], labels, 1.0, 0.0) for shifted in (inputs, [x + 1 for x in inputs])]
    for batch in batches:
        output, loss = method.step(learner, batch)
        with torch.no_grad(), learner.compute.autocast():
            taught = torch.stack([method.teachers[name](x) for name, x in zip(NAMES, batch.inputs, strict=False)])
        expected = (output.features.double() - taught.double()).square().sum(2).mean(1).sum().item()
        assert loss.item() == pytest.approx(1e4 * expected, rel=1e-3)


# ---- whole runs


def teachers(finished_runs, audio: str = "plain", visual: str = "mmcosine") -> list[str]:
    files = {"audio": finished_runs[audio] / "best.pt", "visual": finished_runs[visual] / "best.pt"}
    return ["--modulation", "umt", *(word for name, path in files.items() for word in (f"--{name}_teacher", str(path)))]


def test_a_run_has_the_teachers_of_its_files_starts_from_scratch_and_resumes_without_the_files(
        copied_runs, train_argv, tmp_path, capsys):
    path = copied_runs["plain"] / "best.pt"
    still = [*train_argv, "--epochs", "1", "--learning_rate", "1e-300", "--weight_decay", "0", "--amp", "off"]
    result = main([*still, *teachers(copied_runs)])
    assert f"audio encoder is taught by {path}, pretrained on tiny; its head is not used" in capsys.readouterr().out
    assert result["teachers"]["audio"] == {"file": str(path), "pretrained_on": "tiny", "started_from": None,
                                           "epoch": checkpoint.load(path)["epoch"]} and result["pretrained"] == {}
    main([*still, "--run_name", "scratch"])
    content, scratch = (checkpoint.load(tmp_path / name / "last.pt") for name in ("run", "scratch"))
    for name, parameter in content["model"].items():
        assert "running" in name or torch.allclose(parameter, scratch["model"][name], 0, 1e-20), name
    for modality, run in (("audio", "plain"), ("visual", "mmcosine")):
        theirs = checkpoint.load(copied_runs[run] / "best.pt")["model"]
        own = {name: value for name, value in content["method"].items() if name.startswith(f"teachers.{modality}.")}
        assert own and all(torch.equal(value, theirs[name.replace(f"teachers.{modality}.", f"{modality}_net.")])
                           for name, value in own.items())
    for run in copied_runs.values():
        (run / "best.pt").unlink()
    again = main(["--resume", str(tmp_path / "run"), "--epochs", "2"])
    after = checkpoint.load(tmp_path / "run/last.pt")["method"]
    assert again["teachers"] == result["teachers"] and all(torch.equal(after[name], content["method"][name])
                                                           for name in after)


def test_teachers_that_were_trained_on_test_clips_are_refused_unless_allowed(copied_runs, train_argv, capsys):
    path = copied_runs["mmcosine"] / "best.pt"
    content = checkpoint.load(path)
    moved = next(iter(content["clips"]["test"]))
    path.unlink()
    torch.save({**content, "clips": {**content["clips"], "train": {moved: "ANG"}}}, path)
    argv = [*train_argv, "--epochs", "1", *teachers(copied_runs)]
    with pytest.raises(InputError, match=f"1 of the 12 test clips were in the training list of .*mmcosine.*{moved}"):
        main(argv)
    main([*argv, "--allow_overlap"])
    assert "note: 1 of the 12 test clips were in the training list" in capsys.readouterr().out


def test_a_teacher_is_not_adapted_to_other_input_channels(copied_runs, train_argv):
    path = copied_runs["plain"] / "best.pt"
    content = checkpoint.load(path)
    content["model"] = {name: value.repeat(1, 3, 1, 1) if name == "audio_net.conv1.weight" else value
                        for name, value in content["model"].items()}
    path.unlink()
    torch.save(content, path)
    with pytest.raises(InputError, match=r"does not fit the model: audio_net\.conv1|does not fit the model: conv1"):
        main([*train_argv, *teachers(copied_runs)])


@pytest.mark.parametrize(("argv", "message"), [
    (["--modulation", "umt", "--audio_teacher", "a.pt"],
     "--modality both needs the visual encoder trained alone: --visual_teacher RUN/best.pt"),
    (["--modulation", "multiloss", "--audio_teacher", "a.pt"],
     "--audio_teacher has no effect with --modulation multiloss with --modality both: leave it out"),
    (["--umt_weight", "1"], "--umt_weight has no effect with --modulation none"),
    (["--modulation", "umt", "--umt_weight", "0"], "out of range"), (["--allow_overlap"], "or teach: leave it out")])
def test_what_would_have_no_effect_or_no_teacher_is_refused(argv, message, capsys):
    with pytest.raises(SystemExit):
        parse(["--train", *argv])
    assert message in capsys.readouterr().err


def test_an_evaluation_cannot_have_other_teachers(finished_runs):
    with pytest.raises(InputError, match="trained with another --audio_teacher, which has no effect on its evaluation"):
        parse(["--ckpt_path", str(finished_runs["plain"] / "best.pt"), "--audio_teacher", "a.pt", *SMALL[-4:]])
