"""Verification: every utterance is embedded once, a trial's score is the cosine of two embeddings.

U utterances, M modalities, C identities trained on, D features, K (C or M * D) numbers of an embedding, N trials.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.data import Dataset

from dataset.errors import InputError
from dataset.trials import Trials, digest_of
from dataset.whole_files import write_whole
from models import MultimodalClassifier
from models.mmcosine import unit
from utils import distributed
from utils.distributed import print_once
from utils.training import evaluation, report
from utils.training.engine import Compute, outputs
from utils.training.loading import Loaders
from utils.training.metrics import equal_error_rate, error_rates, min_dcf
from utils.training.plots import plot_det
from utils.training.run import Run
from utils.training.train import load_best, load_evaluated, place
from utils.training.trained import Trained

P_TARGETS = (0.01, 0.05)  # priors of minDCF: the paper's and VoxSRC's
TRIALS_AT_ONCE = 512  # pairs of embeddings that are in memory at a time

Scores = Mapping[str, Mapping[str, np.ndarray]]  # {list: {"joint", "audio", "visual": (N,)}}


class TrialSet(NamedTuple):
    """Trial lists by name, the first of which chooses the epoch, and the utterances they are about (item label: the
    place of the utterance). The `pairs` of all lists are such places."""

    lists: Mapping[str, Trials]
    utterances: Dataset

    def counts(self) -> dict[str, int]:
        return {name: len(trials.labels) for name, trials in self.lists.items()}

    def digests(self) -> dict[str, str]:
        return {name: digest_of(trials) for name, trials in self.lists.items()}


class VerificationData(NamedTuple):
    """train and val are None when a checkpoint is only evaluated, val also without validation trials. facts: about the
    data, for the result. listed: names and folders of all identities in the training list, also of those held out."""

    identities: Sequence[str]
    train: Dataset | None
    val: TrialSet | None
    test: TrialSet
    facts: Mapping[str, object]
    listed: Sequence[str] = ()


class Verification:
    """A task of utils/training/train.py: error rates on the test trials after every epoch; or on validation trials,
    and at the end once on the test trials. The best epoch's scores and DET curves go into the run's folder.

    kind: what is compared, class `logits` or the fused features (`embedding`). scores_path: folder for the scores
    instead of the run's.
    """

    higher_is_better = False

    def __init__(self, data: VerificationData, model: MultimodalClassifier, compute: Compute, loaders: Loaders,
                 kind: str, scores_path: Path | None):
        self.train, self.test, self.facts = data.train, data.test, data.facts
        self.clips = {"train": dict.fromkeys(data.listed, "identity")}  # a million utterances have a digest
        self.val = None  # validation trials are of other identities
        self.model, self.compute, self.loaders = model, compute, loaders
        self.kind, self.scores_path, self.known = kind, scores_path, {}
        self.split, self.held_out = ("val", data.val) if data.val else ("test", data.test)
        self.shown = {shown_name(name, what, self.held_out): f"{prefix(name, self.held_out)}{metric}"
                      for name in self.held_out.lists
                      for what, metric in report.metric_names("eer", model.modalities).items()}

    def evaluate_held_out(self) -> dict[str, float]:
        return metrics_of(self.score(self.held_out), self.held_out)

    def evaluate_test(self) -> dict[str, float]:
        return metrics_of(self.score(self.test), self.test)

    def final(self, run: Run) -> dict[str, float]:
        """The test metrics of the best epoch."""
        load_best(self.model, run)
        scores = self.score(self.test)
        run.events.figure("result/det", write_scores(scores, self.test, self.scores_path or run.folder))
        return metrics_of(scores, self.test)

    def evaluate_checkpoint(self, trained: Trained, compile: bool, output: Path | None,
                            settings: Mapping[str, object]) -> dict:
        """Evaluates the checkpoint on the test trials -> what evaluation.json holds, which is written into `output`, or
        beside the checkpoint. settings: all flags."""
        path = trained.path
        load_evaluated(self.model, trained)
        place(self.model, self.compute, compile)
        scores = self.score(self.test)
        found = metrics_of(scores, self.test)
        folder = self.scores_path or output or path.with_name(f"{path.stem}_evaluated")
        write_scores(scores, self.test, folder)
        precision = str(self.compute.precision).removeprefix("torch.")
        print_once(f"{path} on {len(self.test.utterances)} utterances in {precision}, scores and det.png in {folder}")
        print_once(report.verification(found, self.test.counts()))
        found |= {"trials": self.test.counts(), "n_test": len(self.test.utterances)}
        return evaluation.write(found, trained, output, self.compute, settings)

    def score(self, trial_set: TrialSet) -> Scores:
        """The scores of all trials, in every process."""
        rows = self.embed(trial_set.utterances)
        vectors = dict(zip(self.model.modalities, rows, strict=True))
        if len(rows) > 1:
            vectors = {"joint": join(rows, self.kind, self.model.mmcosine), **vectors}
        scores: dict[str, dict[str, np.ndarray]] = {name: {} for name in trial_set.lists}
        for what, embeddings in vectors.items():
            embeddings = unit(embeddings)
            for name, trials in trial_set.lists.items():
                scores[name][what] = cosines(embeddings, trials.pairs)
        return scores

    @torch.inference_mode()
    def embed(self, utterances: Dataset) -> Tensor:
        """(M, U, C) modality logits, or (M, U, D) fused features for the kind `embedding`, in every process."""
        modalities, classes, dim = self.model.class_weights().shape
        logits = self.kind == "logits"
        rows = torch.zeros((modalities, len(utterances), classes if logits else dim), device=self.compute.device)
        if id(utterances) not in self.known:  # so that a cache keeps its batches
            self.known[id(utterances)] = self.loaders.evaluation(utterances)
        for output, places in outputs(self.model, self.known[id(utterances)], self.compute):
            rows[:, places] = (output.modality_logits if logits else output.fused).float()
        return distributed.sum_over_processes(rows)


def prefix(name: str, trial_set: TrialSet) -> str:
    """The beginning of the names of a list's metrics: "" for the first list, else `<list>_`."""
    return "" if name == next(iter(trial_set.lists)) else f"{name}_"


def shown_name(name: str, kind: str, trial_set: TrialSet) -> str:
    """The name of a curve or column: its kind, after the list's name for all lists but the
    first."""
    return f"{name} {kind}" if prefix(name, trial_set) else kind


def join(rows: Tensor, kind: str, mmcosine: bool) -> Tensor:
    """One embedding for each utterance, (U, K).

    rows: logits (M, U, C), whose sum over M is the joint logits; or features (M, U, D), which are
    concatenated to (U, M * D). Under MMCosine features are first scaled to length 1, because the
    head does not use their lengths.
    """
    if kind == "logits":
        return rows.sum(0)
    return torch.cat(list(unit(rows) if mmcosine else rows), dim=1)


def cosines(embeddings: Tensor, pairs: np.ndarray) -> np.ndarray:
    """Embeddings (U, K) of length 1, pairs (N, 2) of their places -> (N,)."""
    places = torch.from_numpy(pairs).to(embeddings.device)
    parts = [torch.linalg.vecdot(embeddings[part[:, 0]], embeddings[part[:, 1]])
             for part in places.split(TRIALS_AT_ONCE)]
    return torch.cat(parts).double().cpu().numpy()


def metrics_of(scores: Scores, trial_set: TrialSet) -> dict[str, float]:
    """{eer, eer_<modality>, min_dcf_<p>}, fractions; of all lists but the first with <list>_ before the name.

    Raises InputError when a score is not finite.
    """
    found = {}
    for name, by_kind in scores.items():
        labels, before = trial_set.lists[name].labels, prefix(name, trial_set)
        try:
            main, *others = by_kind
            found[f"{before}eer"] = equal_error_rate(by_kind[main], labels)
            found.update({f"{before}eer_{kind}": equal_error_rate(by_kind[kind], labels) for kind in others})
            found.update({f"{before}min_dcf_{p}": min_dcf(by_kind[main], labels, p) for p in P_TARGETS})
        except ValueError as error:
            raise InputError(f"the trials {name} cannot be scored: {error}. These are the weights of a diverged run: "
                             "try a lower --learning_rate, or --amp off") from None
    return found


def make_scores_folder(folder: Path | None) -> None:
    """Raises InputError."""
    try:
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--scores_path {folder} cannot be made ({error.strerror}): name another folder") from None


def write_scores(scores: Scores, trial_set: TrialSet, folder: Path) -> Figure:
    """Writes <list>.scores.txt (score utt1 utt2) and det.png -> the picture."""
    curves = {}
    for name, by_kind in scores.items():
        trials = trial_set.lists[name]
        main = next(iter(by_kind.values()))
        rows = zip(main.tolist(), trials.pairs.tolist(), strict=True)
        text = "".join(f"{value:.9g} {trials.names[a]} {trials.names[b]}\n" for value, (a, b) in rows)
        if distributed.is_main():
            write_whole(folder / f"{name}.scores.txt", text)
        curves.update({shown_name(name, kind, trial_set): error_rates(values, trials.labels)
                       for kind, values in by_kind.items()})
    return plot_det(curves, folder / "det.png" if distributed.is_main() else None)
