"""Clips cut from videos into the CREMA-D layout, each with a note of what it was made from."""

from collections.abc import Mapping
from pathlib import Path

from dataset.cremad import audio_path, clip_folder
from dataset.errors import InputError
from dataset.files import check_audio, check_is_media
from dataset.preparation import clips as prep
from dataset.preparation.reader import read_part
from dataset.preparation.videos import Source
from dataset.whole_files import read_json

SAMPLE_RATE = 16000  # Hz
JPEG_QUALITY = 95
NOTE = "made_from.json"  # in the folder of a clip's frames


def prepare_clip(name: str, sources: Mapping[str, Source], root: Path, fps: int) -> None:
    """Writes sound and frames of a clip, unless they are there and were made from the same part of the same video.
    Raises InputError."""
    source, wav, frames = sources[name], audio_path(root, name), clip_folder(root, fps, name)
    note = made_from(source)
    if is_finished(wav, frames, note):
        return
    part = read_part(source.video, source.start, source.end, sample_rate=SAMPLE_RATE, fps=fps)
    prep.remove_folder(frames)  # before the sound is replaced: frames with this note have their own sound
    prep.write_sound(wav, part.sound, SAMPLE_RATE)
    prep.write_frames(frames, part.frames, JPEG_QUALITY, {NOTE: note})


def made_from(source: Source) -> dict[str, object]:
    """The part of a video, and what tells the video from a changed one. Raises InputError: missing, empty."""
    check_is_media(source.video)
    there = source.video.stat()
    return {"video": source.video.name, "bytes": there.st_size, "modified_ns": there.st_mtime_ns,
            "start": source.start, "end": source.end}


def is_finished(wav: Path, frames: Path, note: Mapping[str, object]) -> bool:
    try:
        check_audio(wav)
        return read_json(frames / NOTE) == note and prep.has_frames(frames)
    except InputError:
        return False
