"""What every command owes a bad input: exit status 2, a sentence that names the cause, no traceback, no run begun."""

import contextlib
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from dataset.demo import actions, birds, emotions, identities
from dataset.errors import InputError

MOST_LINES = 12
DATA = {"main_CD": lambda root: emotions.make_demo(root, train_per_class=1, test_per_class=1),
        "main_SSW": lambda root: birds.make_demo(root, species=2, train_per_class=1, test_per_class=1),
        "main_UCF": lambda root: actions.make_demo(root, clips_per_group=1),
        "main_Vox": lambda root: identities.make_demo(root, train_identities=2, train_utterances=2, test_identities=2,
                                                      test_utterances=2)}


def make_all(folder: Path) -> dict[str, Path]:
    """The smallest data of every entry script: {script: its folder}."""
    for script, make in DATA.items():
        make(folder / script)
    return {script: folder / script for script in DATA}


def answer(main: Callable[[list[str]], object], argv: Sequence[object]) -> str:
    """What a command says when it refuses `argv`. Any end but a refusal is an AssertionError or the error itself."""
    stderr = io.StringIO()
    with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(io.StringIO()):
        try:
            main([str(part) for part in argv])
        except InputError as error:
            return str(error)
        except SystemExit as stop:
            assert stop.code == 2, f"exit status {stop.code}"
            return stderr.getvalue().rpartition("error: ")[2]
    raise AssertionError("it was accepted")


def check_refused(main: Callable[[list[str]], object], argv: Sequence[object], names: str, folder: Path) -> None:
    """names: a pattern that the sentence has. folder: where a run would have been begun."""
    before = sorted(folder.rglob("last.pt"))
    text = answer(main, argv)
    assert re.search(names, text, re.DOTALL), f"{names!r} is not in {text!r}"
    assert len(text.strip()) > 15 and "Traceback" not in text and len(text.splitlines()) <= MOST_LINES, text
    assert sorted(folder.rglob("last.pt")) == before, "a run was begun"
