"""Names of files: hidden ones, long ones, accents in two normal forms, suffixes in upper case, frame numbers."""

import csv
import os
import unicodedata
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import soundfile

from dataset.cremad import find_clip
from dataset.errors import InputError, counted
from dataset.files import read_audio
from dataset.frames import find_frames
from dataset.identities import read_train_list
from dataset.lists import Clip, read_lists
from dataset.names import cut_to, is_hidden, natural_order, on_disk
from dataset.preparation.clips import walk
from dataset.preparation.official_lists import Videos
from dataset.preparation.videos import from_folders, from_list
from dataset.ssw60 import Asset, read_taxa
from dataset.voxceleb import check_utterance, find_faces
from dataset.whole_files import temporary_name, write_whole
from scripts import prepare_cremad, prepare_grid, prepare_ucf101, prepare_videos, prepare_voxceleb
from utils.experiments.run_rows import read_csv

NFC, NFD = (unicodedata.normalize(form, "Vögel über Zürich") for form in ("NFC", "NFD"))
HIDDEN = (".DS_Store", "._1.mp4", "Thumbs.db", "desktop.ini", "__MACOSX", "@eaDir", ".AppleDouble")
RESOURCE_FORK = b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(60)


def make_video(path: Path, shade: int = 0) -> None:
    """20 frames of 16x16 pixels in 0.8 seconds, without sound."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(f"file:{path.with_name('made.mp4')}", "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 16
        for number in range(20):
            image = np.full((16, 16, 3), (number * 10 + shade) % 256, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    path.with_name("made.mp4").rename(path)


def make_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, np.zeros((8, 8, 3), np.uint8))[1])


def make_sound(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        soundfile.write(file, np.ones(1600), 16000, format="WAV")


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def make_cremad(root: Path, sound: str = ".wav", video: str = ".flv") -> list[str]:
    names = [f"{actor}_DFA_{emotion}_XX" for actor in (1001, 1002) for emotion in ("ANG", "HAP")]
    for k, name in enumerate(names):
        make_sound(root / "AudioWAV" / f"{name}{sound}")
        make_video(root / "VideoFlash" / f"{name}{video}", k)
    return names


# ---- hidden files


@pytest.mark.parametrize("name", [*HIDDEN, "._1001_DFA_ANG_XX.wav", "Icon\r"])
def test_files_of_operating_systems_are_hidden(name):
    assert is_hidden(name)


def test_hidden_files_and_folders_are_no_clips(tmp_path):
    for label in "ab":
        make_video(tmp_path / label / "1.mp4", ord(label))
        (tmp_path / label / "._1.mp4").write_bytes(RESOURCE_FORK)
        for folder in (".AppleDouble", "__MACOSX", "@eaDir"):
            make_video(tmp_path / label / folder / "2.mp4", 7)
    make_video(tmp_path / "__MACOSX" / "3.mp4", 8)
    assert [source.name for source in from_folders(tmp_path)] == ["a/1", "b/1"]
    assert [files for _, files in walk(tmp_path)] == [[], ["1.mp4"], ["1.mp4"]]


def test_cremad_is_prepared_from_a_folder_that_a_mac_wrote(tmp_path, capsys):
    names = make_cremad(tmp_path)
    for path in [*tmp_path.glob("*/*")]:
        path.with_name(f"._{path.name}").write_bytes(RESOURCE_FORK)
    (tmp_path / "Image-01-FPS").mkdir()
    (tmp_path / "Image-01-FPS" / ".DS_Store").touch()
    (tmp_path / "Image-01-FPS" / "Thumbs.db").touch()
    (tmp_path / "AudioWAV" / "notes.txt").touch()
    assert prepare_cremad.main(["--data_root", str(tmp_path), "--workers", "1"])["clips"] == len(names)
    out = capsys.readouterr().out
    assert "1 file is left out, as no wav in AudioWAV and no video in VideoFlash: AudioWAV/notes.txt" in out


# ---- long names


@pytest.mark.parametrize("name", ["a" * 251 + ".wav", "é" * 125 + ".jpg", "観" * 84, "Dr. " + "x" * 250])
def test_a_name_of_255_bytes_is_written_and_its_temporary_name_is_short(tmp_path, name):
    write_whole(tmp_path / name, "text")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert len(os.fsencode(temporary_name(tmp_path / name).name)) <= 143  # of encrypted file systems


def test_short_names_stay_in_their_temporary_names(tmp_path):
    assert temporary_name(tmp_path / "a.wav").name.endswith(".a.wav")
    long = [temporary_name(tmp_path / f"{'a' * 200}{k}.wav").name for k in range(2)]
    assert long[0] != long[1] and long[0].endswith(".wav")


def test_a_clip_whose_name_becomes_too_long_fails_alone(tmp_path):
    """`.ts` has a byte less than `.wav`."""
    for k, name in enumerate(("a/1.mp4", "a/2.mp4", "b/1.mp4", "b/2.mp4", f"b/{'x' * 252}.ts")):
        make_video(tmp_path / "videos" / name, k)
    with pytest.raises(InputError, match=r"^1 clip cannot be used"):
        prepare_videos.main(["--videos", str(tmp_path / "videos"), "--data_root", str(tmp_path / "out")])
    failed = rows(tmp_path / "out" / "prepare_failures.csv")[1:]
    assert len(failed) == 1 and "256 bytes, too many for its file system: rename" in failed[0][1]
    assert len(rows(tmp_path / "out" / "train.csv") + rows(tmp_path / "out" / "test.csv")) == 4


def test_cut_names_are_text_of_at_most_so_many_bytes():
    assert cut_to("観光列車", 7) == "観光" and cut_to("abc", 7) == "abc"


# ---- accents: NFC and NFD


@pytest.mark.parametrize(("listed", "there"), [(NFC, NFD), (NFD, NFC)])
def test_a_listed_video_is_found_whatever_the_form_of_its_accents(tmp_path, listed, there):
    make_video(tmp_path / there / f"{there}.MP4")
    path = tmp_path / "list.csv"
    path.write_text(f"path,label\n{listed}/{listed}.mp4,{listed}\n", encoding="utf-8")
    source = from_list(path, tmp_path)[0]
    assert source.video == tmp_path / there / f"{there}.MP4"
    assert (source.name, source.label) == (f"{NFC}/{NFC}", NFC)


def test_classes_in_two_forms_are_one_class_and_their_videos_must_differ_in_name(tmp_path):
    make_video(tmp_path / NFC / "1.mp4", 1)
    make_video(tmp_path / NFD / "2.mp4", 2)
    assert {(source.name, source.label) for source in from_folders(tmp_path)} == {(f"{NFC}/1", NFC), (f"{NFC}/2", NFC)}
    make_video(tmp_path / NFD / "1.mp4", 3)
    with pytest.raises(InputError, match=r"would both be the clip"):
        from_folders(tmp_path)


@pytest.mark.parametrize(("listed", "there"), [(NFC, NFD), (NFD, NFC)])
def test_clips_of_ones_own_layout_are_found_whatever_the_form(tmp_path, listed, there):
    make_sound(tmp_path / "AudioWAV" / f"{there}.WAV")
    make_image(tmp_path / "Image-01-FPS" / there / "1.jpg")
    for name, text in (("stat.csv", f"a\n{there}\n"), ("train.csv", f"{listed},{listed}\nother,a\n"),
                       ("test.csv", f"third,{there}\n")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    lists = read_lists(tmp_path, "")
    assert lists.classes == [NFC, "a"] and lists.train[0] == Clip(NFC, NFC)
    files = find_clip(tmp_path, lists.train[0])
    assert files.audio.name == f"{there}.WAV" and files.frames[0].parent.name == there
    (tmp_path / "test.csv").write_text(f"{there},{there}\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"1 clip is in .*test.csv"):  # one clip in both lists, in two forms
        read_lists(tmp_path, "")


@pytest.mark.parametrize(("listed", "there"), [(NFC, NFD), (NFD, NFC)])
def test_utterances_are_found_whatever_the_form(tmp_path, listed, there):
    there, listed = there.replace(" ", "_"), listed.replace(" ", "_")
    make_sound(tmp_path / "wav" / there / "v" / "1.WAV")
    make_image(tmp_path / "faces" / there / "v" / "1" / "0.PNG")
    path = tmp_path / "train.csv"
    path.write_text(f"{listed}/v/1.wav,{listed}/v/1,{listed},1\nb/v/1.wav,b/v/1,{there}x,1\n", encoding="utf-8")
    trained = read_train_list(path, "")
    assert set(trained.identities) == {NFC.replace(" ", "_"), f"{NFC}x".replace(" ", "_")}
    check_utterance(tmp_path, trained[0], ("audio", "visual"))


def test_voice_and_face_of_an_utterance_belong_together_in_two_forms(tmp_path):
    names = [form.replace(" ", "") for form in (NFC, NFD)]
    videos, sounds = ({next(iter(prepare_voxceleb.find_files(make(tmp_path / kind, name), (".mp4",))))}
                      for kind, name in zip("vs", names, strict=True))
    assert videos == sounds == {f"{names[0]}/v/1"}


def make(folder: Path, name: str) -> Path:
    make_video(folder / name / "v" / "1.mp4")
    return folder


# ---- suffixes


def test_suffixes_in_upper_case_are_those_of_cremad(tmp_path):
    make_cremad(tmp_path, ".WAV", ".Flv")
    assert prepare_cremad.main(["--data_root", str(tmp_path), "--workers", "1"])["failed"] == 0


def test_cremad_with_two_videos_of_a_clip_names_both(tmp_path):
    names = make_cremad(tmp_path)
    make_video(tmp_path / "VideoFlash" / f"{names[0]}.MP4")
    with pytest.raises(InputError, match=rf"two videos, .*{names[0]}\.MP4 and .*{names[0]}\.flv: remove one"):
        prepare_cremad.main(["--data_root", str(tmp_path)])


def test_videos_of_ucf101_are_found_in_any_case_and_format_and_others_are_counted(tmp_path, capsys):
    for name in ("Biking/v_Biking_g01_c01.AVI", "Biking/v_Biking_g01_c02.mp4", "Biking/readme.txt",
                 "Biking/._v_Biking_g01_c01.AVI"):
        path = tmp_path / "UCF-101" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert sorted(prepare_ucf101.find_videos(tmp_path)) == ["biking/v_biking_g01_c01", "biking/v_biking_g01_c02"]
    assert "1 file is left out, as no videos by their names: Biking/readme.txt" in capsys.readouterr().out


def test_other_files_beside_official_videos_and_utterances_are_counted(tmp_path, capsys):
    for name in ("id1/v/1.M4A", "id1/v/2.Mp3", "id1/v/notes.txt", "id1/v/Thumbs.db"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert set(prepare_voxceleb.find_files(tmp_path, (".m4a", ".mp3"))) == {"id1/v/1", "id1/v/2"}
    assert "1 file is left out, as not named .m4a, .mp3: id1/v/notes.txt" in capsys.readouterr().out
    (tmp_path / "id1/v/3.MPG").touch()
    assert Videos(tmp_path).find("3") == tmp_path / "id1/v/3.MPG"
    assert "3 files are left out" in capsys.readouterr().out


def test_grid_is_found_in_upper_case(tmp_path):
    for name in ("s1/bbaf2n.MPG", "s1/._bbaf2n.mpg", "s1/bbaf3n.mpeg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list(prepare_grid.find_videos(tmp_path, ["s1"])) == ["bbaf2n", "bbaf3n"]


@pytest.mark.parametrize("name", ["1.JPG", "1.Jpeg", "1.jpeg"])
def test_photographs_of_ssw60_are_found_in_any_case(tmp_path, name):
    make_image(tmp_path / "images_inat" / "made.jpg")
    (tmp_path / "images_inat" / "made.jpg").rename(tmp_path / "images_inat" / name)
    assert Asset("images_inat/1", "", "", None).file(tmp_path).name == name


def test_images_of_any_suffix_are_frames_but_not_two_kinds_in_one_folder(tmp_path):
    for name in ("1.jpeg", "2.JPG", "10.Jpeg"):
        make_image(tmp_path / "made.jpg")
        (tmp_path / "made.jpg").rename(tmp_path / name)
    assert [path.name for path in find_frames(tmp_path)] == ["1.jpeg", "2.JPG", "10.Jpeg"]
    make_image(tmp_path / "mask.png")
    with pytest.raises(InputError, match=r"JPEG and PNG"):
        find_frames(tmp_path)


def test_a_missing_file_stays_the_one_that_was_asked_for(tmp_path):
    assert on_disk(tmp_path / "a" / "b.wav") == tmp_path / "a" / "b.wav"
    make_sound(tmp_path / "b.wav")
    make_sound(tmp_path / "b.WAV")
    assert on_disk(tmp_path / "b.WAV").name == "b.WAV"  # there are both
    assert read_audio(on_disk(tmp_path / "b.Wav"), 16000).shape == (1600,)


@pytest.mark.parametrize("listed", ["\xe9t\xe9.mpg", "e\u0301te\u0301.mPg", "\xe9te\u0301.MPEG", "e\u0301t\xe9.Mpg"])
@pytest.mark.parametrize("there", ["\xe9te\u0301.mPG", "e\u0301t\xe9.mpeg"])
def test_a_file_is_found_whose_accents_are_partly_composed_and_whose_suffix_is_in_any_case(tmp_path, listed, there):
    (tmp_path / "e\u0301t\xe9s").mkdir()
    path = tmp_path / "e\u0301t\xe9s" / there
    path.touch()
    (path.parent / f"e{there}").touch()
    assert on_disk(tmp_path / "\xe9te\u0301s" / listed) == path


def test_a_suffix_of_a_list_may_be_in_any_case(tmp_path):
    (tmp_path / "1.mPg").touch()
    for listed in ("1.mpg", "1.MpG", "1.mpEG"):
        assert on_disk(tmp_path / listed).name == "1.mPg"


# ---- order


def test_frames_are_in_numeric_order_and_padded_names_stay_in_theirs():
    numbers = [f"{k}.jpg" for k in range(1, 13)]
    assert sorted(sorted(numbers), key=natural_order) == numbers
    padded = sorted(f"clip_{a:02d}_frame_{k:05d}.jpg" for a in range(12) for k in range(120))
    assert sorted(padded[::-1], key=natural_order) == padded
    assert sorted(["b", "a10", "a", "a9", "1a", "10"], key=natural_order) == ["1a", "10", "a", "a9", "a10", "b"]


def test_faces_are_in_numeric_order(tmp_path):
    for k in range(1, 13):
        make_image(tmp_path / "id" / "v" / "1" / f"{k}.png")
    assert [int(path.stem) for path in find_faces(tmp_path, "id/v/1")] == list(range(1, 13))


# ---- columns


@pytest.mark.parametrize("header", ["path,label,label", "path, label ,label", "path;label;split;label"])
def test_a_column_named_twice_is_an_error_of_every_table(tmp_path, header):
    path = tmp_path / "list.csv"
    path.write_text(f"{header}\n")
    with pytest.raises(InputError, match=r"list.csv has two columns named label"):
        from_list(path, tmp_path)


def test_a_column_named_twice_is_an_error_of_taxa_and_of_runs(tmp_path):
    (tmp_path / "taxa.csv").write_text("label,common_name,label\n1,a,2\n")
    with pytest.raises(InputError, match=r"taxa.csv has two columns named label"):
        read_taxa(tmp_path, "")
    (tmp_path / "runs.csv").write_text("run,accuracy,accuracy\n")
    with pytest.raises(InputError, match=r"runs.csv has two columns named accuracy"):
        read_csv(tmp_path / "runs.csv")


def test_empty_columns_at_the_end_as_spreadsheets_write_them_are_no_error(tmp_path):
    make_video(tmp_path / "1.mp4")
    path = tmp_path / "list.csv"
    path.write_text("path,label,,\n1.mp4,a,,\n")
    assert from_list(path, tmp_path)[0].label == "a"


def test_counts_agree_with_their_nouns():
    assert [counted(1, "file", "is"), counted(2, "file", "is"), counted(1200, "clip")] == [
        "1 file is", "2 files are", "1,200 clips"]
