"""From data sets and a model to a result: what every entry script that classifies does after its own preparations."""

import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

from dataset.errors import InputError
from models import MultimodalClassifier, scale_lower_bound
from utils import checkpoint, distributed, options, report
from utils.distributed import say
from utils.engine import Compute, Learner, classification_loss, evaluate, fit
from utils.loading import EvaluationBatches, TrainBatches, make_loader
from utils.run import Run


class Splits(NamedTuple):
    """The data sets: val is None without a validation set, train too when a checkpoint is only evaluated."""

    classes: Sequence[str]
    train: Dataset | None
    val: Dataset | None
    test: Dataset

    def counts(self) -> dict[str, int]:
        return {f"n_{name}": len(getattr(self, name) or ()) for name in ("train", "val", "test")}


def train(args: Namespace, splits: Splits, model: MultimodalClassifier, compute: Compute) -> dict:
    """Trains as the flags say, or goes on with --resume -> what result.json holds."""
    warn_of_small_scale(args, len(splits.classes), len(model.modalities))
    load_pretrained(args, model)
    learner = Learner(place(model, compute, args.compile), compute, args.optimizer, args.learning_rate,
                      args.weight_decay, args.lr_decay_step, args.lr_decay_ratio)
    run = open_run(args, learner, splits, compute)
    held_out = evaluation_loader(splits.val or splits.test, args, compute)
    try:
        fit(learner, train_loader(splits.train, args, compute), held_out, compute, classification_loss(args.lam), run,
            args.epochs, args.random_seed)
    except (KeyboardInterrupt, SystemExit):
        say(f"\nstopped in epoch {len(run.history) + 1}; go on with --resume {run.folder}")
        raise
    facts = {**splits.counts(), "device": report.device_name(compute.device),
             "precision": str(compute.precision).removeprefix("torch."), "processes": distributed.size()}
    return run.finish(final_scores(args, splits, learner, compute, run), facts)


def open_run(args: Namespace, learner: Learner, splits: Splits, compute: Compute) -> Run:
    """A new run's folder with a first last.pt in it, or the resumed run at the end of its last whole epoch."""
    split = "val" if splits.val else "test"
    saved = None
    if args.resume:
        saved = checkpoint.load(args.resume / "last.pt")
        learner.load_state_dict(saved)
    folder = args.resume or new_folder(args)
    events = args.tensorboard_path / folder.name if args.tensorboard_path else folder
    run = Run(folder, options.settings(args), learner.model.modalities, split,
              events if args.use_tensorboard else None, saved)
    if not saved:
        run.save_last(learner.state_dict())
    say(f"run folder {folder}, {report.device_name(compute.device)}, {compute.precision}, "
        f"{', '.join(f'{name} {count}' for name, count in splits.counts().items())}, {len(splits.classes)} classes")
    return run


def new_folder(args: Namespace) -> Path:
    folder = args.ckpt_path / (args.run_name or options.default_run_name(args))
    distributed.on_main(lambda: make_folder(folder))
    return folder


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"the run's folder {folder} cannot be made ({error.strerror}): choose another --run_name or "
                         f"--ckpt_path, or go on with that run: --resume {folder}") from None


def final_scores(args: Namespace, splits: Splits, learner: Learner, compute: Compute, run: Run) -> dict:
    """The figures to report: those of the best test epoch, or the test set's at the best validation epoch."""
    if run.split == "test":
        return {name.removeprefix("test_"): value for name, value in run.best().items() if name.startswith("test_")}
    if distributed.is_main():
        path = run.folder / "best.pt"
        checkpoint.load_model(learner.model, checkpoint.load(path), path)
    distributed.broadcast_model(learner.model)
    return evaluate(learner.model, evaluation_loader(splits.test, args, compute), compute)


def test(args: Namespace, splits: Splits, model: MultimodalClassifier, compute: Compute) -> dict:
    """Evaluates --ckpt_path on the test set -> its figures."""
    content = checkpoint.load(args.ckpt_path)
    if "args" not in content:
        say(f"{args.ckpt_path} holds no settings: taken as --fusion_method {args.fusion_method} --mmcosine "
            f"{args.mmcosine} --scaling {args.scaling:g}")
    checkpoint.load_model(model, content, args.ckpt_path)
    scores = evaluate(place(model, compute, args.compile), evaluation_loader(splits.test, args, compute), compute)
    say(report.evaluation(scores, model.modalities, args.ckpt_path, len(splits.test)))
    return {**scores, "n_test": len(splits.test), "ckpt_path": str(args.ckpt_path)}


def place(model: MultimodalClassifier, compute: Compute, compiled: bool) -> MultimodalClassifier:
    model.to(compute.device, memory_format=torch.channels_last)
    if compiled:
        model.compile()  # in place: state-dict names stay as they are
    return model


def train_loader(dataset: Dataset, args: Namespace, compute: Compute) -> DataLoader:
    batches = TrainBatches(len(dataset), args.batch_size, args.random_seed, distributed.rank(), distributed.size())
    return make_loader(dataset, batches, args.random_seed, args.num_workers, compute.device)


def evaluation_loader(dataset: Dataset, args: Namespace, compute: Compute) -> DataLoader:
    batches = EvaluationBatches(len(dataset), args.batch_size, distributed.rank(), distributed.size())
    return make_loader(dataset, batches, args.random_seed, args.num_workers, compute.device)


def load_pretrained(args: Namespace, model: MultimodalClassifier) -> None:
    for modality, path in (("audio", args.audio_pretrain), ("visual", args.visual_pretrain)):
        if path and modality in model.modalities and not args.resume:
            checkpoint.load_encoder(model.encoder(modality), modality, path)
            say(f"{modality} encoder starts from {path}")


def warn_of_small_scale(args: Namespace, classes: int, modalities: int) -> None:
    paper, tight = (scale_lower_bound(classes, modalities=modalities, tight=tight) for tight in (False, True))
    if args.mmcosine and args.scaling < tight:
        say(f"note: --scaling {args.scaling:g} is below the lower bound for {classes} classes, {paper:.3f} by the "
            f"paper's Eq. 4 ({tight:.3f} without its loose step): the true class's posterior cannot reach 0.99")


def spread_over_cards(args: Namespace, argv: Sequence[str], script: str) -> dict | None:
    """Several --gpu_ids in a plain python call: one process a card -> the run's result. None: nothing to spread."""
    if not args.train or len(args.gpu_ids) < 2 or distributed.is_launched():
        return None
    folder = args.resume or args.ckpt_path / (args.run_name or options.default_run_name(args))
    for card in range(len(args.gpu_ids)):
        distributed.choose_device(args.device, args.gpu_ids, card)  # told once, and here, when one is not there
    named = [] if args.resume else ["--run_name", folder.name]
    distributed.launch(script, [*argv, *named], len(args.gpu_ids))
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))
