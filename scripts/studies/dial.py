"""When does balancing help? A world with a dial for each modality, whose best possible accuracy is known.

    python scripts/studies/dial.py --output runs/dial --dry_run          # how many runs, and how long they take
    python scripts/studies/dial.py --output runs/dial --workers 2        # start it again to continue
    python scripts/studies/dial.py --output runs/dial --report_only      # tables and pictures of what is there

A clip of class y has in each modality m a signal s_m = alpha_m mu_y + N(0, I), where the class means
mu are the corners of a regular simplex, and an input x_m = f(Q_m [kappa_m s_m; noise]) with an
orthogonal Q_m and an invertible f. alpha_m says how *informative* a modality is, kappa_m how *fast*
it is learned: it changes the size of the signal among the inputs and no information, since f, Q_m
and kappa_m can be undone. So the accuracy of the best possible classifier (Bayes accuracy) of each
modality and of both together is an integral.

Networks are small: an encoder is a perceptron with two hidden layers. (Its layers are 1x1 convolutions, the same
function, because OGM changes the gradients of convolutions alone.) Every row has the same learning rates, of which
validation clips choose one for each world and seed.

Rows: joint training; each modality alone, the sum of their logits, and of two networks of the stronger modality (is it
the second modality, or the second network?); MMCosine with s at some multiples of s1, the least s with which a single
modality can bring its true class to 0.99; the balancing methods.

Attainment is (accuracy - 1/C) / (Bayes accuracy - 1/C): 0 is chance, 1 the optimum. That of a modality is measured by
its own logits, minus their mean over the training clips for each class, and by a linear probe of its features.

Writes <output>/<world>-seed<N>.csv    a line per row and learning rate
       <output>/dial.csv               all of them
       <output>/dial.md, map.png/.pdf, theory.png/.pdf
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from utils import startup

if __name__ == "__main__":
    startup.explain_import_errors()

import numpy as np

from dataset.errors import InputError
from utils import cli

if TYPE_CHECKING:  # slow to import: --dry_run need not wait
    import matplotlib.figure
    import pandas

RATES = (0.003, 0.01, 0.03, 0.1)
SCALES = (0.25, 0.5, 0.75, 1.0, 2.0)  # s / s1
ALPHA_RATIOS = (1.0, 1.5, 2.5)  # how much more informative the first modality is
KAPPA_RATIOS = (0.2, 0.5, 1.0, 2.0, 5.0)  # how much faster it is learned
CLASSES = (10, 50)
STRENGTH = {10: 3.6, 50: 4.4}  # sqrt(alpha_a^2 + alpha_v^2): both together identify 97.5 % at best
NOISE = 54  # inputs of a modality without signal
CLIPS = {"train": 1000, "val": 1000, "test": 4000}
WIDTH, FEATURES, BATCH, EPOCHS, DECAY = 128, 64, 50, 30, 24
# Not here: gblend trains three times as long, umt needs teachers, remix its own batches, lfm_learned is slow.
METHODS = ("ogm", "ogm_ge", "pmr", "multiloss", "mmpareto", "agm", "mla", "lfm", "dnr", "mcr", "dgl", "opm", "inforeg",
           "mslr", "reconboost", "mlb", "arl", "tcmax")
MODALITIES = ("audio", "visual")


class World(NamedTuple):
    """C classes; alpha, kappa: of each modality."""

    classes: int
    alpha_ratio: float
    kappa_ratio: float

    @property
    def name(self) -> str:
        return f"C{self.classes}-alpha{self.alpha_ratio:g}-kappa{self.kappa_ratio:g}"

    @property
    def alpha(self) -> tuple[float, float]:
        weak = STRENGTH[self.classes] / math.hypot(1, self.alpha_ratio)
        return weak * self.alpha_ratio, weak

    @property
    def kappa(self) -> tuple[float, float]:
        return self.kappa_ratio**0.5, self.kappa_ratio**-0.5

    def bayes(self) -> dict[str, float]:
        """The best accuracy that is possible, of both modalities together and of each."""
        strengths = {"joint": math.hypot(*self.alpha), **dict(zip(MODALITIES, self.alpha, strict=True))}
        return {name: bayes_accuracy(self.classes, strength) for name, strength in strengths.items()}


def bayes_accuracy(classes: int, alpha: float) -> float:
    """Of a signal alpha mu_y + N(0, I), mu the corners of a regular simplex at distance 1 from its centre.

    The posterior is largest for the class with the largest alpha <mu, s>. Up to a constant these C numbers are
    independent normal ones with variance alpha^2 C / (C - 1), of which the true class's is larger by as much, so that
    accuracy = integral of phi(t - a) Phi(t)^(C - 1) dt with a = alpha sqrt(C / (C - 1)).
    """
    from scipy.integrate import quad
    from scipy.stats import norm

    a = alpha * math.sqrt(classes / (classes - 1))
    return quad(lambda t: norm.pdf(t - a) * norm.cdf(t)**(classes - 1), -9, a + 9, limit=200)[0]


def simplex(classes: int) -> np.ndarray:
    """(C, C): corners of a regular simplex at distance 1 from the origin."""
    return math.sqrt(classes / (classes - 1)) * (np.eye(classes) - 1 / classes)


def invertible(x: np.ndarray) -> np.ndarray:
    """Elementwise, strictly increasing: its slope is between 0.2 and 1.8."""
    return x + 0.4 * np.sin(2 * x)


def signals(world: World, labels: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """(N, C) of each modality."""
    means = simplex(world.classes)[labels]
    return [alpha * means + rng.standard_normal(means.shape) for alpha in world.alpha]


def inputs_of(world: World, labels: np.ndarray, rng: np.random.Generator,
              rotations: Sequence[np.ndarray]) -> list[np.ndarray]:
    """(N, C + NOISE) of each modality. rotations: Q_m."""
    made = []
    for signal, kappa, rotation in zip(signals(world, labels, rng), world.kappa, rotations, strict=True):
        noise = rng.standard_normal((len(labels), NOISE))
        made.append(invertible(np.concatenate([kappa * signal, noise], 1) @ rotation.T).astype(np.float32))
    return made


def make_splits(world: World, seed: int) -> dict[str, tuple[list, np.ndarray]]:
    """{split: (inputs of each modality, labels)}"""
    from scipy.stats import ortho_group

    rng = np.random.default_rng([seed, world.classes])
    rotations = [ortho_group.rvs(world.classes + NOISE, random_state=rng) for _ in MODALITIES]
    splits = {}
    for name, count in CLIPS.items():
        labels = rng.permutation(np.arange(count) % world.classes)
        splits[name] = inputs_of(world, labels, rng, rotations), labels
    return splits


# ---- a run


class Row(NamedTuple):
    """A way to train: the modalities of its network, MMCosine with s = scale * s1 (None: plain), a balancing method."""

    name: str
    modalities: tuple[str, ...] = MODALITIES
    scale: float | None = None
    method: str = "none"
    fusion: str = "concat"
    more_seed: int = 0


def rows(methods: Sequence[str]) -> list[Row]:
    alone = [Row(name, (name,)) for name in MODALITIES]
    second = [Row("audio again", ("audio",), more_seed=1000)]  # the first modality is the stronger one in every world
    cosine = [Row(f"MMCosine {scale:g} s1", scale=scale) for scale in SCALES]
    balanced = [Row(name, method=name, fusion="sum" if name in ("mla", "reconboost") else "concat")
                for name in methods]
    return [Row("joint"), *alone, *second, *cosine, *balanced]


def train_row(row: Row, world: World, splits: Mapping[str, tuple], seed: int, rate: float) -> dict[str, object]:
    """Logits (M, N, C) of the test and validation clips, their mean over the training clips, features, seconds."""
    import torch

    from models import MultimodalClassifier, scale_lower_bound
    from models.balancing.learner import Learner
    from models.balancing.method import Clips

    torch.manual_seed(seed + row.more_seed)
    which = [MODALITIES.index(name) for name in row.modalities]
    tensors = {name: ([torch.from_numpy(inputs[m])[:, :, None, None] for m in which], torch.from_numpy(labels))
               for name, (inputs, labels) in splits.items()}
    s1 = scale_lower_bound(world.classes, modalities=1, tight=True)
    model = MultimodalClassifier({name: perceptron(world.classes + NOISE) for name in row.modalities}, world.classes,
                                 row.fusion, row.scale is not None, (row.scale or 1) * s1, dim=FEATURES)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=1e-4)
    batches = {name: list(zip(zip(*(x.split(BATCH) for x in inputs), strict=True), labels.split(BATCH), strict=True))
               for name, (inputs, labels) in tensors.items()}
    learner = Learner(model, optimizer, row.method, clips=Clips(batches["train"], batches["val"]))
    inputs, labels = tensors["train"]
    learner.prepare(EPOCHS)
    start = time.perf_counter()
    for epoch in range(1, EPOCHS + 1):
        for group in optimizer.param_groups:
            group["lr"] *= 0.1 if epoch == DECAY + 1 else 1
        learner.begin_epoch(epoch, len(labels) // BATCH)
        for places in torch.randperm(len(labels)).split(BATCH):
            _, loss = learner.step([x[places] for x in inputs], labels[places])
        learner.end_epoch()
    seconds = time.perf_counter() - start
    model.eval()
    with torch.no_grad():
        outputs = {name: model(*inputs) for name, (inputs, _) in tensors.items()}
    return {"logits": {name: output.modality_logits.double().numpy() for name, output in outputs.items()},
            "features": {name: output.features.double().numpy() for name, output in outputs.items()},
            "loss": float(loss.detach()), "seconds": seconds}


def perceptron(inputs: int) -> object:
    """A torch module: (B, inputs, 1, 1) -> (B, FEATURES)."""
    from torch import nn  # here, so that --dry_run need not wait for it

    return nn.Sequential(nn.Conv2d(inputs, WIDTH, 1), nn.ReLU(), nn.Conv2d(WIDTH, WIDTH, 1), nn.ReLU(),
                         nn.Conv2d(WIDTH, FEATURES, 1), nn.Flatten())


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    return float((logits.argmax(-1) == labels).mean())


def probe_accuracy(features: Mapping[str, np.ndarray], splits: Mapping[str, tuple], modality: int) -> float:
    """A linear classifier (ridge regression on one-hot labels) trained on the features of the training clips."""
    from sklearn.linear_model import RidgeClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), RidgeClassifier(10.0))
    probe.fit(features["train"][modality], splits["train"][1])
    return float(probe.score(features["test"][modality], splits["test"][1]))


def measured(row: Row, trained: Mapping[str, object], splits: Mapping[str, tuple]) -> dict[str, object]:
    """A line of the csv."""
    logits = trained["logits"]
    centred = logits["test"] - logits["train"].mean(1, keepdims=True)
    found = {"row": row.name, "val": accuracy(logits["val"].sum(0), splits["val"][1]),
             "joint": accuracy(logits["test"].sum(0), splits["test"][1]), "loss": trained["loss"],
             "seconds": round(trained["seconds"], 3)}
    for place, name in enumerate(row.modalities):
        found[name] = accuracy(centred[place], splits["test"][1])
        found[f"probe_{name}"] = probe_accuracy(trained["features"], splits, place)
    return found


def run_world(world: World, seed: int, methods: Sequence[str], path: Path) -> float:
    """Every row at every learning rate -> seconds. Writes `path`."""
    import torch

    torch.set_num_threads(1)
    from dataset.whole_files import write_csv

    start, splits, lines = time.perf_counter(), make_splits(world, seed), []
    alone: dict[str, tuple[float, dict]] = {}  # the best by validation clips, of rows with one modality
    for row in rows(methods):
        for rate in RATES:
            try:
                trained = train_row(row, world, splits, seed, rate)
                line = measured(row, trained, splits)
            except ValueError as error:  # a method with a loss that is not finite, or one that refuses
                lines.append({"row": row.name, "rate": rate, "error": str(error)[:200]})
                continue
            lines.append({**line, "rate": rate})
            if len(row.modalities) == 1 and line["val"] > alone.get(row.name, (-1.0,))[0]:
                alone[row.name] = line["val"], trained["logits"]
    for name, members in {"sum of logits": MODALITIES, "audio + audio": ("audio", "audio again")}.items():
        total = {split: sum(alone[member][1][split][0] for member in members) for split in ("val", "test")}
        lines.append({"row": name, "val": accuracy(total["val"], splits["val"][1]),
                      "joint": accuracy(total["test"], splits["test"][1])})
    known = {"world": world.name, "classes": world.classes, "alpha_ratio": world.alpha_ratio,
             "kappa_ratio": world.kappa_ratio, "seed": seed}
    known |= {f"bayes_{name}": round(value, 6) for name, value in world.bayes().items()}
    columns = dict.fromkeys(name for line in lines for name in line)
    write_csv(path, [{**known, **dict.fromkeys(columns, ""), **line} for line in lines])
    return time.perf_counter() - start


# ---- the plan


class Job(NamedTuple):
    world: World
    seed: int
    methods: tuple[str, ...]
    path: Path


def plan(output: Path, seeds: Sequence[int], methods: Sequence[str], classes: Sequence[int]) -> list[Job]:
    """The methods are tried in the worlds with the fewest classes, where runs are quickest; the rest in every world.
    Seeds outermost, so that an interrupted study has whole maps."""
    worlds = [World(count, alpha, kappa) for count in classes for alpha in ALPHA_RATIOS for kappa in KAPPA_RATIOS]
    return [Job(world, seed, tuple(methods) if world.classes == min(classes) else (),
                output / f"{world.name}-seed{seed}.csv") for seed in seeds for world in worlds]


def carry_out(jobs: Sequence[Job], workers: int) -> None:
    start = time.perf_counter()
    with ProcessPoolExecutor(workers) as pool:
        waiting = {pool.submit(run_world, *job): job for job in jobs}
        for done, future in enumerate(as_completed(waiting), 1):
            future.result()
            left = (time.perf_counter() - start) / done * (len(jobs) - done)
            print(f"[{done}/{len(jobs)}] {waiting[future].path.stem}, about {left / 60:.0f} min left", flush=True)


# ---- tables and pictures


def read_lines(output: Path) -> pandas.DataFrame:
    """Every line of the study's csv files. Raises InputError: there is none."""
    import pandas

    paths = sorted(output.glob("*-seed*.csv"))
    if not paths:
        raise InputError(f"no world has been tried in {output}: start without --report_only")
    return pandas.concat([pandas.read_csv(path) for path in paths], ignore_index=True)


def chosen_lines(lines: pandas.DataFrame) -> pandas.DataFrame:
    """Of each world, seed and row the line whose learning rate has the best validation accuracy, with `attained`
    joint and by modality."""
    lines = lines[lines.val.notna()]
    best = lines.loc[lines.groupby(["world", "seed", "row"]).val.idxmax()].copy()
    chance = 1 / best.classes
    for name in ("joint", *MODALITIES):
        best[f"attained_{name}"] = (best[name] - chance) / (best[f"bayes_{name}"] - chance)
    for name in MODALITIES:
        best[f"attained_probe_{name}"] = (best[f"probe_{name}"] - chance) / (best[f"bayes_{name}"] - chance)
    return best


def gains(best: pandas.DataFrame) -> pandas.DataFrame:
    """The same, with `gain`: attained minus what joint training attains in the same world with the same seed."""
    joint = best[best.row == "joint"].set_index(["world", "seed"]).attained_joint
    keys = best.set_index(["world", "seed"]).index
    return best.assign(gain=best.attained_joint.to_numpy() - joint.reindex(keys).to_numpy())


def rate_gain(lines: pandas.DataFrame, rate: float = 0.01) -> float:
    """What searching the learning rate gives joint training over `rate` for all worlds: mean attainment."""
    joint = lines[lines.row == "joint"]
    fixed = joint[joint.rate == rate].set_index(["world", "seed"])
    attained = (fixed.joint - 1 / fixed.classes) / (fixed.bayes_joint - 1 / fixed.classes)
    best = chosen_lines(joint).set_index(["world", "seed"]).attained_joint
    return float((best - attained).mean())


def table(best: pandas.DataFrame) -> str:
    """Markdown: for each number of classes and row what it attains, and its gain over joint training with a 95 %
    interval over the seeds, of whose means over the worlds it is made."""
    from utils.experiments.tables import markdown, mean_interval

    parts = []
    for classes, group in best.groupby("classes"):
        cells = []
        for row in [row.name for row in rows(METHODS)] + ["sum of logits", "audio + audio"]:
            one = group[group.row == row]
            if one.empty:
                continue
            by_seed = one.groupby("seed").gain.mean()
            mean, half = mean_interval(by_seed.tolist())
            values = [one[name].mean() for name in ("attained_joint", "attained_audio", "attained_visual",
                                                    "attained_probe_audio", "attained_probe_visual")]
            cells.append([row, str(len(by_seed)), *("" if math.isnan(v) else f"{100 * v:.1f}" for v in values),
                          "" if row == "joint" else f"{100 * mean:+.1f} [{100 * (mean - half):+.1f}, "
                          f"{100 * (mean + half):+.1f}]",
                          "" if row == "joint" else f"{(one.groupby('world').gain.mean() > 0).sum()} of "
                          f"{one.world.nunique()}"])
        parts.append(f"{classes} classes, {group.world.nunique()} worlds. Attainment in %:\n\n" + markdown(
            ["row", "seeds", "joint", "audio", "visual", "audio probe", "visual probe", "gain over joint training",
             "worlds with a gain"], cells))
    return "\n\n".join(parts)


def draw_map(best: pandas.DataFrame, classes: int) -> matplotlib.figure.Figure:
    """For every row a map of its gain over the two dials, points of attainment."""
    from matplotlib.figure import Figure

    group = best[(best.classes == classes) & (best.row != "joint") & ~best.row.isin([*MODALITIES, "audio again"])]
    names = [name for name in [*(row.name for row in rows(METHODS)), "sum of logits", "audio + audio"]
             if name in set(group.row)]
    columns = 6
    lines = -(-len(names) // columns)
    figure = Figure((2.15 * columns, 1.75 * lines + 0.9), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for axis in axes[len(names):]:
        axis.set_axis_off()
    for axis, name in zip(axes, names, strict=False):
        grid = 100 * group[group.row == name].pivot_table(index="alpha_ratio", columns="kappa_ratio", values="gain")
        image = axis.imshow(grid, cmap="RdBu", vmin=-15, vmax=15, aspect="auto", origin="lower")
        for (i, j), value in np.ndenumerate(grid.to_numpy()):
            axis.text(j, i, f"{value:+.0f}", ha="center", va="center", fontsize=7)
        axis.set_xticks(range(grid.shape[1]), [f"{value:g}" for value in grid.columns], fontsize=7)
        axis.set_yticks(range(grid.shape[0]), [f"{value:g}" for value in grid.index], fontsize=7)
        axis.set_title(name, fontsize=8)
    figure.supxlabel("how much faster the more informative modality is learned (kappa ratio)", fontsize=9)
    figure.supylabel("how much more informative it is (alpha ratio)", fontsize=9)
    figure.suptitle(f"gain over joint training, in points of what is attainable; {classes} classes", fontsize=10)
    figure.colorbar(image, ax=axes.tolist(), shrink=0.6)
    return figure


def draw_theory(best: pandas.DataFrame) -> matplotlib.figure.Figure:
    """Gain of MMCosine against s / s1, with the window in which the loss needs both modalities."""
    from matplotlib.figure import Figure

    from utils.experiments.tables import mean_interval

    figure = Figure((5.2, 3.4), layout="constrained")
    axis = figure.subplots()
    axis.axvspan(0.5, 1, color="0.9", label="the loss needs both modalities")
    axis.axhline(0, color="0.6", linewidth=0.8)
    for classes, group in best.groupby("classes"):
        points = []
        for scale in SCALES:
            one = group[group.row == f"MMCosine {scale:g} s1"]
            if not one.empty:
                points.append((scale, *mean_interval(one.groupby("seed").gain.mean().tolist())))
        where, means, halves = np.array(points).T
        axis.errorbar(where, 100 * means, 100 * halves, marker="o", capsize=3, label=f"{classes} classes")
    axis.set_xscale("log", base=2)
    axis.set_xticks(SCALES, [f"{scale:g}" for scale in SCALES])
    axis.set_xlabel("s / s1")
    axis.set_ylabel("gain over joint training,\npoints of what is attainable")
    axis.legend(fontsize=8)
    return figure


def write_report(output: Path) -> None:
    from dataset.whole_files import write_whole

    lines = read_lines(output)
    best = gains(chosen_lines(lines))
    write_whole(output / "dial.csv", lambda path: lines.to_csv(path, index=False))
    failed = int(lines.get("error", lines.row.where(lines.row.isna())).notna().sum())
    text = (f"{table(best)}\n\nSearching the learning rate gives joint training "
            f"{100 * rate_gain(lines):+.1f} points of "
            f"attainment over 0.01 for all worlds. {failed} of {len(lines)} runs ended with an error or a loss that "
            "is not finite.\n")
    write_whole(output / "dial.md", text)
    pictures = {f"map_C{classes}": draw_map(best, classes) for classes in sorted(best.classes.unique())}
    pictures["theory"] = draw_theory(best)
    for name, figure in pictures.items():
        for suffix in ("png", "pdf"):
            write_whole(output / f"{name}.{suffix}", lambda path, figure=figure: figure.savefig(path, dpi=150))
    print(text)


def get_args_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(description=__doc__, formatter_class=cli.DocstringHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/dial"), help="folder of the study")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="of data and networks")
    parser.add_argument("--classes", type=int, nargs="+", choices=CLASSES, default=list(CLASSES), help="numbers C")
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS), help="balancing methods")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    cli.add_boolean(parser, "--dry_run", False, "print what would run and stop")
    cli.add_boolean(parser, "--report_only", False, "make tables and pictures of what is there and stop")
    return parser


def main(argv: Sequence[str]) -> None:
    args = get_args_parser().parse_args(argv)
    jobs = plan(args.output, args.seeds, args.methods, args.classes)
    todo = [job for job in jobs if not job.path.is_file()]
    if not args.report_only:
        count = sum(len(rows(job.methods)) * len(RATES) for job in todo)
        print(f"{len(jobs)} worlds and seeds, {len(jobs) - len(todo)} done; {count} runs to do, some "
              f"{count * 1.5 / 3600 / args.workers:.1f} h at 1.5 s a run", flush=True)
        if args.dry_run:
            return
        args.output.mkdir(parents=True, exist_ok=True)
        carry_out(todo, args.workers)
    write_report(args.output)


if __name__ == "__main__":
    cli.run(main)
