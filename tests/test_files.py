"""Files written whole or not at all; media read right, or refused by name."""

import os
import re
import wave
from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile
from conftest import ODD, REAL_DATA, SHOWN, needs_real_data
from PIL import Image

from dataset.errors import InputError, readable
from dataset.files import check_audio, check_image, check_is_media, read_audio, read_image
from dataset.preparation import reader
from dataset.whole_files import write_whole

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"


def tone(samples: int, rate: int, hertz: float = 1000) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(samples) / rate)).astype(np.float32)


@pytest.fixture
def wav(tmp_path) -> Path:
    soundfile.write(tmp_path / "a.wav", tone(1600, 16000), 16000)
    return tmp_path / "a.wav"


@pytest.fixture
def jpg(tmp_path) -> Path:
    rows, columns = np.mgrid[:40, :56]
    image = np.stack([rows * 5, columns * 4, 255 - rows * 5], axis=2).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "a.jpg", quality=95)
    return tmp_path / "a.jpg"


@pytest.mark.parametrize("content", ["new", lambda path: path.write_text("new")])
def test_a_file_is_written_with_its_folders_and_no_other_is_left(tmp_path, content):
    path = tmp_path / "sub" / "deep" / "a.json"
    write_whole(path, "old")
    write_whole(path, content)
    assert path.read_text() == "new" and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "a.pt"
    path.write_text("old")

    def writer(temporary: Path) -> None:
        temporary.write_text("half of the new")
        assert path.read_text() == "old"  # still whole while the new one is being written
        assert temporary.parent == tmp_path and temporary.suffix == ".pt"
        raise error

    with pytest.raises(error):
        write_whole(path, writer)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.pt"]


@pytest.mark.parametrize("read", [check_is_media, check_audio, lambda path: read_audio(path, 16000), read_image])
@pytest.mark.parametrize("content, message", [
    (None, "{} is missing"), (b"", "{} is empty (0 bytes)"),
    (POINTER.encode(), '{} is a git-lfs pointer, not the file: run "git lfs pull"')])
def test_missing_empty_and_pointer_files_are_refused_by_name(tmp_path, read, content, message):
    path = tmp_path / "a.bin"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="^" + re.escape(message.format(path))):
        read(path)


def test_a_device_in_place_of_a_file_is_called_one(tmp_path):
    (tmp_path / "a.jpg").symlink_to("/dev/null")
    with pytest.raises(InputError, match=f"^{tmp_path}/a.jpg is a device or pipe, expected a file"):
        check_is_media(tmp_path / "a.jpg")


@pytest.mark.parametrize("read", [check_is_media, read_image])
def test_a_folder_in_place_of_a_file_is_refused_by_name(tmp_path, read):
    with pytest.raises(InputError, match=re.escape(str(tmp_path))):
        read(tmp_path)


@pytest.mark.parametrize("subtype, dtype, full_scale", [("PCM_16", np.int16, 32768), ("FLOAT", np.float32, 1)])
def test_sound_at_the_wished_rate_comes_back_as_written(tmp_path, subtype, dtype, full_scale):
    sound = (np.random.default_rng(0).uniform(-1, 1, 1000) * full_scale).astype(dtype)
    soundfile.write(tmp_path / "a.wav", sound, 16000, subtype=subtype)
    found = read_audio(tmp_path / "a.wav", 16000)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, sound.astype(np.float64) / full_scale)


@pytest.mark.parametrize("channels", [2, 3])
def test_channels_are_averaged(tmp_path, channels):
    waves = np.random.default_rng(0).uniform(-1, 1, (500, channels)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", waves, 16000, subtype="FLOAT")
    expected = [sum(row) / channels for row in waves.tolist()]
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav", 16000), expected, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [8000, 22050, 44100])
def test_other_sample_rates_are_resampled_in_length_and_pitch(tmp_path, rate, channels):
    soundfile.write(tmp_path / "a.wav", np.stack([tone(rate, rate)] * channels, axis=1), rate)  # one second
    sound = read_audio(tmp_path / "a.wav", 16000)
    assert sound.dtype == np.float32 and sound.shape == (16000,)
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(16000)))
    assert spectrum.argmax() == 1000  # Hz
    assert np.abs(sound[2000:-2000]).max() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("rate", [8000, 44100])
def test_a_single_sample_survives_resampling(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", tone(2, rate)[1:], rate)
    assert read_audio(tmp_path / "a.wav", 16000).size >= 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_sound_that_is_not_finite_is_refused(tmp_path, value):
    sound = tone(100, 16000)
    sound[40] = value
    soundfile.write(tmp_path / "a.wav", sound, 16000, subtype="FLOAT")
    with pytest.raises(InputError, match=re.escape(f"{tmp_path / 'a.wav'} holds NaN or infinite samples")):
        read_audio(tmp_path / "a.wav", 16000)


@pytest.mark.parametrize("check", [check_audio, lambda path: read_audio(path, 16000)])
@pytest.mark.parametrize("damage, message", [
    (lambda data: data[:20], "cannot be read as audio"), (lambda data: b"x" * len(data), "cannot be read as audio"),
    (lambda data: data[:44], "holds no sound (0 samples)")], ids=["half a header", "garbage", "header only"])
def test_a_damaged_or_zero_length_wav_is_refused_by_name(wav, check, damage, message):
    wav.write_bytes(damage(wav.read_bytes()))
    with pytest.raises(InputError, match="^" + re.escape(f"{wav} {message}")):
        check(wav)


@pytest.mark.parametrize("check", [check_audio, lambda path: read_audio(path, 16000)])
def test_a_wav_cut_off_in_its_sound_is_refused(wav, check):
    wav.write_bytes(wav.read_bytes()[:1000])
    with pytest.raises(InputError, match=re.escape(str(wav))):
        check(wav)


def test_an_image_is_read_as_rgb_rows_by_columns(jpg):
    image = read_image(jpg)
    assert image.dtype == np.uint8 and image.shape == (40, 56, 3)
    np.testing.assert_allclose(image.astype(int), np.asarray(Image.open(jpg)).astype(int), atol=3)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_other_colour_spaces_become_rgb(tmp_path, mode):
    Image.new(mode, (20, 10), 200 if mode == "L" else (0, 0, 0, 0)).save(tmp_path / "a.jpg")
    image = read_image(tmp_path / "a.jpg")
    assert image.shape == (10, 20, 3) and np.ptp(image) < 4 and image.min() > 190


@pytest.mark.parametrize("part", [0.01, 0.3, 0.7, 0.95])
def test_a_truncated_image_is_refused_by_name(jpg, part):
    data = jpg.read_bytes()
    jpg.write_bytes(data[:int(part * len(data)) + 1])
    with pytest.raises(InputError, match="^" + re.escape(f"{jpg} cannot be read as an image")):
        read_image(jpg)


def test_an_image_with_an_impossible_size_is_refused_by_name(jpg):
    data = bytearray(jpg.read_bytes())
    start = data.index(b"\xff\xc0") + 5  # height and width, two bytes each
    data[start:start + 4] = b"\xff\xff\xff\xff"
    jpg.write_bytes(data)
    with pytest.raises(InputError, match=re.escape(str(jpg))):
        read_image(jpg)


@needs_real_data
def test_a_recording_of_cremad_is_read_whole():
    path = REAL_DATA / "cremad" / "AudioWAV" / "1001_DFA_ANG_XX.wav"
    with wave.open(str(path)) as recording:
        samples = np.frombuffer(recording.readframes(recording.getnframes()), np.int16)
    assert np.ptp(samples) > 1000
    np.testing.assert_array_equal(read_audio(path, 16000), samples / 32768)


def test_a_picture_without_its_end_is_found_without_training_on_it(tmp_path):
    path = tmp_path / "frame.jpg"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    check_image(path)
    whole = path.read_bytes()
    path.write_bytes(whole + b"\0" * 10)  # what follows the end marker does no harm
    check_image(path)
    path.write_bytes(whole[:-20])
    with pytest.raises(InputError, match="truncated or damaged"):
        check_image(path)


def test_a_name_that_is_not_utf_8_is_shown_with_escapes():
    assert readable(Path(f"/data/{ODD}.wav")) == rf"/data/{SHOWN}.wav" and readable("café, 鳥") == "café, 鳥"


@pytest.mark.parametrize("read", [check_is_media, read_image, reader.read_length, reader.read_duration])
def test_a_file_that_decoders_cannot_be_given_by_name_is_refused(tmp_path, read):
    (tmp_path / ODD).write_bytes(b"x")
    with pytest.raises(InputError, match=r"the name of .*caf\\udce9 is not UTF-8: rename"):
        read(tmp_path / ODD)


def test_a_file_with_such_a_name_is_not_written(tmp_path):
    with pytest.raises(InputError, match=r"the name of .*caf\\udce9/a.json is not UTF-8"):
        write_whole(tmp_path / ODD / "a.json", "{}")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(("kind", "subtype"), [
    ("MP3", "MPEG_LAYER_III"), ("OGG", "VORBIS"),
    *((kind, "PCM_16") for kind in ("AU", "W64", "RF64", "AIFF", "FLAC"))])
def test_other_sound_named_wav_is_refused_by_name(tmp_path, kind, subtype):
    soundfile.write(tmp_path / "whole", tone(16000, 16000), 16000, format=kind, subtype=subtype)
    path = tmp_path / "a.wav"
    path.write_bytes((tmp_path / "whole").read_bytes()[:-500])
    with pytest.raises(InputError, match=f"^{path} is named a wav but is {kind}"):
        check_audio(path)


def test_a_cut_flac_is_refused_by_name_and_a_whole_one_is_read(tmp_path):
    path = tmp_path / "a.flac"
    soundfile.write(path, tone(16000, 16000), 16000)
    assert len(read_audio(path, 16000)) == 16000
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(InputError, match=f"^{path} is truncated: it lacks the last of the 16000 samples"):
        check_audio(path)


def other_spectrum(data: bytes) -> bytes:
    """As Samsung's cameras write it: the end of the spectrum, 63, is 0."""
    scan = data.rindex(b"\xff\xda")
    last = scan + 2 + int.from_bytes(data[scan + 2:scan + 4], "big") - 2
    return data[:last] + b"\0" + data[last + 1:]


HARMLESS = {"other spectrum": other_spectrum,
            "zeros before the end": lambda data: data[:-2] + bytes(20) + data[-2:],
            "bytes between segments": lambda data: data[:20] + b"padding" + data[20:],
            "a trailer": lambda data: data + b"Image_UTC_Data1500000000" + data[:200],
            "all of them": lambda data: other_spectrum(data[:20] + b"??" + data[20:-2] + bytes(9) + data[-2:]) + b"S"}


@pytest.mark.parametrize(("kind", "options"), [
    *((kind, options) for kind in HARMLESS for options in ({}, {"subsampling": 0, "optimize": True})),
    *((kind, {"progressive": True}) for kind in list(HARMLESS)[1:-1])])  # its scans depend on their spectrum
def test_a_jpeg_whose_pixels_are_right_is_whole_whatever_libjpeg_reports(jpg, capfd, kind, options):
    Image.open(jpg).copy().save(jpg, quality=95, **options)
    expected = np.asarray(Image.open(jpg))
    jpg.write_bytes(HARMLESS[kind](jpg.read_bytes()))
    check_image(jpg)
    assert np.abs(read_image(jpg).astype(int) - expected).max() <= 2
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("damage", [
    lambda data: data[:-80],  # truncated
    lambda data: data[:-80] + b"\xff\xd9",
    lambda data: data[:-80] + bytes(78) + b"\xff\xd9",  # the rest was never downloaded
    lambda data: data[:-300] + np.random.default_rng(3).bytes(90).replace(b"\xff", b"x") + data[-210:],
    lambda data: data[:-2] + np.random.default_rng(3).bytes(90).replace(b"\xff", b"x") + data[-2:]])
@pytest.mark.parametrize("harmless", [bytes, other_spectrum])
def test_a_damaged_jpeg_is_refused_also_where_something_harmless_is_reported_too(jpg, capfd, damage, harmless):
    jpg.write_bytes(harmless(damage(jpg.read_bytes())))
    with pytest.raises(InputError, match=f"^{jpg} cannot be read as an image .truncated or damaged"):
        read_image(jpg)
    assert capfd.readouterr().err == ""

