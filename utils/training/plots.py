"""Pictures of a run, drawn without a display."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from scipy.stats import norm

from dataset.whole_files import write_whole
from utils.training.metrics import ErrorRates, crossing

DET_TICKS = (0.001, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
COLOURS = {"joint": "black", "audio": "tab:orange", "visual": "tab:blue"}
MORE_COLOURS = ("tab:green", "tab:red", "tab:purple", "tab:brown", "tab:pink", "tab:olive", "tab:cyan", "tab:gray")


def colours(names: Iterable[str]) -> dict[str, str]:
    """{name: its colour}: joint, audio and visual always have the same, others one by their position."""
    others = (name for name in dict.fromkeys(names) if name not in COLOURS)
    return {**COLOURS, **dict(zip(others, cycle(MORE_COLOURS), strict=False))}


def plot_curves(history: Sequence[Mapping[str, float]], split: str, shown: Mapping[str, str],
                modalities: Sequence[str], classes: int, title: str, path: Path) -> None:
    """The shown metrics, the loss, and each modality's mean true-class logit and mean class-weight norm over the epochs
    -> a PNG. history: the records of metrics.jsonl."""
    figure = Figure(figsize=(11, 7.5), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    figure.suptitle(plain(title))
    metrics, loss, logits, norms = figure.subplots(2, 2).flat
    colour = colours([*modalities, *shown])
    for what, name in shown.items():
        draw(metrics, history, f"{split}_{name}", what, colour[what])
    for part, style in (("train", "--"), (split, "-")):
        draw(loss, history, f"{part}_loss", part, "black", style)
        for name in modalities:
            draw(logits, history, f"{part}_logit_{name}", f"{name}, {part}", colour[name], style)
    for name in modalities:
        draw(norms, history, f"train_weight_norm_{name}", name, colour[name])
    measure = next(iter(shown.values()))
    metrics.yaxis.set_major_formatter(PercentFormatter(1.0))
    if measure == "accuracy":
        metrics.axhline(1 / classes, linestyle=":", color="grey", label="chance")
        metrics.set_ylim(bottom=0)
    titles = {metrics: f"{split} {measure}", loss: "loss (nats)", logits: "mean logit of the true class",
              norms: r"class weights: mean over classes of $\|W_{m,c}\|$"}
    for axes, text in titles.items():
        axes.set_title(text, fontsize=10)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    write_whole(path, lambda temporary: canvas.print_png(temporary))


def draw(axes: Axes, history: Sequence[Mapping[str, float]], metric: str, label: str, colour: str,
         style: str = "-") -> None:
    """The metric's line over the epochs; none where it was not measured: trials have no loss and no logits."""
    if metric in history[0]:
        axes.plot([record["epoch"] for record in history], [record[metric] for record in history], style, color=colour,
                  label=plain(label), marker="o", markersize=3.5, fillstyle="none" if style == "--" else "full")


def plot_det(curves: Mapping[str, ErrorRates], path: Path | None) -> Figure:
    """Detection error trade-off {name: rates}: misses over false alarms, a PNG when `path` is given.

    Both axes go by the normal quantile: normally distributed scores give a straight line. Dots mark equal error rates.
    """
    figure = Figure(figsize=(6.5, 6.7), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    low, high = norm.ppf((0.0005, 0.85))
    axes.plot((low, high), (low, high), ":", color="grey")
    colour = colours(curves)
    for name, rates in curves.items():
        y, x = (norm.ppf(rate.clip(1e-6, 1 - 1e-6)) for rate in rates)
        equal = crossing(rates)
        axes.plot(x, y, label=f"{plain(name)} (EER {equal:.2%})", color=colour[name])
        axes.plot(norm.ppf(equal), norm.ppf(equal), "o", color=colour[name])
    for axis, limit, ticks, label in ((axes.xaxis, axes.set_xlim, axes.set_xticks, "false alarms (%)"),
                                      (axes.yaxis, axes.set_ylim, axes.set_yticks, "misses (%)")):
        limit(low, high)
        ticks(norm.ppf(DET_TICKS), [f"{100 * tick:g}" for tick in DET_TICKS])
        axis.set_label_text(label)
    axes.set_title("detection error trade-off", fontsize=10)
    axes.set_aspect("equal")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center")  # below: names of files are long
    if path:
        write_whole(path, lambda temporary: canvas.print_png(temporary))
    return figure


def plain(name: str) -> str:
    """A name as text: matplotlib takes what stands between two dollars for mathematics."""
    return name.replace("$", r"\$")


def plot_classes(by_class: Sequence[Mapping], pairs: Sequence[Mapping], path: Path, shown: int = 20) -> None:
    """The accuracy of every class and modality, sorted, and the `shown` most confused pairs of classes -> a PNG.

    by_class, pairs: rows of utils/training/confusion.py.
    """
    kinds = [name.removeprefix("accuracy_") for name in by_class[0] if name.startswith("accuracy_")]
    rows = sorted((row for row in by_class if row["clips"]), key=lambda row: row[f"accuracy_{kinds[0]}"])
    pairs = [pair for pair in pairs[:shown] if pair["confused"]][::-1]
    figure = Figure(figsize=(15, 2 + 0.17 * max(len(rows), 1.6 * len(pairs))), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    accuracy, confused = figure.subplots(1, 2)
    for number, what in enumerate(kinds):
        heights = [place + 0.25 * (number - 1) for place in range(len(rows))]  # beside, not on, each other
        accuracy.plot([row[f"accuracy_{what}"] for row in rows], heights, ".", color=colours(kinds)[what], label=what)
    accuracy.set_yticks(range(len(rows)), [plain(row["class"]) for row in rows])
    accuracy.set_title("accuracy of each class", fontsize=10, loc="right")
    accuracy.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(kinds), frameon=False)
    confused.barh([plain(f"{pair['class_a']} / {pair['class_b']}") for pair in pairs],
                  [pair["confused"] / pair["clips"] for pair in pairs], height=0.5, color="gray")
    confused.set_title("most confused pairs: share of their clips taken for the other", fontsize=10)
    for axes in (accuracy, confused):
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.grid(alpha=0.3)
        axes.tick_params(axis="y", labelsize=7)
        axes.margins(y=0.01)
    write_whole(path, lambda temporary: canvas.print_png(temporary))
