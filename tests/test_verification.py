"""Embedding every utterance once and scoring trials by a matrix operation, against a loop over pairs of utterances."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from dataset.errors import InputError
from dataset.trials import Trials
from models import MultimodalClassifier
from utils.training.engine import Compute
from utils.training.loading import Loaders
from utils.training.verification import (
    Scores,
    TrialSet,
    Verification,
    VerificationData,
    cosines,
    metrics_of,
)

UTTERANCES, CLASSES = 23, 5
COMPUTE = Compute(torch.device("cpu"), torch.float32, {"audio": nn.Identity(), "visual": nn.Identity()})


class Vectors(Dataset):
    """Utterance i: two vectors of its own. Counts how often each is read."""

    def __init__(self, value: float = 1.0):
        generator = torch.Generator().manual_seed(3)
        self.x = value * torch.randn(2, UTTERANCES, 4, generator=generator)
        self.read = [0] * UTTERANCES

    def __len__(self) -> int:
        return UTTERANCES

    def __getitem__(self, index: int) -> dict:
        self.read[index] += 1
        return {"audio": self.x[0, index], "visual": self.x[1, index], "label": index}


def trial_set(value: float = 1.0) -> TrialSet:
    rng = np.random.default_rng(1)
    names = [f"id{i % 4}/{i}.wav" for i in range(UTTERANCES)]
    lists = {name: Trials(names, rng.integers(UTTERANCES, size=(count, 2)), np.arange(count) % 3 == 0)
             for name, count in (("first", 200), ("second", 30))}
    return TrialSet(lists, Vectors(value))


def make_model(mmcosine: bool, fusion: str = "gated") -> MultimodalClassifier:
    torch.manual_seed(0)
    encoders = {"audio": nn.Linear(4, 8), "visual": nn.Linear(4, 8)}
    return MultimodalClassifier(encoders, CLASSES, fusion, mmcosine, dim=8)


def score(model: MultimodalClassifier, trials: TrialSet, kind: str = "logits", compute: Compute = COMPUTE) -> Scores:
    data = VerificationData((), None, None, trials, {})
    return Verification(data, model, compute, Loaders(12, 0, 0, compute.device), kind, None).score(trials)


@torch.inference_mode()
def naive_scores(model: MultimodalClassifier, trials: TrialSet, kind: str) -> dict[str, list[float]]:
    """The first list's scores, two forward passes a trial."""
    expected = {"joint": [], "audio": [], "visual": []}
    model.eval()
    for pair in trials.lists["first"].pairs:
        outputs = [model(*(trials.utterances.x[m, [i]] for m in range(2))) for i in pair]
        if kind == "logits":
            vectors = {"joint": [out.logits[0] for out in outputs]}
            each = [out.modality_logits for out in outputs]
        else:
            each = [out.fused for out in outputs]
            parts = [[x / x.norm() if model.mmcosine else x for x in one[:, 0]] for one in each]
            vectors = {"joint": [torch.cat(part) for part in parts]}
        vectors |= {name: [one[m, 0] for one in each] for m, name in enumerate(("audio", "visual"))}
        for name, (a, b) in vectors.items():
            expected[name].append(float(a @ b / (a.norm() * b.norm())))
    return expected


@pytest.mark.parametrize("kind", ["logits", "embedding"])
@pytest.mark.parametrize("mmcosine", [False, True])
def test_scores_are_the_cosines_of_the_two_utterances_vectors(kind, mmcosine):
    model, trials = make_model(mmcosine), trial_set()
    found = score(model, trials, kind)
    expected = naive_scores(model, trials, kind)
    assert found["first"].keys() == expected.keys()
    for name, scores in found["first"].items():
        assert scores == pytest.approx(np.array(expected[name]), abs=1e-5)


def test_every_utterance_is_embedded_once_however_many_trials_need_it():
    trials = trial_set()
    score(make_model(True), trials)
    assert trials.utterances.read == [1] * UTTERANCES


def test_a_network_that_diverged_is_told_by_name():
    trials = trial_set(value=float("nan"))
    with pytest.raises(InputError, match="trials first cannot be scored: 200 of 200 scores are NaN"):
        metrics_of(score(make_model(False), trials), trials)


def test_zero_vectors_score_zero():
    vectors = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    assert cosines(vectors, np.array([[0, 1], [0, 0]])).tolist() == [0.0, 1.0]
