"""Checkpoints: there and back, the release's forms, and everything else refused by name."""

import os
import re
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from dataset.errors import InputError
from models import MultimodalClassifier
from utils.training.checkpoint import load, load_model, save, state_dict_of


def encoder() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def network(seed: int = 0, classes: int = 3, fusion: str = "concat") -> MultimodalClassifier:
    torch.manual_seed(seed)
    return MultimodalClassifier({"audio": encoder(), "visual": encoder()}, classes, fusion, dim=4)


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "a.pt"


def test_what_is_saved_is_loaded_and_no_other_file_is_left(path):
    content = {"model": network().state_dict(), "args": {"lam": 0.5, "dataset": "x", "gpu_ids": [0]}, "epoch": 3}
    save(path, {"old": 1})
    save(path, content)
    found = load(path)
    assert found["args"] == content["args"] and found["epoch"] == 3 and os.listdir(path.parent) == ["a.pt"]
    torch.testing.assert_close(found["model"], content["model"], rtol=0, atol=0)


def test_a_save_that_fails_leaves_the_old_checkpoint(path):
    save(path, {"epoch": 1})
    with pytest.raises(Exception, match="pickle"):
        save(path, {"epoch": 2, "bad": lambda: None})
    assert load(path) == {"epoch": 1} and os.listdir(path.parent) == ["a.pt"]


def checkpoint_bytes(path: Path, **options) -> bytes:
    torch.save({"model": network().state_dict()}, path, **options)
    return path.read_bytes()


@pytest.mark.parametrize("content, message", [
    (None, "{} is missing"), (b"", "{} is empty"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 12\n", "{} is a git-lfs pointer"),
    (b"\x00" * 3000, "{} cannot be loaded as a checkpoint"),
    (b"PK\x03\x04" + b"\x00" * 100, "{} cannot be loaded as a checkpoint"),
    (b"these are no weights", "{} cannot be loaded")])
def test_what_is_no_checkpoint_is_refused_by_name(path, content, message):
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="^" + re.escape(message.format(path))):
        load(path)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_checkpoint_is_refused_by_name(path, part):
    data = checkpoint_bytes(path)
    path.write_bytes(data[:int(part * len(data))])
    with pytest.raises(InputError, match="^" + re.escape(f"{path} cannot be loaded as a checkpoint")):
        load(path)


@pytest.mark.parametrize("new_format", [False, True])
def test_a_damaged_checkpoint_is_loaded_or_refused_by_name_whatever_the_damage(path, new_format):
    data = checkpoint_bytes(path, _use_new_zipfile_serialization=new_format)
    for i in range(0, len(data), len(data) // 150):
        for damaged in (data[:i + 1], data[:i] + bytes([data[i] ^ 0x55]) + data[i + 1:]):
            path.write_bytes(damaged)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's, of an unknown pickle protocol
                try:
                    load(path)
                except InputError as error:
                    assert str(error).startswith(str(path))


def test_a_folder_in_place_of_a_checkpoint_is_refused_by_name(tmp_path):
    with pytest.raises(InputError, match=re.escape(str(tmp_path))):
        load(tmp_path)


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(2), "text"])
def test_a_file_that_holds_no_dict_is_refused_by_name(path, content):
    torch.save(content, path)
    with pytest.raises(InputError, match=re.escape(f"{path} holds a {type(content).__name__}, not a checkpoint")):
        load(path)


class Attack:
    """Unpickled, it makes a file."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def test_a_checkpoint_that_would_run_code_is_refused_and_does_not_run_it(path):
    torch.save({"model": {"w": Attack(path.parent / "hacked")}}, path)
    with pytest.raises(InputError, match="^" + re.escape(str(path))) as caught:
        load(path)
    assert not (path.parent / "hacked").exists() and "\n" not in str(caught.value)


def test_the_refusal_of_code_does_not_advise_to_run_it(path):
    torch.save({"model": {"w": Attack(path.parent / "hacked")}}, path)
    with pytest.raises(InputError) as caught:
        load(path)
    assert "`weights_only` set to `False`" not in str(caught.value)


@pytest.mark.parametrize("wrap", [
    lambda state: state, lambda state: {"model": state}, lambda state: {f"module.{k}": v for k, v in state.items()},
    lambda state: {"model": {f"module.{k}": v for k, v in state.items()}, "fusion": "concat", "saved_epoch": 7}],
    ids=["bare", "wrapped", "DataParallel", "wrapped DataParallel"])
def test_a_model_loads_from_every_form_of_the_release(path, wrap):
    source, target = network(seed=0), network(seed=1)
    torch.save(wrap(source.state_dict()), path)
    load_model(target, load(path), path)
    torch.testing.assert_close(target.state_dict(), source.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, {"model": 5}, {"model": {}}, {"model": {"w": 1.0}}])
def test_a_checkpoint_without_weights_is_refused_by_name(path, content):
    with pytest.raises(InputError, match=re.escape(f"{path} holds no model weights")):
        state_dict_of(content, path)


def test_a_checkpoint_whose_names_are_numbers_is_refused_by_name(path):
    with pytest.raises(InputError, match=re.escape(str(path))):
        state_dict_of({0: torch.zeros(1)}, path)


@pytest.mark.parametrize("source, message", [
    (network(fusion="film"), "fusion_module.fc_x.weight not expected"),
    (network(classes=5), "fusion_module.fc_out.weight (5, 8) instead of (3, 8)"),
    (network(fusion="sum"), "fusion_module.fc_out.weight missing"), (encoder(), "audio_net.0.weight missing")])
def test_a_model_of_another_shape_is_refused_by_name_and_nothing_is_loaded(path, source, message):
    model = network(seed=1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(InputError, match=f"^{re.escape(str(path))} does not fit.*{re.escape(message)}.*--fusion_"):
        load_model(model, source.state_dict(), path)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
