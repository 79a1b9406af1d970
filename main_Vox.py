"""Speaker verification from voice and face: VoxCeleb (the paper's Table 1, right), or data in its layout.

    python main_Vox.py --train --fusion_method gated --mmcosine True --scaling 10           # data/VoxCeleb
    python main_Vox.py --train --mmcosine True --scaling 10 --demo                          # made data, minutes
    torchrun --nproc_per_node 4 main_Vox.py --train --mmcosine True                         # four GPUs
    python main_Vox.py --resume runs/NAME                                                   # go on
    python main_Vox.py --ckpt_path runs/NAME/best.pt --trials vox1=vox1_o.txt vox2=vox2.txt # evaluate on two lists
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from dataset import identities as lists
from dataset.demo.identities import make_demo
from dataset.frontends import NormaliseFrames
from dataset.identities import TrainList, Trials
from dataset.voxceleb import UtteranceDataset, Utterances, find_problems
from models import SpeakerClassifier
from utils import cli, distributed
from utils.cli import number
from utils.distributed import say, together
from utils.errors import InputError
from utils.training import checkpoint, options, train, verification
from utils.training.verification import TrialSet

DEMO = {"dataset": "demo_identities", "data_root": Path("data/demo_identities"), "epochs": 10, "image_size": 64,
        "batch_size": 32, "audio_frames": 100, "test_frames": 120, "learning_rate": 0.01, "lr_decay_step": 8}
TRIALS = "test_pairs.csv"
VALIDATION_TRIALS = 4  # of each kind an utterance, as VoxCeleb1-O
HOW_TO_GET = ('Prepare VoxCeleb with "python scripts/prepare_voxceleb.py" (data/VoxCeleb/README.md tells where to get '
              "it and how it is laid out), name other data with --data_root, or add --demo to go without data.")


class Listed(NamedTuple):
    """What the lists say: train is None when a checkpoint is only evaluated."""

    train: TrainList | None
    trials: dict[str, Trials]


class Data(NamedTuple):
    """What is there. train and val are None when a checkpoint is only evaluated, val also without --val_fraction."""

    identities: Sequence[str]
    train: UtteranceDataset | None
    val: TrialSet | None
    test: TrialSet
    facts: dict[str, object]


def get_args_parser() -> ArgumentParser:
    parser = options.shared_parser("main_Vox.py", "Audio-visual speaker verification in the VoxCeleb layout.")
    group = parser.add_argument_group("VoxCeleb layout")
    group.add_argument("--trials", nargs="+", default=[TRIALS], metavar="[NAME=]LIST", help="trial lists, in "
                       "--data_root or by path; the first chooses the epoch")
    group.add_argument("--audio_frames", type=number(int, 33), default=200, help="voice in training, frames of 10 ms")
    group.add_argument("--test_frames", type=number(int, 33), default=400, help="voice in evaluation, from its start")
    group.add_argument("--num_frames", type=number(int, 1), default=2, help="faces an utterance in training (test: 1)")
    group.add_argument("--image_size", type=number(int, 64), default=224, help="pixels a side")
    group.add_argument("--score", choices=verification.SCORES, default="logits",
                       help="what a trial compares: class logits (the paper's), or fused features")
    group.add_argument("--scores_path", type=Path, metavar="DIR", help="folder for the scores and det.png; default: "
                       "the run's folder, or <checkpoint>_evaluated beside it")
    parser.set_defaults(dataset="VoxCeleb", batch_size=256, lr_decay_step=70)
    return parser


def parse(argv: Sequence[str]) -> Namespace:
    return options.parse(get_args_parser(), argv, DEMO)


def main(argv: Sequence[str]) -> dict:
    """Trains or evaluates as argv says -> what result.json holds. Raises InputError for the user's mistakes."""
    args = parse(argv)
    return train.on_devices(args, argv, __file__, partial(work, args))


def work(args: Namespace, device: torch.device) -> dict:
    train.prepare_demo(args, make_demo, "VoxCeleb")
    together(lambda: verification.make_scores_folder(args.scores_path))  # now, not after the last epoch
    data = load_data(args)
    classes = len(data.identities) if args.train else checkpoint.num_classes(args.ckpt_path)
    model = train.make_model(args, lambda: SpeakerClassifier(
        classes, args.fusion_method, args.mmcosine, args.scaling, options.modalities(args)))
    compute = train.make_compute(args, device, {"audio": torch.nn.Identity(), "visual": NormaliseFrames()}, model)
    if not args.train:
        return verification.evaluate_checkpoint(args, data.test, model, compute)
    examination = verification.examine(args, data.test, data.val, model, compute)
    return train.train(args, data.train, data.facts, classes, model, compute, examination)


def load_data(args: Namespace) -> Data:
    """The lists, held against the files: utterances that cannot be used stop here, or are counted and left out."""
    listed = together(lambda: read_lists(args))
    test = make_trial_set(args, "test", listed.trials, lists.trial_utterances(names_of(listed.trials)), "trial")
    if not listed.train:
        return Data((), None, None, test, {})
    train, val = split_validation(args, listed.train)
    train = usable(args, train)
    facts = {"classes": train.identities, "score": args.score, "n_identities": len(train.identities),
             "n_train": len(train), "n_val": len(val.utterances) if val else 0, "n_test": len(test.utterances),
             "trials": test.counts(), "train_list": listed.train.digest(),
             "trial_lists": {name: lists.digest_of(one) for name, one in listed.trials.items()}}
    return Data(train.identities, make_dataset(args, "train", train, train=True), val, test, facts)


def read_lists(args: Namespace) -> Listed:
    """Raises InputError for lists that cannot be used, and for trials of identities that are trained on."""
    trials = read_trial_lists(args)
    train = lists.read_train_list(args.data_root / "train.csv", HOW_TO_GET) if args.train else None
    if train:
        trained = {*train.identities, *train.folders}
    else:
        trained = checkpoint.load(args.ckpt_path).get("facts", {}).get("classes", ())
    for name, one in trials.items():
        lists.check_no_leak(trained, one, name)
    return Listed(train, trials)


def read_trial_lists(args: Namespace) -> dict[str, Trials]:
    """{name: trials} of --trials; without a name of its own a list has its file's."""
    found = {}
    for text in args.trials:
        name, path = find_trials(args.data_root, text)
        if name in found:
            raise InputError(f"--trials has two lists of the name {name}: write another NAME=LIST for one of them")
        found[name] = lists.read_trials(path, HOW_TO_GET)
        say(f"trials {name}: {path}")
    return lists.merge_trials(found)


def find_trials(root: Path, text: str) -> tuple[str, Path]:
    """[NAME=]LIST -> (name, path): a list in the data folder, else one by its path. Raises InputError."""
    for name, file in ((Path(text).stem, text), text.split("=", 1) if "=" in text else ("", "")):
        for path in (root / file, Path(file)):
            if file and path.is_file():
                return options.checked(options.folder_name, name, "--trials NAME"), path
    file = text.split("=", 1)[-1]
    if text != TRIALS:
        raise InputError(f"--trials {text}: there is neither {root / file} nor {Path(file).absolute()}")
    raise InputError(f"no {root / file}. {HOW_TO_GET}")


def names_of(trials: dict[str, Trials]) -> list[str]:
    """Of all lists: they share them."""
    return next(iter(trials.values())).names


def split_validation(args: Namespace, listed: TrainList) -> tuple[TrainList, TrialSet | None]:
    """Under --val_fraction whole identities are held out, and trials made among them."""
    if not args.val_fraction:
        return listed, None
    rest, held = together(lambda: lists.hold_out_identities(listed, args.val_fraction, args.random_seed))
    names = [held[i].wav for i in range(len(held))]
    trials = together(lambda: lists.make_trials(names, held.labels.tolist(), VALIDATION_TRIALS, args.random_seed))
    return rest, make_trial_set(args, "train", {"validation": trials}, held.numbered(), "validation")


def make_trial_set(args: Namespace, folder: str, trials: dict[str, Trials], utterances: Utterances,
                   what: str) -> TrialSet:
    """The trials whose utterances are there. utterances: one for each of the trials' names."""
    problems = accept_problems(args, folder, utterances, what)
    if problems:
        trials = together(lambda: trials_left(trials, problems))
        there = [utterances[place] for place in range(len(utterances)) if place not in problems]
        utterances = [utterance._replace(label=place) for place, utterance in enumerate(there)]
    return TrialSet(trials, make_dataset(args, folder, utterances, train=False))


def trials_left(trials: dict[str, Trials], problems: dict[int, str]) -> dict[str, Trials]:
    """Without those of utterances that cannot be used, counted. Raises InputError: none of one kind is left."""
    kept = {name: lists.without(one, problems) for name, one in trials.items()}
    for name, one in kept.items():
        left = f"trials {name}: {len(one.labels)} of {len(trials[name].labels)} left"
        if not one.labels.any() or one.labels.all():
            raise InputError(f"{left}, not of both kinds. The first that is wrong: {next(iter(problems.values()))}")
        say(left)
    return kept


def usable(args: Namespace, listed: TrainList) -> TrainList:
    """The training utterances whose files are there."""
    problems = accept_problems(args, "train", listed, "training")
    kept = listed.select([i for i in range(len(listed)) if i not in problems]) if problems else listed
    together(lambda: check_identities(kept, problems))
    return kept


def check_identities(kept: TrainList, problems: dict[int, str]) -> None:
    if len(kept.identities) < 2:
        raise InputError(f"{len(kept.identities)} training identities are left without the missing utterances. The "
                         f"first of those: {next(iter(problems.values()))}")


def accept_problems(args: Namespace, folder: str, utterances: Utterances, what: str) -> dict[int, str]:
    """{place: what is wrong} of utterances that cannot be used; the processes share the looking. Raises InputError
    without --skip_missing."""
    root = args.data_root / folder
    problems = distributed.merged(find_problems(root, utterances, options.modalities(args), distributed.rank(),
                                                distributed.size()))
    named = {utterances[place].wav: reason for place, reason in problems.items()}
    together(lambda: train.accept_problems(named, len(utterances), args.skip_missing, f"{what} utterances"))
    return problems


def make_dataset(args: Namespace, folder: str, utterances: Utterances, train: bool) -> UtteranceDataset:
    return UtteranceDataset(args.data_root / folder, utterances, train=train, num_frames=args.num_frames,
                            audio_frames=args.audio_frames if train else args.test_frames,
                            image_size=args.image_size, modalities=options.modalities(args))


if __name__ == "__main__":
    cli.run(main)
