"""table.md and runs.csv of a sweep, computed again from results that differ everywhere."""

import csv
import json
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
import pytest
from finished import MODALITIES, invented, percent, rewrite
from scipy import stats

from dataset.whole_files import write_csv
from scripts import sweep
from utils.experiments import comparison
from utils.experiments.finished_run import FinishedRun
from utils.experiments.run_rows import csv_row, read_csv

T95 = {1: 12.706205, 2: 4.302653, 3: 3.182446}  # Student's t, 97.5 %, by degrees of freedom: a printed table
PLAIN = {"fusion_method": "concat", "mmcosine": False, "scaling": 10.0, "modulation": "none", "lam": 0.0,
         "modality": "both"}


class Method(NamedTuple):
    """A row of table.md: its first cell, settings, seeds, and the paper's figure."""

    label: str
    settings: dict
    seeds: tuple[int, ...]
    paper: str = ""


CREMAD = [  # in the order of the table
    Method("concat, plain", {}, (0, 1, 2), "60.08"),
    Method("concat, MMCosine s=2", {"mmcosine": True, "scaling": 2.0}, (1, 2, 3), "63.44"),
    Method("concat, MMCosine s=10", {"mmcosine": True}, (0, 1, 2), "59.82"),
    Method("concat, plain, lam 0.1", {"lam": 0.1}, (0, 1, 2), "61.56"),
    Method("concat, MMCosine s=10, lam 0.1", {"lam": 0.1, "mmcosine": True}, (2, 4), "64.02"),
    Method("concat, plain, ogm_ge", {"modulation": "ogm_ge"}, (0, 1)),
    Method("concat, MMCosine s=10, ogm_ge", {"modulation": "ogm_ge", "mmcosine": True}, (0, 1, 2)),
    Method("concat, plain, gblend", {"modulation": "gblend"}, (1, 2)),
    Method("film, MMCosine s=50", {"fusion_method": "film", "mmcosine": True, "scaling": 50.0}, (0, 1), "61.42"),
    Method("gated, plain", {"fusion_method": "gated"}, (0, 1, 2), "60.48"),
    Method("gated, MMCosine s=10", {"fusion_method": "gated", "mmcosine": True}, (0, 1, 2), "66.40"),
    Method("audio encoder alone, plain", {"modality": "audio"}, (0, 1, 2)),
    Method("visual encoder alone, plain", {"modality": "visual"}, (0, 2)),
]
VOXCELEB = [
    Method("concat, plain", {}, (0, 1), "6.81"),
    Method("concat, MMCosine s=10", {"mmcosine": True}, (0, 1), "4.26"),
    Method("gated, plain", {"fusion_method": "gated"}, (0, 1), "10.39"),
]


def figure_names(measure: str, settings: Mapping[str, object]) -> list[str]:
    if settings["modality"] == "both":
        return [measure, f"{measure}_audio", f"{measure}_visual", f"last_test_{measure}"]
    return [measure, f"last_test_{measure}"]


def write_runs(output: Path, template: Path, dataset: str, methods: Sequence[Method], size: dict, measure: str,
               rng: np.random.Generator) -> dict[tuple[str, int], dict]:
    """Folders of finished runs, whose names say nothing -> {(label, seed): result}."""
    args, result = (json.loads((template / name).read_text()) for name in ("args.json", "result.json"))
    for name in [name for name in result if "accuracy" in name or name in ("n_test", "pretrained")]:
        del result[name]
    written = {}
    for method in methods:
        settings = {**PLAIN, **method.settings}
        for seed in method.seeds:
            folder = output / f"{rng.integers(10**9):09d}"
            folder.mkdir(parents=True)
            encoders = {"audio_encoder": "se_resnet34", "visual_encoder": "resnet34"} if measure == "eer" else {}
            own = {**settings, **encoders, "dataset": dataset, "random_seed": seed, "run_name": folder.name,
                   "command": f"python main.py --random_seed {seed} --x {rng.integers(10**6)}"}
            rewrite(folder / "args.json", {**args, **own})
            names = figure_names(measure, settings)
            content = {**result, **{name: own[name] for name in result.keys() & own.keys()}, "seed": seed,
                       "fusion": settings["fusion_method"], **invented(rng, [*names, "epoch_seconds"]), **size,
                       "demo": dataset == "demo",
                       "git_commit": "c0ffee" if seed else "decade"}
            if settings["modality"] != "both":
                content[f"{measure}_{settings['modality']}"] = content[measure]  # as evaluation counts both
            rewrite(folder / "result.json", content)
            written[method.label, seed] = content
    return written


class Tables(NamedTuple):
    output: Path
    results: dict[str, dict[tuple[str, int], dict]]
    sections: dict[str, str]
    printed: str


@pytest.fixture(scope="module")
def tables(finished_runs, tmp_path_factory) -> Tables:
    output, rng = tmp_path_factory.mktemp("sweep"), np.random.default_rng(3)
    template = finished_runs["plain"]
    trials = {"n_test": 4708, "trials": {"vox1": 27270, "vox2": 9822}}
    results = {"CREMAD": write_runs(output, template, "CREMAD", CREMAD, {"n_test": 744}, "accuracy", rng),
               "VoxCeleb": write_runs(output, template, "VoxCeleb", VOXCELEB, trials, "eer", rng),
               "demo": write_runs(output, template, "demo", CREMAD[:1], {"n_test": 50}, "accuracy", rng)}
    ended = next(path.parent for path in output.glob("*/result.json"))
    for name, kept in (("unfinished", ["args.json"]), ("resumed", ["args.json", "result.json"])):
        (output / name).mkdir()
        for file in kept:
            shutil.copy(ended / file, output / name)
    rewrite(output / "resumed/args.json", {**json.loads((ended / "args.json").read_text()), "epochs": 77})
    printed: list[str] = []
    with patch("builtins.print", lambda *parts, **_: printed.extend(map(str, parts))):
        sweep.main(["--output", str(output), "--report_only"])
    text = (output / "table.md").read_text()
    parts = re.split(r"^## (\w+)", text, flags=re.MULTILINE)[1:]
    return Tables(output, results, dict(zip(parts[::2], parts[1::2], strict=True)), "\n".join(printed))


def cells(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in text.splitlines() if line.startswith("|")]


def both_tables(section: str) -> tuple[list[list[str]], list[list[str]]]:
    """(means, differences), each with its head and a line of dashes."""
    means, _, differences = section.partition("Points to the joint plain network with the same fusion")
    return cells(means), cells(differences)


def values_of(results, method: Method, name: str) -> dict[int, float]:
    return {seed: results[method.label, seed][name] for seed in method.seeds}


def shown(measure: str, method: Method) -> dict[str, str]:
    """{column: figure}"""
    modality = {**PLAIN, **method.settings}["modality"]
    if modality != "both":
        return {modality: measure}
    return {"joint": measure, "audio": f"{measure}_audio", "visual": f"{measure}_visual"}


with_two_measures = pytest.mark.parametrize(("dataset", "methods", "measure"), [
    ("CREMAD", CREMAD, "accuracy"), ("VoxCeleb", VOXCELEB, "eer")], ids=["accuracy", "eer"])


def plain_of_each_fusion(methods: Sequence[Method]) -> dict[str, Method]:
    return {method.settings.get("fusion_method", "concat"): method for method in methods
            if {**PLAIN, **method.settings} in ({**PLAIN, "fusion_method": f} for f in ("concat", "film", "gated"))}


def time(results, method: Method, methods: Sequence[Method]) -> str:
    """Of an epoch, in the mean over the seeds, as a multiple of the plain network's."""
    plain = plain_of_each_fusion(methods).get(method.settings.get("fusion_method", "concat"))
    if not plain:
        return ""
    mine, theirs = (list(values_of(results, one, "epoch_seconds").values()) for one in (method, plain))
    return f"{np.median(mine) / np.median(theirs):.2f}x"


@with_two_measures
def test_table_md_has_mean_std_seeds_last_epoch_and_the_papers_figure_of_every_method_in_order(
        tables, dataset, methods, measure):
    (head, dashes, *rows), _ = both_tables(tables.sections[dataset])
    assert head == ["", "n", "joint", "audio", "visual", "last epoch", "paper", "time"] and set(dashes) == {"---"}
    expected = []
    for method in methods:
        results, columns = tables.results[dataset], shown(measure, method)
        three = [percent([*values_of(results, method, columns[kind]).values()]) if kind in columns else ""
                 for kind in ("joint", *MODALITIES)]
        last = percent([*values_of(results, method, f"last_test_{measure}").values()])
        compared = time(results, method, methods)
        expected.append([method.label, str(len(method.seeds)), *three, last, method.paper, compared])
    assert rows == expected


def difference(mine: Mapping[int, float], plain: Mapping[int, float]) -> str:
    """Exactly, in fractions, up to the root: method minus plain over the seeds of both."""
    seeds = sorted(set(mine) & set(plain))
    if len(seeds) < 2:
        return "n/a"
    pairs = [100 * (Fraction(mine[seed]) - Fraction(plain[seed])) for seed in seeds]
    mean = sum(pairs) / len(pairs)
    variance = sum((pair - mean) ** 2 for pair in pairs) / (len(pairs) - 1)
    half = T95[len(pairs) - 1] * (float(variance) / len(pairs)) ** 0.5
    low, high = float(mean) - half, float(mean) + half
    star = " *" if low * high > 0 else ""
    return f"{float(mean):+.2f} [{low:+.2f}, {high:+.2f}]{star}, n={len(pairs)}"


def test_the_printed_quantiles_are_students():
    assert {df: round(stats.t.isf(0.025, df), 6) for df in T95} == T95


@with_two_measures
def test_table_md_pairs_every_method_by_seed_with_the_joint_plain_network_of_its_fusion(
        tables, dataset, methods, measure):
    _, (head, _, *rows) = both_tables(tables.sections[dataset])
    assert head == ["", "joint", "audio", "visual", "p of joint, Holm"]
    results = tables.results[dataset]
    plain = plain_of_each_fusion(methods)
    assert plain.keys() == {"concat", "gated"}
    expected, p_values = [], {}
    for method in methods:
        if method in plain.values():
            continue
        baseline = plain.get(method.settings.get("fusion_method", "concat"))
        mine = dict(shown(measure, method))
        if len(mine) == 1:
            mine["joint"] = measure  # an encoder alone stands against the joint network
        row = [method.label]
        for kind in ("joint", *MODALITIES):
            if not baseline or kind not in mine:
                row.append("n/a")
                continue
            pair = (values_of(results, method, mine[kind]),
                    values_of(results, baseline, shown(measure, baseline)[kind]))
            row.append(difference(*pair))
            if kind == "joint" and row[-1] != "n/a":
                p_values[method.label] = stats.ttest_rel(*([one[seed] for seed in sorted(set(pair[0]) & set(pair[1]))]
                                                           for one in pair)).pvalue
        expected.append(row)
    assert [row[:-1] for row in rows] == expected
    assert {row[0]: row[-1] for row in rows} == {row[0]: "n/a" for row in expected} | corrected(p_values)


def corrected(p_values: Mapping[str, float]) -> dict[str, str]:
    """Holm: the i-th smallest of m times m - i, and none below a smaller one's; as they are printed."""
    ordered = sorted(p_values, key=p_values.get)
    times = [p_values[name] * (len(ordered) - place) for place, name in enumerate(ordered)]
    found = {name: min(1.0, max(times[:place + 1])) for place, name in enumerate(ordered)}
    return {name: f"{p:.3f}" if p >= 0.001 else "<0.001" for name, p in found.items()}


def test_an_interval_without_zero_is_starred_and_one_with_zero_is_not(finished_runs, tmp_path):
    written = write_runs(tmp_path, finished_runs["plain"], "stars", CREMAD[:1] + CREMAD[2:3], {"n_test": 9}, "accuracy",
                         np.random.default_rng(0))
    shifts = {"accuracy": (0.05, 0.051, 0.052), "accuracy_audio": (-0.05, -0.051, -0.052),
              "accuracy_visual": (0.05, -0.05, 0.001)}
    for path in tmp_path.glob("*/result.json"):
        result = json.loads(path.read_text())
        if result["mmcosine"]:
            plain = written["concat, plain", result["seed"]]
            rewrite(path, {**result, **{name: plain[name] + by[result["seed"]] for name, by in shifts.items()}})
    sweep.main(["--output", str(tmp_path), "--report_only"])
    row = both_tables((tmp_path / "table.md").read_text())[1][2]
    assert row[1].startswith("+5.10 [+4.85, +5.35] *, n=3") and row[2].startswith("-5.10 [-5.35, -4.85] *, n=3")
    assert row[3].startswith("+0.03 [-12.") and "*" not in row[3]


def test_an_ensemble_of_two_is_compared_with_the_joint_network_of_the_two_beside_one_of_three(finished_runs,
                                                                                               tmp_path):
    args, result = (json.loads((finished_runs["plain"] / name).read_text()) for name in ("args.json", "result.json"))
    result = {name: value for name, value in result.items() if "accuracy" not in name}
    two, three = ("rgb", "flow"), ("rgb", "flow", "difference")
    runs = {"all": (three, 70), "rgb+flow": (two, 50), "ensemble": (two, 61), "rgb": (two[:1], 43)}
    for number, (modality, (names, joint)) in enumerate(runs.items()):
        for seed in (0, 1):
            folder = tmp_path / f"{number}-{seed}"
            folder.mkdir()
            alone = {f"accuracy_{name}": (joint - 2 * place - 2) / 100 for place, name in enumerate(names)}
            rewrite(folder / "args.json", {**args, **PLAIN, "modality": modality, "random_seed": seed})
            rewrite(folder / "result.json", {**result, **alone, "accuracy": (joint + number * seed) / 100,
                                             "modality": modality, "modalities": names, "seed": seed})
    text = comparison.report(comparison.read_runs(tmp_path))
    head, _, *rows = cells(text.partition("Points to")[2])
    assert head[:4] == ["", "joint", "rgb", "flow"]
    points = {name.split(",")[0]: [cell.split(" [")[0] for cell in row[:3]] for name, *row in rows}
    # over the seeds 0 and 1 the joint accuracies of all, rgb+flow, ensemble and rgb are 70, 50.5, 62 and 44.5
    ensemble, = (row for name, row in points.items() if name.startswith("ensemble"))
    assert ensemble == ["+11.50", "+11.00", "+11.00"]
    assert points["rgb encoder alone"] == ["-25.50", "-23.50", "n/a"]  # with the joint network of the most


def test_a_table_says_its_measure_its_demo_data_its_noise_and_its_commits(tables):
    sections = tables.sections
    assert ": accuracy %, higher is better" in sections["CREMAD"].splitlines()[0]
    assert ": equal error rate %, lower is better" in sections["VoxCeleb"].splitlines()[0]
    assert "DEMO DATA" in sections["demo"].splitlines()[0]
    assert "DEMO" not in sections["CREMAD"] + sections["VoxCeleb"]
    results = tables.results["CREMAD"].values()
    mean = np.mean([result["accuracy"] for result in results])
    noise = 100 * (mean * (1 - mean) / 744) ** 0.5
    told = f"One of 744 clips is 0.134 points, the binomial standard error is {noise:.1f}."
    assert told in sections["CREMAD"] and "binomial" not in sections["VoxCeleb"]
    commits = Counter(result["git_commit"] for result in results)
    assert all(f"{name} ({count} runs)" in sections["CREMAD"] for name, count in commits.items())
    assert next(iter(results))["selection"] in sections["CREMAD"]
    assert "best test epoch" in sections["CREMAD"]


def test_the_table_is_printed_as_it_is_written(tables):
    assert (tables.output / "table.md").read_text().strip() in tables.printed
    assert str(tables.output / "table.md") in tables.printed and str(tables.output / "runs.csv") in tables.printed


def test_runs_csv_has_every_figure_of_every_finished_run_under_its_name(tables):
    with (tables.output / "runs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = [path.parent.name for path in tables.output.glob("*/result.json") if path.parent.name != "resumed"]
    assert sorted(row["run"] for row in rows) == sorted([*names, "resumed", "unfinished"])
    for row in rows:
        if row["run"] in ("resumed", "unfinished"):
            assert not row["accuracy"] and not row["modalities"] and row["--fusion_method"]
            continue
        result = json.loads((tables.output / row["run"] / "result.json").read_text())
        plain = {name: value for name, value in result.items() if not isinstance(value, (dict, list))}
        assert plain.keys() >= {"git_commit", "command", "seed", "mmcosine", "scaling", "modality"}
        if "trials" in result:
            plain["trials"] = next(iter(result["trials"].values()))
        settings = json.loads((tables.output / row["run"] / "args.json").read_text())
        for name, cell in row.items():
            value = settings.get(name[2:]) if name.startswith("--") else plain.get(name)
            if name not in ("run", "modalities") and not (name.startswith("--") and not cell):
                nothing = "None" if name.startswith("--") else ""
                assert cell == (nothing if value is None else str(value)), name
        assert plain.keys() <= row.keys()
        assert {name for name in plain if row[name] == ""} == {name for name in plain if plain[name] is None}
    rows = [row for row in rows if row["modalities"]]
    order = [(row["dataset"], row["fusion"], row["modality"]) for row in rows]
    assert [modality for *_, modality in order] == sorted([m for *_, m in order], key=lambda m: m != "both")
    methods = [(row["run"], row["seed"]) for row in rows if row["dataset"] == "CREMAD"]
    placed = {(method.label, seed): place for place, (method, seed) in enumerate(
        (method, seed) for method in CREMAD for seed in sorted(method.seeds))}
    by_command = {result["command"]: placed[key] for key, result in tables.results["CREMAD"].items()}
    commands = [row["command"] for row in rows if row["dataset"] == "CREMAD"]
    assert [by_command[command] for command in commands] == list(range(len(methods))), "in the table's order, by seed"


def test_digests_that_look_like_numbers_are_text_in_and_out_of_the_csv(finished_runs, tmp_path):
    run = FinishedRun(finished_runs["plain"])
    digests = {"git_commit": "1234567", "lists": "12e45678", "test_list": "0012345678"}
    run.result.update(digests)
    write_csv(tmp_path / "runs.csv", [csv_row(run)])
    (row,), _ = read_csv(tmp_path / "runs.csv")
    assert {name: row.result[name] for name in digests} == digests


def test_the_tables_come_out_of_the_csv_alone(tables, capsys):
    sweep.main(["--table_of", str(tables.output / "runs.csv")])
    assert capsys.readouterr().out.strip() == (tables.output / "table.md").read_text().strip()
    assert "In no table, for want of a result: 2 runs: resumed, unfinished." in tables.printed
