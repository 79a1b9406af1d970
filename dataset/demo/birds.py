"""Demo data: sixty synthetic bird species in SSW60's layout, to try training without a download of 31 GB. No real
species is shown, and results say nothing about real data.

Half of the species come in pairs that look alike and sing differently, the other half in pairs that sing alike and look
differently: no single modality distinguishes them all. Sight is the easier modality, as in SSW60.

This file writes the folder; dataset/demo/plumage.py draws the birds, dataset/demo/songs.py synthesises the songs.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import soundfile

from dataset.demo.folder import fill_folder, generator
from dataset.demo.plumage import Look, film_bird, random_look, sister_look
from dataset.demo.songs import SAMPLE_RATE, Song, random_song, record_song, sister_song
from dataset.errors import InputError
from dataset.ssw60 import MEDIA, Asset
from dataset.whole_files import write_whole

MADE_BY = "dataset/demo_birds.py, version 1"  # marks demo folders; raise the version when the bytes change
FRAMES, FPS = 2, 1
PRETRAINING = {"audio_ml": {"train": 6, "test": 2}, "images_inat": {"train": 4, "val": 1, "test": 1},
               "images_nabirds": {"train": 2, "test": 1}}  # assets per species


class Species(NamedTuple):
    name: str
    look: Look
    song: Song


def make_demo(root: Path, seed: int = 0, species: int = 60, train_per_class: int = 10, test_per_class: int = 5,
              look_difficulty: float = 1.0, song_difficulty: float = 1.0) -> None:
    """Writes the demo data into `root`, a folder that is missing, empty or held this demo before.

    The same parameters give the same bytes; see folder.fill_folder for a folder that already has data. `species`
    is rounded up to a multiple of 4. A difficulty scales the random variation of look or sound; 0: none.
    Raises InputError: `root` holds something else, or more than 100 species.
    """
    if not 1 <= species <= 100:
        raise InputError(f"the demo has 1 to 100 species, not {species}")
    parameters = {"made_by": MADE_BY, "seed": seed, "species": species, "train_per_class": train_per_class,
                  "test_per_class": test_per_class, "look_difficulty": look_difficulty,
                  "song_difficulty": song_difficulty}
    birds = make_species(seed, species)
    assets = list_assets(birds, {"train": train_per_class, "test": test_per_class})

    def write() -> None:
        for asset in assets:
            write_asset(root, asset, birds, seed, look_difficulty, song_difficulty)
        write_tables(root, birds, assets)

    fill_folder(root, parameters, [path for asset in assets for path in asset_files(root, asset)],
                own_names(), write)


def make_species(seed: int, count: int) -> list[Species]:
    """Pairs that look alike, then as many pairs that sound alike."""
    found = []
    for number in range(1, -(-count // 4) + 1):
        rng = generator(seed, f"lookalike {number}")
        look = random_look(rng)
        found += [Species(f"Lookalike {number:02d} A", look, random_song(rng)),
                  Species(f"Lookalike {number:02d} B", sister_look(look, rng), random_song(rng))]
    for number in range(1, -(-count // 4) + 1):
        rng = generator(seed, f"soundalike {number}")
        song = random_song(rng)
        found += [Species(f"Soundalike {number:02d} A", random_look(rng), song),
                  Species(f"Soundalike {number:02d} B", random_look(rng), sister_song(song, rng))]
    return found


def list_assets(birds: list[Species], videos: dict[str, int]) -> list[Asset]:
    """Every asset of every collection; videos: {split: number per species}."""
    return [Asset(f"{collection}/{split}{number}{label:02d}", bird.name, split, True)
            for collection, splits in {"video_ml": videos, **PRETRAINING}.items()
            for label, bird in enumerate(birds) for split, count in splits.items() for number in range(count)]


def frame_paths(root: Path, asset: Asset) -> list[Path]:
    """The image files of an asset; none for a recording."""
    if asset.collection == "video_ml":
        return [asset.frames(root, FPS) / f"frame_{number:05d}.jpg" for number in range(1, FRAMES + 1)]
    return [asset.file(root)] if asset.collection.startswith("images") else []


def asset_files(root: Path, asset: Asset) -> Iterator[Path]:
    yield from frame_paths(root, asset)
    if asset.collection.endswith("_ml"):
        yield asset.sound(root, SAMPLE_RATE)


def write_asset(root: Path, asset: Asset, birds: list[Species], seed: int, look_difficulty: float,
                song_difficulty: float) -> None:
    """Writes the pictures and the sound of one asset."""
    bird = next(bird for bird in birds if bird.name == asset.label)
    paths = frame_paths(root, asset)
    pictures = film_bird(bird.look, len(paths), generator(seed, f"image {asset.name}"), look_difficulty)
    for path, picture in zip(paths, pictures, strict=True):
        encoded = cv2.imencode(".jpg", picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
        write_whole(path, lambda temporary, data=encoded: data.tofile(temporary))
    if asset.collection.endswith("_ml"):
        write_song(asset.sound(root, SAMPLE_RATE), bird, birds, generator(seed, f"sound {asset.name}"), song_difficulty)


def write_song(path: Path, bird: Species, birds: list[Species], rng: np.random.Generator, difficulty: float) -> None:
    others = [birds[i].song for i in rng.integers(len(birds), size=3)]
    wave = record_song(bird.song, others, rng, difficulty)
    write_whole(path, lambda temporary: soundfile.write(temporary, wave, SAMPLE_RATE, subtype="PCM_16"))


def write_tables(root: Path, birds: list[Species], assets: list[Asset]) -> None:
    """taxa.csv and the csv file of every collection, with the columns that dataset/ssw60.py reads."""
    labels = {bird.name: label for label, bird in enumerate(birds)}
    write_whole(root / "taxa.csv", "label,common_name\n" + "".join(f"{n},{name}\n" for name, n in labels.items()))
    for collection in MEDIA:
        rows = [f"{asset.name.split('/')[1]},{labels[asset.label]},{asset.split},True\n"
                for asset in assets if asset.collection == collection]
        write_whole(root / f"{collection}.csv", "asset_id,label,split,reliable_audio\n" + "".join(rows))


def own_names() -> list[str]:
    """The files and folders of a demo, relative to its folder."""
    examples = [Asset(f"{collection}/x", "", "", None) for collection in MEDIA]
    root = Path()
    folders = {path.parent for example in examples
               for path in (example.file(root), example.frames(root, FPS), example.sound(root, SAMPLE_RATE))}
    return [*(f"{name}.csv" for name in ("taxa", *MEDIA)), *sorted(map(str, folders))]
