"""The made birds: SSW60's layout, the same bytes for the same parameters, species alike to the eye or to the ear."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile
from test_demo import content, write_times

from dataset.demo.birds import PRETRAINING, make_demo, make_species
from dataset.errors import InputError
from dataset.ssw60 import MEDIA, find_asset, read_assets, read_taxa

SMALL = {"species": 4, "train_per_class": 1, "test_per_class": 1}


@pytest.fixture(scope="module")
def birds(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("made") / "birds"
    make_demo(root, **SMALL)
    return root


def test_every_collection_has_tables_and_whole_files(birds):
    taxa = read_taxa(birds, "")
    assert len(taxa) == 4
    for collection in MEDIA:
        assets = read_assets(birds, collection, taxa, "")
        expected = PRETRAINING.get(collection, {"train": 1, "test": 1})
        for split, count in expected.items():
            assert sorted(a.label for a in assets if a.split == split) == sorted(count * list(taxa.values()))
        modalities = {"video_ml": ("audio", "visual"), "audio_ml": ("audio",)}.get(collection, ("visual",))
        for asset in assets:
            clip = find_asset(asset, birds, 1, 16000, modalities)
            assert len(clip.frames) == {"video_ml": 2, "audio_ml": 0}.get(collection, 1)


def test_the_default_is_sixty_species_in_pairs_alike_to_the_eye_or_to_the_ear():
    birds = make_species(seed=0, count=60)
    assert len({bird.name for bird in birds}) == len(birds) == 60

    def alike(a: np.ndarray | float, b: np.ndarray | float) -> bool:
        return np.allclose(a, b, rtol=0.2)

    for a, b in zip(birds[::2], birds[1::2], strict=True):
        same_look = all(alike(*pair) for pair in zip(a.look, b.look, strict=True))
        same_song = len(a.song.syllables) == len(b.song.syllables) and all(
            alike(*pair) for pair in zip(a.song.syllables, b.song.syllables, strict=True))
        assert (same_look, same_song) == (a.name.startswith("Look"), a.name.startswith("Sound"))
        assert a.look.bill_length != b.look.bill_length or a.song != b.song


def test_sound_is_pcm_that_hardly_clips_and_frames_move(birds):
    for path in birds.glob("*-16000Hz/*.wav"):
        wave, rate = soundfile.read(path)
        assert (rate, len(wave), soundfile.info(path).subtype) == (16000, 19200, "PCM_16")
        assert np.abs(wave).max() > 0.1 and (np.abs(wave) > 0.999).mean() < 0.001
    for folder in (birds / "video_ml-1fps").iterdir():
        first, second = (cv2.imread(str(path)) for path in sorted(folder.iterdir()))
        assert first.shape == second.shape == (96, 96, 3)
        assert first.std() > 10 and not np.array_equal(first, second)


def test_same_seed_gives_the_same_bytes_and_another_seed_others(birds, tmp_path):
    make_demo(tmp_path / "again", **SMALL)
    make_demo(tmp_path / "other", seed=1, **SMALL)
    first, again, other = (content(root) for root in (birds, tmp_path / "again", tmp_path / "other"))
    assert first == again
    assert first.keys() == other.keys()
    assert all(first[name] != other[name] for name in first if not name.endswith(".csv"))


def test_difficulty_of_the_look_does_not_touch_the_song(birds, tmp_path):
    make_demo(tmp_path, look_difficulty=0, **SMALL)
    first, plain = content(birds), content(tmp_path)
    assert all((first[name] == plain[name]) == name.endswith((".wav", ".csv")) for name in first)


def test_complete_birds_are_left_alone_and_lost_files_made_again(tmp_path):
    make_demo(tmp_path, **SMALL)
    before, times = content(tmp_path), write_times(tmp_path)
    make_demo(tmp_path, **SMALL)
    assert write_times(tmp_path) == times
    next(tmp_path.glob("images_inat/*.jpg")).unlink()
    make_demo(tmp_path, **SMALL)
    assert content(tmp_path) == before


def test_other_parameters_replace_the_birds_but_not_other_files(tmp_path):
    make_demo(tmp_path, species=4, train_per_class=2, test_per_class=1)
    (tmp_path / "notes.txt").write_text("mine")
    make_demo(tmp_path, **SMALL)
    assert len(list((tmp_path / "video_ml-1fps").iterdir())) == 8
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_folder_of_another_demo_is_left_alone(tmp_path):
    (tmp_path / "demo.json").write_text('{"made_by": "dataset/demo.py, version 2"}')
    with pytest.raises(InputError, match="holds no demo data"):
        make_demo(tmp_path, **SMALL)
    assert len(list(tmp_path.iterdir())) == 1
