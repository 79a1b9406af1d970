"""SSW60's tables and files: which rows become which clips, and what is refused by name."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from dataset.clips import ClipDataset, ClipFiles
from dataset.errors import InputError
from dataset.ssw60 import Asset, find_asset, read_assets, read_taxa, reliable_only

TAXA = {"0": "Snow Goose", "1": "Wood Duck"}
VIDEO_HEADER = "asset_id,label,split,fps,frame_count,duration_seconds,reliable_audio"


def write_table(root: Path, *rows: str, name: str = "video_ml", header: str = VIDEO_HEADER) -> None:
    (root / f"{name}.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")


# ---- tables


def test_taxa_are_in_the_order_of_their_labels_whatever_the_order_of_rows_and_columns(tmp_path):
    write_table(tmp_path, 'b,"Duck, Wood",10', "a,Snow Goose,9", name="taxa", header="species_code,common_name,label")
    assert list(read_taxa(tmp_path, "").items()) == [("9", "Snow Goose"), ("10", "Duck, Wood")]


def test_rows_become_assets_and_other_columns_are_not_read(tmp_path):
    write_table(tmp_path, "12,1,test,25,99999,0.1,1", "7.5,0,train,0,nonsense,,False")
    assert read_assets(tmp_path, "video_ml", TAXA, "") == [Asset("video_ml/12", "Wood Duck", "test", True),
                                                           Asset("video_ml/7.5", "Snow Goose", "train", False)]


def test_bom_crlf_and_a_missing_reliable_audio_are_fine(tmp_path):
    (tmp_path / "audio_ml.csv").write_bytes(b"\xef\xbb\xbfasset_id,label,split\r\n3,1,val\r\n\r\n")
    assert read_assets(tmp_path, "audio_ml", TAXA, "") == [Asset("audio_ml/3", "Wood Duck", "val", None)]


def test_line_ends_and_commas_in_quoted_cells_are_of_their_cell(tmp_path):
    write_table(tmp_path, '5,0,train,"A. Photographer\nand ""Co"", Ithaca"', "6,1,test,\u2028", name="images_inat",
                header="asset_id,label,split,rights_holder")
    assert [found.name for found in read_assets(tmp_path, "images_inat", TAXA, "")] == ["images_inat/5",
                                                                                        "images_inat/6"]


def test_a_table_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "video_ml.csv").write_bytes(b"asset_id,label,split\n\xff\xfe,0,train\n")
    with pytest.raises(InputError, match=r"video_ml\.csv is not UTF-8 text"):
        read_assets(tmp_path, "video_ml", TAXA, "")


@pytest.mark.parametrize(("row", "message"), [
    ("12,2,test,25,1,1,True", r"line 3: label '2' is not in taxa\.csv"),
    ("12,1,dev,25,1,1,True", "line 3: split 'dev' is none of train, val, test"),
    ("12,1,Test,25,1,1,True", "line 3: split 'Test'"),
    ("11,1,test,25,1,1,True", "line 3: 11 is already listed in line 2"),
    ("../12,1,test,25,1,1,True", "line 3: asset_id '../12' is not the name of a file"),
    (",1,test,25,1,1,True", "line 3: asset_id ''"),
    ("..,1,test,25,1,1,True", r"line 3: asset_id '\.\.'"),
    ('"1\n2",1,test,25,1,1,True', r"line 3: asset_id '1\\n2' is not the name of a file"),
    ("12,1,test,25,1,1,maybe", "line 3: reliable_audio 'maybe'"),
    ("12,1,test", "line 3: 3 cells, the header names 7 columns"),
])
def test_a_wrong_row_is_refused_with_file_and_line(tmp_path, row, message):
    write_table(tmp_path, "11,0,train,25,1,1,True", row)
    with pytest.raises(InputError, match=message) as error:
        read_assets(tmp_path, "video_ml", TAXA, "")
    assert str(tmp_path / "video_ml.csv") in str(error.value)


@pytest.mark.parametrize(("header", "message"), [("asset_id,label", "no column split"), ("id,x", "no column asset_id"),
                                                 ("", "no column asset_id, label, split")])
def test_missing_columns_are_named(tmp_path, header, message):
    write_table(tmp_path, header=header)
    with pytest.raises(InputError, match=rf"video_ml\.csv has {message}"):
        read_assets(tmp_path, "video_ml", TAXA, "")


def test_missing_and_empty_tables_are_named_with_the_way_to_get_them(tmp_path):
    with pytest.raises(InputError, match=r"taxa\.csv is missing\. Ask them"):
        read_taxa(tmp_path, "Ask them")
    write_table(tmp_path)
    with pytest.raises(InputError, match=r"video_ml\.csv lists nothing"):
        read_assets(tmp_path, "video_ml", TAXA, "")


@pytest.mark.parametrize(("rows", "message"), [
    (("0,Snow Goose", "0,Wood Duck"), "line 3: label 0 .* is already in the table"),
    (("0,Snow Goose", "1,Snow Goose"), "line 3: .*'Snow Goose' is already in the table"),
    (("zero,Snow Goose",), "line 2: expected a whole number as label"),
    (("0,",), "line 2: expected a whole number as label and a common_name"),
    (("0,Snow Goose",), "names 1 species"),
])
def test_taxa_that_are_no_classes_are_refused(tmp_path, rows, message):
    write_table(tmp_path, *rows, name="taxa", header="label,common_name")
    with pytest.raises(InputError, match=message):
        read_taxa(tmp_path, "")


def test_reliable_audio_chooses_and_must_be_there(tmp_path):
    heard, unheard = (Asset(f"video_ml/{name}", "Wood Duck", "train", name == "a") for name in "ab")
    assert reliable_only(tmp_path, [unheard, heard]) == [heard]
    with pytest.raises(InputError, match=r"video_ml\.csv lacks reliable_audio for some videos"):
        reliable_only(tmp_path, [heard, heard._replace(reliable_audio=None)])


# ---- files


def asset(collection: str = "video_ml") -> Asset:
    return Asset(f"{collection}/12", "Wood Duck", "train", True)


def write_files(root: Path, frames: int = 3) -> None:
    """A prepared video 12 (landscape), recording 12 and photograph 12 (portrait)."""
    for collection in ("video_ml", "audio_ml"):
        (root / f"{collection}-16000Hz").mkdir(parents=True)
        soundfile.write(root / f"{collection}-16000Hz/12.wav", np.linspace(-0.9, 0.9, 8000), 16000)
    for path, size in [*((root / f"video_ml-1fps/12/frame_{i}.jpg", (80, 50)) for i in range(frames)),
                       (root / "images_inat/12.jpg", (50, 80))]:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (200, 30, 30)).save(path)


def find(root: Path, what: Asset, modalities: tuple[str, ...] = ("audio", "visual")) -> ClipFiles:
    return find_asset(what, root, fps=1, sample_rate=16000, modalities=modalities)


def item(root: Path, what: Asset, modalities: tuple[str, ...], **options) -> dict:
    return ClipDataset([find(root, what, modalities)], list(TAXA.values()), modalities=modalities,
                       **{"train": False, "image_size": 64, "audio_seconds": 0.2, "move_sound": True, **options})[0]


@pytest.mark.parametrize(("collection", "modalities", "shapes"), [
    ("video_ml", ("audio", "visual"), {"audio": (3200,), "visual": (4, 3, 64, 64)}),
    ("video_ml", ("visual",), {"visual": (4, 3, 64, 64)}),
    ("audio_ml", ("audio",), {"audio": (3200,)}),
    ("images_inat", ("visual",), {"visual": (4, 3, 64, 64)})])
@pytest.mark.parametrize("train", [False, True])
def test_items_have_the_promised_shapes_whatever_the_shape_of_the_picture(tmp_path, collection, modalities, shapes,
                                                                          train):
    write_files(tmp_path)
    found = item(tmp_path, asset(collection), modalities, train=train, num_frames=4)
    assert found.pop("label") == 1
    assert {name: tuple(value.shape) for name, value in found.items()} == shapes


def test_a_noted_missing_sound_stream_is_silence_and_a_missing_wav_is_not(tmp_path):
    write_files(tmp_path)
    wav = tmp_path / "video_ml-16000Hz/12.wav"
    sound = wav.read_bytes()
    wav.unlink()
    with pytest.raises(InputError, match=f"{wav} is missing"):
        find(tmp_path, asset())
    wav.with_suffix(".silent").write_text("the video has no sound stream")
    assert find(tmp_path, asset()).audio is None
    assert torch.equal(item(tmp_path, asset(), ("audio", "visual"))["audio"], torch.zeros(3200))
    wav.write_bytes(sound)  # prepared after all
    assert find(tmp_path, asset()).audio == wav


@pytest.mark.parametrize(("file", "message"), [("video_ml-1fps/12/frame_0.jpg", "is empty"),
                                               ("images_inat/12.jpg", "is empty"),
                                               ("video_ml-16000Hz/12.wav", "is empty")])
def test_broken_files_are_found_before_training(tmp_path, file, message):
    write_files(tmp_path)
    (tmp_path / file).write_bytes(b"")
    with pytest.raises(InputError, match=f"{file} {message}"):
        find(tmp_path, asset(file.split("/")[0].split("-")[0]), ("audio",) if file.endswith("wav") else ("visual",))


def test_a_video_without_frames_is_named(tmp_path):
    write_files(tmp_path, frames=0)
    with pytest.raises(InputError, match=r"no frames .*video_ml-1fps/12/\*\.jpg"):
        find(tmp_path, asset())
