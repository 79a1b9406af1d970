"""Kills commands with -9 at random points, goes on as their messages say, and compares the end with an undisturbed run.

    python tests/soak.py                              # 45 kills, about a quarter of an hour on two cores
    python tests/soak.py --only main_CD sweep --scale 0.2
    python tests/soak.py --report docs/results/2026-11-24_soak.md    # the report is the whole page

A run is killed up to four times before it may end. Then weights, the optimizer's and the balancing method's state,
metrics and result must be those of the undisturbed run to the last bit, prepared files the same bytes, and no temporary
file may be left. The small data is made in a temporary folder. Exit status 1 when anything differs.
"""

import argparse
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO), str(REPO / "tests")]
os.environ["OMP_NUM_THREADS"] = "1"

import torch
from test_prepare import make_cremad, write_video

from dataset.demo.birds import make_demo as make_birds
from dataset.demo.emotions import make_demo as make_emotions
from dataset.demo.identities import make_demo as make_identities
from utils.training.report import git_commit

EXPLANATION = """Commands are killed with -9 at random points, up to four times in a row, and continued. Then
weights, optimizer state, the balancing method's state, metrics and results are compared with those
of an undisturbed run, prepared files byte by byte. Temporary files that are left count as
differences."""
IN_A_ROW = 4  # kills before a run may end
SMALL = ["--image_size", "64", "--batch_size", "8", "--num_workers", "1", "--device", "cpu", "--epochs", "3",
         "--learning_rate", "0.01"]
TIMES = ("seconds", "clips_per_second", "wall_seconds", "command")  # differ between equal runs


class Subject(NamedTuple):
    """start, resume: argv of Python, with {out} for the folder it writes. Without a last.pt a run is started again;
    sweeps and preparations always are, by the same command. outputs: what is compared, as patterns below {out}."""

    kills: int
    start: Sequence[str]
    resume: Sequence[str]
    outputs: Sequence[str]


class Found(NamedTuple):
    """Of a subject. early: kills before the first last.pt. compared: ends compared with the undisturbed run."""

    kills: int
    early: int
    compared: int
    differences: list[str]
    seconds: float


def training(script: str, kills: int, data: Path, *more: str) -> Subject:
    argv = [script, "--train", "--dataset", "soak", "--data_root", str(data), "--ckpt_path", "{out}", "--run_name",
            "run", *SMALL, *more]
    return Subject(kills, argv, [script, "--resume", "{out}/run"], ["run/*"])


def subjects(data: Path) -> dict[str, Subject]:
    """Made together with their data."""
    make_emotions(data / "emotions", train_per_class=6, test_per_class=3)
    make_birds(data / "birds", species=4, train_per_class=5, test_per_class=2)
    make_identities(data / "voices", train_identities=6, train_utterances=4, test_identities=3, test_utterances=2)
    write_video(data / "clip.flv", 60, 30, "flv")
    make_cremad(data / "cremad", data / "clip.flv", actors=30, emotions=("ANG", "HAP", "SAD", "NEU"))
    sound = ["--audio_seconds", "0.6"]
    emotions = [data / "emotions", *sound]
    sweep = ["scripts/sweep.py", "--output", "{out}", "--mmcosine", "False", "True", "--", "--dataset", "soak",
             "--data_root", str(data / "emotions"), *SMALL, *sound]
    cremad = ["scripts/prepare_cremad.py", "--data_root", "{out}", "--fps", "3", "--workers", "1"]
    return {"main_CD": training("main_CD.py", 20, *emotions),
            "main_SSW": training("main_SSW.py", 5, data / "birds", *sound, "--num_frames", "1"),
            "main_Vox": training("main_Vox.py", 5, data / "voices", "--audio_frames", "60", "--test_frames", "60"),
            "main_CD, PMR": training("main_CD.py", 5, *emotions, "--modulation", "pmr"),
            "sweep": Subject(5, sweep, sweep, ["*/*"]),
            "prepare_cremad": Subject(5, cremad, cremad, ["Image-03-FPS/**/*", "*.csv"])}


def call(argv: Sequence[str], out: Path, kill_after: float | None = None) -> int | None:
    """Runs the command -> its exit status; None when it was killed after so many seconds."""
    with (out.parent / f"{out.name}.log").open("ab") as log:
        process = subprocess.Popen([sys.executable, *(part.format(out=out) for part in argv)], cwd=REPO, stdout=log,
                                   stderr=log, stdin=subprocess.DEVNULL)
    try:
        return process.wait(kill_after)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return None


def new_folder(data: Path, name: str, out: Path) -> None:
    """A preparation writes into the folder of its data."""
    shutil.rmtree(out, ignore_errors=True)
    if name == "prepare_cremad":
        shutil.copytree(data / "cremad", out, symlinks=True)
    else:
        out.mkdir()


def attack(name: str, subject: Subject, data: Path, room: Path, chance: random.Random, kills: int) -> Found:
    started = time.monotonic()
    calm, out = room / "undisturbed", room / "killed"
    new_folder(data, name, calm)
    status = call(subject.start, calm)
    duration = time.monotonic() - started
    if status:
        sys.exit(f"{name}: the undisturbed run failed, see {calm}.log")
    expected, differences = snapshot(calm, subject), []
    done = early = compared = 0
    while done < kills:
        new_folder(data, name, out)
        in_a_row = 0
        while True:
            begun = any(out.glob("**/last.pt"))
            if not begun and subject.start != subject.resume:
                new_folder(data, name, out)
            after = chance.uniform(0, duration) if done < kills and in_a_row < IN_A_ROW else None
            status = call(subject.resume if begun else subject.start, out, after)
            if status is not None:
                break
            done, in_a_row = done + 1, in_a_row + 1
            early += not any(out.glob("**/last.pt"))
            print(f"{name}: kill {done} of {kills} after {after:.1f} s", flush=True)
        compared += 1
        if status:
            differences.append(f"{name}: exit status {status} after {in_a_row} kills, see {out}.log")
            shutil.copy(f"{out}.log", f"{out}.failed.log")
        differences += [f"{name}: {text}" for text in compare(expected, snapshot(out, subject))]
    return Found(done, early, compared, differences, time.monotonic() - started)


def snapshot(out: Path, subject: Subject) -> dict[str, object]:
    """{file: what must be the same}; temporary files by their names."""
    found = {}
    for path in sorted(path for pattern in subject.outputs for path in out.glob(pattern) if path.is_file()):
        name = str(path.relative_to(out))
        if path.suffix in (".csv", ".jpg", ".npy", ".txt") and path.name != "runs.csv":
            found[name] = path.read_bytes()
        elif path.suffix == ".json" and path.name != "args.json":
            found[name] = timeless(json.loads(path.read_text()))
        elif path.name == "metrics.jsonl":
            found[name] = [timeless(json.loads(line)) for line in path.read_text().splitlines()]
        elif path.suffix == ".pt":
            content = torch.load(path, weights_only=True)
            found[name] = dict(tensors_in({key: content[key] for key in content.keys() - {"args", "facts"}}))
    leftover = [path for path in out.rglob(".*") if path.name[1:2].isdigit()]
    return {**found, "temporary files": sorted(path.name.split(".", 2)[2] for path in leftover)}


def timeless(record: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in record.items() if not key.endswith(TIMES)}


def tensors_in(content: object, place: str = "") -> Iterator[tuple[str, object]]:
    """(place, bytes of a tensor or a plain value) of everything in nested mappings and lists, but times."""
    if isinstance(content, torch.Tensor):
        yield place, content.contiguous().numpy().tobytes()
    elif isinstance(content, Mapping | list | tuple):
        pairs = content.items() if isinstance(content, Mapping) else enumerate(content)
        for key, value in pairs:
            if not str(key).endswith(TIMES):
                yield from tensors_in(value, f"{place}/{key}")
    else:
        yield place, content


def compare(expected: Mapping[str, object], found: Mapping[str, object]) -> list[str]:
    """What differs, in words."""
    texts = [f"{name} is {'missing' if name in expected else 'new'}" for name in expected.keys() ^ found.keys()]
    for name in expected.keys() & found.keys():
        if expected[name] != found[name]:
            parts = expected[name], found[name]
            if all(isinstance(part, dict) for part in parts):
                keys = [key for key in {**parts[0], **parts[1]} if parts[0].get(key) != parts[1].get(key)]
                texts.append(f"{name} differs in {', '.join(keys[:3])} ({len(keys)} values)")
            else:
                texts.append(f"{name} differs" + (f": {found[name]}" if name == "temporary files" else ""))
    return sorted(texts)


def report(results: Mapping[str, Found], seed: int) -> str:
    rows = [f"| {name} | {result.kills} | {result.early} | {result.compared} | {len(result.differences)} | "
            f"{result.seconds:.0f} |" for name, result in results.items()]
    differences = [f"* {text}" for result in results.values() for text in result.differences]
    total = sum(result.kills for result in results.values())
    date = time.strftime("%Y-%m-%d")
    return "\n".join([
        f"# {date}: killed runs, `make soak`", "", EXPLANATION, "",
        f"{total} kills with seed {seed}, {date}, commit {git_commit()}, Python {platform.python_version()}, "
        f"torch {torch.__version__}, CPU.", "",
        "| command | kills | of these before the first last.pt | ends compared | differences | seconds |",
        "|---|---|---|---|---|---|", *rows, "", *(differences or ["No difference."]), ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path, default=Path("runs/soak.md"), help="where the table is written")
    parser.add_argument("--only", nargs="+", help="these commands")
    parser.add_argument("--scale", type=float, default=1.0, help="part of the kills")
    parser.add_argument("--seed", type=int, default=0, help="of the points at which is killed")
    args = parser.parse_args()
    results, chance = {}, random.Random(args.seed)
    with tempfile.TemporaryDirectory(prefix="soak_") as folder:
        data = Path(folder, "data")
        for name, subject in subjects(data).items():
            if args.only and name not in args.only:
                continue
            room = Path(folder, name.replace(", ", "_"))
            room.mkdir()
            results[name] = attack(name, subject, data, room, chance, max(1, round(args.scale * subject.kills)))
            print("\n".join(results[name].differences) or f"{name}: no difference", flush=True)
            for log in room.glob("*.failed.log"):
                print(log.read_text()[-2000:])
            shutil.rmtree(room)
    args.report.parent.mkdir(parents=True, exist_ok=True)
    text = report(results, args.seed)
    args.report.write_text(text, encoding="utf-8")
    print(text)
    sys.exit(any(result.differences for result in results.values()))


if __name__ == "__main__":
    main()
