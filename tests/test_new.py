"""scripts/new.py in a copy of the repository: what it writes passes its tests as it is, and mistakes leave nothing."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPO

from dataset.errors import InputError
from scripts import new

NAMES = {"method": "mine", "fusion": "weighted", "encoder": "small_net", "modality": "depth", "dataset": "toys"}
COPIED = ("models", "dataset", "utils", "scripts", "tests", "docs", "data", "pyproject.toml", "CONTRIBUTING.md",
          "README.md")
OF_ALL = ["tests/test_methods.py", "tests/test_flags.py", "tests/test_library.py", "tests/test_quantities.py",
          "tests/test_classifier.py", "tests/test_encoders.py", "tests/test_house.py"]
SELECTED = ("mine or weighted or small_net or depth or toys or table_of_methods or has_an_entry")


def copied(place: Path) -> Path:
    for name in (*COPIED, *(path.name for path in REPO.glob("main_*.py"))):
        if (REPO / name).is_dir():
            shutil.copytree(REPO / name, place / name,
                            ignore=shutil.ignore_patterns("__pycache__", "results", "*.png", "*.jpg"))
        else:
            shutil.copy(REPO / name, place / name)
    return place


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[Path, dict[str, list[str]]]:
    """(a copy of the repository in which each kind was added, {kind: its files})."""
    root = copied(tmp_path_factory.mktemp("copy"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(new, "ROOT", root)
        return root, {kind: new.main([kind, name]) for kind, name in NAMES.items()}


def test_what_was_added_passes_its_tests_and_those_of_its_kind_as_it_is(written):
    root, files = written
    tests = [path for paths in files.values() for path in paths if path.startswith("tests/test_")]
    own = [f"tests/test_{name}.py" for name in NAMES.values()]
    assert set(own) <= set(tests)
    sources = [path for paths in files.values() for path in paths if path.endswith(".py")]
    ruff = subprocess.run([sys.executable, "-m", "ruff", "check", "-q", *sources], cwd=root, capture_output=True,
                          text=True)
    assert ruff.returncode == 0, ruff.stdout
    ended = subprocess.run([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k", SELECTED, *own,
                            *OF_ALL], cwd=root, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout[-3000:]
    assert int(ended.stdout.rsplit(" passed", 1)[0].split()[-1]) > 50


def test_each_kind_is_registered_where_it_belongs(written):
    root, _ = written
    for path, text in (("models/balancing/__init__.py", '    "mine": Mine,\n}'),
                       ("models/fusion.py", '    "weighted": Weighted,\n}'),
                       ("models/encoders.py", '    "small_net": SmallNet,\n}'), ("main_CD.py", 'Modality("depth", '),
                       ("main_UCF.py", '"resnet50", "small_net")'), ("scripts/compare_methods.sh", " mine $parameters"),
                       ("main_toys.py", "from dataset.toys import")):
        assert text in (root / path).read_text(encoding="utf-8"), path


def test_files_of_the_longest_names_have_no_long_lines(tmp_path, monkeypatch):
    root = copied(tmp_path)
    monkeypatch.setattr(new, "ROOT", root)
    names = {kind: f"very_long_{kind}_names"[:new.LONGEST].ljust(new.LONGEST, "x") for kind in NAMES}
    written = [path for kind, name in names.items() for path in new.main([kind, name])]
    sources = [path for path in written if path.endswith(".py")]
    ruff = subprocess.run([sys.executable, "-m", "ruff", "check", "-q", *sources], cwd=root, capture_output=True,
                          text=True)
    assert ruff.returncode == 0, ruff.stdout


@pytest.mark.parametrize("kind, name, message", [
    ("method", "ogm", "the method ogm is there already"), ("fusion", "film", "the fusion film is there"),
    ("encoder", "resnet18", "the encoder resnet18 is there"),
    ("modality", "visual", "has a meaning"), ("method", "class", "has a meaning"), ("dataset", "json", "has a meaning"),
    ("method", "Mine", "cannot be a name"), ("method", "my-name", "cannot be"), ("method", "9lives", "cannot be"),
    ("method", "a_", "cannot be"), ("method", "../x", "cannot be"), ("method", "", "cannot be"),
    ("method", "a" * 21, "more than 20 letters"), ("method", "heads", "models/balancing/heads.py exists"),
    ("encoder", "speaker", "models/speaker.py exists"), ("dataset", "clips", "dataset/clips.py exists"),
    ("fusion", "concat_fusion", "a class ConcatFusion already"), ("fusion", "classifier", "test_classifier.py exists")])
def test_a_name_that_is_taken_or_no_name_is_refused_and_nothing_is_written(kind, name, message, tmp_path, monkeypatch):
    monkeypatch.setattr(new.Changes, "write", lambda self: pytest.fail("written"))
    with pytest.raises(InputError, match=message):
        new.main([kind, name])


def test_a_place_that_is_not_as_expected_is_told_and_nothing_is_written(written, monkeypatch):
    root, _ = written
    monkeypatch.setattr(new, "ROOT", root)
    path = root / "tests/one_step.py"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("\nSETTINGS = {", "\nSETTINGS: dict = {"), encoding="utf-8")
    with pytest.raises(InputError, match=r"tests/one_step\.py has no line 'SETTINGS = \{': add '\"other\".* by hand"):
        new.main(["method", "other"])
    path.write_text(text, encoding="utf-8")
    assert not (root / "models/balancing/other.py").exists()
