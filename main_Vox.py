"""Speaker verification from voice and face: VoxCeleb (the paper's Table 1, right), or data in its layout.

    python main_Vox.py --train --fusion_method gated --mmcosine True --scaling 10           # data/VoxCeleb
    python main_Vox.py --train --mmcosine True --scaling 10 --demo                          # synthetic data, minutes
    torchrun --nproc_per_node 4 main_Vox.py --train --mmcosine True                         # four GPUs
    python main_Vox.py --resume runs/NAME                                                   # continue
    python main_Vox.py --ckpt_path runs/NAME --trials vox1=vox1_o.txt vox2=vox2.txt         # evaluate on two lists
"""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path

from utils import startup

if __name__ == "__main__":
    startup.explain_import_errors()

from dataset import trials as lists
from dataset.errors import InputError
from dataset.frontends import NormaliseFrames
from dataset.identities import TrainList, hold_out_identities, read_train_list
from dataset.trials import Trials
from dataset.voxceleb import FACE_CROP, UtteranceDataset, Utterances, find_problems
from utils import cli, distributed
from utils.cli import number
from utils.distributed import print_once
from utils.training import flags, launch, options
from utils.training.modalities import Modality
from utils.training.roles import DATA, INPUT, OUTPUT

MODALITIES = (Modality("audio", ("se_resnet34",), in_channels=None, input_settings=("demo",)),
              Modality("visual", ("resnet34", "resnet18", "resnet50"), in_channels=3,
                       input_settings=("image_size", "demo"), imagenet=True))
DEMO = {"dataset": "demo_identities", "data_root": Path("data/demo_identities"), "epochs": 10, "image_size": 64,
        "batch_size": 32, "audio_frames": 100, "test_frames": 120, "learning_rate": 0.01, "lr_decay_step": 8,
        "remix_warmup": 3}


def get_args_parser() -> flags.Parser:
    parser = flags.shared_parser("main_Vox.py", "Audio-visual speaker verification in the VoxCeleb layout.", MODALITIES)
    group = parser.add_argument_group("VoxCeleb layout")
    group.add_argument("--trials", nargs="+", type=flags.trial_list, default=[lists.TRIALS], metavar="[NAME=]LIST",
                       role=DATA, private=True,
                       help="trial lists, in --data_root or by path; the first chooses the epoch")
    group.add_argument("--audio_frames", type=number(int, 33, 9999), default=200, role=INPUT,
                       help="in training, of 10 ms each")
    group.add_argument("--test_frames", type=number(int, 33, 9999), default=400, role=INPUT,
                       help="evaluated voice, from its start")
    group.add_argument("--num_frames", type=number(int, 1, 1000), default=2, role=INPUT,
                       help="training faces a clip (test: 1)")
    group.add_argument("--image_size", type=number(int, 64, 4096), default=224, role=INPUT, help="pixels per side")
    flags.add_crop_flags(group, FACE_CROP)
    group.add_argument("--score", choices=("logits", "embedding"), default="logits", role=DATA,
                       help="what a trial compares: class logits (the paper's), or fused features")
    group.add_argument("--scores_path", type=Path, metavar="DIR", role=OUTPUT, private=True,
                       help="folder for the scores and det.png; default: the run's folder, or <checkpoint>_evaluated "
                            "beside it")
    parser.set_defaults(dataset="VoxCeleb", batch_size=256, lr_decay_step=70)
    return parser


def parse(argv: Sequence[str]) -> Namespace:
    return options.parse(get_args_parser(), argv, DEMO)


if __name__ == "__main__":
    get_args_parser().parse_args()  # --help and misspelt flags are answered before the slow imports below

import torch

from dataset.demo.identities import make_demo
from models import MultimodalClassifier, make_encoders
from utils.training import report
from utils.training.engine import Compute
from utils.training.loading import Loaders
from utils.training.precision import choose_precision
from utils.training.train import train
from utils.training.verification import TrialSet, Verification, VerificationData, make_scores_folder

VALIDATION_TRIALS = 4  # of each kind per utterance, as VoxCeleb1-O
HOW_TO_GET = ('Prepare VoxCeleb with "python scripts/prepare_voxceleb.py" (data/VoxCeleb/README.md tells where to get '
              "it and how it is laid out), name other data with --data_root, or add --demo to try synthetic data.")


def main(argv: Sequence[str]) -> dict:
    """Trains or evaluates as argv says -> what result.json holds. Raises InputError for the user's mistakes."""
    args = parse(argv)
    if launch.needs_processes(args.train, args.gpu_ids):
        return launch.one_process_per_gpu(__file__, argv, args.device, args.gpu_ids, options.run_folder(args),
                                          resume=bool(args.resume))
    with distributed.session(args.device, args.gpu_ids) as device:
        provide_folders(args)
        task = build(args, device)
        if not args.train:
            return task.evaluate_checkpoint(args.trained, args.compile, **options.evaluation(args))
        return train(task, options.training(args, MODALITIES))


def build(args: Namespace, device: torch.device) -> Verification:
    """Data, network and task."""
    data = load_data(args)
    classes = len(data.identities) if args.train else args.trained.num_classes()
    model, compute = make_network(args, classes, device)
    loaders = Loaders(args.batch_size, args.random_seed, args.num_workers, device, args.cache, args.cache_size)
    return Verification(data, model, compute, loaders, args.score, args.scores_path)


def make_network(args: Namespace, classes: int, device: torch.device) -> tuple[MultimodalClassifier, Compute]:
    """The network with its first weights, and how it computes."""
    torch.manual_seed(args.random_seed)
    encoders = make_encoders(options.encoders(args, MODALITIES))
    model = MultimodalClassifier(encoders, classes, args.fusion_method, args.mmcosine, args.scaling)
    fronts = {"audio": torch.nn.Identity(), "visual": NormaliseFrames().to(device)}  # voices stay waveforms
    return model, Compute(device, choose_precision(args.amp, device), {name: fronts[name] for name in model.modalities})


@distributed.failing_together()
def provide_folders(args: Namespace) -> None:
    """The demo data, and the folder for scores: now, not after the last epoch."""
    if args.demo and args.train and distributed.is_first_here():  # an evaluation uses what is there
        make_demo(args.data_root)
    if args.demo:
        print_once(f"DEMO DATA in {args.data_root}: results say nothing about VoxCeleb")
    make_scores_folder(args.scores_path)


def load_data(args: Namespace) -> VerificationData:
    """The lists, checked against the files: utterances that cannot be used stop the run, or are left out by count."""
    trials, listed = read_lists(args)
    test = make_trial_set(args, "test", trials, lists.trial_utterances(next(iter(trials.values())).names), "trial")
    if not listed:
        return VerificationData((), None, None, test, {})
    train, val = split_validation(args, listed)
    train = usable(args, train)
    facts = {"classes": train.identities, "score": args.score, "n_identities": len(train.identities),
             "n_train": len(train), "n_val": len(val.utterances) if val else 0, "n_test": len(test.utterances),
             "trials": test.counts(), "train_utterances": train.digest(), "val_trials": val and val.digests(),
             "trial_lists": test.digests()}
    dataset = make_dataset(args, "train", train, train=True)
    return VerificationData(train.identities, dataset, val, test, facts, listed.names())


@distributed.failing_together()
def read_lists(args: Namespace) -> tuple[dict[str, Trials], TrainList | None]:
    """(trials by list, training list; None for an evaluation). Raises InputError for lists that cannot be used, and for
    trials of identities that are trained on."""
    trials = lists.read_trial_lists(args.trials, args.data_root, HOW_TO_GET)
    listed = read_train_list(args.data_root / "train.csv", HOW_TO_GET) if args.train else None
    trained = listed.names() if listed else args.trained.identities()
    for name, one in trials.items():
        lists.check_no_leak(trained, one, name)
        print_once(f"trials {name}: {len(one.labels)} of {len(one.names)} utterances" + lists.note_of_repeated(one))
    return trials, listed


def split_validation(args: Namespace, listed: TrainList) -> tuple[TrainList, TrialSet | None]:
    """Under --val_fraction whole identities are held out, and trials made among them."""
    if not args.val_fraction:
        return listed, None
    with distributed.failing_together():
        rest, held = hold_out_identities(listed, args.val_fraction, args.random_seed)
        names = [held[i].wav for i in range(len(held))]
        trials = lists.make_trials(names, held.labels.tolist(), VALIDATION_TRIALS, args.random_seed)
    return rest, make_trial_set(args, "train", {"validation": trials}, held.numbered(), "validation")


def make_trial_set(args: Namespace, folder: str, trials: Mapping[str, Trials], utterances: Utterances,
                   what: str) -> TrialSet:
    """The trials whose utterances are there. utterances: one for each of the trials' names."""
    problems = usable_or_problems(args, folder, utterances, what)
    if problems:
        with distributed.failing_together():
            left = lists.trials_left(trials, problems)
        for name, one in left.items():
            print_once(f"trials {name}: {len(one.labels)} of {len(trials[name].labels)} left")
        there = [utterances[place] for place in range(len(utterances)) if place not in problems]
        utterances = [utterance._replace(label=place) for place, utterance in enumerate(there)]
        trials = left
    return TrialSet(trials, make_dataset(args, folder, utterances, train=False))


def usable(args: Namespace, listed: TrainList) -> TrainList:
    """The training utterances whose files are there."""
    problems = usable_or_problems(args, "train", listed, "training")
    kept = listed.select([i for i in range(len(listed)) if i not in problems]) if problems else listed
    with distributed.failing_together():
        if len(kept.identities) < 2:
            raise InputError(f"{len(kept.identities)} training identities are left without the missing utterances. The "
                             f"first of those: {next(iter(problems.values()))}")
    return kept


def usable_or_problems(args: Namespace, folder: str, utterances: Utterances, what: str) -> dict[int, str]:
    """{place: what is wrong} of utterances that cannot be used. Raises InputError without --skip_missing."""
    names = list(options.encoders(args, MODALITIES))
    problems = distributed.merged(find_problems(args.data_root / folder, utterances, names, distributed.rank(),
                                                distributed.size()))
    named = {utterances[place].wav: reason for place, reason in problems.items()}
    with distributed.failing_together():
        report.accept_problems(named, len(utterances), args.skip_missing, f"{what} utterances")
    return problems


def make_dataset(args: Namespace, folder: str, utterances: Utterances, train: bool) -> UtteranceDataset:
    return UtteranceDataset(args.data_root / folder, utterances, train=train, num_frames=args.num_frames,
                            audio_frames=args.audio_frames if train else args.test_frames,
                            image_size=args.image_size, modalities=list(options.encoders(args, MODALITIES)),
                            crop=options.crop(args))


if __name__ == "__main__":
    cli.run(main)
