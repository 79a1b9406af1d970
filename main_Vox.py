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
from dataset.demo_identities import make_demo
from dataset.errors import InputError
from dataset.frontends import NormaliseFrames
from dataset.identities import TrainList, Trials
from dataset.voxceleb import Utterance, UtteranceDataset, Utterances, find_problems
from models import SpeakerClassifier
from utils import checkpoint, cli, distributed, options, training, verification
from utils.cli import number
from utils.distributed import say, together
from utils.verification import TrialSet

DEMO = {"dataset": "demo_identities", "data_root": Path("data/demo_identities"), "epochs": 10, "image_size": 64,
        "batch_size": 32, "audio_frames": 100, "test_frames": 120, "learning_rate": 0.01, "lr_decay_step": 8}
TRIALS = "test_pairs.csv"
VALIDATION_TRIALS = 4  # of each kind an utterance, as VoxCeleb1-O
HOW_TO_GET = ('Prepare VoxCeleb with "python scripts/prepare_voxceleb.py" (data/VoxCeleb/README.md tells where to get '
              "it and how it is laid out), name other data with --data_root, or add --demo to go without data.")


class Data(NamedTuple):
    """train and val are None when a checkpoint is only evaluated, val also without --val_fraction."""

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
                       "the run's folder, or the checkpoint's")
    parser.set_defaults(dataset="VoxCeleb", batch_size=256, lr_decay_step=70)
    return parser


def main(argv: Sequence[str]) -> dict:
    """Trains or evaluates as argv says -> what result.json holds. Raises InputError for the user's mistakes."""
    args = options.parse(get_args_parser(), argv, DEMO)
    return training.on_devices(args, argv, __file__, partial(work, args))


def work(args: Namespace, device: torch.device) -> dict:
    training.prepare_demo(args, make_demo, "VoxCeleb")
    data = together(lambda: load_data(args))
    classes = len(data.identities) if args.train else checkpoint.num_classes(args.ckpt_path)
    model = training.make_model(args, lambda: SpeakerClassifier(
        classes, args.fusion_method, args.mmcosine, args.scaling, options.modalities(args)))
    compute = training.make_compute(args, device, {"audio": torch.nn.Identity(), "visual": NormaliseFrames()}, model)
    if not args.train:
        return verification.evaluate_checkpoint(args, data.test, model, compute)
    examination = verification.examine(args, data.test, data.val, model, compute)
    return training.train(args, data.train, data.facts, classes, model, compute, examination)


def load_data(args: Namespace) -> Data:
    """The lists, held against the files: utterances that cannot be used stop here, or are counted and left out."""
    trials = read_trial_lists(args)
    listed = lists.read_train_list(args.data_root / "train.csv", HOW_TO_GET) if args.train else None
    for name, one in trials.items() if listed else ():
        lists.check_no_leak(listed.identities, one, name)
    test = make_trial_set(args, "test", trials, lists.trial_utterances(next(iter(trials.values())).names), "trial")
    if not listed:
        return Data((), None, None, test, {})
    train, val = split_validation(args, listed)
    train = usable(args, train)
    facts = {"score": args.score, "n_identities": len(train.identities), "n_train": len(train),
             "n_val": len(val.utterances) if val else 0, "n_test": len(test.utterances), "trials": test.counts(),
             "train_list": listed.digest()}
    return Data(train.identities, make_dataset(args, "train", train, train=True), val, test, facts)


def read_trial_lists(args: Namespace) -> dict[str, Trials]:
    """{name: trials} of --trials; without a name of its own a list has its file's."""
    found = {}
    for text in args.trials:
        name, given, file = text.rpartition("=")
        path = Path(file) if Path(file).is_file() else args.data_root / file
        name = name if given else path.stem
        if name in found:
            raise InputError(f"--trials has two lists of the name {name}: write another NAME=LIST for one of them")
        found[name] = lists.read_trials(path, HOW_TO_GET)
    return lists.merge_trials(found)


def split_validation(args: Namespace, listed: TrainList) -> tuple[TrainList, TrialSet | None]:
    """Under --val_fraction whole identities are held out, and trials made among them."""
    if not args.val_fraction:
        return listed, None
    rest, held = lists.hold_out_identities(listed, args.val_fraction, args.random_seed)
    utterances = [held[i]._replace(label=i) for i in range(len(held))]
    trials = lists.make_trials([utterance.wav for utterance in utterances], held.labels.tolist(), VALIDATION_TRIALS,
                               args.random_seed)
    return rest, make_trial_set(args, "train", {"validation": trials}, utterances, "validation")


def make_trial_set(args: Namespace, folder: str, trials: dict[str, Trials], utterances: list[Utterance],
                   what: str) -> TrialSet:
    problems = accept_problems(args, folder, utterances, what)
    kept = {name: lists.without(one, problems) for name, one in trials.items()}
    for name, one in kept.items():
        if not one.labels.any() or one.labels.all():
            raise InputError(f"of the trials {name}, {len(one.labels)} of {len(trials[name].labels)} are left without "
                             f"{len(problems)} utterances, not of both kinds. The first of those: "
                             f"{next(iter(problems.values()))}")
        if problems:
            say(f"trials {name}: {len(one.labels)} of {len(trials[name].labels)} left")
    return TrialSet(kept, make_dataset(args, folder, utterances, train=False))


def usable(args: Namespace, listed: TrainList) -> TrainList:
    """The training utterances whose files are there."""
    problems = accept_problems(args, "train", listed, "training")
    kept = listed.select([i for i in range(len(listed)) if i not in problems]) if problems else listed
    if len(kept.identities) < 2:
        raise InputError(f"{len(kept.identities)} training identities are left without the missing utterances. The "
                         f"first of those: {next(iter(problems.values()))}")
    return kept


def accept_problems(args: Namespace, folder: str, utterances: Utterances, what: str) -> dict[int, str]:
    """{place: what is wrong} of utterances that cannot be used; looked for by one process. Raises InputError without
    --skip_missing."""
    problems = {}
    if distributed.is_main():
        problems = find_problems(args.data_root / folder, utterances, options.modalities(args))
    problems = distributed.from_main(problems)
    named = {utterances[place].wav: reason for place, reason in problems.items()}
    training.accept_problems(named, len(utterances), args.skip_missing, f"{what} utterances")
    return problems


def make_dataset(args: Namespace, folder: str, utterances: Utterances, train: bool) -> UtteranceDataset:
    return UtteranceDataset(args.data_root / folder, utterances, train=train, num_frames=args.num_frames,
                            audio_frames=args.audio_frames if train else args.test_frames,
                            image_size=args.image_size, modalities=options.modalities(args))


if __name__ == "__main__":
    cli.run(main)
