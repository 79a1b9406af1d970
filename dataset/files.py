"""Reading of sound and images, with a clear error for every broken file; git-lfs pointers are recognised."""

import math
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import soundfile

from dataset.errors import InputError, check_name

stderr_in_use = threading.Lock()
LFS_HEAD = b"version https://git-lfs"
SHORTER_THAN_STATED = re.compile(r"data : (?P<stated>\d+) \(should be (?P<there>\d+)\)")  # libsndfile's log of a wav
IMAGE_ENDS = (b"\xff\xd9", b"IEND\xaeB`\x82")  # the last bytes of a whole JPEG or PNG
# what libjpeg says of an image that it decodes all the same, and libpng of one that it does not
DAMAGE = re.compile(r"^((?:Corrupt JPEG data|Premature end of JPEG|Inconsistent progression|Invalid SOS parameters|"
                    r"libpng error).*)\n", re.M)
JPEG_BEGIN, SCAN, SEQUENTIAL = b"\xff\xd8", 0xDA, (0xC0, 0xC1)  # the first bytes, markers of segments
NO_SEGMENT = (0x00, 0x01, 0xFF, *range(0xD0, 0xDA))  # what may follow 255 in a JPEG without a segment
PHOTOGRAPHS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"II*\0", b"MM\0*")  # JPEG, PNG, TIFF
HEIF = {(b"ftyp", brand) for brand in (b"heic", b"heix", b"mif1", b"avif")}
CONTROL = re.compile(rb"[\0-\x08\x0e-\x1a\x1c-\x1f]")  # bytes that no text has
WEB_PAGE = re.compile(rb"\s*<(!doctype )?html", re.I)
RIFF_WAVE = ("WAV", "WAVEX")  # as libsndfile calls it; of the others a cut file looks like a whole one
STREAMED = (0xFFFFFFFF, 0x7FFFFFFF)  # bytes stated by programs that write the header before they know the length


def check_is_media(path: Path) -> None:
    """Raises InputError when `path` is missing, empty or a git-lfs pointer instead of the media it stands for, or
    cannot be named to a decoder or in a list."""
    check_name(path)
    try:
        size = path.stat().st_size
    except OSError:
        raise InputError(f"{path} is missing") from None
    if not path.is_file():
        raise InputError(f"{path} is a {'folder' if path.is_dir() else 'device or pipe'}, expected a file")
    if size == 0:
        raise InputError(f"{path} is empty (0 bytes): download it again")
    if size < 1024 and path.read_bytes().startswith(LFS_HEAD):
        raise InputError(f'{path} is a git-lfs pointer, not the file: run "git lfs pull" in the downloaded folder')


def other_kind(path: Path) -> str:
    """The kind of a file that is neither sound nor video, such as "a text file", by its first
    bytes; else ""."""
    with path.open("rb") as file:
        head = file.read(4096)
    if head.startswith(PHOTOGRAPHS) and not path.suffix.lower().startswith(".mjp"):  # a stream of JPEGs
        return "a photograph"
    if (head[4:8], head[8:12]) in HEIF or (head[:4], head[8:12]) == (b"RIFF", b"WEBP"):
        return "a photograph"
    if head.startswith((b"%PDF", b"PK\x03\x04")):
        return "a PDF document" if head.startswith(b"%PDF") else "a zip archive"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        wide = head.decode("utf-16", errors="replace")
        if all(character.isprintable() or character.isspace() for character in wide):
            return "a text file"
    if CONTROL.search(head):
        return ""
    return "a web page, as of a failed download" if WEB_PAGE.match(head) else "a text file"


def check_audio(path: Path) -> None:
    """Raises InputError: missing, empty, not audio, no samples, truncated, or (float formats) NaN samples."""
    check_is_media(path)
    try:
        info = soundfile.info(str(path), verbose=True)
    except soundfile.SoundFileError as error:
        raise InputError(f"{path} cannot be read as audio ({error}): download it again") from None
    if path.suffix.lower() == ".wav" and info.format not in RIFF_WAVE:
        raise InputError(f"{path} is named a wav but is {info.format}, of which a part may be missing without a trace: "
                         "convert it to wav")
    if info.format == "FLAC" and not last_sample_is_there(path):
        raise InputError(f"{path} is truncated: it lacks the last of the {info.frames} samples that its header states. "
                         "Download it again")
    if info.frames == 0:
        raise InputError(f"{path} holds no sound (0 samples)")
    cut = SHORTER_THAN_STATED.search(info.extra_info)
    if cut and int(cut["there"]) < int(cut["stated"]) not in STREAMED:
        raise InputError(f"{path} is truncated: its header states {cut['stated']} bytes of sound, the file has "
                         f"{cut['there']}. Download it again")
    if info.subtype in ("FLOAT", "DOUBLE"):
        check_finite(read_samples(path)[0], path)


def last_sample_is_there(path: Path) -> bool:
    try:
        with soundfile.SoundFile(str(path)) as file:
            file.seek(file.frames - 1)
            return len(file.read(1)) == 1
    except soundfile.SoundFileError:
        return False


def read_audio(path: Path, sample_rate: int) -> np.ndarray:
    """The sound of a file as float32 (N,): channels averaged, resampled to `sample_rate` (soxr, as librosa.load).

    Raises InputError: missing, empty, unreadable, no samples, NaN or infinite samples.
    """
    check_audio(path)
    samples, rate = read_samples(path)
    return to_mono(samples, rate, sample_rate, path)


def read_excerpt(path: Path, sample_rate: int, samples: int, place: float) -> np.ndarray:
    """`samples` samples of a file as float32 (N,). place: where it begins, from 0, the file's beginning, to below 1,
    the last place that leaves enough.

    Only these are read from the file. Shorter sound is repeated. Channels and rates as in `read_audio`.
    Raises InputError: missing, empty, unreadable, no samples, NaN or infinite samples.
    """
    check_is_media(path)
    try:
        with soundfile.SoundFile(str(path)) as file:
            wanted = math.ceil(samples * file.samplerate / sample_rate)
            spare = max(file.frames - wanted, 0)
            file.seek(int(place * (spare + 1)))
            excerpt, rate = file.read(wanted, dtype="float32", always_2d=True), file.samplerate
    except soundfile.SoundFileError as error:
        raise InputError(f"{path} cannot be read as audio ({error}): download it again") from None
    if not len(excerpt):
        raise InputError(f"{path} holds no sound (0 samples)")
    return np.resize(to_mono(excerpt, rate, sample_rate, path), samples)  # repeats, then cuts


def to_mono(samples: np.ndarray, rate: int, sample_rate: int, path: Path) -> np.ndarray:
    """(N, channels) at `rate` -> (N',) at `sample_rate` (soxr, as librosa.load). Raises InputError: not finite."""
    check_finite(samples, path)
    wave = samples.mean(axis=1)
    if rate != sample_rate:
        import librosa  # here, because it costs a second and most data needs no resampling

        wave = librosa.resample(wave, orig_sr=rate, target_sr=sample_rate)
    return wave


def check_finite(samples: np.ndarray, path: Path) -> None:
    if not np.isfinite(samples).all():
        raise InputError(f"{path} holds NaN or infinite samples: remove the clip from the lists, or convert it again")


def read_samples(path: Path) -> tuple[np.ndarray, int]:
    """(float32 (N, channels), sample rate) of an audio file. Raises InputError."""
    try:
        return soundfile.read(str(path), dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise InputError(f"{path} cannot be read as audio ({error}): download it again") from None


def check_image(path: Path) -> None:
    """Raises InputError: missing, empty, truncated. JPEGs and PNGs are not decoded if their last bytes are valid:
    utils/training/damage.py does that."""
    check_is_media(path)
    with path.open("rb") as file:
        file.seek(-min(8, path.stat().st_size), os.SEEK_END)
        end = file.read()
    if not end.endswith(IMAGE_ENDS):
        read_image(path)


def read_image(path: Path) -> np.ndarray:
    """An image as uint8 RGB (H, W, 3). Raises InputError: missing, empty, truncated, damaged or not an image.

    JPEG has no checksum: damage that leaves a valid stream is not noticed.
    """
    check_is_media(path)
    data = np.fromfile(path, dtype=np.uint8)
    image, damage = decode(data)
    if damage and (mended := without_harmless_errors(data.tobytes())):
        image, damage = decode(np.frombuffer(mended, np.uint8))
    if image is None or damage:
        reason = ": ".join(["truncated or damaged", *damage])
        raise InputError(f"{path} cannot be read as an image ({reason}): extract or download it again")
    return image


def decode(data: np.ndarray) -> tuple[np.ndarray | None, list[str]]:
    """(uint8 RGB (H, W, 3), messages about damage) of an encoded image. The image is None if it
    cannot be decoded."""
    with damage_messages() as damage:
        try:
            image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
        except cv2.error:  # larger than OpenCV takes
            image = None
    return image, damage


def without_harmless_errors(data: bytes) -> bytes | None:
    """A copy of a JPEG without errors that concern no pixel, which libjpeg reports all the same.

    They are: bytes between the segments of the header, spectral limits other than 0 to 63 in a
    sequential scan (Samsung's cameras), and zeros before the end. None: it is no JPEG, or has no
    end.
    """
    if not data.startswith(JPEG_BEGIN):
        return None
    parts, place, sequential, marker = [JPEG_BEGIN], 2, False, 0
    while marker != SCAN:
        place = data.find(b"\xff", place)
        if not 0 <= place < len(data) - 3:
            return None
        marker = data[place + 1]
        if marker in NO_SEGMENT:
            place += 1
            continue
        sequential |= marker in SEQUENTIAL
        end = place + 2 + int.from_bytes(data[place + 2:place + 4], "big")
        parts.append(data[place:end])
        place = end
    if sequential:
        parts[-1] = parts[-1][:-3] + bytes((0, 63, 0))
    end = data.find(b"\xff\xd9", place)
    if end < 0:
        return None
    content = data[place:end].rstrip(b"\0")
    content += b"\0" * content.endswith(b"\xff")  # a byte 255 is stored as 255, 0
    return b"".join([*parts, content, b"\xff\xd9"])


@contextmanager
def damage_messages() -> Iterator[list[str]]:
    """Yields a list that holds the messages of libjpeg and libpng about damage when the `with`
    block ends.

    The libraries write them to the process's stderr only, without the name of the file, and OpenCV
    continues to decode. Inside the block stderr is therefore a pipe, for all threads; other text
    that was written to it is passed on afterwards. Costs 4 microseconds.
    """
    messages: list[str] = []
    with stderr_in_use:
        stderr, (source, sink) = os.dup(2), os.pipe()
        for end in (source, sink):
            os.set_blocking(end, False)
        os.dup2(sink, 2)
        try:
            yield messages
        finally:
            os.dup2(stderr, 2)
            said = read_available(source)
            for file in (stderr, source, sink):
                os.close(file)
    messages += DAMAGE.findall(said)
    rest = DAMAGE.sub("", said)
    if rest:
        os.write(2, rest.encode(errors="surrogateescape"))


def read_available(pipe: int) -> str:
    """The text that is in a pipe now. Does not wait for its end, because a process that was
    started meanwhile may keep the pipe open."""
    try:
        return os.read(pipe, 1 << 16).decode(errors="surrogateescape")
    except BlockingIOError:
        return ""
