"""prepare_grid.py --babble_snr, --folds: the level is right, nothing crosses the split, every clip is tested once."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from test_prepare import cut, make_grid

from dataset.cremad import VARIANT_NOTE
from dataset.errors import InputError
from dataset.lists import Clip, Lists, read_lists
from dataset.preparation.grid import variants
from dataset.preparation.grid.babble import VOICES, add_babble, choose_voices, generator
from dataset.preparation.grid.variants import folds_of, make_variant, variant_root
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


def test_silence_is_refused_and_words_too_quiet_for_their_babble():
    voices, word = [voice(k) for k in range(VOICES)], voice(9, 0.1)
    with pytest.raises(InputError, match="the word, or the babble over it, is silent"):
        add_babble(np.zeros(100, np.int16), slice(0, 100), voices, 0, np.random.default_rng(0))
    with pytest.raises(InputError, match="a sentence of the babble is silent over the whole clip"):
        add_babble(word, slice(0, 100), [*voices[1:], np.zeros(9000, np.int16)], 0, np.random.default_rng(0))
    with pytest.raises(InputError, match="so quiet that babble 40 dB below it would be lost in rounding"):
        add_babble((word / 100).astype(np.int16), slice(0, 1000), voices, 40, np.random.default_rng(0))


def test_babble_is_of_several_others():
    chosen = choose_voices("a", dict(zip("abcdefgh", range(8), strict=True)), generator(0, "a"))
    assert len(set(chosen)) == VOICES and 0 not in chosen


def test_every_clip_is_tested_once_over_the_folds():
    clips = [Clip(f"c{k}", "xyz"[k % 3]) for k in range(62)]
    folds = folds_of(clips, 5, 0, "stratified")
    assert sorted(clip for fold in folds for clip in fold.test) == sorted(clips)
    for fold in folds:
        assert sorted([*fold.train, *fold.test]) == sorted(clips) and len(fold.test) in (12, 13)
        assert max(Counter(clip.label for clip in fold.test).values()) <= 5
    same, other = folds_of(clips[::-1], 5, 0, "stratified"), folds_of(clips, 5, 1, "stratified")
    tested, again, otherwise = ([set(fold.test) for fold in every] for every in (folds, same, other))
    assert tested == again != otherwise
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


@pytest.fixture
def words(tmp_path) -> dict:
    """Arguments of make_variant: sixteen words of two classes in tmp_path/out."""
    clips = [Clip(f"c{n:02}", "ab"[n % 2]) for n in range(16)]
    root = tmp_path / "out"
    (root / "AudioWAV").mkdir(parents=True)
    speech = {clip.name: voice(n).astype(np.int16) for n, clip in enumerate(clips)}
    for name, sound in speech.items():
        soundfile.write(root / "AudioWAV" / f"{name}.wav", sound, 16000)
    return {"folder": tmp_path / "noisy", "root": root, "lists": folds_of(clips, 2, 0, "stratified")[0], "level": -5.0,
            "speech": speech, "spans": dict.fromkeys(speech, slice(1000, 9000)), "seed": 0, "workers": 1}


def test_babble_of_other_clips_or_seed_is_not_kept_under_new_lists(words):
    classes, train, test = lists = words["lists"]
    make_variant(**words)
    make_variant(**words)
    before = (words["folder"] / "test.csv").read_bytes()
    for more in ({"lists": Lists(classes, test, train)}, {"seed": 1}, {"lists": Lists(classes, train[1:], test)}):
        with pytest.raises(InputError, match=r"noisy holds clips prepared with .*choose another .*, or remove"):
            make_variant(**{**words, **more})
    assert (words["folder"] / "test.csv").read_bytes() == before
    path = words["folder"] / VARIANT_NOTE
    note = json.loads(path.read_text())
    del note["train_clips_sha256"]  # as an older version noted it
    path.write_text(json.dumps(note))
    make_variant(**words)
    with pytest.raises(InputError, match="noisy holds clips prepared with"):
        make_variant(**{**words, "lists": lists._replace(train=test, test=train)})


def test_words_that_cannot_be_mixed_are_told_and_in_no_list(words):
    silent = words["lists"].train[0].name
    soundfile.write(words["root"] / "AudioWAV" / f"{silent}.wav", np.zeros(9000, np.int16), 16000)
    for _ in range(2):
        assert make_variant(**words) == {silent: "the word, or the babble over it, is silent"}
        found = read_lists(words["folder"], "")
        assert ([clip.name for clip in found.train], found.test) == (
            [clip.name for clip in words["lists"].train if clip.name != silent], words["lists"].test)


def test_too_few_sentences_for_babble_are_refused_before_anything_is_mixed(grid, tmp_path):
    with pytest.raises(InputError, match=r"babble over a clip needs 6 other sentences .* a part has 4 clips: prepare"):
        cut(grid, tmp_path / "out", "--babble_snr", "5")
    assert not (tmp_path / "out-snr5").exists()


def test_lists_that_were_made_otherwise_are_not_kept_in_silence(grid, tmp_path, capsys):
    root = tmp_path / "out"
    cut(grid, root)
    cut(grid, root)
    for flags, told in ((["--split", "speaker"], "split was stratified and is speaker"),
                        (["--seed", "1"], "seed was 0 and is 1"),
                        (["--test_fraction", "0.3"], "test_fraction was 0.2 and is 0.3")):
        with pytest.raises(InputError, match=f"{told}: remove train.csv, test.csv and stat.csv there"):
            cut(grid, root, *flags)
    cut(grid, root, "--folds", "2", "--seed", "1")
    (root / "prepare_lists.json").unlink()
    capsys.readouterr()
    cut(grid, root, "--seed", "1")
    assert "kept as they are: there is no prepare_lists.json with" in capsys.readouterr().out


def test_two_speakers_have_clips_of_their_own_and_can_be_split(grid, tmp_path):
    shutil.copytree(grid / "s1", grid / "s2", symlinks=True)
    (grid / "align").rename(grid / "all")
    for speaker in ("s1", "s2"):
        shutil.copytree(grid / "all", grid / "align" / speaker)
    cut(grid, tmp_path / "out", "--speakers", "s1", "s2", "--split", "speaker")
    lists = read_lists(tmp_path / "out", "")
    of = [{clip.name.split("_")[0] for clip in part} for part in (lists.train, lists.test)]
    assert sorted(map(sorted, of)) == [["s1"], ["s2"]] and len(lists.train) == 20


@pytest.mark.parametrize("flags", [["--babble_snr", "loud"], ["--babble_snr", "41"], ["--folds", "1"],
                                   ["--split", "people"]])
def test_levels_that_are_no_numbers_are_refused(flags, capsys):
    with pytest.raises(SystemExit) as error:
        prepare_grid.main(["--grid_root", "nowhere", *flags])
    assert error.value.code == 2
