"""Pictures of a run, drawn without a display."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from scipy.stats import norm

from utils.training.metrics import ErrorRates, crossing
from utils.whole_files import write_whole

DET_TICKS = (0.001, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
COLOURS = {"joint": "black", "audio": "tab:orange", "visual": "tab:blue"}


def plot_curves(history: Sequence[Mapping[str, float]], split: str, shown: Mapping[str, str],
                modalities: Sequence[str], title: str, path: Path) -> None:
    """The shown figures, the loss, and the mean class-weight norm of each modality over the epochs -> a PNG."""
    figure = Figure(figsize=(13, 4), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    figure.suptitle(title)
    figures, loss, norm = figure.subplots(1, 3)
    epochs = [record["epoch"] for record in history]
    draw = {"marker": ".", "markersize": 5}
    for what, name in shown.items():
        values = [record[f"{split}_{name}"] for record in history]
        figures.plot(epochs, values, color=COLOURS.get(what), label=what, **draw)
    for name, style in (("train", "--"), (split, "-")):
        if f"{name}_loss" not in history[0]:  # trials have no loss
            continue
        loss.plot(epochs, [record[f"{name}_loss"] for record in history], style, color="black", label=name, **draw)
    for name in modalities:
        norms = [record[f"train_weight_norm_{name}"] for record in history]
        norm.plot(epochs, norms, color=COLOURS.get(name), label=name, **draw)
    figures.yaxis.set_major_formatter(PercentFormatter(1.0))
    titles = {figures: f"{split} {next(iter(shown.values()))}", loss: "loss (nats)",
              norm: r"class weights: mean over classes of $\|W_{m,c}\|$"}
    for axes, text in titles.items():
        axes.set_title(text, fontsize=10)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        axes.legend()
    write_whole(path, lambda temporary: canvas.print_png(temporary))


def plot_det(curves: Mapping[str, ErrorRates], path: Path | None) -> Figure:
    """Detection error trade-off {name: rates}: misses over false alarms, a PNG when `path` is given.

    Both axes go by the normal quantile: normally distributed scores give a straight line. Dots mark equal error rates.
    """
    figure = Figure(figsize=(6.5, 6.7), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    low, high = norm.ppf((0.0005, 0.85))
    axes.plot((low, high), (low, high), ":", color="grey")
    for name, rates in curves.items():
        y, x = (norm.ppf(rate.clip(1e-6, 1 - 1e-6)) for rate in rates)
        equal = crossing(rates)
        line = axes.plot(x, y, label=f"{plain(name)} (EER {equal:.2%})", color=COLOURS.get(name))[0]
        axes.plot(norm.ppf(equal), norm.ppf(equal), "o", color=line.get_color())
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

    by_class, pairs: rows of utils/confusion.py.
    """
    names = [name for name in by_class[0] if name.startswith("accuracy_")]
    rows = sorted((row for row in by_class if row["clips"]), key=lambda row: row[names[0]])
    pairs = [pair for pair in pairs[:shown] if pair["confused"]][::-1]
    figure = Figure(figsize=(15, 2 + 0.17 * max(len(rows), 1.6 * len(pairs))), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    accuracy, confused = figure.subplots(1, 2)
    for number, name in enumerate(names):
        places = [place + 0.25 * (number - 1) for place in range(len(rows))]  # beside, not on, each other
        what = name.removeprefix("accuracy_")
        accuracy.plot([row[name] for row in rows], places, ".", color=COLOURS.get(what), label=what)
    accuracy.set_yticks(range(len(rows)), [plain(row["class"]) for row in rows])
    accuracy.set_title("accuracy of each class", fontsize=10, loc="right")
    accuracy.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(names), frameon=False)
    confused.barh([plain(f"{pair['class_a']} / {pair['class_b']}") for pair in pairs],
                  [pair["confused"] / pair["clips"] for pair in pairs], height=0.5, color="gray")
    confused.set_title("most confused pairs: share of their clips taken for the other", fontsize=10)
    for axes in (accuracy, confused):
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.grid(alpha=0.3)
        axes.tick_params(axis="y", labelsize=7)
        axes.margins(y=0.01)
    write_whole(path, lambda temporary: canvas.print_png(temporary))
