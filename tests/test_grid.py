"""Which flags reach the runs of a sweep."""

import json
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import REPO

import main_CD
from scripts import sweep

ENTRY = """
import json, sys
from pathlib import Path

if __name__ == "__main__":
    argv = sys.argv[1:]
    given = {flag[2:]: value for flag, value in zip(argv, argv[1:]) if flag.startswith("--")}
    folder = Path(given["ckpt_path"]) / given["run_name"]
    with folder.with_name(folder.name + ".argv").open("a") as file:
        file.write(json.dumps(argv) + "\\n")
    if "--resume" not in argv:
        folder.mkdir()
        own = {"random_seed": int(given["random_seed"]), "mmcosine": given["mmcosine"] == "True"}
        (folder / "args.json").write_text(json.dumps({**ARGS, **own}))
        (folder / "last.pt").touch()
        if own["random_seed"] == 4:
            sys.exit("entry.py: error: as if killed")
    (folder / "result.json").write_text(json.dumps(RESULT))
else:
    from main_CD import get_args_parser, parse
"""


@pytest.fixture
def entry(finished_runs, tmp_path) -> Path:
    """A script with main_CD.py's flags that writes down what it was started with. Seed 4 ends at its first start."""
    result = json.loads((finished_runs["plain"] / "result.json").read_text())
    args = json.loads((finished_runs["plain"] / "args.json").read_text())
    args = {**{name: args[name] for name in ("modality", "fusion_method", "modulation", "lam", "scaling")},
            "dataset": "demo", "epochs": 7}
    path = tmp_path / "entry.py"
    path.write_text(f"ARGS = {args!r}\nRESULT = {({**result, 'epochs': 7})!r}\n{ENTRY}")
    return path


def started(output: Path) -> dict[str, list[list[str]]]:
    """{run: argv of each of its starts}"""
    return {path.stem: [json.loads(line) for line in path.read_text().splitlines()]
            for path in output.glob("*.argv")}


def asked(argv: Sequence[str]) -> tuple:
    args = main_CD.get_args_parser().parse_args(argv)
    return (args.random_seed, args.fusion_method if args.modality == "both" else args.modality,
            args.scaling if args.mmcosine else None, args.modulation, args.alpha, args.lam)


GRID = ["--random_seed", "3", "4", "--fusion_method", "concat", "gated", "--mmcosine", "False", "True",
        "--scaling", "2", "5", "--modulation", "none", "ogm", "--alpha", "0.4", "--lam", "0", "0.5", "--demo"]
REST = ["--", "--epochs", "7", "--learning_rate", "0.5", "--optimizer", "adam"]


def test_every_point_of_a_grid_reaches_the_entry_script_once_with_the_flags_for_all(entry, tmp_path, capsys):
    sweep.main(["--script", str(entry), "--output", str(tmp_path / "out"), "--dry_run", *GRID, *REST])
    lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    assert all(line[:2] == ["python", str(entry)] for line in lines)
    default = main_CD.get_args_parser().get_default("alpha")
    expected = [(seed, fusion, scale, method, 0.4 if method == "ogm" else default, lam) for seed in (3, 4)
                for fusion in ("concat", "gated") for scale in (None, 2.0, 5.0) for method in ("none", "ogm")
                for lam in (0.0, 0.5)]
    found = [asked(line[2:]) for line in lines]
    assert sorted(found, key=repr) == sorted(expected, key=repr) and default != 0.4
    assert [one[0] for one in found] == sorted(one[0] for one in found), "all of a seed before the next"
    for line in lines:
        args = main_CD.get_args_parser().parse_args(line[2:])
        assert (args.train, args.demo, args.epochs, args.learning_rate, args.optimizer) == (True, True, 7, 0.5, "adam")
        assert args.ckpt_path == tmp_path / "out" and args.resume is None
        assert not args.mmcosine or "--scaling" in line, line
        assert args.mmcosine or "--scaling" not in line, "a setting without meaning is left out"
    assert len({line[line.index("--run_name") + 1] for line in lines}) == len(expected)


def test_runs_are_started_with_what_dry_run_tells_and_started_again_resumed_or_skipped(entry, tmp_path, capsys):
    out = tmp_path / "out"
    argv = ["--random_seed", "3", "4", "5", "--mmcosine", "False", "True", "--scaling", "10", "--workers", "2",
            "--demo", *REST, "--amp", "off"]

    def main(*flags: str) -> list:
        return sweep.main(["--script", str(entry), "--output", str(out), *flags, *argv])

    main("--dry_run")
    told = {line[-1]: line[2:] for line in map(shlex.split, capsys.readouterr().out.splitlines())}
    assert len(told) == 6
    with pytest.raises(Exception, match="2 of 6 runs failed"):
        main()
    assert started(out) == {name: [line] for name, line in told.items()}
    (out / "demo-concat-plain-seed5" / "result.json").unlink()  # as if killed after an epoch
    for name in ("last.pt", "result.json"):  # as if killed before its first
        (out / "demo-concat-mmcosine10-seed5" / name).unlink()
    capsys.readouterr()
    main("--dry_run")
    again = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("# ") and line.endswith("is done") for line in again) == 2
    finished = main()
    for name, starts in started(out).items():
        begun = "seed4" in name or name == "demo-concat-plain-seed5"
        resumed = [*told[name], "--resume", str(out / name)]
        assert starts[1:] == ([resumed] if begun else [told[name]] if "mmcosine10-seed5" in name else []), name
    assert len(finished) == 6
    assert {path.stem for path in out.glob("*.log")} == told.keys()


RECIPES = {
    "ablation_fusion": {(fusion, scale, "none", 0.0) for fusion in ("concat", "film", "gated")
                        for scale in (None, 2, 50)},
    "ablation_scaling": {("concat", scale, "none", 0.0) for scale in (None, 2, 5, 10, 30)},
    "ablation_contrastive": {("concat", scale, "none", lam) for scale in (None, 2) for lam in (0.0, 0.01, 0.1, 1.0)},
    "ablation_ogm_ge": {("concat", scale, method, 0.0) for scale in (None, 2) for method in ("none", "ogm_ge")},
    "ablation_probes": {("concat", scale, "none", 0.0) for scale in (None, 2)},
}


def test_every_ablation_is_the_grid_that_its_head_promises_over_three_seeds(tmp_path, capsys):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    python.chmod(0o755)
    assert {path.stem for path in REPO.glob("scripts/ablation_*.sh")} == RECIPES.keys()
    for name, expected in RECIPES.items():
        done = subprocess.run(["bash", f"scripts/{name}.sh", "--dry_run"], cwd=REPO, capture_output=True, text=True,
                              check=True, env={"PATH": "/usr/bin:/bin", "PYTHON": str(python)})
        script, *argv = done.stdout.splitlines()
        assert (REPO / script).resolve() == REPO / "scripts/sweep.py"
        sweep.main(argv)
        lines = [shlex.split(line)[2:] for line in capsys.readouterr().out.splitlines()]
        found = [asked(line) for line in lines]
        assert sorted(found, key=repr) == sorted(((seed, fusion, scale, method, found[0][4], lam) for seed in range(3)
                                                  for fusion, scale, method, lam in expected), key=repr), name
        assert {line[line.index("--ckpt_path") + 1] for line in lines} == {f"runs/{name}"}
