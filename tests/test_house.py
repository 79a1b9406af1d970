"""The house rules that a machine can check: which way imports point."""

import ast
from graphlib import TopologicalSorter

import pytest
from conftest import REPO

# What the modules of each room may import of this repository; a room's name is also a prefix of its modules' names.
GROUND = {"utils"}
MAY_IMPORT = {
    "models": {"models"},
    "dataset": {"dataset"},
    "utils": {"models", "dataset"} | GROUND,
    "utils.training": {"utils.training", "models", "dataset"} | GROUND,
    "utils.experiments": {"utils.experiments", "utils.training", "models", "dataset"} | GROUND,
    "main": {"utils.training", "models", "dataset"} | GROUND,
    "scripts": {"scripts", "utils.experiments", "utils.training", "models", "dataset"} | GROUND,
}
FILES = [*REPO.glob("main_*.py"), *(path for folder in ("models", "dataset", "utils", "scripts")
                                    for path in (REPO / folder).rglob("*.py"))]
MODULES = {".".join(path.relative_to(REPO).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def functions(tree: ast.Module) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def absolute(name: str, node: ast.ImportFrom) -> str:
    """The full name of the module that the module `name` imports from; models/ imports relatively, as a package."""
    if not node.level:
        return node.module
    package = name.split(".") if MODULES[name].name == "__init__.py" else name.split(".")[:-1]
    return ".".join([*package[:len(package) - node.level + 1], *([node.module] if node.module else [])])


def imported(name: str) -> set[str]:
    """The modules of this repository that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            source = absolute(name, node)
            parts = {f"{source}.{alias.name}" for alias in node.names} & MODULES.keys()
            found |= parts if len(parts) == len(node.names) else parts | {source}
    return found & MODULES.keys()


def room(name: str) -> str:
    rooms = [each for each in MAY_IMPORT if name == each or name.startswith((f"{each}.", f"{each}_"))]
    return max(rooms, key=len)


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_one_way(name):
    wrong = {other for other in imported(name) if room(other) not in MAY_IMPORT[room(name)]}
    assert not wrong, f"{name} may import of {MAY_IMPORT[room(name)]} alone"


def test_no_modules_import_each_other_in_a_circle():
    graph = {name: imported(name) - {name} for name in MODULES}
    graph["models"] |= {name for name in MODULES if name.startswith("models.")}  # it imports them by name
    assert len(list(TopologicalSorter(graph).static_order())) == len(MODULES)  # CycleError names a circle


@pytest.mark.parametrize("name", [name for name in MODULES if room(name) not in ("main", "scripts")])
def test_parsed_flags_end_at_the_options(name):
    """Functions elsewhere take named values."""
    if name in ("utils.training.options", "utils.training.flags", "utils.cli"):  # the last has the parser
        return
    takers = [node.name for node in functions(TREES[name])
              for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
              if argument.arg == "args" or (argument.annotation and "Namespace" in ast.unparse(argument.annotation))]
    assert not takers, f"these functions of {name} take parsed flags"
