"""Puts each bug of tests/mutants.py into a copy of the code, alone, and looks which test notices it.

    python tests/run_mutants.py                                 # `make mutants`
    python tests/run_mutants.py --only rate-never-decays        # some of them, by name
    python tests/run_mutants.py --list

First the same tests run on the code as it is: they have to pass. What is tested is the working tree (files in git as
they are now, and new ones that git does not ignore), without data or checkpoints beside it, in temporary folders that
are removed, also after Ctrl-C. --report is written anew after every mutant.

A mutant is noticed when a test fails. It is broken, a mistake in the list, when no test could be run with it, and when
the tests do not come to an end. Exit status 0 when all were noticed, 1 otherwise.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from mutants import MUTANTS, Mutant, files_that_see, mutated

REPO = Path(__file__).resolve().parent.parent
POLL = 0.1  # seconds between looks at the running tests
LONGEST = 1200  # seconds that the tests of one mutant may take
PYTEST = ["-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--override-ini", "addopts=", "--tb", "short", "-rfE"]
FAILED = re.compile(r"^(FAILED|ERROR) (\S+?::.+?)(?: - .*)?$", re.MULTILINE)  # a collection error names no test


class Outcome(NamedTuple):
    """noticed: the first test that failed, else None; told: that, or what happened instead."""

    mutant: Mutant
    noticed: str | None
    told: str
    seconds: float


class Running(NamedTuple):
    """Tests under way in `folder`, whose output goes into folder/output.txt."""

    mutant: Mutant
    folder: Path
    process: subprocess.Popen
    start: float


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these mutants only")
    parser.add_argument("--list", action="store_true", help="print the mutants and stop")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="mutants at a time")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the table there, as Markdown")
    return parser


def chosen(parser: argparse.ArgumentParser, args: argparse.Namespace) -> list[Mutant]:
    known = {mutant.name: mutant for mutant in MUTANTS}
    unknown = [name for name in args.only or () if name not in known]
    if unknown:
        parser.error(f"there is no mutant {', '.join(unknown)}: --list names them")
    if args.only:
        return [known[name] for name in args.only]
    return list(MUTANTS)


# ---- copies of the tree


def copy_tree(target: Path) -> None:
    """The working tree without what git ignores."""
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=REPO,
                            capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (REPO / name).is_file():  # not deleted since
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPO / name, target / name)


def put_in(mutant: Mutant, tree: Path) -> None:
    path = tree / mutant.file
    path.write_text(mutated(mutant, path.read_text(encoding="utf-8")), encoding="utf-8")


# ---- tests


def start_tests(tree: Path, files: Sequence[str], *more: str) -> subprocess.Popen:
    """pytest in tree, a session of its own, with all that it writes below the folder of `tree`."""
    temporary = tree.parent / "tmp"
    temporary.mkdir()
    variables = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(temporary), "COLUMNS": "200"}
    with (tree.parent / "output.txt").open("wb") as output:
        return subprocess.Popen([sys.executable, *PYTEST, *more, *files], cwd=tree, env=variables, stdout=output,
                                stderr=output, stdin=subprocess.DEVNULL, start_new_session=True)


def stop(process: subprocess.Popen) -> None:
    """Ends the tests and what they started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def check_unmutated(original: Path, mutants: Sequence[Mutant], jobs: int) -> None:
    """Exits when the tests do not pass on the code as it is: what would a failure say of a mutant?"""
    files = list(dict.fromkeys(file for mutant in mutants for file in files_that_see(mutant, REPO)))
    print(f"{len(files)} test files on the code as it is", flush=True)
    process = start_tests(original, files, *(["--numprocesses", str(jobs)] if jobs > 1 else []))
    try:
        status = process.wait()
    finally:
        stop(process)
    if status != 0:
        output = (original.parent / "output.txt").read_text(encoding="utf-8", errors="replace")
        sys.exit(f"{output[-3000:]}\nThe tests do not pass on the code as it is (pytest exit status {status}): mend "
                 "that first.")


def begin(mutant: Mutant, original: Path, base: Path) -> Running:
    folder = Path(tempfile.mkdtemp(dir=base))
    tree = Path(shutil.copytree(original, folder / "tree"))
    put_in(mutant, tree)
    return Running(mutant, folder, start_tests(tree, files_that_see(mutant, REPO)), time.monotonic())


def outcome_of(running: Running, status: int | None) -> Outcome:
    """status: pytest's, None when it was stopped."""
    output = (running.folder / "output.txt").read_text(encoding="utf-8", errors="replace")
    found = FAILED.search(output)
    seconds = time.monotonic() - running.start
    if status is None:
        return Outcome(running.mutant, None, f"broken mutant: the tests did not end in {LONGEST} s", seconds)
    if status == 1 and found:
        test = found[2].removeprefix("tests/") + (" (its preparation)" if found[1] == "ERROR" else "")
        return Outcome(running.mutant, test, test, seconds)
    if status == 0:
        return Outcome(running.mutant, None, "NOT NOTICED", seconds)
    last = output.strip().rpartition("\n")[2][:200]
    return Outcome(running.mutant, None, f"broken mutant: pytest exit status {status}, {last}", seconds)


def run_all(mutants: Sequence[Mutant], jobs: int, original: Path, base: Path, ended: Callable[[Outcome], None]) -> None:
    """`jobs` at a time; ended(outcome) is called after each."""
    waiting, running = deque(mutants), []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(begin(waiting.popleft(), original, base))
            time.sleep(POLL)
            for one in list(running):
                status, late = one.process.poll(), time.monotonic() - one.start > LONGEST
                if status is not None or late:
                    stop(one.process)
                    running.remove(one)
                    ended(outcome_of(one, status))
                    shutil.rmtree(one.folder, ignore_errors=True)
    finally:
        for one in running:
            stop(one.process)


# ---- what came of it


def table(outcomes: Sequence[Outcome]) -> str:
    rows = [("mutant", "file", "what is wrong", "noticed by", "s"), ("---",) * 5]
    rows += [(one.mutant.name, one.mutant.file, one.mutant.sentence, one.told.replace("|", "\\|"), f"{one.seconds:.0f}")
             for one in outcomes]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def summary(outcomes: Sequence[Outcome]) -> str:
    broken = sum(one.told.startswith("broken") for one in outcomes)
    noticed = sum(one.noticed is not None for one in outcomes)
    return f"{noticed} of {len(outcomes)} noticed" + (f", {broken} broken" if broken else "")


def write_report(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Whole or not at all; the unnoticed first."""
    ordered = sorted(outcomes, key=lambda one: (one.noticed is not None, one.mutant.file, one.mutant.name))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    temporary.write_text(f"{summary(outcomes)}\n\n{table(ordered)}", encoding="utf-8")
    temporary.replace(path)


def main(argv: Sequence[str]) -> list[Outcome]:
    parser = get_args_parser()
    args = parser.parse_args(argv)
    mutants, outcomes = chosen(parser, args), []
    if args.list or not mutants:
        print("\n".join(f"{mutant.name:40} {mutant.file:38} {mutant.sentence}" for mutant in mutants) or "none")
        return []

    def ended(outcome: Outcome) -> None:
        outcomes.append(outcome)
        print(f"{len(outcomes):3d}/{len(mutants)} {outcome.seconds:4.0f} s  {outcome.mutant.name}: {outcome.told}",
              flush=True)
        if args.report:
            write_report(args.report, outcomes)

    with tempfile.TemporaryDirectory(prefix="mutants-", ignore_cleanup_errors=True) as base:
        original = Path(base) / "original" / "tree"
        copy_tree(original)
        check_unmutated(Path(shutil.copytree(original, Path(base) / "unmutated" / "tree")), mutants, args.jobs)
        run_all(mutants, args.jobs, original, Path(base), ended)
    print("\n".join([summary(outcomes), *(f"  {one.mutant.name}: {one.told}. {one.mutant.sentence}"
                                          for one in outcomes if not one.noticed)]))
    return outcomes


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(not all(outcome.noticed for outcome in main(sys.argv[1:])))
    except KeyboardInterrupt:
        sys.exit("\nstopped, temporary folders removed")
