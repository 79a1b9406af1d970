"""Adds a balancing method, an encoder, a fusion, a modality or a data set: a working example to change.

    python scripts/new.py method NAME       # models/balancing/NAME.py, one of METHODS
    python scripts/new.py fusion NAME       # a class in models/fusion.py, one of FUSIONS
    python scripts/new.py encoder NAME      # models/NAME.py, one of ENCODERS, offered by main_CD, _SSW and _UCF
    python scripts/new.py modality NAME     # dataset/NAME.py, of clips in the CREMA-D layout (main_CD.py)
    python scripts/new.py dataset NAME      # dataset/NAME.py and main_NAME.py, its entry script

Copies a file of scripts/templates/ with its test, registers it where it belongs, and adds what the
tests ask for. Prints what was written and which tests to run next. What stands in capital letters in
the new files is to be filled in.

Exit status: 0, or 2 when the name is taken or cannot be a name; nothing is written then.
"""

import argparse
import keyword
import re
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from utils import startup

if __name__ == "__main__":
    startup.explain_import_errors()

from dataset.errors import InputError
from utils import cli

KINDS = ("method", "encoder", "fusion", "modality", "dataset")
LONGEST = 20
RESERVED = {"audio", "visual", "both", "all", "ensemble", "label", "test", "train"}  # names with a meaning elsewhere


def get_args_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(description=__doc__, formatter_class=cli.DocstringHelpFormatter)
    parser.add_argument("kind", choices=KINDS, help="what to add")
    parser.add_argument("name", help="lower-case letters, digits and underscores; it becomes a word of the flags")
    return parser


if __name__ == "__main__":
    get_args_parser().parse_args()  # --help and mistakes are answered before the slow imports below

from dataset.clips import FURTHER
from models import ENCODERS, FUSIONS, METHODS

TESTS = {  # what to run next, beside the new test
    "method": ["tests/test_methods.py", "tests/test_flags.py", "tests/test_library.py", "tests/test_quantities.py",
               "tests/test_modalities.py", "tests/test_distributed.py", "tests/test_sweep.py"],
    "fusion": ["tests/test_classifier.py", "tests/test_modalities.py"],
    "encoder": ["tests/test_encoders.py"],
    "modality": ["tests/test_flags.py", "tests/test_cremad.py"],
    "dataset": ["tests/test_house.py", "tests/test_one_message.py"],
}


class Changes:
    """Files to write, all together at the end. Raises InputError: a place to write to is not as expected."""

    def __init__(self, name: str):
        self.name, self.title = name, "".join(part.capitalize() for part in name.split("_"))
        self.texts: dict[str, str] = {}

    def template(self, kind: str) -> str:
        text = (ROOT / "scripts/templates" / f"{kind}.txt").read_text(encoding="utf-8")
        return text.replace("my_name", self.name).replace("MyName", self.title)

    def text(self, path: str) -> str:
        if path not in self.texts:
            self.texts[path] = (ROOT / path).read_text(encoding="utf-8")
        return self.texts[path]

    def new(self, path: str, kind: str) -> None:
        if (ROOT / path).exists():
            raise InputError(f"{path} exists: choose another name than {self.name}")
        self.texts[path] = self.template(kind)

    def into(self, path: str, opening: str, line: str) -> None:
        """Adds a line at the end of the dict or tuple that begins with the line `opening`."""
        before, middle, after = self.text(path).partition(f"\n{opening}")
        if not middle:
            raise InputError(f"{path} has no line {opening!r}: add {line.strip()!r} where it belongs by hand")
        inside, end, rest = after.partition("\n}" if "{" in opening else "\n)")
        self.texts[path] = f"{before}{middle}{inside}\n{line}{end}{rest}"

    def replace(self, path: str, old: str, new: str) -> None:
        if old not in self.text(path):
            raise InputError(f"{path} has no {old!r}: write {new!r} where it belongs by hand")
        self.texts[path] = self.texts[path].replace(old, new, 1)

    def add_import(self, path: str, line: str, pattern: str) -> None:
        """Adds an import among those that match `pattern`, in alphabetical order."""
        lines = self.text(path).splitlines(keepends=True)
        places = [place for place, each in enumerate(lines) if re.match(pattern, each)]
        after = [place for place in places if lines[place].lower() > f"{line}\n".lower()]
        lines.insert(after[0] if after else places[-1] + 1, f"{line}\n")
        self.texts[path] = "".join(lines)

    def write(self) -> None:
        for path, text in self.texts.items():
            (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / path).write_text(text, encoding="utf-8")


def main(argv: Sequence[str]) -> list[str]:
    """The files that were written. Raises InputError: the name is taken or cannot be a name."""
    args = get_args_parser().parse_args(argv)
    check(args.kind, args.name)
    changes = Changes(args.name)
    {"method": add_method, "fusion": add_fusion, "encoder": add_encoder, "modality": add_modality,
     "dataset": add_dataset}[args.kind](changes)
    test = f"tests/test_{args.name}.py"
    changes.new(test, f"test_{args.kind}")
    changed = [path for path in changes.texts if (ROOT / path).exists()]
    changes.write()
    for path in changes.texts:
        print(f"{'changed' if path in changed else 'written'}  {path}")
    print(f"next: fill in the capital letters, then\n    python -m pytest {' '.join([test, *TESTS[args.kind]])}")
    return list(changes.texts)


def check(kind: str, name: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or "__" in name or name.endswith("_"):
        raise InputError(f"{name!r} cannot be a name: it begins with a lower-case letter and has lower-case letters, "
                         "digits and single underscores, such as my_method")
    if len(name) > LONGEST:
        raise InputError(f"{name!r} has more than {LONGEST} letters: choose a shorter name")
    if keyword.iskeyword(name) or name in sys.stdlib_module_names or name in RESERVED:
        raise InputError(f"{name!r} has a meaning already: choose another name")
    taken = {"method": METHODS, "encoder": ENCODERS, "fusion": FUSIONS, "dataset": (),
             "modality": FURTHER}[kind]
    if name in taken:
        raise InputError(f"the {kind} {name} is there already: choose another name, or change that one")


def add_method(changes: Changes) -> None:
    name, title = changes.name, changes.title
    changes.new(f"models/balancing/{name}.py", "method")
    changes.add_import("models/balancing/__init__.py", f"from .{name} import {title}", r"from \.\w+ import ")
    changes.into("models/balancing/__init__.py", "METHODS = {", f'    "{name}": {title},')
    changes.into("tests/one_step.py", "SETTINGS = {", f'    "{name}": {{"{name}_weight": 0.5}},')
    changes.into("tests/test_flags.py", "SHARED: dict[str, Effect] = {",
                 f'    "{name}_weight": (["2"], ["--modulation", "{name}"], {{"method_settings"}}),')
    changes.replace("scripts/compare_methods.sh", " $parameters \"$@\"", f" {name} $parameters \"$@\"")
    listed = re.search(r"The methods are [^.]*", changes.text("docs/library.md"))
    if listed is None:
        raise InputError(f"docs/library.md has no list 'The methods are ...': add {name} by hand")
    changes.replace("docs/library.md", listed[0], f"{listed[0]}, `{name}`")
    first, heading, rest = changes.text("docs/methods.md").partition("\n## ")
    table, newline, below = first.rpartition("\n| `")
    row, end, below = below.partition("\n")
    added = (f"| `{name}` | PAPER (VENUE YEAR) | WHAT IT CHANGES | `--{name}_weight` (1, SOURCE) "
             "| a loss each | yes | 1 | not measured "
             f"| `test_{name}_descends_the_joint_loss_and_the_loss_of_each_modality` |")
    changes.texts["docs/methods.md"] = f"{table}{newline}{row}\n{added}{end}{below}{heading}{rest}"


def add_fusion(changes: Changes) -> None:
    title = changes.title
    if re.search(rf"^class {title}\b", changes.text("models/fusion.py"), re.MULTILINE):
        raise InputError(f"models/fusion.py has a class {title} already: choose another name than {changes.name}")
    changes.replace("models/fusion.py", "\nFUSIONS = {", f"\n{changes.template('fusion')}FUSIONS = {{")
    changes.into("models/fusion.py", "FUSIONS = {", f'    "{changes.name}": {title},')


def add_encoder(changes: Changes) -> None:
    name, title = changes.name, changes.title
    changes.new(f"models/{name}.py", "encoder")
    changes.add_import("models/encoders.py", f"from .{name} import {title}", r"from \.\w+ import ")
    changes.into("models/encoders.py", "ENCODERS = {", f'    "{name}": {title},')
    for script in ("main_CD.py", "main_SSW.py", "main_UCF.py"):
        offered = re.search(r'^IMAGE_ENCODERS = \((.*)\)$', changes.text(script), re.MULTILINE)
        if offered is None:
            raise InputError(f"{script} has no line IMAGE_ENCODERS = (...): add {name!r} to its encoders by hand")
        changes.replace(script, offered[0], f'{offered[0][:-1]}, "{name}")')


def add_modality(changes: Changes) -> None:
    name = changes.name
    changes.new(f"dataset/{name}.py", "modality")
    changes.add_import("dataset/clips.py", f"from dataset import {name}", r"from dataset(\.\w+)? import ")
    changes.into("dataset/clips.py", "FURTHER: dict[str, ModuleType] = {", f'    "{name}": {name},')
    declared = f'    Modality("{name}", IMAGE_ENCODERS, in_channels=1, colours=False, extra=True),'
    changes.into("main_CD.py", "MODALITIES = (", declared)


def add_dataset(changes: Changes) -> None:
    changes.new(f"dataset/{changes.name}.py", "dataset")
    changes.new(f"main_{changes.name}.py", "entry")


if __name__ == "__main__":
    cli.run(main)
