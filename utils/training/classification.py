"""Classification: the data sets, what is measured on them, and a checkpoint's evaluation."""

import math
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.data import Dataset

from dataset.clips import ClipFiles
from dataset.frontends import AUDIO_FRONTENDS, NormaliseFrames
from dataset.lists import check_every_class_has_a_clip
from models import AVClassifier, MultimodalClassifier
from utils.distributed import say, together
from utils.errors import InputError, first_few
from utils.training import checkpoint, confusion, options, report, train
from utils.training.engine import Compute, evaluate
from utils.training.run import Run
from utils.training.train import Examination, evaluation_loader, place


class Splits(NamedTuple):
    """The data sets: val is None without a validation set, train too when a checkpoint is only evaluated.

    more: what the result is to say of the data beside classes and counts.
    """

    classes: Sequence[str]
    train: Dataset | None
    val: Dataset | None
    test: Dataset
    more: Mapping[str, object] = {}

    def parts(self) -> dict[str, Dataset]:
        """Those that are there."""
        return {name: part for name, part in self._asdict().items() if isinstance(part, Dataset)}

    def facts(self) -> dict[str, object]:
        counts = {f"n_{name}": len(self.parts().get(name, ())) for name in ("train", "val", "test")}
        return {"classes": list(self.classes), **counts, **self.more}


class Built(NamedTuple):
    """What an entry script's `build` makes of its flags."""

    splits: Splits
    model: MultimodalClassifier
    compute: Compute


def build(args: Namespace, device: torch.device, make_demo: Callable[[Path], object], about: str,
          load_splits: Callable[[Namespace], Splits]) -> Built:
    """What main_CD.py and main_SSW.py make of their flags. make_demo, about: as for `train.prepare_demo`."""
    train.prepare_demo(args, make_demo, about)
    splits = together(lambda: load_splits(args))
    model = train.make_model(args, lambda: AVClassifier(
        len(splits.classes), args.fusion_method, args.mmcosine, args.scaling, options.modalities(args)))
    front_ends = {"audio": AUDIO_FRONTENDS[args.audio_frontend](), "visual": NormaliseFrames()}
    return Built(splits, model, train.make_compute(args, device, front_ends, model))


def usable_splits(args: Namespace, classes: Sequence[str], listed: Mapping[str, Sequence],
                  find: Callable[[Sequence], tuple[list[ClipFiles], dict[str, str]]],
                  make_dataset: Callable[[Namespace, Sequence[str], Sequence[ClipFiles], bool], Dataset]) -> Splits:
    """The lists, held against the files: clips that cannot be used stop here, or are counted and left out.

    listed: {"train", "val", "test": clips}. find(clips): those with files, and what is wrong with the others.
    make_dataset(args, classes, clips, whether to train on them). Raises InputError.
    """
    if not args.train:
        listed = {**listed, "train": [], "val": []}
    found, problems = {}, {}
    for name, clips in listed.items():
        found[name], wrong = find(clips)
        problems.update(wrong)
        if clips and not found[name]:
            first = next(iter(wrong.values()))
            raise InputError(f"none of the {len(clips)} {name} clips can be used. The first: {first}")
    train.accept_problems(problems, sum(map(len, listed.values())), args.skip_missing)
    if args.train:
        check_every_class_has_a_clip(classes, found["train"], f"{args.data_root} after --skip_missing")
    untested = sorted(set(classes) - {clip.label for clip in found["test"]})
    if untested:
        say(f"note: there is no test clip of {first_few(untested)}: figures are of the other classes")
    datasets = {name: make_dataset(args, classes, clips, name == "train") for name, clips in found.items() if clips}
    return Splits(classes, datasets.get("train"), datasets.get("val"), datasets["test"])


def run(args: Namespace, splits: Splits, model: MultimodalClassifier, compute: Compute,
        confusions: bool = False) -> dict:
    """Trains, or evaluates --ckpt_path -> what result.json holds, or the checkpoint's figures.

    confusions: accuracy of every class and the most confused pairs are written too (utils/confusion.py).
    """
    if not args.train:
        return evaluate_checkpoint(args, splits, model, compute, confusions)
    return train.train(args, splits.train, splits.facts(), len(splits.classes), model, compute,
                          examine(args, splits, model, compute, confusions))


def examine(args: Namespace, splits: Splits, model: MultimodalClassifier, compute: Compute,
            confusions: bool) -> Examination:
    """Accuracy on the test set after every epoch; or on the validation set, and at the end once on the test set."""
    test = evaluation_loader(splits.test, args, compute)
    held_out = evaluation_loader(splits.val, args, compute) if splits.val else test

    def of_best_epoch(run: Run) -> dict[str, float]:
        if splits.val or confusions:
            train.load_best(model, run)
        if confusions:
            say(confusion.report(model, test, compute, splits.classes, run.folder))
        if splits.val:
            return evaluate(model, test, compute)
        return {name.removeprefix("test_"): value for name, value in run.best().items() if name.startswith("test_")}

    return Examination("val" if splits.val else "test", report.figure_names("accuracy", model.modalities), True,
                       lambda: evaluate(model, held_out, compute), of_best_epoch)


def evaluate_checkpoint(args: Namespace, splits: Splits, model: MultimodalClassifier, compute: Compute,
                        confusions: bool) -> dict:
    """Evaluates --ckpt_path on the test set -> its figures."""
    content = checkpoint.load(args.ckpt_path)
    classes = content.get("facts", {}).get("classes", list(splits.classes))
    if classes != list(splits.classes):
        raise InputError(f"{args.ckpt_path} was trained on the classes {', '.join(classes)}, the data has "
                         f"{', '.join(splits.classes)}: name other data with --data_root")
    train.load_evaluated(args, model, content)
    test = evaluation_loader(splits.test, args, compute)
    scores = evaluate(place(model, compute, args.compile), test, compute)
    if not math.isfinite(scores["loss"]):
        raise InputError(f"the loss of {args.ckpt_path} is {scores['loss']}: it holds the weights of a diverged run")
    precision = str(compute.precision).removeprefix("torch.")
    clips = f"{len(splits.test)} test clips" + report.of_collections(splits.more)
    say(report.evaluation(scores, report.figure_names("accuracy", model.modalities), args.ckpt_path, clips, precision))
    if confusions:
        folder = args.ckpt_path.with_name(f"{args.ckpt_path.stem}_evaluated")
        say(confusion.report(model, test, compute, splits.classes, folder))
    return {**scores, "n_test": len(splits.test), "ckpt_path": str(args.ckpt_path)}
