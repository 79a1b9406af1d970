"""Without the environment, with too little memory for the libraries, or on an old Python: one sentence, status 2."""

import subprocess
import sys

import pytest
from conftest import REPO

from utils import startup

SCRIPTS = sorted(path.relative_to(REPO).as_posix() for path in (*REPO.glob("main_*.py"), *REPO.glob("scripts/**/*.py")))
NEEDED = {"new": ["method", "x"], "analyse": ["x"], "ensemble": ["x"], "probe": ["x"],
          "best_settings": ["--output", "x"],
          "plot_levels": ["x.csv", "--levels", "a=b"]}  # what a script asks for before it imports anything


@pytest.mark.parametrize("name", SCRIPTS)
def test_without_the_environment_every_script_says_so_in_one_line(name):
    stem = name.rpartition("/")[2].removesuffix(".py")
    argv = [sys.executable, "-S", "-E", name, *NEEDED.get(stem, [])]  # -S: without the environment's packages
    done = subprocess.run(argv, cwd=REPO, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(f"{stem}.py: error: the Python package ") and "requirements.txt" in done.stderr


@pytest.mark.parametrize("error", [
    ModuleNotFoundError("No module named 'utils.none'", name="utils.none"),
    ModuleNotFoundError("No module named 'torch.none'", name="torch.none"),
    ImportError("cannot import name 'x' from 'torch'"), ImportError("libx.so: undefined symbol: f"),
    ValueError("No module named 'numpy'"), MemoryError()])
def test_another_error_keeps_its_traceback(error, capsys):
    assert startup.reason(error) is None
    startup.explain(type(error), error, None)
    assert type(error).__name__ in capsys.readouterr().err


@pytest.mark.parametrize("error", [MemoryError(), ImportError("liby.so: failed to map segment from shared object")])
def test_too_little_memory_for_the_libraries_is_told_with_its_limit(error, monkeypatch, capsys):
    monkeypatch.setattr(startup.resource, "getrlimit", lambda _: (2_000_000_000, -1))
    monkeypatch.setattr(sys, "argv", ["somewhere/tool.py"])
    with pytest.raises(SystemExit) as stop:
        startup.explain(type(error), error, None)
    said = "tool.py: error: the memory that this process may use (2.0 GB, ulimit -v) is not enough to load"
    assert stop.value.code == 2 and capsys.readouterr().err.startswith(said)


def test_an_older_python_is_told_before_anything_is_imported(monkeypatch, capsys):
    monkeypatch.setattr(sys, "version_info", (3, 9, 2))
    with pytest.raises(SystemExit) as stop:
        startup.explain_import_errors()
    assert stop.value.code == 2 and "needs Python 3.11 or newer, " in (err := capsys.readouterr().err)
    assert "is Python 3.9: activate the environment" in err


def test_the_least_python_is_that_of_the_project():
    assert 'requires-python = ">={}.{}"'.format(*startup.NEEDED) in (REPO / "pyproject.toml").read_text()
