"""An entry script of three modalities, as main_CD.py but for its data: pictures, flow and sound made in memory.

    python tests/three_modalities.py --train --modality rgb flow

Nothing outside this file knows of its modalities and its encoder. For tests/test_modalities.py.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dataset.frontends import NormaliseFrames, Spectrogram
from dataset.lists import Clip
from utils import cli, distributed
from utils.cli import number
from utils.training import flags, launch, options
from utils.training.modalities import Modality
from utils.training.roles import INPUT

MODALITIES = (
    Modality("rgb", ("tiny", "resnet18"), in_channels=3, input_settings=("image_size",), imagenet=True),
    Modality("flow", ("tiny", "resnet18"), in_channels=2, input_settings=("image_size",)),
    Modality("audio", ("tiny", "resnet18"), in_channels=1))
DEMO = {"dataset": "demo_three", "epochs": 1}


def get_args_parser() -> flags.Parser:
    parser = flags.shared_parser("tests/three_modalities.py", "Three modalities.", MODALITIES)
    group = parser.add_argument_group("made clips")
    group.add_argument("--image_size", type=number(int, 8), default=8, role=INPUT, help="pixels per side")
    group.add_argument("--clips", type=number(int, 1), default=12, role=INPUT, help="training clips")
    parser.set_defaults(dataset="three", epochs=2, batch_size=4, learning_rate=0.01)
    return parser


def parse(argv: Sequence[str]) -> Namespace:
    return options.parse(get_args_parser(), argv, DEMO)


if __name__ == "__main__":
    get_args_parser().parse_args()  # --help and misspelt flags are answered before the slow imports below

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from models import ENCODERS, MultimodalClassifier, make_encoders
from utils.training.classification import Classification, Splits
from utils.training.engine import Compute
from utils.training.loading import Loaders
from utils.training.precision import choose_precision
from utils.training.train import train

CLASSES = ("falling", "rising", "turning")
NOISE = 0.3


class TinyEncoder(nn.Sequential):
    """Images (B, K, H, W), or clips of T frames (B, K, T, H, W) -> features (B, 512)."""

    def __init__(self, in_channels: int):
        super().__init__(nn.Conv2d(in_channels, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 512))

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 4:
            return super().forward(x)
        return torch.stack([super(TinyEncoder, self).forward(frame) for frame in x.unbind(2)]).mean(0)


ENCODERS["tiny"] = TinyEncoder


class MadeClips(Dataset):
    """Item i: {"rgb": (1, 3, S, S) uint8, "flow": (2, S, S), "audio": (N,), "label"}; the asked modalities only.

    The class is in the colour, the direction and the pitch; training adds noise from torch's global generator.
    """

    def __init__(self, count: int, size: int, modalities: Sequence[str], train: bool):
        self.count, self.size, self.modalities, self.train = count, size, modalities, train
        split = "train" if train else "test"
        self.clips = [Clip(f"{split}{index}", CLASSES[index % len(CLASSES)]) for index in range(count)]

    def for_evaluation(self) -> "MadeClips":
        return MadeClips(self.count, self.size, self.modalities, train=False)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        label = index % len(CLASSES)
        make = {"rgb": self.picture, "flow": self.flow, "audio": self.sound}
        return {**{name: make[name](label, index) for name in self.modalities}, "label": label}

    def noise(self, *shape: int) -> Tensor:
        return NOISE * torch.randn(shape) if self.train else torch.zeros(shape)

    def picture(self, label: int, index: int) -> Tensor:  # (1, 3, S, S)
        picture = torch.full((3, self.size, self.size), 0.3 + 0.01 * index)
        picture[label] += 0.4
        return (255 * (picture + self.noise(3, self.size, self.size))).clamp(0, 255).to(torch.uint8)[None]

    def flow(self, label: int, index: int) -> Tensor:  # (2, S, S)
        angle = torch.tensor(2.1 * label + 0.01 * index)
        return torch.stack([angle.cos(), angle.sin()])[:, None, None] + self.noise(2, self.size, self.size)

    def sound(self, label: int, index: int) -> Tensor:  # (N,)
        time = torch.arange(1600) / 16000
        return 0.5 * torch.sin(2 * torch.pi * (400 + 300 * label + index) * time) + 0.1 * self.noise(1600)


def main(argv: Sequence[str]) -> dict:
    """Trains or evaluates as argv says -> what result.json holds. Raises InputError for the user's mistakes."""
    args = parse(argv)
    if launch.needs_processes(args.train, args.gpu_ids):
        return launch.one_process_per_gpu(__file__, argv, args.device, args.gpu_ids, options.run_folder(args),
                                          resume=bool(args.resume))
    with distributed.session(args.device, args.gpu_ids) as device:
        task = build(args, device)
        if not args.train:
            return task.evaluate_checkpoint(args.trained, args.compile, allow_overlap=False,
                                            **options.evaluation(args))
        return train(task, options.training(args, MODALITIES))


def build(args: Namespace, device: torch.device) -> Classification:
    """Data, network and task."""
    data = load_splits(args)
    torch.manual_seed(args.random_seed)
    encoders = make_encoders(options.encoders(args, MODALITIES))
    model = MultimodalClassifier(encoders, len(data.classes), args.fusion_method, args.mmcosine, args.scaling)
    one_frame = nn.Sequential(NormaliseFrames(), nn.Flatten(1, 2))  # (B, 1, 3, S, S) -> (B, 3, S, S)
    front_ends = {"rgb": one_frame, "flow": nn.Identity(), "audio": Spectrogram()}
    compute = Compute(device, choose_precision(args.amp, device),
                      {name: front_ends[name].to(device) for name in model.modalities})
    loaders = Loaders(args.batch_size, args.random_seed, args.num_workers, device, args.cache, args.cache_size)
    return Classification(data, model, compute, loaders, confusions=True)


def load_splits(args: Namespace) -> Splits:
    modalities = list(options.encoders(args, MODALITIES))
    training = MadeClips(args.clips, args.image_size, modalities, train=True) if args.train else None
    return Splits(CLASSES, training, None, MadeClips(6, args.image_size, modalities, train=False))


if __name__ == "__main__":
    cli.run(main)
