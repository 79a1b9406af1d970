"""Flag types, and the frame that turns a user's mistake into one sentence and exit status 2."""

import contextlib
import math
import subprocess
import sys
from argparse import ArgumentParser, ArgumentTypeError

import pytest
from conftest import REPO

from utils.cli import add_boolean, boolean, number


@pytest.mark.parametrize("text, value", [(word, True) for word in ("True", "true", "TRUE", "1", "yes", "Yes")]
                         + [(word, False) for word in ("False", "false", "0", "no", "NO")])
def test_boolean_words_in_any_case(text, value):
    assert boolean(text) is value


@pytest.mark.parametrize("text", ["", "2", "t", "on", "none", "True False"])
def test_other_words_are_no_booleans(text):
    with pytest.raises(ArgumentTypeError, match="is not one of True, False, 1, 0, yes, no"):
        boolean(text)


@pytest.mark.parametrize("default", [True, False])
@pytest.mark.parametrize("argv, value", [([], None), (["--mmcosine"], True), (["--mmcosine", "True"], True),
                                         (["--mmcosine", "False"], False), (["--mmcosine=no"], False)])
def test_a_boolean_flag_stands_bare_or_takes_a_word(default, argv, value):
    parser = ArgumentParser()
    add_boolean(parser, "--mmcosine", default, "")
    assert parser.parse_args(argv).mmcosine is (default if value is None else value)


@pytest.mark.parametrize("kind, bounds, text, value", [
    (int, {"low": 1}, "1", 1), (int, {"low": 0}, "0", 0), (float, {"low": 0}, "0", 0.0),
    (float, {"low": 0}, "1e-4", 1e-4), (float, {"low": 0, "high": 0.9}, "0.9", 0.9),
    (float, {"low": 0, "exclusive": True}, "1e-300", 1e-300),
    (float, {"low": -1, "high": 1}, "-0.5", -0.5)])
def test_numbers_in_range_are_taken(kind, bounds, text, value):
    found = number(kind, **bounds)(text)
    assert found == value and type(found) is kind


@pytest.mark.parametrize("kind, bounds, text, message", [
    (int, {"low": 1}, "0", "0 is out of range: expected at least 1"),
    (int, {"low": 1}, "1.5", "'1.5' is not a whole number"), (int, {"low": 1}, "", "'' is not a whole number"),
    (float, {"low": 0}, "ten", "'ten' is not a number"),
    (float, {"low": 0, "high": 0.9}, "0.91", "expected at least 0 and at most 0.9"),
    (float, {"low": 0, "exclusive": True}, "0", "0 is out of range: expected more than 0"),
    (float, {"low": 0, "high": 1, "exclusive": True}, "1", "expected more than 0 and less than 1"),
    (float, {"low": 0}, "nan", "nan is out of range"), (float, {"low": 0}, "inf", "inf is out of range"),
    (float, {"low": -math.inf}, "-inf", "-inf is out of range"), (float, {"low": 0}, "1e999", "out of range"),
    (float, {"low": 0, "high": 1, "exclusive": True}, "nan", "nan is out of range")])
def test_other_numbers_are_refused_with_a_sentence(kind, bounds, text, message):
    with pytest.raises(ArgumentTypeError, match=message):
        number(kind, **bounds)(text)


def test_a_whole_number_beyond_every_float_is_taken_or_refused_with_a_sentence():
    with contextlib.suppress(ArgumentTypeError):
        assert number(int, 0)("9" * 400) == int("9" * 400)


MAIN = """
import os, signal, sys
from dataset.errors import InputError
from utils import cli

def main(argv):
    if argv[0] == "input":
        raise InputError("/data/a.wav is missing: download it again")
    if argv[0] == "own":
        raise ValueError("our own mistake")
    if argv[0] in ("INT", "TERM"):
        os.kill(os.getpid(), getattr(signal, "SIG" + argv[0]))
        signal.pause()
    print("argv", *argv)

sys.argv[0] = "/somewhere/main_XY.py"
cli.run(main)
"""


@pytest.mark.parametrize("argv, status, out, err", [
    (["fine", "--x"], 0, "argv fine --x\n", ""),
    (["input"], 2, "", "main_XY.py: error: /data/a.wav is missing: download it again\n"),
    (["INT"], 130, "", ""), (["TERM"], 143, "", "")])
def test_a_command_ends_with_the_status_and_the_one_line_that_belong_to_it(argv, status, out, err):
    done = subprocess.run([sys.executable, "-c", MAIN, *argv], cwd=REPO, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (status, out, err)


def test_a_mistake_of_our_own_keeps_its_traceback():
    done = subprocess.run([sys.executable, "-c", MAIN, "own"], cwd=REPO, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "Traceback" in done.stderr and "our own mistake" in done.stderr


SLOW = ("torchvision", "torchaudio", "matplotlib", "scipy", "tensorboard", "librosa", "sklearn")  # to import
PARSE = f"""
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print("imported:", *(name for name in {SLOW} if name in sys.modules), file=sys.stderr)
"""


@pytest.mark.parametrize("argv, status, answer", [
    (["main_CD.py", "--help"], 0, "(default: concat)"), (["main_SSW.py", "--help"], 0, "(default: concat)"),
    (["main_Vox.py", "--help"], 0, "(default: concat)"),
    (["main_CD.py", "--train", "--fusion_metod", "film"], 2, "--fusion_metod film (did you mean --fusion_method?)")])
def test_help_and_misspelt_flags_are_answered_before_slow_imports(argv, status, answer):
    done = subprocess.run([sys.executable, "-c", PARSE, *argv], cwd=REPO, capture_output=True, text=True, timeout=60)
    assert done.returncode == status and done.stderr.endswith("imported:\n")
    assert answer in done.stdout + done.stderr and "default: None" not in done.stdout
