"""Marked data in the CREMA-D layout: from what the network receives one can read which clip it is, which frame, whether
it was cropped or mirrored. B clips, T frames.
"""

from pathlib import Path

import cv2
import numpy as np
import soundfile
import torch
from PIL import Image
from torch import Tensor

CLASSES = ("angry", "calm", "happy")
TRAIN, TEST = range(12), range(12, 18)  # numbers of clips; clip k has class k % 3 and speaker k % 4
FRAMES = 3  # of a clip
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])  # ImageNet's


def clip_name(number: int) -> str:
    return f"{number % 4}_clip_{number:02d}"


def marked_frame(number: int, frame: int, size: int = 96) -> np.ndarray:
    """(H, W, 3) RGB: red rises from left to right, green tells the clip, blue the frame."""
    picture = np.empty((size, size, 3), np.uint8)
    picture[..., 0] = np.linspace(40, 215, size).round()
    picture[..., 1] = 20 + 12 * number
    picture[..., 2] = 30 + 60 * frame
    return picture


def tone(number: int, seconds: float = 0.6, sample_rate: int = 16000) -> np.ndarray:
    """A tone that tells the clip, 250 Hz from one to the next."""
    return 0.5 * np.sin(2 * np.pi * (625 + 250 * number) * np.arange(round(seconds * sample_rate)) / sample_rate)


def make_marked_data(root: Path, folder: str = "Image-01-FPS") -> Path:
    for name, numbers in (("train", TRAIN), ("test", TEST)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / "AudioWAV").mkdir(exist_ok=True)
        for number in numbers:
            soundfile.write(root / "AudioWAV" / f"{clip_name(number)}.wav", tone(number), 16000)
            write_frames(root / folder / clip_name(number), number)
        (root / f"{name}.csv").write_text("".join(f"{clip_name(n)},{CLASSES[n % 3]}\n" for n in numbers))
    (root / "stat.csv").write_text("\n".join(CLASSES))
    return root


def write_frames(folder: Path, number: int) -> None:
    folder.mkdir()
    best = [cv2.IMWRITE_JPEG_QUALITY, 100, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    for frame in range(FRAMES):
        cv2.imwrite(str(folder / f"{frame:05d}.jpg"), marked_frame(number, frame)[..., ::-1], best)


def pixels(visual: Tensor) -> Tensor:
    """What the visual encoder got, (B, 3, T, H, W), as colours from 0 to 255 again."""
    return 255 * (visual * STD.view(3, 1, 1, 1) + MEAN.view(3, 1, 1, 1))


def seen_clips(visual: Tensor) -> list[int]:
    """The number of each clip, by its green."""
    return ((pixels(visual)[:, 1].mean((1, 2, 3)) - 20) / 12).round().int().tolist()


def seen_frames(visual: Tensor) -> list[list[int]]:
    """The numbers of each clip's frames, by their blue."""
    return ((pixels(visual)[:, 2].mean((2, 3)) - 30) / 60).round().int().tolist()


def heard_clips(audio: Tensor) -> list[int]:
    """The number of each clip, by the loudest frequency of the paper's spectrogram (B, 1, 257, columns)."""
    loudest = audio[:, 0].mean(-1).argmax(-1)  # bins of 31.25 Hz
    return ((loudest - 20) / 8).round().int().tolist()


def is_cropped_or_mirrored(visual: Tensor) -> list[bool]:
    """Of each clip: red does not rise from 40 at the left to 215 at the right."""
    red = pixels(visual)[:, 0].mean((1, 2))  # (B, W)
    return [bool(abs(one[0] - 40) > 6 or abs(one[-1] - 215) > 6) for one in red]


def picture(rgb: np.ndarray, size: int) -> Tensor:
    """(H, W, 3) uint8 -> the network's input (3, size, size) in evaluation: resized by PIL, ImageNet's statistics."""
    small = torch.from_numpy(np.array(Image.fromarray(rgb).resize((size, size), Image.Resampling.BILINEAR)))
    return (small.permute(2, 0, 1) / 255 - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1)
