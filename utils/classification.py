"""From data sets and a model to a result: what every entry script that classifies does after its own preparations."""

import json
import math
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

from dataset.cremad import report_problems
from dataset.errors import InputError
from models import MultimodalClassifier, scale_lower_bound
from utils import checkpoint, distributed, options, report
from utils.distributed import say
from utils.engine import Compute, Learner, classification_loss, evaluate, fit
from utils.loading import EvaluationBatches, TrainBatches, make_loader
from utils.run import Run

IN_LAST_PT = {"model", "optimizer", "scheduler", "scaler", "history", "iterations", "wall_seconds", "facts"}


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
    tell_of_method(args, len(splits.classes), len(model.modalities))
    load_pretrained(args, model)
    learner = Learner(place(model, compute, args.compile), compute, args.optimizer, args.learning_rate,
                      args.weight_decay, args.lr_decay_step, args.lr_decay_ratio)
    run = open_run(args, learner, splits, compute)
    held_out = evaluation_loader(splits.val or splits.test, args, compute)
    try:
        fit(learner, train_loader(splits.train, args, compute), lambda: evaluate(model, held_out, compute), compute,
            classification_loss(args.lam), run, args.epochs, args.random_seed)
        return run.finish(reported_scores(args, splits, model, compute, run))
    except (KeyboardInterrupt, SystemExit):
        say(f"\nstopped after {len(run.history)} whole epochs; go on with --resume {run.folder}")
        raise


def shown_figures(model: MultimodalClassifier) -> dict[str, str]:
    """{what is measured: name of the figure}, joint first; one modality alone has no joint."""
    each = {name: f"accuracy_{name}" for name in model.modalities}
    return {"joint": "accuracy", **each} if len(each) > 1 else {model.modalities[0]: "accuracy"}


def open_run(args: Namespace, learner: Learner, splits: Splits, compute: Compute) -> Run:
    """A new run's folder with a first last.pt in it, or the resumed run at the end of its last whole epoch."""
    data = {"classes": list(splits.classes), **splits.counts()}
    saved = restore(args.resume / "last.pt", learner, data) if args.resume else None
    folder = args.resume or new_folder(args)
    events = args.tensorboard_path / folder.name if args.tensorboard_path else folder
    machine = {"device": report.device_name(compute.device), "processes": distributed.size(),
               "precision": str(compute.precision).removeprefix("torch.")}
    run = Run(folder, options.settings(args), {**data, **machine}, learner.model.modalities,
              "val" if splits.val else "test", shown_figures(learner.model),
              events_folder=events if args.use_tensorboard else None, saved=saved)
    if not saved:
        run.save_last(learner.state_dict())
    facts = ", ".join(f"{name} {value}" for name, value in run.facts.items() if name != "classes")
    say(f"run folder {folder}: {facts}")
    return run


def restore(path: Path, learner: Learner, data: Mapping[str, object]) -> dict:
    """Puts `learner` where last.pt left it -> its content. Raises InputError: not a last.pt, or of other data."""
    saved = checkpoint.load(path)
    if not saved.keys() >= IN_LAST_PT:
        raise InputError(f"{path} cannot be resumed from: it lacks {', '.join(sorted(IN_LAST_PT - saved.keys()))}")
    for name, now in data.items():
        if saved["facts"][name] != now:
            raise InputError(f"{path} was trained on other data ({name} {saved['facts'][name]}, now {now}): put the "
                             "data back as it was, or start a new run with --train")
    checkpoint.load_model(learner.model, saved, path)
    learner.load_state_dict(saved)
    return saved


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


def reported_scores(args: Namespace, splits: Splits, model: MultimodalClassifier, compute: Compute, run: Run) -> dict:
    """The figures of the best test epoch; or, chosen on validation data, of the test set with best.pt's weights, which
    `model` then holds."""
    if run.split == "test":
        return {name.removeprefix("test_"): value for name, value in run.best().items() if name.startswith("test_")}
    if distributed.is_main():
        path = run.folder / "best.pt"
        checkpoint.load_model(model, checkpoint.load(path), path)
    distributed.broadcast_model(model)
    return evaluate(model, evaluation_loader(splits.test, args, compute), compute)


def evaluate_checkpoint(args: Namespace, splits: Splits, model: MultimodalClassifier, compute: Compute) -> dict:
    """Evaluates --ckpt_path on the test set -> its figures."""
    content = checkpoint.load(args.ckpt_path)
    classes = content.get("facts", {}).get("classes", list(splits.classes))
    if classes != list(splits.classes):
        raise InputError(f"{args.ckpt_path} was trained on the classes {', '.join(classes)}, the data has "
                         f"{', '.join(splits.classes)}: name other data with --data_root")
    if "args" not in content:
        say(f"{args.ckpt_path} holds no settings: taken as --fusion_method {args.fusion_method} --mmcosine "
            f"{args.mmcosine} --scaling {args.scaling:g}")
    checkpoint.load_model(model, content, args.ckpt_path)
    scores = evaluate(place(model, compute, args.compile), evaluation_loader(splits.test, args, compute), compute)
    if not math.isfinite(scores["loss"]):
        raise InputError(f"the loss of {args.ckpt_path} is {scores['loss']}: it holds the weights of a diverged run")
    precision = str(compute.precision).removeprefix("torch.")
    say(report.evaluation(scores, shown_figures(model), args.ckpt_path, len(splits.test), precision))
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
        if path and modality not in model.modalities:
            raise InputError(f"--{modality}_pretrain {path} has no encoder to go to: --modality is {args.modality}")
        if path and not args.resume:
            checkpoint.load_encoder(model.encoder(modality), modality, path)
            say(f"{modality} encoder starts from {path}")


def tell_of_method(args: Namespace, classes: int, modalities: int) -> None:
    """Notes on settings that do not do quite what they seem to."""
    paper, tight = (scale_lower_bound(classes, modalities=modalities, tight=tight) for tight in (False, True))
    undercut = f"{paper:.3f} by the paper's Eq. 4, {tight:.3f} exactly" if args.scaling < paper else f"{tight:.3f}"
    if args.mmcosine and args.scaling < tight:
        say(f"note: --scaling {args.scaling:g} is below the lower bound for {classes} classes ({undercut}): the true "
            "class's posterior cannot reach 0.99")
    if args.lam and distributed.size() > 1:
        say("note: the contrastive loss compares the clips of each process's part of a batch, not of the whole batch")


def accept_problems(problems: Mapping[str, str], total: int, skip_missing: bool) -> None:
    """Tells which clips cannot be used; without --skip_missing raises InputError."""
    if not problems:
        return
    text = report_problems(problems, total)
    if not skip_missing:
        raise InputError(f"{text}\nMend them (the scripts/prepare_*.py extract frames and check files), or go on "
                         "without them: --skip_missing")
    say(f"{text}\nGoing on without them (--skip_missing).")


def spread_over_cards(args: Namespace, argv: Sequence[str], script: str) -> dict | None:
    """Several --gpu_ids in a plain python call: one process a card -> the run's result. None: nothing to spread."""
    if not args.train or len(args.gpu_ids) < 2 or distributed.is_launched():
        return None
    for card in range(len(args.gpu_ids)):
        distributed.choose_device(args.device, args.gpu_ids, card)  # told once, and here, when one is not there
    name = args.run_name or options.default_run_name(args)
    distributed.launch(script, [*argv, *([] if args.resume else ["--run_name", name])], len(args.gpu_ids))
    folder = args.resume or args.ckpt_path / name
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))
