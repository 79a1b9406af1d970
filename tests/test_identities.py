"""Training lists in arrays, trial lists, and trials made by chance."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from dataset.errors import InputError
from dataset.identities import hold_out_identities, read_train_list
from dataset.trials import (
    Trials,
    check_no_leak,
    format_trials,
    make_trials,
    merge_trials,
    note_of_repeated,
    read_trials,
    trial_utterances,
    without,
)
from dataset.voxceleb import Utterance

ROWS = ["id2/v/1.wav,id2/v/1,id2,3", "id1/v/1.wav,id1/v/1,id1,2", "id2/v/2.wav,id2/v/2,id2,16",
        "id3/v/1.wav,id3#v#1.txt#000.mp4,id3,1"]


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize("form", [
    lambda rows: "\n".join(rows), lambda rows: "\r\n".join(rows) + "\r\n", lambda rows: "\ufeff" + "\n".join(rows),
    lambda rows: "\n".join(["wav,faces,identity,n_frames", *rows]),
    lambda rows: "\n\n".join(f"/{row.replace(',', ' , /', 1)}" for row in rows) + "\n\n"],
    ids=["plain", "crlf", "bom", "header", "slashes, spaces, empty lines"])
def test_rows_of_every_form_are_read_and_identities_are_sorted(tmp_path, form):
    listed = read_train_list(write(tmp_path / "train.csv", form(ROWS)), "")
    assert listed.identities == ["id1", "id2", "id3"]
    assert [listed[i] for i in range(len(listed))] == [
        Utterance("id2/v/1.wav", "id2/v/1", 1), Utterance("id1/v/1.wav", "id1/v/1", 0),
        Utterance("id2/v/2.wav", "id2/v/2", 1), Utterance("id3/v/1.wav", "id3#v#1.txt#000.mp4", 2)]


@pytest.mark.parametrize("text, message", [
    ("\n".join([*ROWS, "id1/v/2.wav,id1/v/2,id1"]), "line 5: expected wav,faces,identity,n_frames"),
    ("\n".join([*ROWS, "id1/v/2.wav,,id1,2"]), "line 5"),
    ("\n".join([*ROWS, "id1/v/2.wav,x, ,2"]), "line 5"), ("\n".join([*ROWS, "a.wav,a,id1,many"]), "line 5"),
    ("\n".join([ROWS[0], ROWS[2]]), "names 1 identities"), ("", "names 0 identities"),
    ("\n".join([*ROWS, f"/{ROWS[0]}"]), r"lists id2/v/1\.wav twice"),
    ("\n".join([*ROWS, "../v/2.wav,id1/v/2,id1,2"]), r"line 5: '\.\./v/2\.wav' is not the name"),
    ("\n".join([*ROWS, "id1/v/2.wav,id1/./2,id1,2"]), r"line 5: 'id1/\./2' is not the name"),
    ("\n".join([*ROWS, "id1/v/\0.wav,id1/v/2,id1,2"]), r"line 5: 'id1/v/\\x00\.wav' is not the name"),
    ("\n".join(ROWS).encode() + b"\nid1/\xff.wav,a,id1,2", "line 5: not UTF-8")])
def test_malformed_training_lists_are_refused_by_line(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_train_list(write(tmp_path / "train.csv", text), "")


def test_missing_lists_tell_the_next_step(tmp_path):
    for read in (read_train_list, read_trials):
        with pytest.raises(InputError, match=r"list\.csv is missing\. Prepare it so"):
            read(tmp_path / "list.csv", "Prepare it so")


def test_a_part_of_a_list_keeps_its_rows_and_numbers_its_identities_anew(tmp_path):
    listed = read_train_list(write(tmp_path / "train.csv", "\n".join(ROWS)), "")
    part = listed.select([0, 2, 3])
    assert part.identities == ["id2", "id3"]
    assert [(part[i].wav, part[i].label) for i in range(3)] == [("id2/v/1.wav", 0), ("id2/v/2.wav", 0),
                                                                ("id3/v/1.wav", 1)]


def test_digest_tells_lists_apart(tmp_path):
    def digest(rows: list[str]) -> str:
        return read_train_list(write(tmp_path / "train.csv", "\n".join(rows)), "").digest()

    assert digest(ROWS) == digest([f"{row} \r" for row in ROWS]) == digest(["", f"/{ROWS[0]}", *ROWS[1:], ""])
    assert len({digest(ROWS), digest(ROWS[::-1]), digest(ROWS[:3]), digest([*ROWS[:3], ROWS[3][:-1] + "2"])}) == 4


def test_a_list_holds_nothing_that_reading_it_would_copy(tmp_path):
    """Reference counts are written by the mere reading of a list of strings: a loader process then copies it."""
    listed = read_train_list(write(tmp_path / "train.csv", "\n".join(ROWS)), "")
    kept = [value for name, value in vars(listed).items() if name not in ("identities", "folders")]
    assert all(isinstance(value, torch.Tensor) for value in kept)


@pytest.mark.parametrize("text", ["1,id1/v/1.wav,id1/v/2.wav\n0,id1/v/1.wav,id2/v/1.wav\n",
                                  "1 id1/v/1.wav id1/v/2.wav\n0 id1/v/1.wav id2/v/1.wav\n",
                                  "label,utt1,utt2\n1,id1/v/1.wav,id1/v/2.wav\n0,id1/v/1.wav,id2/v/1.wav\n",
                                  "\ufeff1,/id1/v/1.wav,/id1/v/2.wav\r\n\r\n0, /id1/v/1.wav , id2/v/1.wav\r\n"])
def test_trials_of_every_form_are_read(tmp_path, text):
    trials = read_trials(write(tmp_path / "trials", text), "")
    assert trials.names == ["id1/v/1.wav", "id1/v/2.wav", "id2/v/1.wav"]
    assert trials.pairs.tolist() == [[0, 1], [0, 2]] and trials.labels.tolist() == [True, False]


@pytest.mark.parametrize("text, message", [
    ("1 a b\n0 b a\n", "line 2: b a has label 0, but 1 in an earlier line"),
    ("1 a b\n0 a a\n", "line 2: a is paired with itself"),
    ("1 a b\n0 / b\n", "line 2: '0 / b' does not name two files"),
    ("1 a b\n0 ../a b\n", "line 2: .* does not name two files"),
    ("1 a b\n2 a c\n", "line 2: expected label,utt1,utt2"), ("1 a b\n0 a\n", "line 2"), ("a b 1\n", "line 1"),
    ("1 a b\n1 a c\n", "has 2 targets among 2 trials"), ("0 a b\n", "has 0 targets among 1"), ("", "has 0 targets")])
def test_malformed_or_one_sided_trials_are_refused(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_trials(write(tmp_path / "trials", text), "")


def test_written_trials_are_read_back(tmp_path):
    trials = make_trials([f"id{i % 3}/v/{i}.wav" for i in range(12)], [i % 3 for i in range(12)], 2, seed=1)
    write(tmp_path / "trials.csv", format_trials(trials))
    again = read_trials(tmp_path / "trials.csv", "")
    named = [{(t.names[a], t.names[b]): bool(label) for (a, b), label in zip(t.pairs, t.labels, strict=True)}
             for t in (trials, again)]
    assert named[0] == named[1]


@pytest.mark.parametrize("per_utterance", [1, 4])
def test_made_trials_are_right_different_and_balanced(per_utterance):
    identities = [i % 10 for i in range(60)] + [99]  # the last has one utterance: no targets of its own
    names = [f"id{identity}/v/{i}.wav" for i, identity in enumerate(identities)]
    trials = make_trials(names, identities, per_utterance, seed=0)
    assert all((identities[a] == identities[b]) == label for (a, b), label in zip(trials.pairs, trials.labels,
                                                                                 strict=True))
    assert len({tuple(sorted(pair)) for pair in trials.pairs.tolist()}) == len(trials.pairs)
    assert all(a != b for a, b in trials.pairs)
    targets = trials.labels.sum()
    assert targets >= 30 * per_utterance and len(trials.labels) == 2 * targets
    again = make_trials(names, identities, per_utterance, seed=0)
    assert np.array_equal(again.pairs, trials.pairs)
    assert not np.array_equal(make_trials(names, identities, per_utterance, seed=1).pairs, trials.pairs)


@pytest.mark.parametrize("identities", [[], [1], [1, 1], [1, 2, 3]])
def test_trials_cannot_be_made_of_one_kind_alone(identities):
    with pytest.raises(InputError, match="no trials can be made"):
        make_trials([str(i) for i in range(len(identities))], identities, 4, seed=0)


def test_lists_are_merged_over_the_names_of_all():
    a = Trials(["x", "y"], np.array([[0, 1]]), np.array([True]))
    b = Trials(["z", "x"], np.array([[0, 1], [1, 0]]), np.array([True, False]))
    merged = merge_trials({"a": a, "b": b})
    assert merged["a"].names == merged["b"].names == ["x", "y", "z"]
    assert merged["a"].pairs.tolist() == [[0, 1]] and merged["b"].pairs.tolist() == [[2, 0], [0, 2]]


def test_trials_of_missing_utterances_are_left_out():
    trials = Trials(["x", "y", "z"], np.array([[0, 1], [1, 2], [0, 2]]), np.array([True, False, True]))
    left = without(trials, {1: "gone"})
    assert left.names == ["x", "z"] and left.pairs.tolist() == [[0, 1]] and left.labels.tolist() == [True]
    assert without(trials, {}).pairs.tolist() == trials.pairs.tolist()


def test_identities_of_trials_must_not_be_trained_on():
    trials = Trials(["id1/v/1.wav", "id7/v/1.wav", "flat.wav"], np.array([[0, 1]]), np.array([True]))
    check_no_leak(["id2", "flat.wav"], trials, "list")
    with pytest.raises(InputError, match=r"1 identities of the trials list are trained on: id7"):
        check_no_leak(["id2", "id7"], trials, "list")


def test_whole_identities_are_held_out(tmp_path):
    rows = [f"id{i}/v/{k}.wav,id{i}/v/{k},id{i},2" for k in range(3) for i in range(10)]
    listed = read_train_list(write(tmp_path / "train.csv", "\n".join(rows)), "")
    rest, held = hold_out_identities(listed, 0.3, seed=0)
    assert len(held.identities) == 3 and not set(held.identities) & set(rest.identities)
    assert Counter(held.labels.tolist()) == {0: 3, 1: 3, 2: 3} and len(rest) == 21
    assert hold_out_identities(listed, 0.3, seed=1)[1].identities != held.identities
    with pytest.raises(InputError, match="too few to hold out 9"):
        hold_out_identities(listed, 0.9, seed=0)


def test_files_of_trial_utterances_follow_from_their_names():
    assert trial_utterances(["id1/v/1.wav", "x.flac"]) == [Utterance("id1/v/1.wav", "id1/v/1", 0),
                                                           Utterance("x.flac", "x", 1)]


def test_repeated_trials_are_counted_in_either_order(tmp_path):
    rows = ["1,a/1,a/2", "0,a/1,b/1", "1,a/2,a/1", "0,a/1,b/1", "0,a/2,b/1"]
    trials = read_trials(write(tmp_path / "t.csv", "\n".join(rows)), "")
    assert note_of_repeated(trials) == ", 2 of them repeat an earlier one and count again"
    assert note_of_repeated(read_trials(write(tmp_path / "t.csv", "\n".join(rows[:2])), "")) == ""
