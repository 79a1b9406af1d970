"""A part of a video as sound and frames: the one way from a video to data, for preparation and prediction alike.

Times are seconds from the start of the container, so that sound and frames of a part belong together. Of several
streams the first video and the first sound stream are taken. Frames are those on screen at their time, by the times
that the video states: also where the frame rate varies. N samples, T frames of H x W pixels.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

from dataset.errors import InputError
from dataset.files import check_is_media
from dataset.preparation.clips import MISSING_END, check_end, media_url, middle_times

EARLIER = (2.0, 20.0, 200.0)  # seconds to which is sought before the part, one after the other
EXACT = 1e-3  # seconds that times in lists and files may differ by rounding
JITTER = 0.1  # seconds that a stated time of sound may differ from the end of what came before: more is a gap
SHORTEST = 0.01  # seconds of a part
WITHOUT_TIMES = "{} does not state when its frames are shown: convert it to mp4"


class Timed(NamedTuple):
    """A frame of sound or video; time: from the start of the container, None where the file states none."""

    time: float | None
    frame: av.frame.Frame


class Part(NamedTuple):
    """sound: int16 (N,), silence where the video has none. frames: uint8 BGR (H, W, 3) each, decoded one by one while
    they are read: all those of a long video would not fit into memory."""

    sound: np.ndarray
    frames: Iterator[np.ndarray]


def read_part(path: Path, start: float = 0.0, end: float | None = None, *, sample_rate: int = 16000,
              fps: float = 1.0) -> Part:
    """The sound from `start` to `end` (None: the end of the video), and the frames in the middles of n equal parts of
    it, n = max(1, round(seconds * fps)).

    Only what is needed is decoded, of hours as of seconds. Raises InputError, also while the frames are read: missing,
    empty, not a video; the part begins or ends after the video, or is next to nothing.
    """
    check_is_media(path)
    length = read_length(path)
    if start >= length:
        raise InputError(f"{path} lasts {length:.2f} s: there is nothing at {start:g} s")
    if end is not None and end > length + MISSING_END:
        raise InputError(f"{path} lasts {length:.2f} s, the part ends at {end:g} s")
    end = length if end is None else min(end, length)
    if end - start < SHORTEST:
        raise InputError(f"{path}: the part from {start:.15g} to {end:.15g} s is shorter than {SHORTEST} s, choose a "
                         f"longer one (the video lasts {length:.2f} s)")
    times = [start + time for time in middle_times(end - start, fps)]
    with named(path):
        sound = sound_between(path, start, end, sample_rate)
    return Part(sound, frames_at(path, times))


@contextmanager
def named(path: Path) -> Iterator[None]:
    """FFmpeg's errors become InputError, which names the file."""
    try:
        yield
    except av.FFmpegError as error:
        raise InputError(f"{path} cannot be decoded ({error}): convert it again, or leave it out") from None


def begin(container: av.container.InputContainer) -> float:
    """Seconds that the container's first frame states: not 0 in recorded streams. Less than 0 is what a sound decoder
    needs before the beginning."""
    return max(0, container.start_time or 0) / av.time_base


def read_length(path: Path) -> float:
    """Seconds from the start of the container to the end of its video: the latest that its header or its last packets
    state. Raises InputError: not a video."""
    with named(path), av.open(media_url(path)) as container:
        if not container.streams.video:
            raise InputError(f"{path} has no video stream: leave it out")
        video, first = container.streams.video[0], begin(container)
        ends = [] if video.duration is None else [((video.start_time or 0) + video.duration) * video.time_base]
        if container.duration:  # that of the longest stream
            with suppress(av.FFmpegError):
                container.seek(max(0, container.start_time or 0) + container.duration)
        ends += ends_of_packets(container, video)
    if not ends:
        with named(path), av.open(media_url(path)) as container:
            ends = ends_of_packets(container, container.streams.video[0])
    if not ends:
        raise InputError(WITHOUT_TIMES.format(path))
    return float(max(ends)) - first


def ends_of_packets(container: av.container.InputContainer, video: av.VideoStream) -> list[Fraction]:
    """Until when the frames that follow are shown, of those that state a time."""
    usual = 1 / (video.average_rate or 25)
    return [packet.pts * packet.time_base + (packet.duration * packet.time_base if packet.duration else usual)
            for packet in container.demux(video) if packet.pts is not None and not packet.is_discard]


def decoded(path: Path, kind: str, time: float) -> Iterator[Timed]:
    """The frames of the first stream of a kind, "video" or "audio", from one at or before `time` on; from the first one
    where there is none before. Nothing, if there is no such stream.

    Some containers seek to the nearest place, be it after `time`, between key frames or amid a frame. So where what
    follows begins later or cannot be decoded, an earlier place is tried, in the end the beginning.
    """
    for earlier in (*EARLIER, float("inf")):
        with named(path), av.open(media_url(path)) as container:
            stream = next(iter(getattr(container.streams, kind)), None)
            if stream is None:
                return
            if kind == "video":
                stream.thread_type = "SLICE"  # clips run in parallel
            frames = timed(container, stream, amid=earlier < time)
            if earlier < time:
                first = first_from(container, stream, frames, time - earlier)
                if first is None or first.time is None or first.time > time + EXACT or not first.frame.key_frame:
                    continue
                yield first
            yield from frames
            return


def timed(container: av.container.InputContainer, stream: av.stream.Stream, amid: bool) -> Iterator[Timed]:
    """The frames that follow. amid: begin with the first that can be decoded, as after a seek to amid a frame."""
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.FFmpegError:
            if not amid:
                raise
            continue
        amid = amid and not frames
        for frame in frames:
            yield Timed(None if frame.time is None else frame.time - begin(container), frame)


def first_from(container: av.container.InputContainer, stream: av.stream.Stream, frames: Iterator[Timed],
               time: float) -> Timed | None:
    """The first of the frames after a seek to `time`. None: it cannot be decoded, or none follows."""
    try:
        container.seek(int((time + begin(container)) / stream.time_base), stream=stream)
        return next(frames, None)
    except av.FFmpegError:
        return None


def frames_at(path: Path, times: Sequence[float]) -> Iterator[np.ndarray]:
    """The frames on screen at `times`, ascending. Raises InputError: the video ends well before one of them, or does
    not state when its frames are shown."""
    frames = decoded(path, "video", times[0])
    shown, following = None, next(frames, None)
    for time in times:
        while following is not None and (shown is None or following.time <= time + EXACT):
            shown, following = following, next(frames, None)
            if shown.time is None or (following and following.time is None):
                raise InputError(WITHOUT_TIMES.format(path))
        if following is None:
            check_end(path, end_of(shown) if shown else 0, time)
        with named(path):
            yield upright(shown.frame)


def end_of(shown: Timed) -> float:
    """Until when a frame is shown: by its own duration, which may be long."""
    return shown.time + float(shown.frame.duration * shown.frame.time_base)


def upright(frame: av.VideoFrame) -> np.ndarray:
    """uint8 BGR (H, W, 3), turned as a phone's video says it is shown."""
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="bgr24"), round(frame.rotation / 90)))


def sound_between(path: Path, start: float, end: float, sample_rate: int) -> np.ndarray:
    """int16 (N,), N = round((end - start) * sample_rate): channels averaged, resampled, each at its stated time;
    silence before the stream's beginning, in its gaps, after its end, and without one."""
    sound = np.zeros(round((end - start) * sample_rate), np.int16)
    place, resampler, form = round(-start * sample_rate), None, None  # where in `sound` the next sample belongs
    for time, frame in decoded(path, "audio", start):
        stated = place if time is None else round((time - start) * sample_rate)
        before, form = form, (frame.format.name, frame.layout.name, frame.sample_rate)  # changes in broadcasts
        if form != before or abs(stated - place) > JITTER * sample_rate:
            if resampler:
                put(sound, place, resampler.resample(None))  # what it still holds from before
            resampler, place = av.AudioResampler(format="s16", layout="mono", rate=sample_rate), stated
        place = put(sound, place, resampler.resample(frame))
        if place >= len(sound):
            break
    if resampler:
        put(sound, place, resampler.resample(None))
    return sound


def put(sound: np.ndarray, first: int, frames: Sequence[av.AudioFrame]) -> int:
    """Writes the frames into `sound` from place `first` on, what lies outside is left out -> the place after them."""
    for frame in frames:
        part = frame.to_ndarray()[0]
        begin, stop = max(first, 0), min(first + len(part), len(sound))
        if begin < stop:
            sound[begin:stop] = part[begin - first:stop - first]
        first += len(part)
    return first
