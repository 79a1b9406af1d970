"""The reader of video and sound, on media whose every frame says its number and every half second of sound its time,
and against OpenCV as an independent decoder."""

import itertools
import struct
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext
from av.video.reformatter import ColorTrc, VideoReformatter
from conftest import REAL_DATA, needs_real_data

from dataset.errors import InputError
from dataset.preparation import reader
from dataset.preparation.for_prediction import motion_files
from dataset.preparation.reader import middle_times, read_duration, read_frames, read_length, read_part, read_sound
from dataset.preparation.timeline import read_timeline

RATE = 25  # frames per second
STEP = 0.5  # seconds of a tone


@pytest.fixture(autouse=True)
def no_notes():
    reader.noted.clear()


def picture_of(number: int, side: int = 64) -> np.ndarray:
    """(side, side, 3): sixteen fields, each a bit of the number."""
    bits = np.array([number >> bit & 1 for bit in range(16)], np.uint8).reshape(4, 4)
    return np.repeat(np.kron(bits * 219 + 16, np.ones((side // 4, side // 4), np.uint8))[:, :, None], 3, axis=2)


def number_of(image: np.ndarray) -> int:
    height, width = (length // 4 for length in image.shape[:2])
    fields = [image[y * height + height // 4:(y + 1) * height - height // 4,
                    x * width + width // 4:(x + 1) * width - width // 4].mean() for y in range(4) for x in range(4)]
    return sum(1 << bit for bit, level in enumerate(fields) if level > 127)


def numbers(images) -> list[int]:
    return [number_of(image) for image in images]


def tone(seconds: float, rate: int, first: int = 0) -> np.ndarray:
    """int16 (N,): 400 Hz in the first half second, 200 Hz more in every other one."""
    at = np.arange(round(seconds * rate)) / rate
    return (12000 * np.sin(2 * np.pi * (400 + 200 * (first + at // STEP)) * at)).astype(np.int16)


def tones(sound: np.ndarray) -> list[int]:
    """Which tone is in every half second, -1 for silence."""
    found = []
    for part in sound[:len(sound) // 8000 * 8000].reshape(-1, 8000)[:, 2000:-2000].astype(float):
        peak = np.abs(np.fft.rfft(part * np.hanning(len(part)), 65536)).argmax() * 16000 / 65536
        found.append(round((peak - 400) / 200) if np.abs(part).max() > 1000 else -1)
    return found


def make(path: Path, frames=range(50), *, codec: str = "mpeg4", sound: str | None = "aac", side: int = 64,
         rate: int = 16000, layout: str = "mono", seconds: float | None = None, first_tone: int = 0, shift: float = 0.0,
         options: dict | None = None, container_options: dict | None = None, colour: dict | None = None) -> Path:
    """A video of these numbers at 25 frames a second. seconds: of the sound. shift: seconds added to all times."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=container_options or {}) as file:
        video = file.add_stream(codec, rate=RATE, options={"qscale": "2", "g": "12", "bf": "0", **(options or {})})
        video.width = video.height = side
        video.pix_fmt = (colour or {}).get("pix_fmt", "yuv420p")
        video.codec_context.time_base = Fraction(1, RATE)
        for name, value in (colour or {}).items():
            setattr(video.codec_context, name, value)
        audio = file.add_stream(sound, rate=rate, layout=layout) if sound else None
        packets = []
        for place, number in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture_of(number, side), format="rgb24")
            frame.pts, frame.time_base = place + round(shift * RATE), Fraction(1, RATE)
            packets += video.encode(frame)
        packets += video.encode()
        if audio:
            wave = tone(len(frames) / RATE if seconds is None else seconds, rate, first_tone)
            wave = np.repeat(wave, 1 + (layout == "stereo"))
            size = 1152 * (1 + (layout == "stereo"))
            for begin in range(0, len(wave), size):
                piece = av.AudioFrame.from_ndarray(wave[None, begin:begin + size], format="s16", layout=layout)
                piece.sample_rate, piece.time_base = rate, Fraction(1, rate)
                piece.pts = begin // (1 + (layout == "stereo")) + round(shift * rate)
                packets += audio.encode(piece)
            packets += audio.encode()
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            file.mux(packet)
    return path


def joined(path: Path, *parts: Path) -> Path:
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def expected_middles(first: int, count: int, fps: float) -> list[int]:
    """Of a video of `count` frames of ascending numbers at 25 a second."""
    wanted = max(1, round(count / RATE * fps))
    return [first + int((k + 0.5) * count / wanted + 1e-9) for k in range(wanted)]


# ---- frames of ordinary files are those of other decoders


ORDINARY = [(".flv", "flv", {}), (".mpg", "mpeg1video", {}), (".avi", "mpeg4", {}), (".avi", "mpeg4", {"bf": "2"}),
            (".avi", "libx264", {"bf": "2"}), (".mp4", "libx264", {"bf": "2"}), (".mkv", "libx264", {"bf": "2"}),
            (".mp4", "mpeg4", {})]


@pytest.mark.parametrize(("suffix", "codec", "options"), ORDINARY)
def test_every_frame_is_the_picture_that_opencv_decodes_and_shows_its_number(tmp_path, suffix, codec, options):
    path = make(tmp_path / f"v{suffix}", range(40), codec=codec, options=options, sound=None)
    there = cv2.VideoCapture(str(path))
    times = (np.arange(40) + 0.5) / RATE
    for number, image in enumerate(read_frames(path, list(times))):
        assert number_of(image) == number
        assert np.abs(image.astype(int) - there.read()[1]).max() <= 2
    assert number == 39 and read_duration(path) == pytest.approx(40 / RATE)
    assert reader.measure(path) == (40, pytest.approx(RATE)) == reader.stated_count(path)
    assert {n: number_of(image) for n, image in reader.read_numbered(path, {3, 0, 39}).items()} == {0: 0, 3: 3, 39: 39}


@needs_real_data
def test_frames_of_cremad_and_grid_are_those_of_opencv_by_their_number():
    paths = [*sorted((REAL_DATA / "cremad" / "VideoFlash").glob("*.flv"))[:6],
             *sorted((REAL_DATA / "grid_raw").rglob("*.mpg"))[:6]]
    for path in paths:
        there = cv2.VideoCapture(str(path))
        rate, count = there.get(cv2.CAP_PROP_FPS), there.get(cv2.CAP_PROP_FRAME_COUNT)
        every = [there.read()[1] for _ in range(int(count))]
        for fps in (1, 2, 7):
            wanted = [int(time * rate + 1e-6) for time in middle_times(count / rate, fps)]
            images = list(reader.read_middles(path, fps))
            assert len(images) == len(wanted)
            assert all(np.array_equal(image, every[number]) for image, number in zip(images, wanted, strict=True))


@pytest.mark.parametrize(("suffix", "codec", "options"), [
    (".mp4", "libx264", {"x264-params": "interlaced=1:tff=1", "flags": "+ildct+ilme"}),
    (".mp4", "libx264", {"x264-params": "interlaced=1:bff=1", "flags": "+ildct+ilme"}),
    (".mpg", "mpeg2video", {"flags": "+ildct+ilme"}), (".avi", "mpeg4", {"flags": "+ildct+ilme"})])
def test_interlaced_video_shows_its_own_frames(tmp_path, suffix, codec, options):
    path = make(tmp_path / f"v{suffix}", range(50), codec=codec, options=options, sound=None)
    with av.open(str(path)) as file:
        assert next(file.decode(video=0)).interlaced_frame
    assert numbers(reader.read_middles(path, 5)) == expected_middles(0, 50, 5)
    assert numbers(reader.read_numbered(path, {7, 30}).values()) == [7, 30]
    assert numbers(read_part(path, 1.0, 2.0, fps=4).frames) == [28, 34, 40, 46]


def test_a_frame_that_cannot_be_converted_is_refused(tmp_path, monkeypatch):
    path = make(tmp_path / "v.mp4")

    class Failing:
        def reformat(self, *_, **__):
            raise av.error.ArgumentError(22, "Invalid argument")

    monkeypatch.setattr(reader.local, "converters", {False: Failing()}, raising=False)
    for read in (lambda: list(reader.read_middles(path, 1)), lambda: list(read_part(path).frames),
                 lambda: reader.read_numbered(path, {1})):
        with pytest.raises(InputError, match=r"a frame of .*v\.mp4 cannot be converted to a picture"):
            read()


# ---- times


def test_frames_that_an_edit_list_hides_are_not_counted_and_sound_begins_with_them(tmp_path):
    """The track is as `ffmpeg -ss 0.8 -c copy` writes it: its first second is decoded, but not shown."""
    path = make(tmp_path / "v.mp4", range(75), codec="libx264", options={"bf": "2"})
    content = path.read_bytes()
    for place in [at for at in range(len(content)) if content.startswith(b"elst", at)]:
        length, start = struct.unpack(">Ii", content[place + 12:place + 20])
        unit = 12800 if start < 2000 and content.find(b"vide", place) < content.find(b"soun", place) else 16000
        content = (content[:place + 12] + struct.pack(">Ii", length - 800, start + round(0.8 * unit))
                   + content[place + 20:])
    path.write_bytes(content)
    assert numbers(reader.read_middles(path, 5)) == expected_middles(20, 55, 5)
    assert reader.stated_count(path)[0] == 55
    part = read_part(path, 0.2, 1.2, fps=5)
    assert numbers(part.frames) == [27, 32, 37, 42, 47] and tones(part.sound) == [2, 3]


def test_gaps_longer_than_a_step_show_the_picture_before_them(tmp_path):
    places = [*range(10), *range(60, 75)]
    path = tmp_path / "v.mkv"
    with av.open(str(path), "w") as file:
        video = file.add_stream("mpeg4", rate=RATE, options={"qscale": "2"})
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        for place in places:
            frame = av.VideoFrame.from_ndarray(picture_of(place), format="rgb24")
            frame.pts, frame.time_base = place, Fraction(1, RATE)
            file.mux(video.encode(frame))
        file.mux(video.encode())
    assert numbers(reader.read_middles(path, 5)) == [2, 7, *[9] * 10, 62, 67, 72]


JOINS = [(".ts", "libx264", "aac", 0.0), (".mpg", "mpeg2video", "mp2", 0.0), (".mkv", "mpeg4", "aac", 0.0),
         (".ts", "mpeg2video", "mp2", 3600.0), (".ts", "mpeg2video", "mp2", -72000.0)]


@pytest.mark.parametrize(("suffix", "codec", "sound", "clock"), JOINS)
def test_joined_recordings_go_on_whatever_their_clocks(tmp_path, suffix, codec, sound, clock, capsys):
    """clock: seconds by which that of the second is ahead of that of the first."""
    first = make(tmp_path / f"1{suffix}", range(75), codec=codec, sound=sound, shift=max(0.0, -clock))
    second = make(tmp_path / f"2{suffix}", range(75, 150), codec=codec, sound=sound, first_tone=6,
                  shift=max(0.0, clock))
    path = joined(tmp_path / f"v{suffix}", first, second)
    part = read_part(path, fps=2)
    shown = numbers(part.frames)
    assert shown == sorted(shown) and len(shown) == 12
    assert np.abs(np.array(shown) - expected_middles(0, 150, 2)).max() <= 4, "a part ends up to 0.1 s after its picture"
    assert tones(part.sound)[:12] == list(range(12)) == tones(read_sound(path, 16000))[:12]
    assert numbers(read_part(path, 4.0, 5.0, fps=2).frames) == pytest.approx([106, 118], abs=4)
    assert np.abs(np.array(numbers(reader.read_middles(path, 2))) - expected_middles(0, 150, 2)).max() <= 4
    reader.print_notes()
    assert f"note: of 1 files, {reader.JOINED}: v{suffix}" in capsys.readouterr().out


@pytest.mark.parametrize("which", [0, 1])
def test_sound_of_one_of_two_joined_recordings_stays_with_its_pictures(tmp_path, which):
    parts = [make(tmp_path / f"{k}.ts", range(75 * k, 75 * k + 75), codec="mpeg2video", first_tone=6 * k,
                  sound="mp2" if k == which else None) for k in (0, 1)]
    part = read_part(joined(tmp_path / "v.ts", *parts), fps=2)
    assert np.abs(np.array(numbers(part.frames)) - expected_middles(0, 150, 2)).max() <= 4
    assert tones(part.sound)[:12] == [tone if tone // 6 == which else -1 for tone in range(12)]


@pytest.mark.parametrize(("suffix", "codec", "sound"), [(".mp4", "mpeg4", "aac"), (".flv", "flv", None),
                                                        (".wmv", "wmv2", None)])
def test_a_second_recording_that_cannot_be_read_is_not_lost_without_a_word(tmp_path, suffix, codec, sound):
    parts = [make(tmp_path / f"{k}{suffix}", codec=codec, sound=sound) for k in (0, 1)]
    assert len(read_timeline(parts[0]).times) == 50
    for read in (read_length, read_duration, lambda path: read_sound(path, 16000)):
        with pytest.raises(InputError, match=rf"v{suffix} holds several recordings one after the other"):
            read(joined(tmp_path / f"v{suffix}", *parts))


@pytest.mark.parametrize(("suffix", "codec"), [(".mkv", "libx264"), (".mkv", "mpeg4"), (".mkv", "ffv1"),
                                               (".avi", "ffv1")])
def test_joined_recordings_of_other_parameters_are_no_wrong_pictures(tmp_path, suffix, codec):
    parts = [make(tmp_path / f"{k}{suffix}", codec=codec, sound=None, side=64 + 64 * k) for k in (0, 1)]
    with pytest.raises(InputError, match=r"holds several recordings .* different parameters"):
        read_part(joined(tmp_path / f"v{suffix}", *parts))
    alike = make(tmp_path / f"2{suffix}", range(50, 100), codec=codec, sound=None)
    assert numbers(read_part(joined(tmp_path / f"w{suffix}", parts[0], alike)).frames) == [12, 37, 62, 87]


def test_a_second_recording_in_other_streams_is_refused(tmp_path):
    parts = [make(tmp_path / f"{k}.ts", codec="mpeg2video", sound="mp2",
                  container_options={"mpegts_start_pid": str(256 + 512 * k)}) for k in (0, 1)]
    with pytest.raises(InputError, match=r"v\.ts: from byte \d+ on its video and sound are in other streams"):
        read_length(joined(tmp_path / "v.ts", *parts))


@pytest.mark.parametrize("before", [1.0, 100.0])  # FFmpeg itself handles a clock that wraps in the first minute
def test_time_goes_on_where_the_clock_of_an_mpeg_stream_wraps(tmp_path, before):
    start = round(2 ** 33 / 90000 - before)
    path = tmp_path / "v.ts"
    with av.open(str(path), "w", options={"mpegts_copyts": "1"}) as file:
        video = file.add_stream("mpeg2video", rate=RATE, options={"qscale": "2", "g": "1", "bf": "0"})
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        for number in range(round((before + 2) * 5)):  # five pictures a second
            frame = av.VideoFrame.from_ndarray(picture_of(number), format="rgb24")
            frame.pts, frame.time_base = (start * RATE) + number * 5, Fraction(1, RATE)
            file.mux(video.encode(frame))
        file.mux(video.encode())
    assert read_length(path) == pytest.approx(before + 2, abs=0.2)
    assert numbers(read_part(path, before - 0.5, before + 1.5, fps=2.5).frames) == pytest.approx(
        [5 * (before - 0.5) + 1 + 2 * k for k in range(5)], abs=1)


def test_a_clock_that_begins_below_zero_begins_there(tmp_path):
    path = make(tmp_path / "v.mkv", range(75), shift=-1.0, container_options={"avoid_negative_ts": "disabled"})
    part = read_part(path, fps=2)
    assert np.abs(np.array(numbers(part.frames)) - expected_middles(0, 75, 2)).max() <= 2, "the sound begins before"
    assert tones(part.sound) == list(range(6))
    assert numbers(read_part(path, 2.0, 3.0, fps=2).frames) == pytest.approx([56, 68], abs=2)


def test_a_matroska_clock_that_begins_late_is_no_sign_of_truncation(tmp_path):
    path = make(tmp_path / "v.mkv", range(75), shift=100.0)
    assert numbers(read_part(path, fps=2).frames) == pytest.approx(expected_middles(0, 75, 2), abs=2)
    assert len(list(reader.read_middles(path, 1))) == 3
    path.write_bytes(path.read_bytes()[:path.stat().st_size * 6 // 10])
    with pytest.raises(InputError, match="truncated"):
        read_part(path)


# ---- sound and picture of different length, covers


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_single_picture_stands_as_long_as_there_is_sound(tmp_path, suffix):
    path = make(tmp_path / f"v{suffix}", range(7, 8), seconds=3.0)
    part = read_part(path, fps=2)
    assert numbers(part.frames) == [7] * 6 and tones(part.sound)[:6] == list(range(6))
    assert numbers(read_part(path, 2.0, 3.0).frames) == [7]
    assert set(numbers(reader.read_middles(path, 2))) == {7} and not reader.noted


def test_sound_that_is_longer_than_several_pictures_is_counted(tmp_path, capsys):
    path = make(tmp_path / "v.mkv", range(50), seconds=4.0)
    assert len(list(read_part(path).frames)) == 2
    reader.print_notes()
    assert capsys.readouterr().out == f"note: of 1 files, {reader.LONGER_SOUND}: v.mkv\n"
    reader.print_notes()
    assert capsys.readouterr().out == ""


def with_cover(path: Path, frames: range, disposition: int = av.stream.Disposition.attached_pic) -> Path:
    """The cover is the first stream; without frames the only one that is not sound."""
    source = make(path.with_name("source.mp4"), frames or range(25))
    with av.open(str(source)) as given, av.open(str(path), "w") as file:
        cover = file.add_stream("mjpeg", rate=RATE)
        cover.width, cover.height, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = disposition
        streams = {stream.index: file.add_stream_from_template(stream) for stream in given.streams
                   if frames or stream.type == "audio"}
        frame = av.VideoFrame.from_ndarray(picture_of(999), format="rgb24")
        for packet in cover.encode(frame) + cover.encode():
            file.mux(packet)
        for packet in given.demux():
            if packet.dts is not None and packet.stream.index in streams:
                packet.stream = streams[packet.stream.index]
                file.mux(packet)
    return path


def test_a_cover_is_not_the_video(tmp_path):
    path = with_cover(tmp_path / "v.mp4", range(50))
    assert numbers(reader.read_middles(path, 1)) == [12, 37] == numbers(read_part(path).frames)
    only = with_cover(tmp_path / "song.mp4", range(0))
    for read in (read_part, read_length, read_duration):
        with pytest.raises(InputError, match=r"song\.mp4 holds a cover picture, but no video: leave it out"):
            read(only)
    assert tones(read_sound(only, 16000))[:2] == [0, 1]


def test_a_single_picture_before_a_video_is_a_cover_though_it_is_not_called_one(tmp_path):
    path = with_cover(tmp_path / "v.mp4", range(50), disposition=0)
    assert numbers(reader.read_middles(path, 1)) == [12, 37] == numbers(read_part(path).frames)


# ---- how it is shown


MARKS = np.zeros((64, 96, 3), np.uint8)  # four corners, four levels
MARKS[:24, :32], MARKS[:24, 64:], MARKS[40:, :32], MARKS[40:, 64:] = 235, 180, 120, 70


@pytest.mark.parametrize("matrix", [(a, b, c, d) for a, b, c, d in itertools.product((-1, 0, 1), repeat=4)
                                    if abs(a) + abs(b) == 1 and abs(a) == abs(d) and abs(b) == abs(c)])
def test_pictures_are_turned_and_mirrored_as_their_matrix_says(tmp_path, matrix):
    path = tmp_path / "v.mp4"
    with av.open(str(path), "w") as file:
        video = file.add_stream("mpeg4", rate=RATE, options={"qscale": "1"})
        video.width, video.height, video.pix_fmt = 96, 64, "yuv420p"
        for packet in video.encode(av.VideoFrame.from_ndarray(MARKS, format="rgb24")) + video.encode():
            file.mux(packet)
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 44
    a, b, c, d = (65536 * value for value in matrix)
    content[place:place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    a, b, c, d = matrix
    width, height = (96, 64) if a else (64, 96)
    shown = {(a * x + c * y, b * x + d * y): MARKS[y + 32, x + 48, 0] for x in (-40, 40) for y in (-28, 28)}
    for image in (next(read_part(path).frames), next(read_frames(path, [0.0])), reader.read_numbered(path, [0])[0]):
        assert image.shape == (height, width, 3)
        for (x, y), level in shown.items():
            assert image[height // 2 + y, width // 2 + x].mean() == pytest.approx(level, abs=12)


@pytest.mark.parametrize(("asked", "turned"), [
    ("rotate=90", lambda image: np.rot90(image)), ("flip=horizontal", lambda image: image[:, ::-1]),
    ("rotate=90:flip=horizontal", lambda image: image.transpose(1, 0, 2))])
def test_a_turn_that_only_key_frames_state_is_that_of_the_frames_after_them(tmp_path, asked, turned):
    path, plain = tmp_path / "v.mp4", make(tmp_path / "plain.mp4", range(25), codec="libx264", sound=None,
                                              options={"g": "50"})
    with av.open(str(plain)) as given, av.open(str(path), "w") as file:
        states = BitStreamFilterContext(f"h264_metadata=display_orientation=insert:{asked}", given.streams.video[0])
        video = file.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            for stating in states.filter(packet) if packet.size else ():
                stating.stream = video
                file.mux(stating)
    for read in (lambda path: list(read_part(path, fps=5).frames), lambda path: list(reader.read_middles(path, 5)),
                 lambda path: [*reader.read_numbered(path, [5, 20]).values()],
                 lambda path: list(read_part(path, 0.6, 0.8, fps=5).frames)):
        for image, upright in zip(read(path), read(plain), strict=True):
            np.testing.assert_array_equal(image, turned(upright))


def test_high_dynamic_range_becomes_standard_range_in_every_path_and_is_counted(tmp_path, monkeypatch, capsys):
    asked = []

    class Converter:  # the true one makes tables for five seconds
        def reformat(self, frame, **wanted):
            asked.append((frame.color_trc, wanted.pop("dst_color_trc"), wanted.pop("dst_color_primaries")))
            return VideoReformatter().reformat(frame, **wanted)

    monkeypatch.setattr(reader.local, "converters", {False: VideoReformatter(), True: Converter()}, raising=False)
    for name, transfer in (("hlg", ColorTrc.ARIB_STD_B67), ("pq", ColorTrc.SMPTE2084), ("sdr", ColorTrc.BT709)):
        path = make(tmp_path / f"{name}.mkv", range(25), codec="libx265", sound=None,
                    options={"x265-params": "log-level=none"},
                    colour={"pix_fmt": "yuv420p10le", "color_trc": transfer, "color_primaries": 9, "colorspace": 9})
        for read in (lambda path: list(read_part(path).frames), lambda path: list(reader.read_middles(path, 1)),
                     lambda path: reader.read_numbered(path, [3])):
            asked.clear()
            read(path)
            assert asked == [(transfer, ColorTrc.BT709, 1)] * (name != "sdr")
    reader.print_notes()
    assert capsys.readouterr().out == f"note: of 2 files, {reader.MAPPED}: hlg.mkv, pq.mkv\n"


# ---- streams that change midway


def test_pictures_that_change_size_have_that_of_the_first(tmp_path, capsys):
    parts = [make(tmp_path / f"{k}.mpg", range(75 * k, 75 * k + 75), codec="mpeg2video", sound="mp2", side=64 + 64 * k,
                  first_tone=6 * k) for k in (0, 1)]
    path = joined(tmp_path / "v.mpg", *parts)
    for images in (list(read_part(path, fps=2).frames), list(reader.read_middles(path, 2)),
                   list(reader.read_numbered(path, {0, 70, 80, 140}).values())):
        assert {image.shape for image in images} == {(64, 64, 3)} and number_of(images[-1]) > 130
    assert next(read_part(path, 4.0, 5.0).frames).shape == (128, 128, 3)
    reader.print_notes()
    assert f"note: of 1 files, {reader.RESIZED}: v.mpg" in capsys.readouterr().out
    motion = motion_files(path, 2.0, 4.0, tmp_path / "clip", "x", num_frames=2, flow="dis", flow_frames=4)
    assert {cv2.imread(str(file)).shape[:2] for file in motion.rgb} == {(64, 64)}


@pytest.mark.parametrize(("suffix", "sound", "rates"), [
    (".mpg", "mp2", (48000, 32000)), (".ts", "aac", (48000, 16000)), (".ts", "aac", (16000, 48000))])
def test_sound_goes_on_where_its_rate_and_channels_change(tmp_path, suffix, sound, rates):
    parts = [make(tmp_path / f"{k}{suffix}", range(75 * k, 75 * k + 75), codec="mpeg2video", sound=sound,
                  first_tone=6 * k, rate=rates[k], layout=("stereo", "mono")[k]) for k in (0, 1)]
    path = joined(tmp_path / f"v{suffix}", *parts)
    assert read_timeline(path).sound_end == pytest.approx(6, abs=0.2)
    for sound in (read_part(path).sound, read_sound(path, 16000)):
        assert tones(sound)[:12] == list(range(12))
        loudness = [np.median(np.abs(sound[first:first + 40000])) for first in (4000, 52000)]
        assert loudness == pytest.approx([12000 * np.sin(np.pi / 4)] * 2, rel=0.1)


# ---- damage


@pytest.mark.parametrize(("suffix", "codec", "sound", "options"), [
    (".mp4", "mpeg4", "aac", {"movflags": "faststart"}), (".mkv", "mpeg4", "aac", {}), (".flv", "flv", None, {}),
    (".avi", "mpeg4", "mp2", {}), (".avi", "mpeg4", None, {})])
def test_a_truncated_file_is_refused_and_its_beginning_can_be_cut_out(tmp_path, suffix, codec, sound, options):
    path = make(tmp_path / f"v{suffix}", range(100), codec=codec, sound=sound, container_options=options)
    assert len(list(read_part(path).frames)) == 4
    path.write_bytes(path.read_bytes()[:path.stat().st_size * 6 // 10])
    for read in (lambda: list(read_part(path).frames), lambda: list(reader.read_middles(path, 1)),
                 lambda: reader.measure(path), lambda: reader.stated_count(path)):
        with pytest.raises(InputError, match="truncated"):
            read()
    if sound:
        with pytest.raises(InputError, match="truncated"):
            read_sound(path, 16000)
    assert numbers(read_part(path, 0.0, 1.0).frames) == [12]


def test_a_recording_that_begins_amid_a_picture_is_read_from_its_first_whole_one(tmp_path):
    path = make(tmp_path / "v.ts", range(100), codec="libx264", options={"g": "25", "sc_threshold": "0"})
    content = path.read_bytes()
    path.write_bytes(content[len(content) * 3 // 10 // 188 * 188:])
    shown = numbers(read_part(path, fps=5).frames)
    assert shown[-1] >= 93 and 25 <= shown[0] <= 55 and shown == sorted(shown)


def test_a_title_that_is_not_utf_8_is_no_obstacle(tmp_path):
    path = tmp_path / "v.avi"
    make(path, container_options={})
    with av.open(str(path)) as given, av.open(str(tmp_path / "t.avi"), "w") as file:
        file.metadata["title"] = "cafXe"
        stream = file.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(given.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                file.mux(packet)
    titled = tmp_path / "t.avi"
    titled.write_bytes(titled.read_bytes().replace(b"cafXe", b"caf\xe9e"))
    assert numbers(reader.read_middles(titled, 1)) == pytest.approx([12, 37], abs=1)
