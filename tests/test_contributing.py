"""CONTRIBUTING.md's way through the code, walked: every stop is there, few of them, and one leads to the next."""

import ast
import re

from conftest import REPO

STOP = re.compile(r"^\d+\. `([\w/]+\.py)`: ((?:`[\w.]+`(?:, )?)+)", re.MULTILINE)


def stops() -> list[tuple[str, list[str]]]:
    """(file, names in it) in order."""
    section = (REPO / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## The way through\n")[1].split("\n## ")[0]
    found = [(file, re.findall(r"`([\w.]+)`", names)) for file, names in STOP.findall(section)]
    assert len(found) == len(re.findall(r"^\d+\.", section, re.MULTILINE)), "a line is not `file`: `function`, ..."
    return found


def defined(file: str) -> set[str]:
    """Functions, classes and `Class.method`."""
    names = set()
    for node in ast.parse((REPO / file).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
            names |= {f"{node.name}.{inner.name}" for inner in getattr(node, "body", [])
                      if isinstance(node, ast.ClassDef) and isinstance(inner, ast.FunctionDef)}
    return names


def test_the_way_from_the_command_to_the_equation_has_ten_stops_at_most_and_enters_no_file_twice():
    files = [file for file, _ in stops()]
    assert len(files) <= 10
    assert len(set(files)) == len(files)
    assert stops()[0][0] == "main_CD.py" and stops()[0][1][0] == "main"
    assert stops()[-1] == ("models/mmcosine.py", ["mmcosine_logits"])
    losses = [file for file in files if "F.cross_entropy(output.logits" in (REPO / file).read_text(encoding="utf-8")]
    assert losses == ["utils/training/engine.py", "models/balancing/learner.py"]


def test_every_stop_of_the_way_is_there():
    for file, names in stops():
        assert (REPO / file).is_file(), f"{file} is gone"
        assert not set(names) - defined(file), f"{file} does not define all of {', '.join(names)}"


def test_every_stop_of_the_way_is_named_at_one_before_it():
    read = ""
    for file, names in stops():
        module, name = file.removesuffix(".py").replace("/", "."), names[0].split(".")[0]
        assert not read or re.search(rf"\b({re.escape(module)}|{name})\b", read), f"nothing before leads to {file}"
        read += (REPO / file).read_text(encoding="utf-8")
