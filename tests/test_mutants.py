"""The list of mutants fits the code as it is: else `make mutants` would test nothing."""

import subprocess
from collections import Counter
from pathlib import Path

import pytest
from mutants import MUTANTS, TESTS, Mutant, files_that_see, mutated

REPO = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_mutant_fits_the_code_and_is_no_syntax_error(mutant: Mutant):
    text = (REPO / mutant.file).read_text(encoding="utf-8")
    changed = mutated(mutant, text)
    assert changed != text
    if mutant.file.endswith(".sh"):
        subprocess.run(["bash", "-n"], input=changed, text=True, check=True)
    else:
        compile(changed, mutant.file, "exec")


def test_every_test_file_that_is_named_is_there():
    names = {name for files in TESTS.values() for name in files}
    assert [name for name in sorted(names) if not (REPO / "tests" / f"test_{name}.py").is_file()] == []


def test_every_mutant_has_tests_that_could_see_it():
    assert not [mutant.name for mutant in MUTANTS if not files_that_see(mutant, REPO)]


def test_names_are_unique_and_every_mutant_is_another_change():
    assert [name for name, count in Counter(mutant.name for mutant in MUTANTS).items() if count > 1] == []
    assert len({mutant[1:4] for mutant in MUTANTS}) == len(MUTANTS)


def test_every_mutant_says_what_is_wrong_in_a_sentence():
    assert [mutant.name for mutant in MUTANTS if not mutant.sentence.endswith(".")] == []
