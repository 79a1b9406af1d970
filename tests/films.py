"""A film for the tests of the preparations: red rises to the right, blue to the bottom, green
from frame to frame; half a tone of 440 Hz and then one of 1320 Hz, on the left channel alone.
"""

import shlex
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np
import soundfile

SECONDS, RATE, WIDTH, HEIGHT = 2, 25, 192, 128
GREEN = np.linspace(20, 235, SECONDS * RATE).round()  # of each frame


def write_film(path: Path, codec: str, sound: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    picture[..., 0], picture[..., 2] = np.linspace(40, 215, WIDTH), np.linspace(40, 215, HEIGHT)[:, None]
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=RATE, width=WIDTH, height=HEIGHT, pix_fmt="yuv420p",
                                     bit_rate=9_000_000)
        audio = container.add_stream(sound, rate=44100, layout="stereo") if sound else None
        for green in GREEN:
            picture[..., 1] = green
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode())
        if audio:
            wave = np.stack([two_tones(44100), np.zeros(SECONDS * 44100)])
            planar = audio.format.name.startswith("flt")
            samples = wave.astype(np.float32) if planar else (32767 * wave.T.reshape(1, -1)).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(samples, format="fltp" if planar else "s16", layout="stereo")
            frame.sample_rate = 44100
            container.mux(audio.encode(frame))
            container.mux(audio.encode())
    return path


def two_tones(rate: int, first: float = 440, second: float = 1320) -> np.ndarray:
    time = np.arange(SECONDS * rate) / rate
    return 0.5 * np.sin(2 * np.pi * np.where(time < SECONDS / 2, first, second) * time)


class Seen(NamedTuple):
    """Of an extracted picture: the frame's number, its shape, and its colours at left, right, top and bottom."""

    frame: int
    shape: tuple[int, ...]
    left: float
    right: float
    top: float
    bottom: float


def look(path: Path) -> Seen:
    picture = cv2.imread(str(path))[..., ::-1].astype(float)
    green = picture[..., 1].mean()
    return Seen(int(np.abs(GREEN - green).argmin()), picture.shape, picture[:, :3, 0].mean(), picture[:, -3:, 0].mean(),
                picture[:3, :, 2].mean(), picture[-3:, :, 2].mean())


def is_upright(seen: Seen) -> bool:
    return np.abs(np.array(seen[2:]) - [40, 215, 40, 215]).max() < 14


def hear(path: Path) -> tuple[int, list[int], float, float]:
    """(sample rate, loudest frequency of each half, height of the waves, seconds)"""
    samples, rate = soundfile.read(path)
    assert samples.ndim == 1 and soundfile.info(path).subtype == "PCM_16"
    loudest = []
    for half in np.split(samples[:len(samples) // 2 * 2], 2):
        middle = half[len(half) // 4:]
        spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
        loudest.append(round(spectrum.argmax() * rate / len(middle) / 20) * 20)
    return rate, loudest, 2 ** 0.5 * float(samples.std()), len(samples) / rate


def next_command(printed: str) -> list[str]:
    """The flags of the command that the preparation names."""
    return shlex.split(printed.split("Next: python ")[1].splitlines()[0])


def lists(root: Path) -> dict[str, dict[str, str]]:
    """{"train", "test": {clip: class}}"""
    return {name: dict(line.split(",") for line in (root / f"{name}.csv").read_text().splitlines())
            for name in ("train", "test")}


def make_films(root: Path) -> dict[str, Path]:
    return {"flv": write_film(root / "a.flv", "flv"), "mpg": write_film(root / "a.mpg", "mpeg2video", "mp2"),
            "mp4": write_film(root / "a.mp4", "mpeg4", "aac")}
