"""Verification: every utterance is embedded once, a trial's score is the cosine of two embeddings.

U utterances, M modalities, C identities trained on, D features, K (C or M * D) numbers of an embedding, N trials.
"""

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.data import Dataset

from dataset.identities import Trials
from models import MultimodalClassifier
from models.mmcosine import unit
from utils import distributed
from utils.distributed import say
from utils.errors import InputError
from utils.training import checkpoint, report, train
from utils.training.engine import Compute, outputs
from utils.training.metrics import equal_error_rate, error_rates, min_dcf
from utils.training.plots import plot_det
from utils.training.run import Run
from utils.training.train import Examination, evaluation_loader, place
from utils.whole_files import write_whole

SCORES = ("logits", "embedding")
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


def examine(args: Namespace, test: TrialSet, val: TrialSet | None, model: MultimodalClassifier,
            compute: Compute) -> Examination:
    """Error rates on the test trials after every epoch; or on the validation trials, and at the end once on the test
    trials. The best epoch's scores and DET curves go into the run's folder."""

    def final(run: Run) -> dict[str, float]:
        train.load_best(model, run)
        scores = score(args, test, model, compute)
        run.events.figure("result/det", write_scores(scores, test, args.scores_path or run.folder))
        return figures(scores, test)

    held_out = val or test
    shown = {shown_name(name, kind, held_out): f"{prefix(name, held_out)}{figure}"
             for name in held_out.lists for kind, figure in report.figure_names("eer", model.modalities).items()}
    return Examination("val" if val else "test", shown, False,
                       lambda: figures(score(args, held_out, model, compute), held_out), final)


def prefix(name: str, trial_set: TrialSet) -> str:
    """What the figures of a list begin with: nothing for the first one."""
    return "" if name == next(iter(trial_set.lists)) else f"{name}_"


def shown_name(name: str, kind: str, trial_set: TrialSet) -> str:
    """What a curve or a column is called: by its kind, for all lists but the first with the list's name before."""
    return f"{name} {kind}" if prefix(name, trial_set) else kind


def score(args: Namespace, trial_set: TrialSet, model: MultimodalClassifier, compute: Compute) -> Scores:
    """The scores of all trials, in every process."""
    rows = embed(model, trial_set.utterances, args, compute)
    vectors = dict(zip(model.modalities, rows, strict=True))
    if len(rows) > 1:
        vectors = {"joint": join(rows, args.score, model.mmcosine), **vectors}
    scores: dict[str, dict[str, np.ndarray]] = {name: {} for name in trial_set.lists}
    for kind, embeddings in vectors.items():
        embeddings = unit(embeddings)
        for name, trials in trial_set.lists.items():
            scores[name][kind] = cosines(embeddings, trials.pairs)
    return scores


@torch.inference_mode()
def embed(model: MultimodalClassifier, utterances: Dataset, args: Namespace, compute: Compute) -> Tensor:
    """(M, U, C) modality logits, or (M, U, D) fused features with --score embedding, in every process."""
    modalities, classes, dim = model.class_weights().shape
    shape = (modalities, len(utterances), classes if args.score == "logits" else dim)
    rows = torch.zeros(shape, device=compute.device)
    for output, places in outputs(model, evaluation_loader(utterances, args, compute), compute):
        rows[:, places] = (output.modality_logits if args.score == "logits" else output.fused).float()
    return distributed.sum_over_processes(rows)


def join(rows: Tensor, kind: str, mmcosine: bool) -> Tensor:
    """(M, U, C) logits -> the joint logits (U, C). (M, U, D) features -> side by side (U, M * D); under MMCosine, to
    which their lengths mean nothing, each of length 1."""
    if kind == "logits":
        return rows.sum(0)
    return torch.cat(list(unit(rows) if mmcosine else rows), dim=1)


def cosines(embeddings: Tensor, pairs: np.ndarray) -> np.ndarray:
    """Embeddings (U, K) of length 1, pairs (N, 2) of their places -> (N,)."""
    places = torch.from_numpy(pairs).to(embeddings.device)
    parts = [torch.linalg.vecdot(embeddings[part[:, 0]], embeddings[part[:, 1]])
             for part in places.split(TRIALS_AT_ONCE)]
    return torch.cat(parts).double().cpu().numpy()


def figures(scores: Scores, trial_set: TrialSet) -> dict[str, float]:
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


def evaluate_checkpoint(args: Namespace, test: TrialSet, model: MultimodalClassifier, compute: Compute) -> dict:
    """Evaluates --ckpt_path on the trials -> its figures."""
    train.load_evaluated(args, model, checkpoint.load(args.ckpt_path))
    scores = score(args, test, place(model, compute, args.compile), compute)
    found = figures(scores, test)
    folder = args.scores_path or args.ckpt_path.with_name(f"{args.ckpt_path.stem}_evaluated")
    write_scores(scores, test, folder)
    precision = str(compute.precision).removeprefix("torch.")
    say(f"{args.ckpt_path} on {len(test.utterances)} utterances in {precision}, scores and det.png in {folder}")
    say(report.verification(found, test.counts()))
    return {**found, "trials": test.counts(), "n_test": len(test.utterances), "ckpt_path": str(args.ckpt_path)}
