"""Clip lists: what is read, every mistake refused with file and line, splits, and the way back to disk."""

import re
from collections import Counter
from pathlib import Path

import pytest

from dataset.errors import InputError
from dataset.lists import Clip, Lists, read_lists, read_table, split_by_speaker, split_stratified, write_lists

GOOD = {"stat.csv": "SAD\nANG\nHAP\n", "train.csv": "1_a,ANG\n2_a,HAP\n3_a,SAD\n", "test.csv": "4_a,ANG\n"}
EXPECTED = Lists(["ANG", "HAP", "SAD"], [Clip("1_a", "ANG"), Clip("2_a", "HAP"), Clip("3_a", "SAD")],
                 [Clip("4_a", "ANG")])
HOW_TO = "Prepare it with the script."


@pytest.fixture
def root(tmp_path) -> Path:
    for name, text in GOOD.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def read_with(root: Path, name: str, content: str | bytes) -> Lists:
    (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_lists(root, HOW_TO)


@pytest.mark.parametrize("change", [
    lambda text: text, lambda text: text.replace("\n", "\r\n"), lambda text: "\ufeff" + text,
    lambda text: "\n\n" + text.replace("\n", "\n \n,\n"), lambda text: text.rstrip("\n"),
    lambda text: text.replace(",", " , "), lambda text: "".join(f"{line},3.5\n" for line in text.splitlines()),
    lambda text: re.sub(r"\w+", r'"\g<0>"', text)],
    ids=["as it is", "CRLF", "BOM", "blank lines", "no end", "spaces", "further columns", "quoted"])
def test_lists_are_read_however_they_were_saved(root, change):
    for name, text in GOOD.items():
        (root / name).write_bytes(change(text).encode())
    assert read_lists(root, HOW_TO) == EXPECTED


@pytest.mark.parametrize("name, content, message", [
    ("train.csv", "1_a,ANG\n\n2_a\n", "{path}, line 3: expected clip,LABEL but found '2_a'"),
    ("train.csv", "1_a,ANG\n,HAP\n", "{path}, line 2: expected clip,LABEL but found ',HAP'"),
    ("test.csv", "4_a;ANG\n", "{path}, line 1: expected clip,LABEL but found '4_a;ANG'"),
    ("test.csv", "4_a,ANG\r\n5_a,ang\r\n", "{path}, line 2: label 'ang' is not in stat.csv (ANG, HAP, SAD)"),
    ("train.csv", "clip,label\n1_a,ANG\n", "{path}, line 1: label 'label' is not in stat.csv"),
    ("train.csv", "1_a,\n", "{path}, line 1: label '' is not in stat.csv"),
    ("train.csv", "1_a,ANG\n\n2_a,HAP\n1_a,SAD\n", "{path}, line 4: clip 1_a is already listed in line 1"),
    ("test.csv", "4_a,ANG\n2_a,HAP\n1_a,ANG\n", "2 clips are in {train} and in test.csv: 1_a, 2_a."),
    ("test.csv", "4_a,ANG\n2_a,HAP\n", "1 clip is in {train} and in test.csv: 2_a."),
    ("test.csv", "4_a,ANG\n3_a,ANG\n", "1 clip is in {train} and in test.csv: 3_a."),  # by another label
    ("train.csv", "1_a,ANG\n2_a,HAP\n", "no training clip of class SAD in {path}"),
    ("train.csv", "\n \n", "{path} lists no clip"), ("test.csv", "", "{path} lists no clip"),
    ("stat.csv", "ANG\nHAP\nSAD\nHAP\n", "{path} names a class twice: HAP"),
    ("stat.csv", "ANG\n", "{path} names 1 classes, at least 2"), ("stat.csv", "", "{path} names 0 classes"),
    ("train.csv", b"1_a,ANG\n2_\xe4,HAP\n", "{path} is not UTF-8 text (invalid continuation byte at byte 10)"),
    ("stat.csv", "ANG\nHAP\nSAD\n".encode("utf-16"), "{path} is not UTF-8 text")])
def test_every_mistake_is_refused_by_file_and_line(root, name, content, message):
    with pytest.raises(InputError, match="^" + re.escape(message.format(path=root / name, train=root / "train.csv"))):
        read_with(root, name, content)


@pytest.mark.parametrize("name", ["./2_a", "../2_a", "/tmp/2_a", "s1/../../2_a", "s1//2_a", "s1/", ".", "..", "2\0a",
                                  "2\ta", "2\x7fa"])
@pytest.mark.parametrize("list_name", ["train.csv", "test.csv"])
def test_clip_names_that_are_no_names_of_files_in_the_folder_are_refused_by_line(root, name, list_name):
    line = GOOD[list_name].count("\n") + 1
    with pytest.raises(InputError, match=re.escape(f"{root / list_name}, line {line}: {name!r} is not the name")):
        read_with(root, list_name, GOOD[list_name] + f"{name},ANG\n")


@pytest.mark.parametrize("end", ["\n", "\r", "\v", "\x1c", "\x85", "\u2028"])
def test_a_line_end_in_a_clip_name_is_refused_by_line(root, end):
    with pytest.raises(InputError, match=r"train\.csv, line 1: "):
        read_with(root, "train.csv", f'"1{end}a",ANG\n' + GOOD["train.csv"])


def test_names_in_folders_and_of_every_language_are_names_of_clips(root):
    names = ["s1/5_a", "Тест", "a b", "...", ".a", "a..b"]
    lists = read_with(root, "test.csv", "".join(f"{name},ANG\n" for name in names))
    assert [clip.name for clip in lists.test] == names


def test_of_many_classes_a_message_names_the_first_few(root):
    classes = "".join(f"class{number:05d}\n" for number in range(10000))
    for name in ("train.csv", "test.csv"):
        (root / name).write_text(f"{name},class00000\n")
    with pytest.raises(InputError, match=r"no training clip of class class00001,.* and 9994 more in") as error:
        read_with(root, "stat.csv", classes)
    assert len(str(error.value)) < 1000
    with pytest.raises(InputError, match=r"label 'x' is not in stat\.csv \(class00000, .* and 9995 more\)"):
        read_with(root, "train.csv", "1_a,x\n")


@pytest.mark.parametrize("name", GOOD)
def test_a_missing_list_is_named_with_the_next_step(root, name):
    (root / name).unlink()
    with pytest.raises(InputError, match=re.escape(f"no {name} in the data folder {root}. {HOW_TO}")):
        read_lists(root, HOW_TO)


def test_stray_quotes_are_refused_in_their_line(root):
    with pytest.raises(InputError, match=r"train\.csv, line 2: "):
        read_with(root, "train.csv", '1_a,ANG\n"2_a,HAP\n3_a,SAD\n"5_a,SAD\n6_a,HAP\n7_a,SAD\n')


def test_a_stray_quote_in_a_long_list_is_refused(root):
    rows = "".join(f"{i}_a_rather_long_name,ANG\n" for i in range(10000))
    with pytest.raises(InputError, match=r"train\.csv, line 1: "):
        read_with(root, "train.csv", '"' + rows)


def test_a_class_without_a_name_is_refused(root):
    with pytest.raises(InputError, match=r"stat\.csv"):
        read_with(root, "stat.csv", "ANG\n,HAP\nHAP\nSAD\n")


def test_written_lists_are_read_back_the_same(tmp_path):
    write_lists(tmp_path / "new", EXPECTED)
    assert read_lists(tmp_path / "new", HOW_TO) == EXPECTED
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["stat.csv", "test.csv", "train.csv"]


@pytest.mark.parametrize("separator", [",", ";"])
def test_rows_of_a_table_have_the_numbers_of_their_first_lines(tmp_path, separator):
    lines = ["\ufeffname;note", "", 'a;"two', 'lines"', "b;x", ""]
    (tmp_path / "t.csv").write_bytes("\r\n".join(lines).replace(";", separator).encode())
    assert list(read_table(tmp_path / "t.csv", ["note"])) == [
        (3, {"name": "a", "note": "two\nlines"}), (5, {"name": "b", "note": "x"})]
    with pytest.raises(InputError, match=r"t\.csv, line 3: .* must end in its line"):
        list(read_table(tmp_path / "t.csv", ["note"], line_ends=False))


def test_a_quotation_mark_that_is_never_closed_is_told_with_the_line_that_opens_it(tmp_path):
    (tmp_path / "t.csv").write_text('name,note\na,b\nc,"d\ne,f\n')
    with pytest.raises(InputError, match=r"t\.csv, line 3: unexpected end of data"):
        list(read_table(tmp_path / "t.csv", ["note"]))


def test_commas_and_quotes_in_names_and_classes_survive_the_way_to_disk_and_back(tmp_path):
    odd = Lists(['A "b"', "C, d"], [Clip("1, a", 'A "b"'), Clip("2", "C, d")], [Clip('"3"', "C, d")])
    write_lists(tmp_path, odd)
    assert read_lists(tmp_path, HOW_TO) == odd


CLIPS = [Clip(f"{speaker}_{i}_{label}", label) for speaker in range(1001, 1011)
         for label, count in (("ANG", 3), ("HAP", 2), ("SAD", 1)) for i in range(count)]  # 30, 20, 10


@pytest.mark.parametrize("fraction, counts", [(0.1, (3, 2, 1)), (0.25, (8, 5, 2)), (0.001, (1, 1, 1)), (0, (1, 1, 1)),
                                              (0.999, (29, 19, 9))])
def test_stratified_split_holds_out_the_fraction_of_every_class_and_at_least_one(fraction, counts):
    rest, held = split_stratified(CLIPS, fraction, seed=0)
    assert Counter(clip.label for clip in held) == dict(zip(("ANG", "HAP", "SAD"), counts, strict=True))
    assert not set(rest) & set(held)
    for part in (rest, held):  # nothing lost, and in list order
        assert part == [clip for clip in CLIPS if clip in part]
    assert len(rest) + len(held) == len(CLIPS)


@pytest.mark.parametrize("fraction, speakers", [(0.1, 1), (0.3, 3), (0.001, 1), (0.999, 9)])
def test_speaker_split_holds_out_whole_speakers_and_at_least_one(fraction, speakers):
    rest, held = split_by_speaker(CLIPS, fraction, seed=0)
    names = [{clip.name[:4] for clip in part} for part in (rest, held)]
    assert len(names[1]) == speakers and len(names[0]) == 10 - speakers and not names[0] & names[1]
    assert sorted(rest + held) == sorted(CLIPS)


@pytest.mark.parametrize("split", [split_stratified, split_by_speaker])
def test_a_split_depends_on_the_seed_and_not_on_the_order_of_the_list(split):
    held = set(split(CLIPS, 0.3, seed=1)[1])
    assert set(split(CLIPS, 0.3, seed=1)[1]) == held == set(split(CLIPS[::-1], 0.3, seed=1)[1])
    assert any(set(split(CLIPS, 0.3, seed=seed)[1]) != held for seed in (2, 3))


@pytest.mark.parametrize("split, clips, message", [
    (split_stratified, [*CLIPS, Clip("x", "DIS")], "class DIS has 1 clip"),
    (split_by_speaker, [Clip("1_a", "A"), Clip("1_b", "B")], "found 1 speakers in 2 clips (1_a, 1_b)"),
    (split_by_speaker, [Clip("a", "A"), Clip("b", "B")], "found 2 speakers in 2 clips"),
    (split_by_speaker, [], "found 0 speakers in 0 clips")])
def test_a_split_that_cannot_be_made_is_refused(split, clips, message):
    with pytest.raises(InputError, match=re.escape(message)):
        split(clips, 0.2, seed=0)
