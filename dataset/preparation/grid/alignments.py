"""Alignments of the GRID corpus: when each word of a sentence is spoken.

An .align file has lines `start end word`, 25,000 units per second, with silences before, between and after six words.
"""

from pathlib import Path
from typing import NamedTuple

from dataset.errors import InputError
from dataset.lists import NOT_A_NAME, read_lines

COLUMNS = ("command", "colour", "preposition", "letter", "digit", "adverb")
SILENCES = ("sil", "sp")
ALIGN_RATE = 25000  # units per second


class Word(NamedTuple):
    """A spoken word, from `start` to `end` (seconds from the start of the sentence)."""

    text: str
    start: float
    end: float


def read_word(path: Path, column: str) -> Word:
    """The word of an alignment file (lines `start end word`). Raises InputError: malformed, or not six words."""
    try:
        lines = [line.split() for _, line in read_lines(path)]
        rows = [(int(start), int(end), text) for start, end, text in lines]
    except ValueError:
        raise InputError(f"{path} is no alignment: expected lines `start end word`, times as whole numbers") from None
    words = [row for row in rows if row[2] not in SILENCES]
    if len(words) != len(COLUMNS):
        raise InputError(f"{path} has {len(words)} words, but a sentence has {len(COLUMNS)} "
                         f"({' '.join(COLUMNS)}): the {column} cannot be identified")
    start, end, text = words[COLUMNS.index(column)]
    if not 0 <= start < end:
        raise InputError(f"{path}: the {column} {text!r} lasts from {start} to {end}: correct the file")
    return Word(text, start / ALIGN_RATE, end / ALIGN_RATE)


def read_words(videos: dict[str, Path], alignments: dict[str, Path],
               column: str) -> tuple[dict[str, Word], dict[str, str]]:
    """({clip: its word}, {clip: why it has none})."""
    words, problems = {}, {}
    for name in sorted(videos):
        try:
            if NOT_A_NAME.search(name) or name != name.strip():
                raise InputError(f"the file name {name!r} holds characters that lists cannot contain: rename the file")
            if name not in alignments:
                raise InputError(f"no {name}.align for {videos[name]}")
            words[name] = read_word(alignments[name], column)
        except InputError as error:
            problems[name] = str(error)
    return words, problems
