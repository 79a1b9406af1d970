"""What the documents tell a reader to type is accepted; the code they show runs."""

import importlib
import re
import shlex
import sys

import pytest
from conftest import REPO

import models

DOCUMENTS = ("README.md", *(path.relative_to(REPO).as_posix() for path in REPO.glob("docs/**/*.md")),
             *(f"data/{path.parent.name}/README.md" for path in REPO.glob("data/*/README.md")))
COMMAND = re.compile(r"^ {4,}python ((?:main_\w+|scripts/(?:studies/)?\w+)\.py)((?:.*\\\n)*.*)$", re.MULTILINE)


def documented_commands() -> list[tuple[str, str]]:
    """(script, arguments) of every command that the documents and the scripts' own docstrings show."""
    scripts = [*REPO.glob("main_*.py"), *REPO.glob("scripts/**/*.py")]
    files = [*DOCUMENTS, *(path.relative_to(REPO).as_posix() for path in scripts)]
    found = []
    for name in files:
        text = (REPO / name).read_text(encoding="utf-8")
        variables = {"seed": "0", **dict(re.findall(r'^ *(\w+)="(.*)"$', text, re.MULTILINE))}
        for script, arguments in COMMAND.findall(text):
            for variable, value in variables.items():
                arguments = arguments.replace(f"${variable}", value)
            found.append((script, arguments.split("#")[0].replace("\\\n", " ")))
    return found


def test_documents_show_the_commands_users_know():
    assert ("main_CD.py", "--train --mmcosine True --scaling 10") in [(s, a.strip()) for s, a in documented_commands()]
    assert len(documented_commands()) > 15


@pytest.mark.parametrize(("script", "arguments"), documented_commands())
def test_documented_command_is_accepted(script, arguments):
    module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
    words = shlex.split(arguments)
    if hasattr(module, "split_argv"):  # axes, and what follows --, are flags of the entry script
        words, axes, rest = module.split_argv(words, module.get_args_parser())
        entry = importlib.import_module(module.get_args_parser().parse_args(words).script.stem)
        for axis, values in {"random_seed": ["0"], **axes}.items():
            for value in filter("ensemble".__ne__, values):  # a row of the sweep's own
                entry.get_args_parser().parse_args([f"--{axis}", value, *rest])
    module.get_args_parser().parse_args(words)


def test_code_in_the_readme_runs(monkeypatch):
    monkeypatch.setitem(sys.modules, "mmcosine", models)  # as `pip install .` calls it
    blocks = re.findall(r"```python\n(.*?)```", (REPO / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        names = {}
        exec(block, names)
        assert names["output"].logits.shape == (4, 6)


def test_files_of_the_tree_exist():
    tree = (REPO / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## Files")[1].split("## ")[0]
    here = [path for top in REPO.iterdir() if not top.name.startswith(".")
            for path in ([top] if top.is_file() else top.rglob("*.py"))]
    for name in re.findall(r"\b[\w/]+\.py\b", tree):
        assert any(path.as_posix().endswith(f"/{name}") for path in here), f"{name} is in CONTRIBUTING.md's tree only"


def anchors(text: str) -> set[str]:
    """Of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", [*DOCUMENTS, "CONTRIBUTING.md"])
def test_links_of_the_documents_lead_to_files_and_headings_that_exist(name):
    page = REPO / name
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        target, _, anchor = link.partition("#")
        if not target.startswith("http"):
            file = page.parent / target if target else page
            assert file.exists(), f"{name} links to {link}"
            assert not anchor or anchor in anchors(file.read_text(encoding="utf-8")), f"{name} links to {link}"
