"""From a task to a finished run: what every entry script does after its own preparations."""

import shlex
import time
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from dataset.errors import DiskError, InputError
from models import MultimodalClassifier, scale_lower_bound
from models.balancing import make_method
from models.balancing.method import MethodError
from models.fusion import FUSIONS
from utils import distributed
from utils.distributed import print_once
from utils.failures import stops_first
from utils.training import checkpoint, presets, report, run_folder
from utils.training.engine import Compute, Learner, train_one_epoch
from utils.training.gradient_log import GradientLog
from utils.training.loading import Loaders, mixed_seed
from utils.training.plan import Optimisation, Output, Plan
from utils.training.precision import choice
from utils.training.pretraining import Origin, load_pretrained
from utils.training.restore import in_own_precision, restore
from utils.training.run import Run
from utils.training.same_data import Clips
from utils.training.trained import Trained
from utils.training.trial import Trial, all_clips, hold_out, sample

ORIGINS = ("pretrained", "teachers")  # facts about where weights come from


class Task(Protocol):
    """What is learnt and how it is measured: classification.py and verification.py have one each.

    train: the training clips. val: clips of the same classes held out from them, if there are any. facts: about the
    data, for the result. clips: {split: {name: label}} of what is listed, for the checkpoints; {} where the facts have
    a digest of the lists instead. split: the name of the held-out data that chooses the epoch, "test" (the paper's
    protocol) or "val". shown: {what is measured: name of the metric}, the one that chooses first; metrics are
    fractions. evaluate_held_out() measures after every epoch, evaluate_test() too where that is wanted, final(run)
    once at the end.
    """

    train: Dataset
    val: Dataset | None
    model: MultimodalClassifier
    compute: Compute
    loaders: Loaders
    facts: Mapping[str, object]
    clips: Clips
    split: str
    shown: Mapping[str, str]
    higher_is_better: bool

    def evaluate_held_out(self) -> dict[str, float]: ...
    def evaluate_test(self) -> dict[str, float]: ...
    def final(self, run: Run) -> dict[str, float]: ...


def train(task: Task, plan: Plan) -> dict:
    """Trains the task's network, or continues the run in the plan's folder -> what result.json holds."""
    optimisation, output = plan.optimisation, plan.output
    if output.resumed and output.settings["amp"] == "auto":
        task.compute = in_own_precision(task.compute, output.resumed)
    model, compute = task.model, task.compute
    if told := presets.note(output.settings):
        print_once(told)
    warn_about_settings(model, optimisation.lam, optimisation.accumulate)
    encoders = {name: model.encoder(name) for name in model.modalities}
    origins = {}
    if not output.resumed:
        origins["pretrained"] = load_pretrained(encoders, plan.encoders.starts, output.settings, task.clips)
    for encoder in encoders.values():
        encoder.requires_grad_(not plan.encoders.frozen)
    try:
        method = make_method(plan.balancing.modulation, model, plan.balancing.settings)
    except ValueError as error:
        raise InputError(f"--modulation {plan.balancing.modulation}: {error}") from error
    if plan.encoders.teachers and not output.resumed:
        origins["teachers"] = load_pretrained(method.teachers, plan.encoders.teachers, output.settings, task.clips)
    learner = Learner(place(model, compute, optimisation.compile), compute, optimisation.optimizer,
                      optimisation.learning_rate, optimisation.weight_decay, optimisation.lr_decay_step,
                      optimisation.lr_decay_ratio, method, optimisation.accumulate)
    with run_folder.held(output.folder, bool(output.resumed)):
        run = open_run(task, learner, output, origins)
        if output.resumed:
            output.resumed.content.clear()  # the learner and the run have it now
        return carry_out(task, learner, run, optimisation)


def carry_out(task: Task, learner: Learner, run: Run, optimisation: Optimisation) -> dict:
    """From the opened run to what its result.json holds; what ends it earlier says how to continue."""
    epochs, seed, lam = optimisation.epochs, optimisation.random_seed, optimisation.lam
    try:
        with stops_first():
            if not run.resumed:
                run.save_last(learner.state_dict())
            if not run.history:
                trial = Trial(learner, task.train, task.loaders, seed, lam, run)
                learner.prepare(epochs, trial)
            run.facts.update(learner.method.facts())
            fit(task, learner, run, epochs, seed, lam)
            return run.finish(task.final(run))
    except (KeyboardInterrupt, SystemExit):
        if (run.folder / "last.pt").is_file():
            print_once(f"\nstopped after {report.whole_epochs(len(run.history))}; continue with --resume "
                       f"{shlex.quote(str(run.folder))}")
        raise
    except MethodError as error:
        raise InputError(str(error)) from error
    except DiskError as error:
        if not (run.folder / "last.pt").is_file():
            raise DiskError(f"{error}. Nothing of the run is kept: fix this, then start it again") from error
        raise DiskError(f"{error}. {run.folder / 'last.pt'} holds {report.whole_epochs(run.saved_epochs)} of the "
                        f"run: fix this, then continue with --resume {shlex.quote(str(run.folder))}") from error
    finally:
        run.events.close()  # or its thread writes on


def fit(task: Task, learner: Learner, run: Run, epochs: int, seed: int, lam: float) -> None:
    """Trains from where `run` stands up to `epochs`; after each, held-out data is evaluated and the epoch recorded."""
    dataset = task.train
    if learner.method.needs_held_out:
        dataset, learner.clips = hold_out(task.train, task.val, task.loaders, seed)
        run.facts.update(n_trained=len(dataset), n_held_out_by_method=len(learner.clips.held_out.dataset))
    elif learner.method.needs_sample:
        learner.clips = sample(task.train, len(learner.model.class_weights()[0]), task.loaders, seed)
    elif learner.method.needs_training_clips:
        learner.clips = all_clips(task.train, task.loaders)
    learner.method.begin_run(epochs)
    loader = task.loaders.training(dataset)
    gradients = GradientLog(learner.accumulate) if run.settings.get("log_gradients") else None
    begun = len(run.history)
    started = time.perf_counter()
    for epoch in range(begun + 1, epochs + 1):
        torch.manual_seed(mixed_seed(seed, epoch))  # for whatever a step draws: the same after a resume
        learner.begin_epoch(epoch)
        loader.batch_sampler.epoch = epoch
        start = time.perf_counter()
        lr = learner.scheduler.get_last_lr()[0]
        left = report.time_left(start - started, epoch - 1 - begun, epochs - begun)
        train = train_one_epoch(learner, loader, lam, run, f"epoch {epoch}/{epochs}{left}", gradients)
        learner.scheduler.step()
        balance = {"method": learner.end_epoch()}
        if gradients:
            balance["gradient"] = gradients.means(learner.model.modalities)
        seconds = time.perf_counter() - start
        held_out, test = task.evaluate_held_out(), task.evaluate_test() if run.tests_every_epoch else {}
        count = loader.batch_sampler.clips
        norms = class_norms(learner.model)
        train.update(lr=lr, seconds=seconds, clips_per_second=count / seconds,
                     **{f"weight_norm_{name}": norm for name, norm in
                        zip(learner.model.modalities, norms.mean(1).tolist(), strict=True)})
        run.end_epoch(train, held_out, norms, learner.state_dict(), test, balance)


def class_norms(model: MultimodalClassifier) -> Tensor:
    """(M, C): ||W_m,c||, how the head weighs the modalities; their means over c are the metrics weight_norm_<m>."""
    return torch.linalg.vector_norm(model.class_weights().detach(), dim=-1)


def open_run(task: Task, learner: Learner, output: Output, origins: Mapping[str, Mapping[str, Origin]]) -> Run:
    """A new run, or the resumed run at the end of its last whole epoch. origins: {"pretrained" and, if there are any,
    "teachers": {modality: where its weights come from}}"""
    folder = output.folder
    saved = restore(output.resumed, learner, task.facts, task.clips) if output.resumed else None
    if saved:
        origins = {"pretrained": {}, **{name: saved["facts"][name] for name in ORIGINS if name in saved["facts"]}}
    facts = {**task.facts, "modalities": list(learner.model.modalities), **origins,
             **report.described(task.compute.device, task.compute.precision),
             "precision_reason": choice(str(output.settings["amp"]), task.compute.device).reason,
             "processes": distributed.size()}
    if saved:
        facts["precision_reason"] = saved["facts"].get("precision_reason", "as the run was started")
    run = Run(folder, output.settings, facts, learner.model.modalities, task.split, task.shown, task.higher_is_better,
              output.events_folder, task.clips, saved)
    told = ", ".join(f"{name} {value}" for name, value in run.facts.items()
                     if name not in {"classes", *ORIGINS, "modalities"} and value is not None)
    print_once(f"run folder {folder}: {told}")
    return run


def place(model: MultimodalClassifier, compute: Compute, compiled: bool) -> MultimodalClassifier:
    """The model on the device, in the memory layout that convolutions prefer; `compiled` by torch.compile."""
    model.to(compute.device, memory_format=torch.channels_last)
    if compiled:
        model.compile()  # in place: state-dict names stay as they are
    return model


def load_best(model: MultimodalClassifier, run: Run) -> None:
    """The weights of the run's best epoch, in every process."""
    if distributed.is_main():
        path = run.folder / "best.pt"
        checkpoint.load_model(model, checkpoint.load(path), path)
    distributed.broadcast_model(model)


def load_evaluated(model: MultimodalClassifier, trained: Trained) -> None:
    """Loads the weights of what is evaluated."""
    path = trained.path
    if not trained.settings:
        fusion = next(name for name, kind in FUSIONS.items() if type(model.fusion_module) is kind)
        print_once(f"{path} holds no settings: taken as --fusion_method {fusion} --mmcosine {model.mmcosine} "
                   f"--scaling {model.scaling:g}")
    checkpoint.load_model(model, trained.content, path)


def warn_about_settings(model: MultimodalClassifier, lam: float, accumulate: int) -> None:
    """Notes on settings that do not do quite what they seem to."""
    modalities, classes, _ = model.class_weights().shape
    paper, tight = (scale_lower_bound(classes, modalities=modalities, tight=tight) for tight in (False, True))
    undercut = f"{paper:.3f} by the paper's Eq. 4, {tight:.3f} exactly" if model.scaling < paper else f"{tight:.3f}"
    if model.mmcosine and model.scaling < tight:
        print_once(f"note: --scaling {model.scaling:g} is below the lower bound for {classes} classes ({undercut}): "
                   "the true class's posterior cannot reach 0.99")
    if model.mmcosine and modalities > 1:
        alone = scale_lower_bound(classes, modalities=1, tight=True)
        print_once(f"MMCosine with s = {model.scaling:g}: between {tight:.2f} and {alone:.2f} the loss needs every "
                   "modality; above that a single one can bring the true class to 0.99")
    if lam and (distributed.size() > 1 or accumulate > 1):
        whose = "each process's part" if distributed.size() > 1 else "each of the --accumulate parts"
        print_once(f"note: the contrastive loss compares the clips of {whose} of a batch, not of the whole batch")

