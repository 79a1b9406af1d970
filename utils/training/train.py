"""From a network and its data to a finished run: what every entry script does after its own preparations."""

import json
import math
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from models import MultimodalClassifier, scale_lower_bound
from utils import distributed
from utils.balancing import METHODS, Losses
from utils.distributed import say
from utils.errors import InputError, report_problems
from utils.training import checkpoint, options, report
from utils.training.engine import PARTS, Compute, Learner, classification_loss, fit, outputs, train_one_epoch
from utils.training.loading import EvaluationBatches, TrainBatches, make_loader, mixed_seed
from utils.training.precision import choose_precision
from utils.training.pretraining import Origin, load_pretrained
from utils.training.run import Run
from utils.training.tensorboard import events_folder

IN_LAST_PT = {*PARTS, "history", "class_norms", "iterations", "wall_seconds", "facts"}
HELD_OUT_OF_TRIALS = 0.2  # of the training clips


class Examination(NamedTuple):
    """What is measured: after every epoch on held-out data, which chooses the best one, and once at the end.

    split: the name of the held-out data, "test" (the paper's protocol) or "val".
    shown: {what is measured: name of the figure}, the one that chooses first; figures are fractions.
    """

    split: str
    shown: Mapping[str, str]
    higher_is_better: bool
    held_out: Callable[[], dict[str, float]]
    final: Callable[[Run], dict[str, float]]


def on_devices(args: Namespace, argv: Sequence[str], script: str, work: Callable[[torch.device], dict]) -> dict:
    """work(device) in this process, or under --gpu_ids 0,1 in a process a card -> the result."""
    if args.train and len(args.gpu_ids) > 1 and not distributed.is_launched():
        return one_process_a_card(args, argv, script)
    with distributed.session(args.device, args.gpu_ids) as device:
        return work(device)


def one_process_a_card(args: Namespace, argv: Sequence[str], script: str) -> dict:
    for card in range(len(args.gpu_ids)):
        distributed.choose_device(args.device, args.gpu_ids, card)  # told once, and here, when one is not there
    name = args.run_name or options.default_run_name(args)
    distributed.launch(script, [*argv, *([] if args.resume else ["--run_name", name])], len(args.gpu_ids))
    folder = args.resume or args.ckpt_path / name
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


def prepare_demo(args: Namespace, make_demo: Callable[[Path], object], about: str) -> None:
    """Under --demo make_demo(--data_root) makes the data, in one process on each machine."""
    if args.demo:
        say(f"DEMO DATA, rendered into {args.data_root}: what is learnt from it says nothing about {about}")
    distributed.together(lambda: make_demo(args.data_root) if args.demo and distributed.is_first_here() else None)


def make_model(args: Namespace, build: Callable[[], MultimodalClassifier]) -> MultimodalClassifier:
    """build() under --random_seed. Raises InputError: a fusion that this many modalities cannot have."""
    torch.manual_seed(args.random_seed)
    try:
        return build()
    except ValueError as error:
        raise InputError(f"{error}: choose another --fusion_method for --modality {args.modality}") from None


def make_compute(args: Namespace, device: torch.device, front_ends: Mapping[str, nn.Module],
                 model: MultimodalClassifier) -> Compute:
    """front_ends: {modality: module}, also of modalities that the model has not."""
    placed = {name: front_ends[name].to(device) for name in model.modalities}
    return Compute(device, choose_precision(args.amp, device), placed)


def train(args: Namespace, dataset: Dataset, facts: Mapping[str, object], num_classes: int,
          model: MultimodalClassifier, compute: Compute, examination: Examination) -> dict:
    """Trains as the flags say, or goes on with --resume -> what result.json holds. facts: of the data."""
    tell_of_method(args, num_classes, len(model.modalities))
    origins = load_pretrained(args, model)
    learner = make_learner(args, place(model, compute, args.compile), compute)
    run = open_run(args, learner, facts, origins, compute, examination)
    try:
        if not run.history:
            learner.method.prepare(learner, args.epochs, partial(trial, args, dataset, learner, compute),
                                   lambda: run.save_last(learner.state_dict()))
        run.facts.update(learner.method.facts())
        fit(learner, train_loader(dataset, args, compute), examination.held_out, compute,
            classification_loss(args.lam), run, args.epochs, args.random_seed)
        return run.finish(examination.final(run))
    except (KeyboardInterrupt, SystemExit):
        say(f"\nstopped after {len(run.history)} whole epochs; go on with --resume {run.folder}")
        raise


def make_learner(args: Namespace, model: MultimodalClassifier, compute: Compute) -> Learner:
    kind = METHODS[args.modulation]
    method = kind(model, **{flag: getattr(args, flag) for flag in kind.uses()})
    return Learner(model, compute, args.optimizer, args.learning_rate, args.weight_decay, args.lr_decay_step,
                   args.lr_decay_ratio, method)


def trial(args: Namespace, dataset: Dataset, learner: Learner, compute: Compute, epochs: int,
          losses: Losses) -> tuple[Tensor, Tensor]:
    """Trains on a seeded part of the training clips for so many epochs of the run's schedule -> means of `losses` over
    this part and over the held-out one, clips as they come in training."""
    order = np.random.default_rng(args.random_seed).permutation(len(dataset)).tolist()
    count = max(1, round(HELD_OUT_OF_TRIALS * len(dataset)))
    trained, held_out = Subset(dataset, order[count:]), Subset(dataset, order[:count])
    loader = train_loader(trained, args, compute)
    for epoch in range(1, epochs + 1):
        torch.manual_seed(mixed_seed(args.random_seed, epoch))
        loader.batch_sampler.epoch = epoch
        found = train_one_epoch(learner, loader, compute, classification_loss(args.lam), log=lambda rows: None)
        if not math.isfinite(found["loss"]):
            raise InputError(f"the loss is {found['loss']} in epoch {epoch} of a trial of --modulation "
                             f"{args.modulation}: try a lower --learning_rate, or --amp off")
        learner.scheduler.step()
        say(f"trial, epoch {epoch}/{epochs}: loss {found['loss']:.4f}")
    distributed.broadcast_model(learner.model)
    return tuple(mean_losses(args, part, learner, compute, losses) for part in (trained, held_out))


@torch.no_grad()
def mean_losses(args: Namespace, part: Dataset, learner: Learner, compute: Compute, losses: Losses) -> Tensor:
    """(1 + M,), over every clip of `part` once, over all processes."""
    total = torch.zeros(1 + len(learner.model.modalities), device=compute.device)
    for output, labels in outputs(learner.model, evaluation_loader(part, args, compute), compute):
        total += len(labels) * losses(output, labels, F.cross_entropy(output.logits, labels))
    return distributed.sum_over_processes(total) / len(part)


def open_run(args: Namespace, learner: Learner, facts: Mapping[str, object], origins: Mapping[str, Origin],
             compute: Compute, examination: Examination) -> Run:
    """A new run's folder with a first last.pt in it, or the resumed run at the end of its last whole epoch."""
    saved = restore(args.resume / "last.pt", learner, facts) if args.resume else None
    origins = saved["facts"].get("pretrained", {}) if saved else origins
    folder = args.resume or new_folder(args)
    machine = {"device": report.device_name(compute.device), "processes": distributed.size(),
               "precision": str(compute.precision).removeprefix("torch.")}
    run = Run(folder, options.settings(args), {**facts, "pretrained": origins, **machine}, learner.model.modalities,
              examination.split, examination.shown, examination.higher_is_better,
              events_folder(folder, args.tensorboard_path) if args.use_tensorboard else None, saved)
    if not saved:
        run.save_last(learner.state_dict())
    told = ", ".join(f"{name} {value}" for name, value in run.facts.items()
                     if name not in {"classes", "pretrained"} and value is not None)
    say(f"run folder {folder}: {told}")
    return run


def restore(path: Path, learner: Learner, facts: Mapping[str, object]) -> dict:
    """Puts `learner` where last.pt left it -> its content. Raises InputError: not a last.pt, or of other data."""
    saved = checkpoint.load(path)
    if not saved.keys() >= IN_LAST_PT:
        raise InputError(f"{path} cannot be resumed from: it lacks {', '.join(sorted(IN_LAST_PT - saved.keys()))}")
    check_same_data(saved["facts"], facts, path, "start a new run with --train")
    checkpoint.load_model(learner.model, saved, path)
    learner.load_state_dict(saved)
    return saved


def check_same_data(before: Mapping[str, object], now: Mapping[str, object], path: Path, otherwise: str) -> None:
    """Raises InputError: the checkpoint `path`, whose facts are `before`, was trained on other data than these."""
    for name, value in now.items():
        if before.get(name) != value:
            raise InputError(f"{path} was trained on other data ({name} {before.get(name)}, now {value}): put the data "
                             f"back as it was, or {otherwise}")


def new_folder(args: Namespace) -> Path:
    folder = args.ckpt_path / distributed.from_main(args.run_name or options.default_run_name(args))
    distributed.together(lambda: make_folder(folder) if distributed.is_main() else None)
    return folder


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        go_on = f", or go on with that run: --resume {folder}" if folder.exists() else ""
        raise InputError(f"the run's folder {folder} cannot be made ({error.strerror}): choose another --run_name or "
                         f"--ckpt_path{go_on}") from None


def load_best(model: MultimodalClassifier, run: Run) -> None:
    """The weights of the run's best epoch, in every process."""
    if distributed.is_main():
        path = run.folder / "best.pt"
        checkpoint.load_model(model, checkpoint.load(path), path)
    distributed.broadcast_model(model)


def load_evaluated(args: Namespace, model: MultimodalClassifier, content: Mapping) -> None:
    """The weights of the checkpoint --ckpt_path, whose content it is."""
    if "args" not in content:
        say(f"{args.ckpt_path} holds no settings: taken as --fusion_method {args.fusion_method} --mmcosine "
            f"{args.mmcosine} --scaling {args.scaling:g}")
    checkpoint.load_model(model, content, args.ckpt_path)


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


def tell_of_method(args: Namespace, classes: int, modalities: int) -> None:
    """Notes on settings that do not do quite what they seem to."""
    paper, tight = (scale_lower_bound(classes, modalities=modalities, tight=tight) for tight in (False, True))
    undercut = f"{paper:.3f} by the paper's Eq. 4, {tight:.3f} exactly" if args.scaling < paper else f"{tight:.3f}"
    if args.mmcosine and args.scaling < tight:
        say(f"note: --scaling {args.scaling:g} is below the lower bound for {classes} classes ({undercut}): the true "
            "class's posterior cannot reach 0.99")
    if args.lam and distributed.size() > 1:
        say("note: the contrastive loss compares the clips of each process's part of a batch, not of the whole batch")


def accept_problems(problems: Mapping[str, str], total: int, skip_missing: bool, what: str = "clips") -> None:
    """Tells which clips cannot be used; without --skip_missing raises InputError."""
    if not problems:
        return
    text = report_problems(problems, total, what)
    if not skip_missing:
        raise InputError(f"{text}\nMend them (the scripts/prepare_*.py extract frames and check files), or go on "
                         "without them: --skip_missing")
    say(f"{text}\nGoing on without them (--skip_missing).")
