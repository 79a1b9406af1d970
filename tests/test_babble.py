"""prepare_grid.py --babble_snr, --folds: the level is right, nothing crosses the split, every clip is tested once."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from test_prepare import cut, make_grid

from dataset.errors import InputError
from dataset.lists import Clip, read_lists
from dataset.preparation import variants
from dataset.preparation.babble import VOICES, add_babble, choose_voices, generator
from dataset.preparation.variants import folds_of, variant_root
from scripts import prepare_grid


def voice(seed: int, seconds: float = 2.0, loud: float = 3000.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(0, loud, round(16000 * seconds)) * (1 + np.sin(np.arange(round(16000 * seconds)) / 900))).astype(
        np.int16)


def decibels(ratio: float) -> float:
    return 10 * float(np.log10(ratio))


@pytest.mark.parametrize("snr", [20, 5, 0, -5, -10])
@pytest.mark.parametrize("loud", [300.0, 3000.0, 9000.0])
def test_the_word_is_so_many_decibels_above_the_babble(snr, loud):
    clip, word = voice(0, 0.5, loud), slice(960, 7040)
    voices = [voice(k + 1, 0.1 + 0.4 * k) for k in range(VOICES)]  # some are shorter than the clip
    mixed = add_babble(clip, word, voices, snr, np.random.default_rng(1)).astype(float)
    assert np.abs(mixed).max() <= 32000 and mixed.shape == clip.shape
    quiet = np.round(clip * (300 / loud))
    faint = add_babble(quiet.astype(np.int16), word, voices, snr, np.random.default_rng(1))
    noise = faint.astype(float) - quiet  # nothing was made quieter: the babble is what was added
    found = decibels(np.mean(quiet[word] ** 2) / np.mean(noise[word] ** 2))
    assert found == pytest.approx(snr, abs=0.1)
    scale = float(mixed @ faint / (faint.astype(float) @ faint))  # the same mixture, louder
    assert np.abs(mixed - scale * faint).max() < scale * 1.5 + 1
    if np.abs(mixed).max() < 31000:
        assert scale == pytest.approx(loud / 300, rel=0.02), "it was made quieter without need"


def test_silence_and_too_few_sentences_are_refused():
    voices = [voice(k) for k in range(VOICES)]
    with pytest.raises(InputError, match="silent"):
        add_babble(np.zeros(100, np.int16), slice(0, 100), voices, 0, np.random.default_rng(0))
    with pytest.raises(InputError, match=f"needs {VOICES} other sentences .*, there are 5"):
        choose_voices("a", {name: voices[0] for name in "abcdef"}, generator(0, "a"))
    chosen = choose_voices("a", dict(zip("abcdefgh", range(8), strict=True)), generator(0, "a"))
    assert len(set(chosen)) == VOICES and 0 not in chosen


def test_every_clip_is_tested_once_over_the_folds():
    clips = [Clip(f"c{k}", "xyz"[k % 3]) for k in range(62)]
    folds = folds_of(clips, 5, 0, "stratified")
    assert sorted(clip for fold in folds for clip in fold.test) == sorted(clips)
    for fold in folds:
        assert sorted([*fold.train, *fold.test]) == sorted(clips) and len(fold.test) in (12, 13)
        assert max(Counter(clip.label for clip in fold.test).values()) <= 5
    assert folds == folds_of(clips[::1], 5, 0, "stratified") != folds_of(clips, 5, 1, "stratified")
    with pytest.raises(InputError, match="class x has 2 clips, fewer than --folds 5"):
        folds_of([Clip("a", "x"), Clip("b", "x"), *clips[1::3]], 5, 0, "stratified")


def test_folds_of_speakers_test_every_speaker_once_as_a_whole():
    clips = [Clip(f"{1001 + k % 7}_{k}", "xyz"[k // 7 % 3]) for k in range(63)]
    folds = folds_of(clips, 3, 0, "speaker")
    assert sorted(clip for fold in folds for clip in fold.test) == sorted(clips)
    speakers = [({clip.name[:4] for clip in fold.train}, {clip.name[:4] for clip in fold.test}) for fold in folds]
    assert all(not train & test and len(test) in (2, 3) for train, test in speakers)
    assert folds != folds_of(clips, 3, 1, "speaker")
    with pytest.raises(InputError, match="there are 7 speakers, fewer than --folds 8"):
        folds_of(clips, 8, 0, "speaker")
    with pytest.raises(InputError, match=r"no training clip of class only in fold .*give fewer --folds"):
        folds_of([*clips, Clip("1003_x", "only")], 3, 0, "speaker")


@pytest.fixture
def grid(tmp_path, mpg) -> Path:
    make_grid(tmp_path / "grid", mpg, ("two", "six") * 10)
    return tmp_path / "grid"


@pytest.fixture
def mpg(tmp_path_factory) -> Path:
    from test_prepare_videos import make_video

    return make_video(tmp_path_factory.mktemp("mpg") / "v.mkv", 2.98, size=(64, 48)).rename(
        tmp_path_factory.mktemp("mpg") / "v.mpg")


def test_levels_and_folds_are_data_sets_of_their_own(grid, tmp_path, monkeypatch):
    heard = {}

    def remember(name: str, sentences: dict, rng: np.random.Generator) -> list[np.ndarray]:
        heard.setdefault(name, []).append(set(sentences))
        return choose_voices(name, sentences, rng)

    monkeypatch.setattr(variants, "choose_voices", remember)
    root = tmp_path / "out"
    cut(grid, root, "--babble_snr", "clean", "-5", "--folds", "2")
    assert sorted(path.name for path in tmp_path.glob("out*")) == [
        "out", "out-fold0", "out-fold0-snr-5", "out-fold1", "out-fold1-snr-5"]
    for fold in (0, 1):
        clean, noisy = variant_root(root, fold, None), variant_root(root, fold, -5.0)
        lists = read_lists(noisy, "")
        assert read_lists(clean, "") == lists and (len(lists.train), len(lists.test)) == (10, 10)
        for part in (lists.train, lists.test):
            names = {clip.name for clip in part}
            assert all(heard[name][fold] == names for name in names), "babble crosses the split"
            for name in names:
                before, after = (soundfile.read(place / "AudioWAV" / f"{name}.wav")[0] for place in (clean, noisy))
                assert before.shape == after.shape and not np.array_equal(before, after)
                assert (noisy / "Image-01-FPS" / name).is_dir()
        assert (clean / "AudioWAV").resolve() == root / "AudioWAV"
    noisy = variant_root(root, 0, -5.0) / "AudioWAV"
    bytes_before = {path.name: path.read_bytes() for path in noisy.iterdir()}
    shutil.rmtree(noisy)
    cut(grid, root, "--babble_snr", "clean", "-5", "--folds", "2")
    assert {path.name: path.read_bytes() for path in noisy.iterdir()} == bytes_before


def test_babble_of_another_split_or_seed_is_not_kept_under_new_lists(tmp_path):
    root, clips = tmp_path / "out", [Clip(f"c{n:02}", "ab"[n % 2]) for n in range(16)]
    (root / "AudioWAV").mkdir(parents=True)
    speech = {clip.name: voice(n).astype(np.int16) for n, clip in enumerate(clips)}
    for name, sound in speech.items():
        soundfile.write(root / "AudioWAV" / f"{name}.wav", sound, 16000)
    spans, folder = dict.fromkeys(speech, slice(1000, 9000)), tmp_path / "noisy"
    variants.make_variant(folder, root, folds_of(clips, 2, 0, "stratified")[0], -5.0, speech, spans, 0, 1)
    variants.make_variant(folder, root, folds_of(clips, 2, 0, "stratified")[0], -5.0, speech, spans, 0, 1)
    before = (folder / "test.csv").read_bytes()
    for lists, seed in ((folds_of(clips, 2, 0, "stratified")[1], 0), (folds_of(clips, 2, 0, "stratified")[0], 1)):
        with pytest.raises(InputError, match="noisy holds clips prepared with"):
            variants.make_variant(folder, root, lists, -5.0, speech, spans, seed, 1)
    assert (folder / "test.csv").read_bytes() == before


def test_two_speakers_have_clips_of_their_own_and_can_be_split(grid, tmp_path):
    shutil.copytree(grid / "s1", grid / "s2", symlinks=True)
    (grid / "align").rename(grid / "all")
    for speaker in ("s1", "s2"):
        shutil.copytree(grid / "all", grid / "align" / speaker)
    cut(grid, tmp_path / "out", "--speakers", "s1", "s2", "--split", "speaker")
    lists = read_lists(tmp_path / "out", "")
    of = [{clip.name.split("_")[0] for clip in part} for part in (lists.train, lists.test)]
    assert sorted(map(sorted, of)) == [["s1"], ["s2"]] and len(lists.train) == 20


@pytest.mark.parametrize("flags", [["--babble_snr", "loud"], ["--babble_snr", "200"], ["--folds", "1"],
                                   ["--split", "people"]])
def test_levels_that_are_no_numbers_are_refused(flags, capsys):
    with pytest.raises(SystemExit) as error:
        prepare_grid.main(["--grid_root", "nowhere", *flags])
    assert error.value.code == 2
