"""A part of a video as sound and frames: the one way from a video to data, for preparation and prediction alike.

Times are seconds from the start of the container, so that sound and frames of a part belong together. Of several
streams the first video and the first sound stream are taken. Frames are those on screen at their time, by the times
that the video states: also where the frame rate varies. N samples, T frames of H x W pixels.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

from dataset.errors import InputError
from dataset.files import check_is_media
from dataset.preparation.clips import MISSING_END, check_end, middle_times

EARLIER = 2.0  # seconds to which is sought before the part
EXACT = 1e-3  # seconds that times in lists and files may differ by rounding


class Part(NamedTuple):
    """sound: int16 (N,), silence where the video has no sound stream. frames: uint8 BGR (H, W, 3) each."""

    sound: np.ndarray
    frames: list[np.ndarray]


def read_part(path: Path, start: float = 0.0, end: float | None = None, *, sample_rate: int = 16000,
              fps: float = 1.0) -> Part:
    """The sound from `start` to `end` (None: the end of the video), and the frames in the middles of n equal parts of
    it, n = max(1, round(seconds * fps)).

    Only what is needed is decoded, of hours as of seconds. Raises InputError: missing, empty, not a video; the part
    begins or ends after the video.
    """
    check_is_media(path)
    length = read_length(path)
    if start >= length:
        raise InputError(f"{path} lasts {length:.2f} s: there is nothing at {start:g} s")
    if end is not None and end > length + MISSING_END:
        raise InputError(f"{path} lasts {length:.2f} s, the part ends at {end:g} s")
    end = length if end is None else min(end, length)
    times = [start + time for time in middle_times(end - start, fps)]
    try:
        with av.open(str(path)) as container:
            frames = list(frames_at(container, path, times))
        with av.open(str(path)) as container:
            sound = sound_between(container, start, end, sample_rate)
    except av.FFmpegError as error:
        raise InputError(f"{path} cannot be decoded ({error}): convert it again, or leave it out") from None
    return Part(sound, frames)


def read_length(path: Path) -> float:
    """Seconds from the start of the container to the end of its video. Raises InputError: not a video."""
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise InputError(f"{path} has no video stream: leave it out")
            video = container.streams.video[0]
            if video.duration is not None:
                return float(((video.start_time or 0) + video.duration) * video.time_base) - begin(container)
            if container.duration:
                return container.duration / av.time_base
            last = 0.0
            for packet in container.demux(video):  # no header states it
                last = max(last, float(packet.pts * packet.time_base) if packet.pts is not None else 0.0)
            return last - begin(container) + 1 / float(video.average_rate or 25)
    except av.FFmpegError as error:
        raise InputError(f"{path} cannot be read as a video ({error}): convert it again, or leave it out") from None


def begin(container: av.container.InputContainer) -> float:
    """Seconds that the container's first frame states: not 0 in recorded streams. Less than 0 is what a sound decoder
    needs before the beginning."""
    return max(0, container.start_time or 0) / av.time_base


def seek(container: av.container.InputContainer, stream: av.stream.Stream, time: float) -> None:
    """To a place from which all that is on screen or heard at `time` can be decoded: some containers seek to the place
    that is nearest, not to the one before."""
    if time > EARLIER:
        container.seek(int((time - EARLIER + begin(container)) / stream.time_base), stream=stream)


def frames_at(container: av.container.InputContainer, path: Path, times: Sequence[float]) -> Iterator[np.ndarray]:
    """The frames on screen at `times`, ascending. Raises InputError: the video ends well before one of them."""
    video = container.streams.video[0]
    video.thread_type = "SLICE"  # clips run in parallel
    seek(container, video, times[0])
    decoded = container.decode(video)
    shown, following = None, next(decoded, None)
    for time in times:
        while following is not None and (shown is None or following.time - begin(container) <= time + EXACT):
            shown, following = following, next(decoded, None)
        if following is None:
            check_end(path, 0 if shown is None else end_of(shown, video) - begin(container), time)
        yield upright(shown)


def end_of(frame: av.VideoFrame, video: av.video.stream.VideoStream) -> float:
    """Until when it is shown: by its own duration, which may be long, or by the usual one."""
    duration = frame.duration * frame.time_base if frame.duration else 1 / (video.average_rate or 25)
    return frame.time + float(duration)


def upright(frame: av.VideoFrame) -> np.ndarray:
    """uint8 BGR (H, W, 3), turned as a phone's video says it is shown."""
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="bgr24"), round(frame.rotation / 90)))


def sound_between(container: av.container.InputContainer, start: float, end: float, sample_rate: int) -> np.ndarray:
    """int16 (N,), N = round((end - start) * sample_rate): channels averaged, resampled; silence before the stream's
    beginning, after its end, and without one."""
    sound, first = np.zeros(round((end - start) * sample_rate), np.int16), None
    if not container.streams.audio:
        return sound
    audio = container.streams.audio[0]
    seek(container, audio, start)
    resampler = av.AudioResampler(format="s16", layout="mono", rate=sample_rate)
    for frame in container.decode(audio):
        if first is None:
            first = round((frame.time - begin(container) - start) * sample_rate)  # its place in `sound`
        first = put(sound, first, [part.to_ndarray()[0] for part in resampler.resample(frame)])
        if first >= len(sound):
            break
    else:
        put(sound, first or 0, [part.to_ndarray()[0] for part in resampler.resample(None)])
    return sound


def put(sound: np.ndarray, first: int, parts: Sequence[np.ndarray]) -> int:
    """Writes the parts into `sound` from place `first` on, what lies outside is left out -> the place after them."""
    for part in parts:
        begin, stop = max(first, 0), min(first + len(part), len(sound))
        if begin < stop:
            sound[begin:stop] = part[begin - first:stop - first]
        first += len(part)
    return first
