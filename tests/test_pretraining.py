"""Encoders that start from other weights: torchvision's, ours, an encoder alone, the released network of VoxCeleb."""

import hashlib
import re
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn

import main_CD
import main_Vox
from dataset.errors import InputError
from models import MultimodalClassifier, SpeakerClassifier, make_encoders
from models.encoders import ResNet18, ResNet50
from models.speaker import SEResNet34
from utils.training import checkpoint
from utils.training.modalities import Start
from utils.training.pretraining import load_encoder, load_imagenet, load_pretrained, with_channels
from utils.training.trained import open_trained

SMALL = ["--image_size", "64", "--audio_frames", "33", "--test_frames", "40", "--batch_size", "4", "--num_workers", "0",
         "--device", "cpu", "--amp", "off"]


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "a.pt"


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """torchvision's place for weights on this machine, empty; no network."""
    def fail(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    return tmp_path / "hub/checkpoints"


def encoder() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def network(seed: int = 0) -> MultimodalClassifier:
    torch.manual_seed(seed)
    return MultimodalClassifier({"audio": encoder(), "visual": encoder()}, 3, dim=4)


def theirs(name: str = "resnet18", classes: int = 5, **options) -> nn.Module:
    """torchvision's network, with weights and statistics that are not the initial ones."""
    torch.manual_seed(7)
    model = getattr(torchvision.models, name)(num_classes=classes, **options)
    model(torch.randn(4, 3, 64, 64))
    return model.eval()


# ---- files that fit


@pytest.mark.parametrize("modality", ["audio", "visual"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_an_encoder_loads_from_a_checkpoint_of_the_whole_model(path, modality, prefix):
    source, target = network(seed=0), encoder()
    torch.save({"model": {prefix + name: value for name, value in source.state_dict().items()}}, path)
    assert load_encoder(target, modality, open_trained(path)), "a whole model has a head"
    torch.testing.assert_close(target.state_dict(), source.encoder(modality).state_dict(), rtol=0, atol=0)


def test_an_encoder_loads_from_a_file_without_batch_counters(path):
    torch.manual_seed(0)
    source, target = encoder(), encoder()
    state = {name: value for name, value in source.state_dict().items() if "num_batches_tracked" not in name}
    torch.save(state, path)
    load_encoder(target, "visual", open_trained(path))
    torch.testing.assert_close(target.state_dict(), source.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_an_encoder_from_torchvisions_file_has_torchvisions_features(path, name, capsys):
    source = theirs(name)
    torch.save(source.state_dict(), path)
    target = make_encoders({"visual": (name, 3)})["visual"].eval()
    head = load_encoder(target, "visual", open_trained(path))
    source.fc = target.projection
    x = torch.randn(2, 3, 48, 40)
    torch.testing.assert_close(target(x), source(x))
    assert head
    note = f"note: {path} has no projection to 512 features: that of the visual encoder starts from scratch\n"
    assert capsys.readouterr().out == (note if name == "resnet50" else "")


@pytest.mark.parametrize("kind", [ResNet18, ResNet50, SEResNet34])
@pytest.mark.parametrize("whole", [False, True])
def test_every_weight_of_our_own_encoders_is_loaded_the_last_layer_too(path, kind, whole, capsys):
    torch.manual_seed(0)
    source, target = kind(), kind()
    state = source.state_dict()
    torch.save({f"audio_net.{name}": value for name, value in state.items()} if whole else state, path)
    head = load_encoder(target, "audio", open_trained(path))
    torch.testing.assert_close(target.state_dict(), state, rtol=0, atol=0)
    assert not head
    assert not capsys.readouterr().out


def test_a_run_says_where_its_encoders_start_and_of_a_head_only_where_there_is_one(tmp_path, capsys):
    torch.save(theirs().state_dict(), tmp_path / "torchvision.pt")
    torch.save(ResNet18(1).state_dict(), tmp_path / "bare.pt")
    starts = {"audio": Start(tmp_path / "bare.pt", ()), "visual": Start(tmp_path / "torchvision.pt", ())}
    origins = load_pretrained({"audio": ResNet18(1), "visual": ResNet18()}, starts, {}, {})
    assert origins == {name: {"file": str(start.path), "pretrained_on": None} for name, start in starts.items()}
    assert capsys.readouterr().out.splitlines() == [
        f"audio encoder starts from {tmp_path / 'bare.pt'}, pretrained on unknown data (it holds no settings)",
        f"visual encoder starts from {tmp_path / 'torchvision.pt'}, pretrained on unknown data (it holds no settings); "
        "its head is not used"]


# ---- files that do not


@pytest.mark.parametrize("state, message", [
    ({"0.weight": torch.zeros(4, 3, 3, 3)}, "0.weight (4, 3, 3, 3) instead of (4, 1, 3, 3)"),
    ({"visual_net.0.weight": torch.zeros(4, 1, 3, 3)}, "0.weight missing"),
    ({"fc.weight": torch.zeros(2, 2)}, "0.weight missing")])
def test_an_encoder_that_does_not_fit_is_refused_by_name(path, state, message):
    full = {name: value for name, value in encoder().state_dict().items() if "weight (4" in message}
    torch.save({**full, **state}, path)
    with pytest.raises(InputError, match=f"^{re.escape(str(path))} does not fit.*{re.escape(message)}.*audio_net"):
        load_encoder(encoder(), "audio", open_trained(path))


@pytest.mark.parametrize("change, message", [
    ({"conv1.weight": torch.zeros(64, 3, 3, 3)}, "conv1.weight (64, 1, 3, 3) instead of (64, 1, 7, 7)"),
    ({"conv1.weight": torch.zeros(())}, "conv1.weight () instead of (64, 1, 7, 7)"),
    ({"layer9.weight": torch.zeros(1)}, "layer9.weight not expected")])
def test_a_resnet_that_does_not_fit_is_refused_with_the_flag_to_change_and_nothing_is_loaded(path, change, message):
    target = ResNet18(1)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    torch.save({**theirs().state_dict(), **change}, path)
    with pytest.raises(InputError, match=f"{re.escape(message)}.*--audio_encoder"):
        load_encoder(target, "audio", open_trained(path))
    torch.testing.assert_close(target.state_dict(), before, rtol=0, atol=0)


def test_half_a_projection_is_refused(path):
    state = ResNet50().state_dict()
    del state["projection.bias"]
    torch.save(state, path)
    with pytest.raises(InputError, match=r"projection\.bias missing"):
        load_encoder(ResNet50(), "visual", open_trained(path))


# ---- other input channels


@pytest.mark.parametrize("whole", [False, True])
def test_one_channel_has_the_features_that_it_has_as_a_grey_picture(path, whole, capsys):
    source = theirs()
    state = source.state_dict()
    torch.save({f"flow_net.{name}": value for name, value in state.items() if "fc" not in name} if whole else state,
               path)
    target = ResNet18(1).eval()
    load_encoder(target, "flow", open_trained(path))
    source.fc = nn.Identity()
    grey = torch.randn(2, 1, 64, 64)
    torch.testing.assert_close(target(grey), source(grey.expand(-1, 3, -1, -1)), rtol=1e-3, atol=1e-4)
    assert capsys.readouterr().out == (f"note: the first convolution of {path} has 3 input channels, that of the flow "
                                       f"encoder 1: its weights are summed over the 3\n")


@pytest.mark.parametrize(("channels", "colours"), [(32, True), (32, False), (3, False)])
def test_several_channels_that_are_no_colours_start_from_the_mean_over_the_colours(path, channels, colours, capsys):
    """The cross-modality initialisation of TSN; everything else is as it was."""
    source = theirs()
    torch.save(source.state_dict(), path)
    target = ResNet18(channels).eval()
    load_encoder(target, "flow", open_trained(path), colours)
    mean = source.conv1.weight.mean(1)
    for k in range(channels):
        torch.testing.assert_close(target.conv1.weight[:, k], mean, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(target.layer1[0].conv1.weight, source.layer1[0].conv1.weight)
    which = "" if colours else " that are no colours"
    assert capsys.readouterr().out == (f"note: the first convolution of {path} has 3 input channels, that of the flow "
                                       f"encoder {channels}{which}: its weights are averaged over the 3 and repeated\n")


def test_three_channels_that_are_colours_keep_their_weights(path, capsys):
    source = theirs()
    torch.save(source.state_dict(), path)
    target = ResNet18(3)
    load_encoder(target, "rgb", open_trained(path))
    assert torch.equal(target.conv1.weight, source.conv1.weight) and not capsys.readouterr().out


def test_weights_of_the_first_convolution_are_summed_for_one_channel_and_averaged_for_several():
    weight = torch.randn(4, 3, 7, 7)
    assert torch.equal(with_channels(weight, 1)[:, 0], weight[:, 0] + weight[:, 1] + weight[:, 2])
    for channels in (2, 5):
        found = with_channels(weight, channels)
        assert found.shape == (4, channels, 7, 7)
        for k in range(channels):
            torch.testing.assert_close(found[:, k], weight.mean(1))
    torch.testing.assert_close(with_channels(weight[:, :1], 3), weight[:, :1].expand(-1, 3, -1, -1))


# ---- ImageNet


def put(hub: Path, name: str, model: nn.Module, monkeypatch) -> Path:
    """A file of weights in torchvision's place whose name has its hash, and torchvision's address of it."""
    torch.save(model.state_dict(), hub / "new")
    digest = hashlib.sha256((hub / "new").read_bytes()).hexdigest()[:8]
    weights = next(iter(getattr(torchvision.models, name)))
    monkeypatch.setattr(weights, "_value_", weights.value.__class__(**{
        **vars(weights.value), "url": f"https://example.org/{name.lower()}-{digest}.pth"}))
    return (hub / "new").rename(hub / f"{name.lower()}-{digest}.pth")


@pytest.mark.parametrize("value", ["True", "audio+visual"])
def test_imagenet_starts_the_visual_encoder_or_the_named_ones(train_argv, hub, tmp_path, monkeypatch, value, capsys):
    modalities = ["visual"] if value == "True" else ["audio", "visual"]
    model = theirs()
    file = put(hub, "ResNet18_Weights", model, monkeypatch)
    result = main_CD.main([*train_argv, "--epochs", "1", "--learning_rate", "1e-300", "--weight_decay", "0",
                           "--imagenet", value])
    assert set(result["pretrained"]) == set(modalities)
    state = checkpoint.load(tmp_path / "run/last.pt")["model"]
    for name, count in zip(["audio", "visual"], [1, 3], strict=True):
        assert result["pretrained"].get(name, {"file": None})["file"] == (file.name if name in modalities else None)
        start = model.state_dict()["layer4.1.conv2.weight"]
        assert torch.equal(state[f"{name}_net.layer4.1.conv2.weight"], start) == (name in modalities)
        colours = model.conv1.weight.detach()
        expected = colours if count == 3 else colours.sum(1, keepdim=True)
        assert torch.equal(state[f"{name}_net.conv1.weight"], expected) == (name in modalities)
    out = capsys.readouterr().out
    assert out.count("; its head is not used") == len(modalities)
    assert ("that of the audio encoder 1: its weights are summed over the 3\n" in out) == ("audio" in modalities)


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_every_resnet_has_imagenet_weights_of_its_own(hub, monkeypatch, name):
    model = theirs(name)
    file = put(hub, f"ResNet{name[6:]}_Weights", model, monkeypatch)
    target = make_encoders({"visual": (name, 3)})["visual"].eval()
    origin = load_imagenet(target, "visual")
    assert origin == {"file": file.name, "pretrained_on": f"ImageNet (ResNet{name[6:]}_Weights.IMAGENET1K_V1, "
                                                          "torchvision)"}
    model.fc = target.projection
    x = torch.randn(2, 3, 48, 40)
    torch.testing.assert_close(target(x), model(x))


def test_a_modality_without_imagenet_weights_or_network_is_told_which_flag_helps(hub):
    with pytest.raises(InputError, match=r"no ImageNet weights of the audio encoder, only of resnet18, resnet34, "
                                         r"resnet50: .*--audio_pretrain FILE"):
        load_imagenet(SEResNet34(), "audio")
    with pytest.raises(InputError, match=r"resnet50-0676ba61\.pth cannot be downloaded \(no network\).*"
                                         r"--audio_pretrain FILE"):
        load_imagenet(ResNet50(1), "audio")
    (hub / "resnet50-0676ba61.pth").write_bytes(b"half a download")
    with pytest.raises(InputError, match="damaged or another file"):
        load_imagenet(ResNet50(1), "audio")


# ---- the released network of VoxCeleb


def released(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of ours, of the voice's encoder alone or of both, in the release's names."""
    renamed = {}
    for name, value in state.items():
        name = re.sub(r"(^|audio_net\.)stages\.(\d)\.", lambda found: f"{found[1]}layer{int(found[2]) + 1}.", name)
        name = re.sub(r"(^|audio_net\.)pooling\.attention\.", r"\1attention.", name)
        renamed[re.sub(r"(^|audio_net\.)mel\.mel\.", r"\1torchfb.1.", name)] = value
    before = "" if "conv1.weight" in state else "audio_net."
    return {**renamed, f"{before}torchfb.0.flipped_filter": torch.tensor([[[-0.97, 1.0]]])}


@pytest.fixture
def voice() -> SEResNet34:
    """Weights and statistics that are not the initial ones."""
    torch.manual_seed(11)
    model = SEResNet34()
    model(torch.randn(3, 5520))
    return model.eval()


def test_the_released_names_are_all_there_and_differ_from_ours(voice):
    names = released(voice.state_dict())
    assert {name.split(".")[0] for name in names} == {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4",
                                                      "attention", "fc", "torchfb"}
    assert {"layer4.2.se.fc.2.bias", "layer2.0.downsample.1.running_var", "attention.3.weight",
            "torchfb.1.spectrogram.window", "torchfb.1.mel_scale.fb"} <= names.keys()
    assert len(names) == len(voice.state_dict()) + 1


@pytest.mark.parametrize("prefix", ["", "module.", "audio_net.", "module.audio_net."])
def test_a_released_voice_encoder_gives_the_same_features_to_the_last_bit(path, voice, prefix):
    state = {prefix + name: value for name, value in released(voice.state_dict()).items()}
    torch.save({"model": state} if "module" in prefix else state, path)
    target = SEResNet34().eval()
    x = torch.randn(2, 7000)
    assert not torch.equal(target(x), voice(x))
    load_encoder(target, "audio", open_trained(path))
    assert torch.equal(target(x), voice(x))


@pytest.mark.parametrize("change, message", [
    ({"layer5.0.conv1.weight": torch.zeros(1)}, "layer5.0.conv1.weight not expected"),
    ({"torchfb.1.mel_scale.fb": torch.zeros(257, 64)}, "torchfb.1.mel_scale.fb (257, 64) instead of (257, 40)"),
    ({"attention.0.weight": torch.zeros(128, 2560, 1)}, "attention.0.weight (128, 2560, 1) instead of (128, 1280, 1)")])
def test_what_does_not_fit_of_a_released_encoder_is_refused_by_its_name_in_the_file(path, voice, change, message):
    torch.save({**released(voice.state_dict()), **change}, path)
    with pytest.raises(InputError, match=re.escape(message)):
        load_encoder(SEResNet34(), "audio", open_trained(path))


def test_a_released_checkpoint_is_evaluated_as_ours_with_the_same_weights(tiny_voices, tmp_path, voice):
    torch.manual_seed(5)
    model = SpeakerClassifier(6, "gated")
    model.encoder("audio").load_state_dict(voice.state_dict())
    theirs = {f"module.{name}": value for name, value in released(model.state_dict()).items()}
    assert {"module.audio_net.layer1.0.conv1.weight", "module.audio_net.torchfb.0.flipped_filter",
            "module.visual_net.layer1.0.conv1.weight", "module.fusion_module.fc_out.weight"} <= theirs.keys()
    checkpoint.save(tmp_path / "ours.pt", model.state_dict())
    checkpoint.save(tmp_path / "theirs.pt", {"model": theirs, "fusion": "gated"})
    results = {name: main_Vox.main(["--ckpt_path", str(tmp_path / f"{name}.pt"), "--fusion_method", "gated",
                                    "--data_root", str(tiny_voices), "--scores_path", str(tmp_path / name), *SMALL])
               for name in ("ours", "theirs")}
    scores = [(tmp_path / name / "test_pairs.scores.txt").read_bytes() for name in results]
    assert scores[0] == scores[1]
    assert len(scores[0].splitlines()) == 15
    assert results["ours"]["eer_audio"] == results["theirs"]["eer_audio"]
    fresh = SpeakerClassifier(6, "gated").eval()
    checkpoint.load_model(fresh, checkpoint.load(tmp_path / "theirs.pt"), tmp_path / "theirs.pt")
    x = torch.randn(2, 5520), torch.randn(2, 3, 1, 64, 64)
    assert torch.equal(fresh(*x).logits, model.eval()(*x).logits)


def test_a_released_audio_encoder_starts_a_run_as_ours_with_the_same_weights(tiny_voices, tmp_path, voice, capsys):
    checkpoint.save(tmp_path / "ours.pt", voice.state_dict())
    checkpoint.save(tmp_path / "theirs.pt", released(voice.state_dict()))
    models = []
    for name in ("ours", "theirs"):
        main_Vox.main(["--train", "--modality", "audio", "--dataset", "tiny", "--data_root", str(tiny_voices),
                       "--epochs", "1", "--ckpt_path", str(tmp_path), "--run_name", name, "--use_tensorboard", "False",
                       "--learning_rate", "1e-300", "--weight_decay", "0", "--audio_pretrain",
                       str(tmp_path / f"{name}.pt"), *SMALL])
        models.append(checkpoint.load(tmp_path / name / "last.pt")["model"])
    torch.testing.assert_close(models[0], models[1], rtol=0, atol=0)
    for name, parameter in voice.named_parameters():
        difference = (models[1][f"audio_net.{name}"] - parameter).abs().max()
        assert difference < 1e-20, name  # biases of zero have moved by that learning rate
    assert f"audio encoder starts from {tmp_path / 'theirs.pt'}, pretrained on unknown data" in capsys.readouterr().out
