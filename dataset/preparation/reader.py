"""The reader of video and sound, for preparation and prediction alike.

Frames are those on screen at their time, by the times that the video states (timeline.py): also where the frame rate
varies, frames are hidden by an edit list, or the clock restarts. Frames are turned and mirrored as players show them;
high dynamic range becomes standard range; pixels are taken as square. Of several streams the first sound stream and the
first video stream that is no cover picture are taken. N samples, T frames of H x W pixels.
"""

import threading
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorTrc, VideoReformatter

from dataset.errors import InputError, first_few, readable
from dataset.preparation.timeline import EXACT, Timeline, is_guessed, opened, read_timeline

EARLIER = (2.0, 20.0, 200.0)  # seconds to which is sought before the part, one after the other
ROUNDING = 1e-6  # frames; 1.36 s at 25 frames per second is frame 34, although 1.36 * 25 may come out below
JITTER = 0.1  # seconds that a stated time of sound may differ from the end of what came before: more is a gap
SHORTEST = 0.01  # seconds of a part
MISSING_END = 0.5  # seconds; headers may include sound after the last frame; more means a truncated file
WITHOUT_TIMES = "{} does not state when its frames are shown: convert it to mp4"
HIGH_RANGE = (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67)  # PQ and HLG
TO_STANDARD = {"dst_color_trc": ColorTrc.BT709, "dst_color_primaries": ColorPrimaries.BT709}

RESIZED = "their pictures change size, and were scaled to the size of the first"
MAPPED = "high dynamic range (HLG or PQ), converted to standard range"
JOINED = "their clock restarts, as where recordings were joined: the parts were put one after the other"
LONGER_SOUND = "their sound goes on after the picture, and is left out from there"

local = threading.local()  # a thread's converters of pictures: to make one for high dynamic range takes five seconds
noted: dict[str, set[Path]] = defaultdict(set)  # {what was done: to which files}, until `print_notes`


class NoSoundError(InputError):
    """A video without a sound stream, or with an empty one."""


class Timed(NamedTuple):
    """A frame of sound or video; time: from the beginning of the timeline, None where the file states none. matrix: of
    a video frame, how it is turned and mirrored; None: not at all."""

    time: float | None
    frame: av.frame.Frame
    matrix: bytes | None = None


class Part(NamedTuple):
    """sound: int16 (N,), silence where the video has none. frames: uint8 BGR (H, W, 3) each, decoded one by one while
    they are read: all those of a long video would not fit into memory."""

    sound: np.ndarray
    frames: Iterator[np.ndarray]


def print_notes() -> None:
    """What was done to which files since the last call, where a user may not expect it."""
    for note, paths in list(noted.items()):
        print(f"note: of {len(paths)} files, {note}: {first_few(sorted(readable(path.name) for path in paths))}")
    noted.clear()


# ---- a part of a video: sound and frames, which belong together


def read_part(path: Path, start: float = 0.0, end: float | None = None, *, sample_rate: int = 16000,
              fps: float = 1.0) -> Part:
    """The sound from `start` to `end` (None: the end of the video), and the frames in the middles of n equal parts of
    it, n = max(1, round(seconds * fps)). Times are from the first picture or sound on.

    Only what is needed is decoded, of hours as of seconds. Raises InputError, also while the frames are read: missing,
    empty, not a video, truncated; the part begins or ends after the video, or is next to nothing.
    """
    line = video_timeline(path)
    length = line.length
    if start >= length:
        raise InputError(f"{path} lasts {length:.2f} s: there is nothing at {start:g} s")
    if end is not None and end > length + MISSING_END:
        raise InputError(f"{path} lasts {length:.2f} s, the part ends at {end:g} s")
    if end is None:
        check_whole(path, line)
    end = length if end is None else min(end, length)
    if end - start < SHORTEST:
        raise InputError(f"{path}: the part from {start:.15g} to {end:.15g} s is shorter than {SHORTEST} s, choose a "
                         f"longer one (the video lasts {length:.2f} s)")
    times = [start + time for time in middle_times(end - start, fps)]
    return Part(sound_between(path, line, start, end, sample_rate), pictures(path, line, times, EXACT))


def read_length(path: Path) -> float:
    """Seconds from the first picture or sound to the end of the video. Raises InputError: not a video."""
    return video_timeline(path).length


def video_timeline(path: Path) -> Timeline:
    """Raises InputError: no video stream, or one without times."""
    line = read_timeline(path)
    if line.video is None:
        reason = "holds a cover picture, but no video" if line.is_cover else "has no video stream"
        raise InputError(f"{path} {reason}: leave it out")
    if not len(line.times):
        raise InputError(WITHOUT_TIMES.format(path))
    if line.is_joined:
        noted[JOINED].add(path)
    if line.sound_end > line.length + MISSING_END:
        noted[LONGER_SOUND].add(path)
    return line


def check_whole(path: Path, line: Timeline) -> None:
    """Raises InputError: the file ends well before its header says."""
    if line.stated and line.stated > line.there + MISSING_END:
        raise InputError(f"{path} ends at {line.there:.2f} s, but its header states {line.stated:.2f} s: it is "
                         "truncated or damaged, download it again")


def check_end(path: Path, end: float, wanted: float) -> None:
    """Raises InputError when a video whose last frame ends at `end` seconds ends well before the `wanted` time."""
    if end == 0:
        raise InputError(f"no frame of {path} can be decoded: download it again")
    if wanted - end > MISSING_END:
        raise InputError(f"{path} ends at {end:.2f} s, but a frame at {wanted:.2f} s is needed: it is truncated "
                         "or damaged, download it again")


# ---- frames alone


def middle_times(duration: float, fps: float) -> list[float]:
    """The middles (seconds) of n equal segments of about 1/fps seconds: n = max(1, round(duration * fps))."""
    count = max(1, round(duration * fps))
    return [(i + 0.5) * duration / count for i in range(count)]


def read_duration(path: Path) -> float:
    """Seconds from the first picture to the end of the video. Raises InputError: not a video, or truncated."""
    line = video_timeline(path)
    check_whole(path, line)
    return line.length - line.times[0]


def read_frames(path: Path, times: Sequence[float]) -> Iterator[np.ndarray]:
    """Yields the frames on screen at `times` (seconds after the first picture, ascending), uint8 BGR (H, W, 3) as
    cv2.imencode takes them. Raises InputError: not a video, no frame can be decoded, or the video ends before one of
    the times."""
    line = video_timeline(path)
    slack = ROUNDING * line.period if line.period else EXACT
    return pictures(path, line, [line.times[0] + time for time in times], slack)


def read_middles(path: Path, fps: float) -> Iterator[np.ndarray]:
    """The frames in the middles of n equal parts, n = max(1, round(seconds * fps)). Raises InputError."""
    return read_frames(path, middle_times(read_duration(path), fps))


def measure(path: Path) -> tuple[int, float]:
    """How many frames of a video can be decoded, and per second. Raises InputError: none, or the video ends well before
    its header says."""
    line = video_timeline(path)
    check_whole(path, line)
    count = sum(1 for _ in decoded(path, line, "video"))
    check_end(path, line.times[min(count, len(line.times)) - 1] + 1 / line.rate if count else 0, line.video_end)
    return count, line.rate


def stated_count(path: Path) -> tuple[int, float]:
    """How many frames a video has by its packets, and per second. Raises InputError: not a video, or truncated."""
    line = video_timeline(path)
    check_whole(path, line)
    return len(line.times), line.rate


def read_numbered(path: Path, numbers: Collection[int]) -> dict[int, np.ndarray]:
    """{number: frame, uint8 BGR (H, W, 3)} of the given frames, counted from 0. Raises InputError: one is missing."""
    found, last = {}, max(numbers)
    frames = enumerate(decoded(path, video_timeline(path), "video"))
    for number, timed_frame in frames:
        if number in numbers:
            found[number] = same_size(path, picture(path, timed_frame), next(iter(found.values()), None))
        if number == last:
            return found
    raise InputError(f"{path} has no frame {last} that can be decoded: it is damaged, download it again")


# ---- sound alone


def read_sound(path: Path, sample_rate: int) -> np.ndarray:
    """The first sound stream of a video or sound file as int16 (N,): channels averaged, resampled (libswresample), gaps
    filled with silence.

    Averaged in 16 bits: libswresample mixes floats louder by sqrt(2), which clips loud stereo.
    Raises NoSoundError without a sound stream; InputError: missing, empty, truncated, cannot be decoded.
    """
    line = read_timeline(path)
    if line.sound is None:
        raise NoSoundError(f"{path} has no sound stream")
    check_whole(path, line)
    parts = list(resampled(decoded(path, line, "audio"), sample_rate, None))
    if not parts:
        raise NoSoundError(f"the sound stream of {path} is empty")
    sound = np.zeros(max(place + len(part) for place, part in parts), np.int16)
    for place, part in parts:
        put(sound, place, part)
    return sound


def sound_between(path: Path, line: Timeline, start: float, end: float, sample_rate: int) -> np.ndarray:
    """int16 (N,), N = round((end - start) * sample_rate): channels averaged, resampled, each at its stated time;
    silence before the stream's beginning, in its gaps, after its end, and without one."""
    sound = np.zeros(round((end - start) * sample_rate), np.int16)
    for place, part in resampled(decoded(path, line, "audio", start), sample_rate, start):
        put(sound, place, part)
        if place + len(part) >= len(sound):
            break
    return sound


def resampled(frames: Iterator[Timed], sample_rate: int, start: float | None) -> Iterator[tuple[int, np.ndarray]]:
    """(place, samples int16) of sound frames, where place 0 is at `start` seconds (None: at the first frame). The
    resampler is renewed where channels, rate or format change, and after gaps."""
    place, resampler, form = 0 if start is None else round(-start * sample_rate), None, None
    for time, frame, _ in frames:
        if start is None:
            start = time or 0.0
        stated = place if time is None else round((time - start) * sample_rate)
        before, form = form, (frame.format.name, frame.layout.name, frame.sample_rate)
        if form != before or abs(stated - place) > JITTER * sample_rate:
            for part in resampler.resample(None) if resampler else ():  # what it still holds from before
                yield place, part.to_ndarray()[0]
                place += part.samples
            resampler = av.AudioResampler(format="s16", layout="mono", rate=sample_rate)
            place = max(place, stated) if before and abs(stated - place) <= JITTER * sample_rate else stated
        for part in resampler.resample(frame):
            yield place, part.to_ndarray()[0]
            place += part.samples
    for part in resampler.resample(None) if resampler else ():
        yield place, part.to_ndarray()[0]
        place += part.samples


def put(sound: np.ndarray, first: int, part: np.ndarray) -> None:
    """Writes the part into `sound` from place `first` on; what lies outside is left out."""
    begin, stop = max(first, 0), min(first + len(part), len(sound))
    if begin < stop:
        sound[begin:stop] = part[begin - first:stop - first]


# ---- decoding


def decoded(path: Path, line: Timeline, kind: str, time: float = 0.0) -> Iterator[Timed]:
    """The frames of the stream of a kind, "video" or "audio", from one at or before `time` on; from the first one where
    there is none before. Nothing, if there is no such stream.

    Some containers seek to the nearest place, be it after `time`, between key frames or amid a frame. So where what
    follows begins later or cannot be decoded, an earlier place is tried, in the end the beginning.
    """
    index = line.video if kind == "video" else line.sound
    if index is None:
        return
    whole = line.is_joined or (line.by_order and kind == "video")
    for earlier in (float("inf"),) if whole else (*EARLIER, float("inf")):
        with opened(path) as container:
            stream = container.streams[index]
            if kind == "video":
                stream.thread_type = "SLICE"  # clips run in parallel
            frames = timed(container, stream, line)
            if earlier < time:
                first = first_from(container, stream, line, frames, time - earlier)
                if first is None or first.time is None or first.time > time + EXACT or not first.frame.key_frame:
                    continue
                yield first
            yield from frames
            return


def timed(container: av.container.InputContainer, stream: av.stream.Stream, line: Timeline) -> Iterator[Timed]:
    """The frames that follow, the times by the timeline. Packets before the first that can be decoded are left out, as
    after a seek or in a recording that begins amid a frame."""
    shifts, shift, error, count, matrix = list(line.shifts[stream.index]), 0, None, 0, None
    is_aac = stream.codec_context.name == "aac"
    for number, packet in enumerate(container.demux(stream)):
        while shifts and shifts[0][0] <= number:
            shift = round(shifts.pop(0)[1] / stream.time_base)
        if is_aac and is_guessed(packet):
            packet.pts = packet.dts = None  # its samples follow those before
        if shift and packet.pts is not None:
            packet.pts += shift
        if shift and packet.dts is not None:
            packet.dts += shift
        try:
            frames = packet.decode()
        except av.FFmpegError as problem:
            if count:
                raise
            error = problem
            continue
        for frame in frames:
            if isinstance(frame, av.VideoFrame):
                matrix = matrix_of(frame, matrix)
            yield Timed(time_of(frame, line, count), frame, matrix)
            count += 1
    if error and not count:
        raise error


def matrix_of(frame: av.VideoFrame, before: bytes | None) -> bytes | None:
    """before: the matrix of the frame before. H.264 and HEVC may state it with key frames only, for all that follow."""
    stated = frame.side_data.get("DISPLAYMATRIX")
    return before if stated is None and not frame.key_frame else stated and bytes(stated)


def time_of(frame: av.frame.Frame, line: Timeline, number: int) -> float | None:
    """From the beginning of the timeline. number: of the frame in the order in which frames are shown."""
    if line.by_order and isinstance(frame, av.VideoFrame):
        return float(line.times[min(number, len(line.times) - 1)])
    return None if frame.time is None else frame.time - line.begin


def first_from(container: av.container.InputContainer, stream: av.stream.Stream, line: Timeline,
               frames: Iterator[Timed], time: float) -> Timed | None:
    """The first of the frames after a seek to `time`. None: it cannot be decoded, or none follows."""
    try:
        container.seek(int((time + line.begin) / stream.time_base), stream=stream)
        return next(frames, None)
    except av.FFmpegError:
        return None


def pictures(path: Path, line: Timeline, times: Sequence[float], slack: float) -> Iterator[np.ndarray]:
    """The frames on screen at `times`, ascending, each in the size of the first. slack: seconds that a frame may begin
    after its time. Raises InputError: the video ends well before one of them, or does not state when its frames are
    shown."""
    frames = decoded(path, line, "video", times[0])
    shown, following, first = None, next(frames, None), None
    for time in times:
        while following is not None and (shown is None or begins(following, line) <= time + slack):
            shown, following = following, next(frames, None)
            if shown.time is None or (following and following.time is None):
                raise InputError(WITHOUT_TIMES.format(path))
        if following is None and not (shown and len(line.times) == 1):  # a single picture stands
            check_end(path, end_of(shown) if shown else 0, time)
        image = same_size(path, picture(path, shown), first)
        first = image if first is None else first
        yield image


def begins(shown: Timed, line: Timeline) -> float:
    """When a frame appears: its stated time, without its rounding where frames follow at equal distances."""
    if not line.period or shown.time is None:
        return shown.time or 0.0
    return line.times[0] + round((shown.time - line.times[0]) / line.period) * line.period


def end_of(shown: Timed) -> float:
    """Until when a frame is shown: by its own duration, which may be long."""
    return shown.time + float(shown.frame.duration * shown.frame.time_base)


# ---- a picture


def picture(path: Path, shown: Timed) -> np.ndarray:
    """uint8 BGR (H, W, 3), as players show it: turned, mirrored, in standard dynamic range. Raises InputError: it
    cannot be converted."""
    frame = shown.frame
    high = frame.color_trc in HIGH_RANGE
    if high:
        noted[MAPPED].add(path)
    if not hasattr(local, "converters"):
        local.converters = {False: VideoReformatter(), True: VideoReformatter()}
    try:
        image = local.converters[high].reformat(frame, format="bgr24", threads=1, **TO_STANDARD if high else {})
    except (av.FFmpegError, ValueError) as error:
        raise InputError(f"a frame of {path} cannot be converted to a picture ({error}): convert the video to mp4, or "
                         "leave it out") from None
    return oriented(image.to_ndarray(), shown.matrix)


def oriented(image: np.ndarray, matrix: bytes | None) -> np.ndarray:
    """Turned by quarters and mirrored, as a display matrix (a, b; c, d) says: the pixel at (x, y) is shown at
    (a x + c y, b x + d y)."""
    if matrix is None:
        return image
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        image, a, d = image.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(image[::-1 if d < 0 else 1, ::-1 if a < 0 else 1])


def same_size(path: Path, image: np.ndarray, first: np.ndarray | None) -> np.ndarray:
    """In the size of the first picture: in a stream it may change."""
    if first is None or first.shape == image.shape:
        return image
    noted[RESIZED].add(path)
    return cv2.resize(image, first.shape[1::-1], interpolation=cv2.INTER_AREA)
