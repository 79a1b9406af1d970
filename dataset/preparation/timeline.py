"""When the pictures and the sound of a file are: one pass over its packets, without decoding.

What a file states is checked, not believed: where recordings were joined its clock restarts, in MPEG streams it wraps
at 2^33 ticks, it may begin below zero; its header may count frames that are hidden or missing. Here time goes on.

All times are seconds. T video frames that are shown.
"""

import io
import mmap
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

from dataset.errors import InputError
from dataset.files import check_is_media, other_kind

BACKWARD = 0.25  # seconds that a clock goes back when it restarts; less is disorder
FORWARD = 10.0  # seconds of a jump of all streams of a joined MPEG stream; FFmpeg's dts_delta_threshold
LATE = 2.0  # seconds that the first packet of a stream may come after those of the other of its time
PRIMING = 0.25  # seconds before zero that a sound decoder needs to begin
EXACT = 1e-3  # seconds of rounding
ROUNDED = 1.5e-3  # seconds that stated times differ from equal distances, where they are whole milliseconds
USUAL_RATE = 25  # frames per second, where neither the stream nor its packets state a duration
STATES_DURATION = ("mov", "matroska", "flv", "avi", "asf")  # formats whose header does, before the content
REORDERED = ("h264", "hevc")  # their frames in avi are stored in another order than shown, without a time
ADTS_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)  # Hz, of AAC
WHOLE = 0.9  # part of an MPEG stream before the end of its first video and sound stream

# {format: what its files begin with}, of which FFmpeg reads no second one in a file
SIGNATURES = {"mov": b"ftyp", "flv": b"FLV\x01", "asf": bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")}

# {format: what its files begin with}, of which FFmpeg reads a second one with the parameters of the first
BEGINS = {"matroska": re.compile(rb"\x1aE\xdf\xa3.{1,60}?(?:matroska|webm)", re.S),
          "avi": re.compile(rb"RIFF.{4}AVI LIST", re.S)}
HEADER = 1 << 22  # bytes from which the parameters of a second one are read
SIZE_IN_HEADER = ("ffv1", "ffvhuff", "huffyuv", "utvideo", "magicyuv", "rawvideo")  # codecs whose frames lack it


class Timeline(NamedTuple):
    """video, sound: index of the stream that is read, None without one. begin: time of the first picture or sound by
    the file's clock; all other times are from there on.

    times (T,): of the shown frames, ascending. video_end, sound_end: 0 without the stream. period: between frames, None
    where it varies. rate: frames per second. shifts: {stream: ((number of a packet, seconds that are added to the times
    of the file from this packet on), ...)}. stated: duration by the header, None where it states none; there: the
    duration of all packets.
    """

    video: int | None
    sound: int | None
    begin: float
    times: np.ndarray
    video_end: float
    sound_end: float
    period: float | None
    rate: float
    shifts: Mapping[int, Sequence[tuple[int, float]]]
    stated: float | None
    there: float
    is_cover: bool
    by_order: bool

    @property
    def is_joined(self) -> bool:
        """Whether the clock restarts."""
        return any(len(shifts) > 1 for shifts in self.shifts.values())

    @property
    def length(self) -> float:
        """From `begin` to the end of the video. A single picture stands as long as there is sound."""
        return max(self.video_end, self.sound_end) if len(self.times) == 1 else self.video_end


class Track:
    """The packets of one stream so far. ends, starts: of each stretch of the clock between restarts, {stretch: time by
    the file's clock}."""

    def __init__(self, stream: av.stream.Stream):
        self.unit = float(stream.time_base)
        rate = getattr(stream, "average_rate", None)
        self.usual = 1 / float(rate or USUAL_RATE) if stream.type == "video" else 0.0
        self.is_aac = stream.codec_context.name == "aac"
        self.stretch, self.count = 0, 0
        self.last: float | None = None
        self.end: float | None = None  # of the packet before
        self.supposed: int | None = None  # stretch in which the stream begins, if another stream enters it too
        self.first_of: dict[int, int] = {0: 0}  # {stretch: number of its first packet}
        self.starts: dict[int, float] = {}
        self.ends: dict[int, float] = {}
        self.shown: list[tuple[int, float]] = []  # (stretch, time)

    def enter(self, stretch: int) -> None:
        self.stretch, self.last, self.end = stretch, None, None
        self.first_of[stretch] = self.count

    def when(self, packet: av.Packet) -> float | None:
        """The time of a packet in decoding order."""
        if self.end is not None and self.is_aac and is_guessed(packet):
            return self.end
        tick = packet.dts if packet.dts is not None else packet.pts
        return None if tick is None else tick * self.unit

    def begin_at_first(self) -> None:
        """The supposed stretch is the first one: the streams are stored one after the other."""
        self.first_of.pop(self.supposed)
        for place in (self.starts, self.ends):
            if self.supposed in place:
                place[0] = place.pop(self.supposed)
        self.shown = [(0 if stretch == self.supposed else stretch, time) for stretch, time in self.shown]

    def add(self, packet: av.Packet, when: float | None) -> None:
        """when: its time in decoding order."""
        self.count += 1
        if when is not None:
            self.last = when
        if packet.pts is None or packet.is_discard:
            return
        start, duration = packet.pts * self.unit, packet.duration * self.unit or self.usual
        if self.is_aac and (real := misstated_duration(packet)):
            start, duration = when, real
        self.end = end = start + duration
        self.starts[self.stretch] = min(start, self.starts.get(self.stretch, start))
        self.ends[self.stretch] = max(end, self.ends.get(self.stretch, end))
        self.shown.append((self.stretch, start))


def misstated_duration(packet: av.Packet) -> float | None:
    """Seconds of an AAC packet whose header, in MPEG streams, states another rate than the first packet's, by which
    FFmpeg computes its duration and the times of the packets after it; None for others."""
    head = memoryview(packet)[:7]
    if len(head) < 7 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0 or (head[2] >> 2 & 15) >= len(ADTS_RATES):
        return None
    seconds = 1024 * (1 + (head[6] & 3)) / ADTS_RATES[head[2] >> 2 & 15]
    return seconds if abs(seconds - packet.duration * float(packet.time_base)) > EXACT else None


def is_guessed(packet: av.Packet) -> bool:
    """Whether an AAC packet's time is by FFmpeg, from a wrong duration: in MPEG streams only some packets state a time,
    those of which the place in the file is known."""
    return packet.pos is None and misstated_duration(packet) is not None


def media_url(path: Path) -> str:
    """As FFmpeg opens it: else it would take `12:30 talk.mp4` for an address of the protocol `12`."""
    return f"file:{path}"


@contextmanager
def opened(path: Path) -> Iterator[av.container.InputContainer]:
    """A media file. FFmpeg's errors become InputError, which names the file; also those raised while it is open."""
    check_is_media(path)
    with named(path), av.open(media_url(path), metadata_errors="replace") as container:
        yield container


@contextmanager
def named(path: Path) -> Iterator[None]:
    try:
        yield
    except av.FFmpegError as error:
        raise InputError(f"{path} cannot be read as a video or as sound ({error.strerror}): it is truncated, damaged "
                         "or no media file. Download or convert it again, or leave it out") from None


def packets_of(container: av.container.InputContainer, *streams: av.stream.Stream) -> Iterator[av.Packet]:
    """Without the empty ones that PyAV adds at the end."""
    return (packet for packet in container.demux(*streams) if packet.size or packet.dts is not None)


def read_timeline(path: Path) -> Timeline:
    """Raises InputError: missing, empty, not media."""
    check_is_media(path)
    there = path.stat()
    return scan(path, there.st_size, there.st_mtime_ns)


@lru_cache(maxsize=32)  # of a long video many parts may be read
def scan(path: Path, *_: int) -> Timeline:
    kind = other_kind(path)  # FFmpeg shows a text as a picture of its letters
    if kind:
        raise InputError(f"{path} cannot be read as a video or as sound: by its content it is {kind}. Leave it out")
    with opened(path) as container:
        video, sound = first_stream(container.streams.video), first_stream(container.streams.audio)
        is_cover = video is None and bool(container.streams.video)
        tracks = {stream.index: Track(stream) for stream in (video, sound) if stream}
        joins = bool(container.format.flags & av.format.Flags.ts_discont.value)
        units = {stream.index: float(stream.time_base or 0) for stream in container.streams}
        first, last, read = np.inf, -np.inf, 0  # of all streams: the header's duration is that of the longest
        for packet in packets_of(container):
            if packet.stream_index in tracks or not joins:
                read = max(read, (packet.pos or 0) + packet.size)
            if packet.pts is not None:
                start = packet.pts * units[packet.stream_index]
                first, last = min(first, start), max(last, start + packet.duration * units[packet.stream_index])
            if packet.stream_index in tracks:
                follow(tracks, packet, joins)
        for track in tracks.values():
            others = [other for other in tracks.values() if other is not track]
            if track.supposed and not any(track.supposed in other.starts for other in others):
                track.begin_at_first()
        check_nothing_follows(path, container.format.name, read)
        if video:
            check_coded_alike(path, container.format.name, video)
        form, rate = container.format.name, float(video.average_rate or 0) if video else 0.0
        stated = container.duration / av.time_base if form.startswith(STATES_DURATION) and container.duration else None
        if stated and form == "avi" and rate:  # FFmpeg shortens the duration to the size of the file
            stated = max(stated, video.frames / rate)
        start_time = (container.start_time or 0) / av.time_base
        by_order = bool(video) and form == "avi" and video.codec_context.name in REORDERED
        if form.startswith("matroska"):  # its duration is counted from zero, also where the clock begins later
            first = min(first, 0.0)
        indices = [stream and stream.index for stream in (video, sound)]  # not to be asked of a closed container
    line = timeline_of(tracks, *indices, rate, start_time)._replace(
        stated=stated, there=max(last - first, 0.0), is_cover=is_cover, by_order=by_order)
    return counted(line, 1 / rate) if form == "mpeg" and rate else line


def check_nothing_follows(path: Path, form: str, read: int) -> None:
    """Raises InputError: after the bytes that were `read` another recording begins, which would be lost."""
    if form == "mpegts" and read < WHOLE * path.stat().st_size:
        raise InputError(f"{path}: from byte {read} on its video and sound are in other streams, as where "
                         "recordings were joined: cut it there, or convert it again")
    signature = next((mark for name, mark in SIGNATURES.items() if form.startswith(name)), None)
    if signature is None:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        place = content.find(signature, read)
        if place >= 0 and (signature != SIGNATURES["mov"] or content.find(b"moov", place) >= 0):
            raise InputError(f"{path} holds several recordings one after the other, of which only the first can be "
                             "read: join them with ffmpeg -f concat, or cut the others off")


def check_coded_alike(path: Path, form: str, video: av.stream.Stream) -> None:
    """Raises InputError: where recordings were joined, the pictures of a later one are coded with other parameters,
    which would not be read: its pictures would be wrong."""
    form = form.partition(",")[0]
    if form not in BEGINS:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for begin in BEGINS[form].finditer(content, 1):
            later = parameters(content[begin.start():begin.start() + HEADER], form)
            if later != parameters_of(video, form):
                raise InputError(f"{path} holds several recordings one after the other, whose pictures are coded with "
                                 "different parameters: cut them apart, or convert each and join them again")


def parameters_of(video: av.stream.Stream, form: str) -> tuple:
    """What its decoder has from the header alone; in avi the frames repeat the rest."""
    codec = video.codec_context
    size = (codec.width, codec.height) if codec.name in SIZE_IN_HEADER else None
    return codec.name, size, codec.extradata if form == "matroska" else None


def parameters(content: bytes, form: str) -> tuple | None:
    """Those of the first video stream of a file that begins so; None if it has none."""
    try:
        with av.open(io.BytesIO(content), format=form) as container:
            video = first_stream(container.streams.video)
            return video and parameters_of(video, form)
    except av.FFmpegError:
        return None


def first_stream(streams: Sequence[av.stream.Stream]) -> av.stream.Stream | None:
    """The first that can be decoded and is no cover picture, be it that the file does not call it one: a single picture
    beside a video."""
    cover = av.stream.Disposition.attached_pic
    usable = [stream for stream in streams if stream.codec_context and not stream.disposition & cover]
    return next((stream for stream in usable if stream.frames != 1), usable[0] if usable else None)


def follow(tracks: Mapping[int, Track], packet: av.Packet, joins: bool) -> None:
    """Adds a packet to its stream's track, in a new stretch if the clock has restarted. joins: whether the format lets
    clocks jump forward."""
    track = tracks[packet.stream_index]
    when = track.when(packet)
    others = [other for other in tracks.values() if other.last is not None]
    if when is not None and joins and track.last is None and others:  # a stream that only a later recording has
        latest = max(others, key=lambda other: other.stretch)
        if latest.last - when > LATE:
            track.enter(latest.stretch + 1)
            track.supposed = track.stretch
        elif latest.stretch > track.stretch:
            track.enter(latest.stretch)
    elif when is not None and track.last is not None:
        heard = [one.last for one in tracks.values() if one.stretch == track.stretch and one.last is not None]
        if when < track.last - BACKWARD or (joins and when > max(heard) + FORWARD):
            track.enter(next_stretch(tracks, track.stretch, when))
    track.add(packet, when)


def next_stretch(tracks: Mapping[int, Track], now: int, when: float) -> int:
    """The latest stretch that another stream has entered, if `when` is near the time there, else a new one."""
    others = [track for track in tracks.values() if track.stretch > now and track.last is not None]
    near = [track.stretch for track in others if abs(track.last - when) < FORWARD]
    return near[-1] if near else max(track.stretch for track in tracks.values()) + 1


def timeline_of(tracks: Mapping[int, Track], video: int | None, sound: int | None, rate: float,
                start_time: float) -> Timeline:
    """Puts the stretches one after the other: each begins when the streams that go on in it have ended before."""
    shift: dict[int, float] = {}
    reached: dict[int, float] = {}  # {stream: its end so far}
    for stretch in sorted({stretch for track in tracks.values() for stretch in track.starts}):
        here = {index: track for index, track in tracks.items() if stretch in track.starts}
        start = min(track.starts[stretch] for track in here.values())
        before = [reached[index] for index in here if index in reached] or list(reached.values())
        shift[stretch] = max(before) - start if before else 0.0
        reached |= {index: track.ends[stretch] + shift[stretch] for index, track in here.items()}

    def placed(index: int | None) -> np.ndarray:
        return np.sort([time + shift[stretch] for stretch, time in tracks[index].shown]) if index is not None else (
            np.zeros(0))

    times, heard = placed(video), placed(sound)
    firsts = [*times[:1], *(max(time, 0.0) if time >= -PRIMING else time for time in heard[:1])]
    begin = min(firsts, default=0.0)
    if len(shift) < 2 and 0 <= start_time < begin:
        begin = start_time  # of another stream; what players show as the beginning

    def end_of(index: int | None) -> float:
        return reached.get(index, begin) - begin

    times, end = times - begin, end_of(video)
    period = regular_period(times, rate)
    if period and abs(end - times[0] - len(times) * period) <= ROUNDED:
        end = times[0] + len(times) * period
    seconds = end - times[0] if len(times) else 0.0
    shifts = {index: tuple((first, shift.get(stretch, 0.0)) for stretch, first in track.first_of.items())
              for index, track in tracks.items()}
    return Timeline(video, sound, begin, times, end, end_of(sound), period,
                    1 / period if period else len(times) / seconds if seconds else 0.0, shifts, None, 0.0, False, False)


def regular_period(times: np.ndarray, rate: float) -> float | None:
    """Seconds between frames, if the times are rounded ones at equal distances: those of the stated rate, or of what
    fits."""
    if len(times) < 2:
        return None
    numbers = np.arange(len(times))
    for period in ([1 / rate] if rate else []) + [float(times[-1] - times[0]) / (len(times) - 1)]:
        if np.abs(times - times[0] - numbers * period).max() <= ROUNDED:
            return period
    return None


def counted(line: Timeline, period: float) -> Timeline:
    """Of an mpg, with frames at equal distances where no time differs by more than a frame: programs that write mpg
    round the times in it to those of its packs."""
    places = line.times[:1] + np.arange(len(line.times)) * period
    if line.period or not len(places) or np.abs(line.times - places).max() > period + ROUNDED:
        return line
    end = float(places[-1] + period)
    return line._replace(times=places, video_end=end, period=period, rate=1 / period, by_order=True)
