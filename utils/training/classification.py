"""Classification: the data sets, what is measured on them, and a checkpoint's evaluation."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch.utils.data import DataLoader, Dataset

from dataset.clips import ClipFiles
from dataset.errors import InputError, first_few
from dataset.lists import check_every_class_has_a_clip
from models import MultimodalClassifier
from utils import distributed
from utils.distributed import print_once
from utils.training import confusion, evaluation, predictions, report
from utils.training.damage import Found, without_damaged
from utils.training.engine import Compute, evaluate
from utils.training.loading import Loaders
from utils.training.predictions import Predictions, predict
from utils.training.run import Run
from utils.training.same_data import check_no_overlap, digest_of
from utils.training.train import load_best, load_evaluated, place
from utils.training.trained import Trained


class Splits(NamedTuple):
    """The data sets: val is None without a validation set, train too when a checkpoint is only evaluated. Each has
    `clips`, with a `name` and a `label`.

    more: facts about the data for the result, beside classes and counts.
    """

    classes: Sequence[str]
    train: Dataset | None
    val: Dataset | None
    test: Dataset
    more: Mapping[str, object] = {}

    def parts(self) -> dict[str, Dataset]:
        """Those that are there."""
        return {name: part for name, part in self._asdict().items() if isinstance(part, Dataset)}

    def listed(self) -> dict[str, dict[str, str]]:
        """{split: {name of a clip: its label}}, in the order of the lists."""
        return {name: {clip.name: clip.label for clip in part.clips} for name, part in self.parts().items()}

    def facts(self) -> dict[str, object]:
        counts = {f"n_{name}": len(self.parts().get(name, ())) for name in ("train", "val", "test")}
        listed = self.listed()
        return {"classes": list(self.classes), **counts, "lists": digest_of(listed),
                "test_list": digest_of({"test": listed["test"]}), **self.more}


def usable_clips(found: Found, classes: Sequence[str], root: Path, skip_missing: bool,
                 workers: int) -> dict[str, list[ClipFiles]]:
    """The clips of each split whose files can be used; the others stop the run, or are counted and left out.

    found: {split: (clips with files, {clip: what is wrong with the others})}. workers: processes that decode images.
    Every process must call it. Raises InputError.
    """
    found = without_damaged(found, root, workers)
    with distributed.failing_together():
        accept(found, classes, root, skip_missing)
    return {name: clips for name, (clips, _) in found.items()}


def accept(found: Found, classes: Sequence[str], root: Path, skip_missing: bool) -> None:
    """Raises InputError: clips are unusable without --skip_missing, or too few are left."""
    problems = {}
    for name, (clips, wrong) in found.items():
        problems.update(wrong)
        if wrong and not clips:
            raise InputError(f"none of the {len(wrong)} {name} clips can be used. The first: "
                             f"{next(iter(wrong.values()))}")
    report.accept_problems(problems, sum(len(clips) + len(wrong) for clips, wrong in found.values()), skip_missing)
    if "train" in found:
        check_every_class_has_a_clip(classes, found["train"][0], f"{root} after --skip_missing")
    untested = sorted(set(classes) - {clip.label for clip in found["test"][0]})
    if untested:
        print_once(f"note: there is no test clip of {first_few(untested)}: metrics are over the other classes")


class Classification:
    """A task of utils/training/train.py: accuracy on the test set after every epoch; or on the validation set, and at
    the end once on the test set.

    confusions: the accuracy of every class and the most confused pairs are written too (utils/training/confusion.py).
    """

    higher_is_better = True

    def __init__(self, data: Splits, model: MultimodalClassifier, compute: Compute, loaders: Loaders,
                 confusions: bool = False):
        self.data, self.model, self.compute, self.loaders, self.confusions = data, model, compute, loaders, confusions
        self.train, self.val, self.facts = data.train, data.val, data.facts()
        self.clips, self.split = data.listed(), "val" if data.val else "test"
        self.shown = report.metric_names("accuracy", model.modalities)
        self.held_out = data.val or data.test
        self.test_loader = loaders.evaluation(data.test)
        self.held_out_loader = loaders.evaluation(data.val) if data.val else self.test_loader

    def evaluate_held_out(self) -> dict[str, float]:
        return evaluate(self.model, self.held_out_loader, self.compute)

    def evaluate_test(self) -> dict[str, float]:
        return evaluate(self.model, self.test_loader, self.compute)

    def final(self, run: Run) -> dict[str, float]:
        """The test metrics of the best epoch; its predictions are written."""
        load_best(self.model, run)
        self.write_predictions(run.folder)
        if self.confusions:
            print_once(confusion.report(self.model, self.test_loader, self.compute, self.data.classes, run.folder))
        if self.data.val:
            return self.evaluate_test()
        return {name.removeprefix("test_"): value for name, value in run.best().items() if name.startswith("test_")}

    def write_predictions(self, folder: Path) -> None:
        """predictions.npz, by the network's present weights."""
        parts = {"test": self.predictions_of(self.data.test, self.test_loader)}
        if self.data.val:
            parts["val"] = self.predictions_of(self.data.val, self.held_out_loader)
        trained = self.loaders.once(self.data.train.for_evaluation())
        mean = predict(self.model, trained, self.compute).mean(1)
        predictions.write(folder, self.model.modalities, self.data.classes, parts, mean)

    def predictions_of(self, dataset: Dataset, loader: DataLoader) -> Predictions:
        names = np.array([clip.name for clip in dataset.clips], str)
        places = {name: place for place, name in enumerate(self.data.classes)}
        labels = np.array([places[clip.label] for clip in dataset.clips])
        return Predictions(names, labels, predict(self.model, loader, self.compute))

    def evaluate_checkpoint(self, trained: Trained, compile: bool, allow_overlap: bool, output: Path | None,
                            settings: Mapping[str, object]) -> dict:
        """Evaluates the checkpoint on the test set -> what evaluation.json holds, which is written into `output`, or
        beside the checkpoint. settings: all flags. Raises InputError: of other classes, diverged, or trained on some of
        the test clips without `allow_overlap`."""
        path = trained.path
        classes = trained.facts.get("classes", list(self.data.classes))
        if classes != list(self.data.classes):
            raise InputError(f"{path} was trained on the classes {first_few(classes)}, the data has "
                             f"{first_few(self.data.classes)}: name other data with --data_root")
        check_no_overlap(trained.content, self.clips, path, allow_overlap)
        load_evaluated(self.model, trained)
        scores = evaluate(place(self.model, self.compute, compile), self.test_loader, self.compute)
        if not math.isfinite(scores["loss"]):
            raise InputError(f"the loss of {path} is {scores['loss']}: it holds the weights of a diverged run")
        precision = str(self.compute.precision).removeprefix("torch.")
        parts = report.parts_of(self.data.more)
        clips = f"{len(self.data.test)} test clips{' of ' + ', '.join(parts) if parts else ''}"
        print_once(report.evaluation(scores, self.shown, path, clips, precision))
        if self.confusions:
            folder = output or path.with_name(f"{path.stem}_evaluated")
            print_once(confusion.report(self.model, self.test_loader, self.compute, self.data.classes, folder))
        scores |= {"n_test": len(self.data.test), "test_list": self.facts["test_list"]}
        return evaluation.write(scores, trained, output, self.compute, settings)
