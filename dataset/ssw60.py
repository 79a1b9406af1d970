"""SSW60: sixty bird species in videos, sound recordings and photographs, listed in the official csv files.

    <root>/taxa.csv                          label, common_name, ...: the classes
    <root>/video_ml.csv audio_ml.csv images_inat.csv images_nabirds.csv     asset_id, label, split, ...
    <root>/images_inat/<asset_id>.jpg        photographs, read directly; images_nabirds likewise
    <root>/video_ml-1fps/<asset_id>/*.jpg    frames, by scripts/prepare_ssw60.py from video_ml/<asset_id>.mp4
    <root>/video_ml-16000Hz/<asset_id>.wav   its sound; <asset_id>.silent where the video has no sound stream
    <root>/audio_ml-16000Hz/<asset_id>.wav   of audio_ml/<asset_id>.wav

Other columns are not read: `frame_count` is not fps x duration; durations come from the media files.
"""

import shlex
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from dataset.clips import ClipFiles, find_each
from dataset.errors import InputError, first_few
from dataset.files import check_audio, check_image
from dataset.frames import find_frames
from dataset.lists import NOT_A_NAME, read_table
from dataset.names import on_disk

MEDIA = {"video_ml": "mp4", "audio_ml": "wav", "images_inat": "jpg", "images_nabirds": "jpg"}  # as distributed
OF_MODALITY = {"audio": ("audio_ml",), "visual": ("images_inat", "images_nabirds")}  # to pretrain its encoder on
SPLITS = ("train", "val", "test")
OFFICIAL_VIDEOS = {"train": 3462, "test": 1938}
TRUE, FALSE = ("true", "1", "1.0"), ("false", "0", "0.0")  # how tables write reliable_audio


class Asset(NamedTuple):
    """A row of a csv file. name: `<collection>/<asset_id>`; label: the species' common name.

    reliable_audio: the official annotation of video_ml that the bird can be heard; None if the file has none.
    """

    name: str
    label: str
    split: str
    reliable_audio: bool | None

    @property
    def collection(self) -> str:
        return self.name.split("/")[0]

    def file(self, root: Path) -> Path:
        """The media file as distributed."""
        return on_disk(root / f"{self.name}.{MEDIA[self.collection]}")

    def frames(self, root: Path, fps: int) -> Path:
        """The folder of a video's extracted frames."""
        return self.beside(root, f"{fps}fps", "")

    def sound(self, root: Path, sample_rate: int) -> Path:
        return self.beside(root, f"{sample_rate}Hz", ".wav")

    def silent(self, root: Path, sample_rate: int) -> Path:
        """A note instead of a wav: the video has no sound stream."""
        return self.beside(root, f"{sample_rate}Hz", ".silent")

    def beside(self, root: Path, kind: str, suffix: str) -> Path:
        collection, asset_id = self.name.split("/")
        return on_disk(root / f"{collection}-{kind}" / f"{asset_id}{suffix}")


def read_taxa(root: Path, how_to_get: str) -> dict[str, str]:
    """{label: common name} of taxa.csv in the order of the labels, which is that of the classes.

    Raises InputError: missing (the message ends in `how_to_get`), malformed, duplicates, fewer than two species.
    """
    path = root / "taxa.csv"
    taxa: dict[str, str] = {}
    for line, row in read_table(path, ("label", "common_name"), how_to_get):
        label, name = row["label"], row["common_name"]
        if not label.isdecimal() or not name:
            raise InputError(f"{path}, line {line}: expected a whole number as label and a common_name, found "
                             f"{label!r} and {name!r}")
        if label in taxa or name in taxa.values():
            raise InputError(f"{path}, line {line}: label {label} or name {name!r} is already in the table")
        taxa[label] = name
    if len(taxa) < 2:
        raise InputError(f"{path} names {len(taxa)} species, at least 2 are needed")
    return dict(sorted(taxa.items(), key=lambda item: int(item[0])))


def read_assets(root: Path, collection: str, taxa: Mapping[str, str], how_to_get: str) -> list[Asset]:
    """The rows of `<collection>.csv`, in file order. taxa: {label: common name}.

    Raises InputError: the file or a column is missing, a row is malformed, a label is not in taxa.csv, a split is
    none of SPLITS, an asset is listed twice.
    """
    path = root / f"{collection}.csv"
    assets: list[Asset] = []
    first_line: dict[str, int] = {}
    for line, row in read_table(path, ("asset_id", "label", "split"), how_to_get):
        try:
            asset = make_asset(collection, row, taxa)
        except InputError as error:
            raise InputError(f"{path}, line {line}: {error}") from None
        if asset.name in first_line:
            raise InputError(f"{path}, line {line}: {row['asset_id']} is already listed in line "
                             f"{first_line[asset.name]}")
        first_line[asset.name] = line
        assets.append(asset)
    if not assets:
        raise InputError(f"{path} lists nothing")
    return assets


def make_asset(collection: str, row: Mapping[str, str], taxa: Mapping[str, str]) -> Asset:
    """Raises InputError; the message does not name file and line."""
    asset_id, label, split = row["asset_id"], row["label"], row["split"]
    if "/" in asset_id or NOT_A_NAME.search(asset_id):
        raise InputError(f"asset_id {asset_id!r} is not the name of a file")
    if label not in taxa:
        raise InputError(f"label {label!r} is not in taxa.csv (it has {first_few(list(taxa))})")
    if split not in SPLITS:
        raise InputError(f"split {split!r} is none of {', '.join(SPLITS)}")
    reliable = row.get("reliable_audio") or None
    if reliable is not None and reliable.lower() not in TRUE + FALSE:
        raise InputError(f"reliable_audio {reliable!r} is neither True nor False")
    return Asset(f"{collection}/{asset_id}", taxa[label], split, None if reliable is None else reliable.lower() in TRUE)


def reliable_only(root: Path, videos: Sequence[Asset]) -> list[Asset]:
    """The videos annotated `reliable_audio`. Raises InputError: an annotation is missing."""
    if any(video.reliable_audio is None for video in videos):
        raise InputError(f"{root / 'video_ml.csv'} lacks reliable_audio for some videos: complete the "
                         "column, or leave out --reliable_audio_only")
    return [video for video in videos if video.reliable_audio]


def check_prepared(root: Path, collection: str, fps: int, sample_rate: int, modalities: Sequence[str]) -> None:
    """Raises InputError: a folder that the preparation creates is missing (one message instead of one per clip)."""
    example = Asset(f"{collection}/x", "", "", None)
    needed = {"audio": example.sound(root, sample_rate).parent, "visual": example.frames(root, fps).parent}
    for modality in modalities if collection.endswith("_ml") else ():  # photographs are read directly
        if not needed[modality].is_dir():
            raise InputError(f"{needed[modality]} does not exist. Create it with: python scripts/prepare_ssw60.py "
                             f"--data_root {shlex.quote(str(root))} --sample_rate {sample_rate} --fps {fps}")


def find_assets(assets: Sequence[Asset], root: Path, fps: int, sample_rate: int,
                modalities: Collection[str]) -> tuple[list[ClipFiles], dict[str, str]]:
    """(the clips with usable files, {name: what is wrong} of the others), in list order."""
    return find_each(partial(find_asset, root=root, fps=fps, sample_rate=sample_rate, modalities=modalities), assets)


def find_asset(asset: Asset, root: Path, fps: int, sample_rate: int, modalities: Collection[str]) -> ClipFiles:
    """The files of an asset, after a check that they exist and have valid headers. Raises InputError."""
    audio = find_sound(asset, root, sample_rate) if "audio" in modalities else None
    return ClipFiles(asset.name, asset.label, audio, find_pictures(asset, root, fps) if "visual" in modalities else ())


def find_sound(asset: Asset, root: Path, sample_rate: int) -> Path | None:
    """The prepared wav; None for a video without a sound stream."""
    if is_silent(asset, root, sample_rate):
        return None
    path = asset.sound(root, sample_rate)
    check_audio(path)
    return path


def is_silent(asset: Asset, root: Path, sample_rate: int) -> bool:
    """Whether the preparation found that it has no sound stream."""
    return asset.silent(root, sample_rate).is_file() and not asset.sound(root, sample_rate).exists()


def find_pictures(asset: Asset, root: Path, fps: int) -> tuple[Path, ...]:
    """A video's frames, or the one photograph."""
    if asset.collection != "video_ml":
        check_image(asset.file(root))
        return (asset.file(root),)
    frames = find_frames(asset.frames(root, fps))
    if not frames:
        raise InputError(f"no frames {asset.frames(root, fps)}/*.jpg: run scripts/prepare_ssw60.py again")
    return frames
