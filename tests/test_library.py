"""The package `mmcosine`: what `pip install .` installs, and the balancing methods in a loop that is not ours."""

import copy
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import REPO
from torch import nn

import models
from models import METHODS, Clips, Learner, MethodError, MMCosineHead, MultimodalClassifier
from models.balancing.learner import TrialOnClips, mean_losses

EXAMPLES = re.findall(r"```python\n(.*?)```", (REPO / "docs/library.md").read_text(encoding="utf-8"), re.DOTALL)
CLASSES, SIZES, DIM = 4, {"audio": 4, "text": 6, "flow": 3}, 6
EPOCHS = 24  # enough for every method's defaults


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with what a wheel of the repository holds."""
    source = tmp_path_factory.mktemp("source")
    shutil.copy(REPO / "pyproject.toml", source)
    shutil.copytree(REPO / "models", source / "models", ignore=shutil.ignore_patterns("__pycache__"))
    place = tmp_path_factory.mktemp("site")
    subprocess.run([sys.executable, "-c", "import setuptools; setuptools.setup()", "-q", "build_py", "--build-lib",
                    str(place)], cwd=source, check=True, capture_output=True)
    return place


def in_another_folder(installed: Path, folder: Path, code: str) -> subprocess.CompletedProcess:
    """Runs code where a user has packages called as our folders are, with the package but not the repository."""
    for name in ("models", "utils", "dataset"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(f"WHOSE = 'the user of {name}'\n")
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=folder, env=environment, text=True,
                          capture_output=True, check=False)


def test_the_examples_of_the_docs_run_beside_packages_of_the_same_names(installed, tmp_path):
    assert len(EXAMPLES) == 3
    used = "assert {m.WHOSE for m in (models, utils, dataset)} == {f'the user of {n}' for n in "
    code = "\n".join([*EXAMPLES, "import models, utils, dataset", used + "('models', 'utils', 'dataset')}",
                      f"assert mmcosine.__file__.startswith({str(installed)!r})",
                      "import sys", "assert not {'torchaudio', 'sklearn'} & sys.modules.keys()",
                      "assert all(hasattr(mmcosine, name) for name in mmcosine.__all__ if name != 'SpeakerClassifier')",
                      "print(logits.shape, modality_logits.shape, sorted(did)[0])"])
    ended = in_another_folder(installed, tmp_path, code)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "torch.Size([8, 6]) torch.Size([2, 8, 6]) coefficient_audio\n"


def test_the_package_holds_the_folder_models_and_nothing_else(installed):
    held = {str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file()}
    ours = {f"mmcosine/{path.relative_to(REPO / 'models')}" for path in (REPO / "models").rglob("*.py")}
    assert held == ours | {"mmcosine/py.typed"}


def test_the_package_needs_torch_and_torchvision_alone_and_train_the_rest_of_the_pins():
    project = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["name"] == "mmcosine" and project["dependencies"] == ["torch>=2.4", "torchvision"]
    pins = re.findall(r"^([\w-]+)==", (REPO / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert {"torch", "torchvision", *project["optional-dependencies"]["train"]} == set(pins)


# ---- the head


def test_the_head_gives_the_cosines_of_features_of_any_sizes():
    torch.manual_seed(0)
    head = MMCosineHead((3, 5, 2), CLASSES, scaling=7.0)
    features = [torch.randn(6, dim) for dim in (3, 5, 2)]
    head.requires_grad_(False)
    logits, modality_logits = head(features)
    for m, (x, weight) in enumerate(zip(features, head.weights, strict=True)):
        for i in range(6):
            for c in range(CLASSES):
                cosine = float(x[i] @ weight[c]) / (float(x[i].norm()) * float(weight[c].norm()))
                assert float(modality_logits[m, i, c]) == pytest.approx(7 * cosine, abs=1e-5)
    torch.testing.assert_close(logits, modality_logits[0] + modality_logits[1] + modality_logits[2])
    assert MMCosineHead([3], 2)(features[:1]).logits.shape == (6, 2)


@pytest.mark.parametrize("features, message", [
    ([(6, 3), (6, 4)], r"sizes \(6, 3\), \(6, 4\); the head takes \(B, 3\), \(B, 5\)"),
    ([(6, 3)], r"sizes \(6, 3\); the head takes"), ([(6, 3), (5, 5)], r"\(5, 5\)"), ([(3,), (5,)], r"\(3,\)"),
    ([], "of none"), ([(6, 3), (6, 5), (6, 5)], r"the head takes \(B, 3\), \(B, 5\)$")])
def test_features_of_other_sizes_are_refused_with_a_sentence(features, message):
    with pytest.raises(ValueError, match=message):
        MMCosineHead((3, 5), CLASSES)([torch.zeros(size) for size in features])


@pytest.mark.parametrize("dims, classes, scaling, message", [
    (512, 3, 1.0, "such as"), ((), 3, 1.0, "such as"), ((4, 0), 3, 1.0, "such as"), ((4, 2.5), 3, 1.0, "such as"),
    ((4,), 0, 1.0, "num_classes"), ((4,), 3, 0.0, "scaling"), ((4,), 3, float("nan"), "scaling")])
def test_a_head_that_cannot_be_is_refused_with_a_sentence(dims, classes, scaling, message):
    with pytest.raises(ValueError, match=message):
        MMCosineHead(dims, classes, scaling)


# ---- the methods


def network(name: str = "none", modalities: int = 2, fusion: str = "") -> MultimodalClassifier:
    torch.manual_seed(0)
    encoders = {modality: nn.Sequential(nn.Linear(size, 5), nn.Tanh(), nn.Linear(5, DIM))
                for modality, size in list(SIZES.items())[:modalities]}
    return MultimodalClassifier(encoders, CLASSES, fusion or (*METHODS[name].fusions, "concat")[0], dim=DIM)


def batches(count: int, modalities: int = 2) -> list[tuple[list[torch.Tensor], torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    made = []
    for _ in range(count):
        labels = torch.randint(CLASSES, (8,), generator=generator)
        made.append(([torch.randn(8, size, generator=generator) + labels[:, None]
                      for size in list(SIZES.values())[:modalities]], labels))
    return made


def test_the_losses_of_a_trial_are_means_over_clips_whatever_the_sizes_of_the_batches():
    model, (inputs, labels) = network("gblend"), batches(1)[0]
    cut = [([x[part] for x in inputs], labels[part]) for part in (slice(0, 7), slice(7, 8))]
    learner = Learner(model, sgd(model), "gblend", clips=Clips([(inputs, labels)], cut))
    trained, held_out = TrialOnClips(learner).train_and_measure(0)
    torch.testing.assert_close(held_out, trained)
    first, last = (mean_losses(learner, [batch]) for batch in cut)
    assert not torch.allclose((first + last) / 2, trained, rtol=1e-3)


def sgd(model: nn.Module, lr: float = 0.05) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr, momentum=0.9)


def everything(name: str, model: MultimodalClassifier) -> dict[str, object]:
    """What any method may need."""
    teachers = {modality: copy.deepcopy(model.encoder(modality)) for modality in model.modalities}
    return {"clips": Clips(batches(4), batches(2)), "teachers": teachers if METHODS[name].needs_teachers else None}


def grouped(made: list, groups: list[int] | None) -> list[tuple[list[torch.Tensor], torch.Tensor, int | None]]:
    """(inputs, labels, group): the batches, or a batch of the clips of each group."""
    if groups is None:
        return [(*batch, None) for batch in made]
    inputs = [torch.cat(parts) for parts in zip(*(batch[0] for batch in made), strict=True)]
    labels, numbers = torch.cat([batch[1] for batch in made]), torch.tensor(groups)
    return [([x[numbers == group] for x in inputs], labels[numbers == group], group) for group in sorted(set(groups))]


@pytest.mark.parametrize("name", METHODS)
def test_each_method_trains_a_network_in_a_loop_of_ones_own(name):
    model = network(name)
    learner = Learner(model, sgd(model, 0.005), method=name, **everything(name, model))
    learner.prepare(EPOCHS)
    before, losses = copy.deepcopy(model.state_dict()), []
    for epoch in range(1, EPOCHS + 1):
        learner.begin_epoch(epoch, batches=4)
        assert model.training
        for inputs, labels, group in grouped(batches(4), learner.method.groups):
            output, loss = learner.step(inputs, labels, group=group)
            losses.append(float(loss.detach()))
            assert output.logits.shape == (len(labels), CLASSES)
        learner.end_epoch()
    assert all(value == value for value in losses)
    cross_entropy = [F.cross_entropy(model.eval()(*inputs).logits, labels).item() for inputs, labels in batches(4)]
    fresh = [F.cross_entropy(network(name).eval()(*inputs).logits, labels).item() for inputs, labels in batches(4)]
    assert sum(cross_entropy) < sum(fresh)
    assert not any(torch.equal(before[key], value) for key, value in model.state_dict().items() if "net" in key)
    known = {parameter for group in learner.optimizer.param_groups for parameter in group["params"]}
    assert {each for each in learner.method.parameters() if each.requires_grad} <= known


@pytest.mark.parametrize("name", METHODS)
def test_a_method_works_with_two_lines_or_says_what_it_needs(name):
    """None does silently nothing: what is learnt is not what plain training learns."""
    ended = []
    for method in ("none", name):
        model = network(name)
        try:
            learner = Learner(model, sgd(model), method=method)
            torch.manual_seed(5)
            for inputs, labels in batches(4):
                learner.step(inputs, labels)
        except ValueError as error:  # MethodError too
            needs = rf"{name} .*(clips=|begin_epoch|prepare|teachers=)|learner\.begin_epoch\(epoch\)"
            assert re.search(needs, str(error))
            return
        ended.append(model.state_dict())
    same = all(torch.equal(a, b) for a, b in zip(*(state.values() for state in ended), strict=True))
    assert same == (name == "none")


def test_a_learner_without_a_method_is_the_usual_step():
    model, by_hand = network(), network()
    learner, optimizer = Learner(model, sgd(model)), sgd(by_hand)
    for inputs, labels in batches(3):
        _, loss = learner.step(inputs, labels)
        expected = F.cross_entropy(by_hand(*inputs).logits, labels)
        optimizer.zero_grad()
        expected.backward()
        optimizer.step()
        assert float(loss.detach()) == float(expected.detach())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), by_hand.parameters(), strict=True))


@pytest.mark.parametrize("method, settings, message", [
    ("ogmge", {}, "there is no method 'ogmge'"), ("ogm", {"alfa": 1}, "ogm has no setting 'alfa': .*alpha"),
    ("ogm", {"alpha": -1}, "alpha of ogm: -1 is out of range: expected at least 0"),
    ("ogm", {"modulation_ends": 2.5}, "modulation_ends of ogm: '2.5' is not a whole number"),
    ("none", {"alpha": 1}, "none has no setting 'alpha': it has no settings"),
    ("mslr", {"mslr_factors": (1, 2, 3)}, "has 3 numbers, the run 2 modalities"),
    ("umt", {}, "umt needs an encoder of each modality that was trained alone"),
    ("ogm", {"teachers": {}}, "teachers have no effect with ogm"),
    ("umt", {"teachers": {"audio": nn.Identity()}}, "the modalities are audio, text")])
def test_settings_that_cannot_be_are_refused_with_a_sentence(method, settings, message):
    model = network()
    with pytest.raises(ValueError, match=message):
        Learner(model, sgd(model), method=method, **settings)


def test_networks_and_optimizers_that_a_method_cannot_use_are_refused_with_a_sentence():
    with pytest.raises(ValueError, match="mla is defined for the fusion sum, the network has gated"):
        Learner(network(fusion="gated"), sgd(network()), method="mla")
    with pytest.raises(ValueError, match="ogm balances modalities: it needs at least two, the network has 1"):
        Learner(network(modalities=1), sgd(network()), method="ogm")
    with pytest.raises(ValueError, match="the optimizer has no parameter of this network"):
        Learner(network(), sgd(network()))
    with pytest.raises(TypeError, match="the network is a Linear: give the MultimodalClassifier itself"):
        Learner(nn.Linear(2, 2), sgd(network()))
    model = network()
    parts = [{"params": model.encoder(name).parameters()} for name in model.modalities]
    with pytest.raises(ValueError, match="mslr gives each encoder a learning rate"):
        Learner(model, torch.optim.SGD(parts, lr=0.1), method="mslr")


def test_inputs_that_do_not_fit_are_refused_with_a_sentence():
    model = network()
    learner = Learner(model, sgd(model), method="opm", opm_warmup=0)
    for inputs, message in (([torch.zeros(8, 4)], "1 tensors"), (torch.zeros(2, 4), "one tensor")):
        with pytest.raises(ValueError, match=f"each of the modalities audio, text, not {message}"):
            learner.step(inputs, torch.zeros(8).long())
    with pytest.raises(ValueError, match="lam cannot be combined with opm"):
        learner.step(batches(1)[0][0], batches(1)[0][1], lam=0.1)


def test_mslr_gives_each_encoder_of_a_plain_optimizer_a_rate():
    model = network()
    learner = Learner(model, sgd(model), method="mslr", mslr_factors="0.5,2", clips=Clips(batches(1), batches(1)))
    learner.begin_epoch(1)
    assert [group["lr"] for group in learner.optimizer.param_groups] == pytest.approx([0.05, 0.025, 0.1])
    assert [len(group["params"]) for group in learner.optimizer.param_groups] == [2, 4, 4]
    assert all(group["momentum"] == 0.9 for group in learner.optimizer.param_groups)


def test_a_method_whose_settings_do_nothing_in_so_many_epochs_is_refused_before_them():
    model = network()
    learner = Learner(model, sgd(model), method="ogm", modulation_starts=5)
    with pytest.raises(MethodError, match="nothing would be modulated"):
        learner.prepare(5)
    with pytest.raises(MethodError, match=r"all steps are of the first epoch: .*modulated"):
        learner.step(*batches(1)[0])


def test_a_state_that_is_loaded_continues_as_the_other_would():
    ended = []
    for stop in (False, True):
        model = network()
        learner = Learner(model, sgd(model), method="gblend", clips=Clips(batches(4), batches(2)))
        learner.prepare(2)
        learner.step(*batches(1)[0])
        if stop:
            state = copy.deepcopy(learner.state_dict())
            model = network(modalities=2)
            learner = Learner(model, sgd(model), method="gblend", clips=learner.clips)
            learner.load_state_dict(state)
        learner.step(*batches(2)[1])
        ended.append(learner.state_dict())
    for part in ("model", "method"):
        assert all(torch.equal(a, ended[1][part][key]) for key, a in ended[0][part].items())


def test_every_name_of_the_package_is_there():
    assert all(hasattr(models, name) for name in models.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = models.Nothing


def test_the_speaker_network_without_torchaudio_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchaudio", None)
    with pytest.raises(ModuleNotFoundError, match=r"SpeakerClassifier.* needs torchaudio.*: pip install torchaudio"):
        models.SpeakerClassifier(3)


@pytest.mark.parametrize("name, settings, epochs", [
    ("opm", {"opm_warmup": 9}, 3), ("remix", {"remix_warmup": 9}, 3), ("ogm", {"modulation_starts": 9}, 3),
    ("mlb", {"uni_weight": 0}, 3), ("dnr", {"relearn_every": 9}, 3), ("reconboost", {"recon_epochs": 9}, 3)])
def test_messages_of_the_package_name_settings_without_the_dashes_of_flags(name, settings, epochs):
    model = network(name)
    learner = Learner(model, sgd(model), method=name, **everything(name, model), **settings)
    with pytest.raises(MethodError, match=next(iter(settings))) as error:
        learner.prepare(epochs)
    assert "--" not in str(error.value)


def test_a_constructor_that_does_not_take_the_flags_of_its_method_is_told_in_a_sentence(monkeypatch):
    class Forgetful(METHODS["multiloss"]):
        def __init__(self, model: MultimodalClassifier, weight: float):
            super().__init__(model, weight)

    monkeypatch.setitem(METHODS, "forgetful", Forgetful)
    model = network()
    with pytest.raises(ValueError, match="the constructor of Forgetful takes weight beside the model, its flags are "
                                         "uni_weight: give each flag an argument of its name"):
        Learner(model, sgd(model), method="forgetful")


def test_the_docs_list_every_method():
    text = (REPO / "docs/library.md").read_text(encoding="utf-8")
    assert not [name for name in METHODS if f"`{name}`" not in text]
