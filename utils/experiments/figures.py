"""Pictures that compare runs: one panel per run, on the same axes and colour scales. Nothing here reads files.

Every function takes {label of a run: its data} and returns a Figure. M modalities, C classes, N clips.
"""

from collections.abc import Iterable, Mapping, Sequence
from textwrap import fill

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator, PercentFormatter

from utils.training.plots import colours, plain

CELLS_WITH_NUMBERS = 12  # classes up to which a confusion matrix has numbers in its cells
ANGLE_BIN = 2.5  # degrees
PARTS_OF_A_RUN = 40  # the running mean of a curve is over one of them
LONGEST_NAME = 24  # characters of a class's name
CLASS_HEIGHT = 0.17  # inches per class, for names of 7 points
RUN_COLOURS = ("tab:green", "tab:purple", "tab:red", "tab:brown", "tab:pink", "tab:olive", "tab:cyan", "tab:gray")


def panels(labels: Sequence[str], title: str, *, rows: int = 1, width: float = 4.6, height: float = 3.6,
           share: bool = True) -> tuple[Figure, np.ndarray]:
    """A figure and its axes (rows, runs), titled with the runs' labels; `share`: the same x and y axes."""
    figure = Figure(figsize=(max(width * len(labels), 6) + 0.6, height * rows + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(plain(title), fontsize=11)
    axes = figure.subplots(rows, len(labels), sharex=share, sharey=share, squeeze=False)
    for one, label in zip(axes[0], labels, strict=True):
        one.set_title(plain(fill(label, round(9 * width))), fontsize=10)
    return figure, axes


def common_legend(figure: Figure, axes: Axes, columns: int, **how: object) -> None:
    """The legend of one panel, which holds for all, below them: in at most so many columns, as many as there is room
    for. The figure grows by the height of a legend of more than two rows."""
    handles, names = axes.get_legend_handles_labels()
    renderer = figure.canvas.get_renderer()
    for number in range(min(columns, len(names)), 0, -1):
        legend = figure.legend(handles, names, loc="outside lower center", ncols=number, frameon=False, **how)
        box = legend.get_window_extent(renderer)
        if number == 1 or box.width < figure.bbox.width:
            break
        legend.remove()
    figure.set_figheight(figure.get_figheight() + max(0, box.height / figure.dpi - 0.6))


def scale_top(accuracies: Iterable[float]) -> float:
    """Where an axis of accuracies ends: at the next multiple of 10 %."""
    return max(1, np.ceil(10 * max(accuracies) - 1e-9)) / 10


def whole_numbers(axes: Axes, label: str) -> None:
    axes.set_xlabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def accuracy(runs: Mapping[str, Mapping[str, np.ndarray]], title: str, chance: float) -> Figure:
    """runs: {label: {"joint" and modalities: (epochs,) fractions}}. chance: 1/C."""
    figure, axes = panels(list(runs), f"{title}\naccuracy over the epochs")
    top = scale_top([chance, *(values.max() for curves in runs.values() for values in curves.values())])
    for one, curves in zip(axes[0], runs.values(), strict=True):
        colour = colours(curves)
        for name, values in curves.items():
            one.plot(np.arange(1, len(values) + 1), values, ".-", markersize=4, color=colour[name], label=name)
        one.axhline(chance, linestyle=":", color="grey", label="chance")
        whole_numbers(one, "epoch")
        one.set_ylim(0, 1.02 * top)
        one.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        one.grid(alpha=0.3)
    axes[0, 0].set_ylabel("top-1 accuracy on held-out clips")
    common_legend(figure, axes[0, 0], columns=5)
    return figure


def logits(runs: Mapping[str, Mapping[str, np.ndarray]], title: str) -> Figure:
    """runs: {label: {modality: (iterations, 2) number and mean logit of the true class}}; thick: running mean, where a
    run has iterations enough."""
    figure, axes = panels(list(runs), f"{title}\nmodality logits of the true class in training")
    smoothed = False
    for one, curves in zip(axes[0], runs.values(), strict=True):
        colour = colours(curves)
        for name, curve in curves.items():
            steps, values = curve.T
            window = max(1, len(values) // PARTS_OF_A_RUN)
            smoothed |= window > 1
            smooth = np.convolve(values, np.ones(window) / window, mode="valid")
            one.plot(steps, values, color=colour[name], alpha=0.25, linewidth=0.8)
            one.plot(steps[window - 1:], smooth, color=colour[name], label=name, marker="" if window > 1 else ".")
        whole_numbers(one, "iteration")
        one.grid(alpha=0.3)
    axes[0, 0].set_ylabel("logit of the true class")
    thick = f"; thick: running mean over 1/{PARTS_OF_A_RUN} of the run" if smoothed else ""
    common_legend(figure, axes[0, 0], columns=5, title=f"mean over the clips of a batch{thick}")
    return figure


def weight_norms(runs: Mapping[str, np.ndarray], title: str, modalities: Sequence[str],
                 classes: Sequence[str]) -> Figure:
    """runs: {label: (epochs, M, C) ||W_m,c||} -> heat maps, one row per modality, on one colour scale."""
    low, high = min(norms.min() for norms in runs.values()), max(norms.max() for norms in runs.values())
    figure, axes = panels(list(runs), f"{title}\nnorm of the class weights of each modality", rows=len(modalities),
                          height=max(2.0, CLASS_HEIGHT * len(classes)))
    for index, (row, name) in enumerate(zip(axes, modalities, strict=True)):
        for one, norms in zip(row, runs.values(), strict=True):
            image = one.imshow(norms[:, index].T, aspect="auto", interpolation="nearest", vmin=low, vmax=high,
                               cmap="viridis", extent=(0.5, len(norms) + 0.5, len(classes) - 0.5, -0.5))
        row[0].set_ylabel(name)
        name_classes(row[0], "y", classes)
    for one in axes[-1]:
        whole_numbers(one, "epoch")
    axes[0, 0].set_xlim(0.5, max(map(len, runs.values())) + 0.5)  # else the last image sets it for all
    colour_scale(figure, image, axes, r"$\|W_{m,c}\|$")
    return figure


def balance(runs: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]], title: str) -> Figure:
    """runs: {label: {quantity: {modality, or "" for one value: (n, 2) epoch and value}}} -> a row of panels for each
    quantity, on one scale in a row."""
    quantities = list(dict.fromkeys(key for curves in runs.values() for key in curves))
    figure, axes = panels(list(runs), f"{title}\nbalancing over the epochs", rows=len(quantities), height=2.2,
                          share=False)
    modalities = dict.fromkeys(name for curves in runs.values() for each in curves.values() for name in each if name)
    colour = {**colours(modalities), "": "tab:gray"}
    for row, quantity in zip(axes, quantities, strict=True):
        for one, curves in zip(row, runs.values(), strict=True):
            one.sharey(row[0])
            one.sharex(axes[0, 0])
            for name, points in curves.get(quantity, {}).items():
                one.plot(*points.T, ".-", markersize=4, color=colour[name], label=name or "all")
            if not curves.get(quantity):
                one.text(0.5, 0.5, "not recorded", transform=one.transAxes, ha="center", va="center", color="gray")
            one.grid(alpha=0.3)
        row[0].set_ylabel(quantity.replace("_", " ", 1))
    for one in axes[-1]:
        whole_numbers(one, "epoch")
    drawn = {label: handle for one in axes.flat for handle, label in zip(*one.get_legend_handles_labels(), strict=True)}
    figure.legend(drawn.values(), drawn.keys(), loc="outside lower center", ncols=5, frameon=False)
    return figure


def name_classes(axes: Axes, axis: str, classes: Sequence[str]) -> None:
    """Ticks with the names of the classes."""
    set_ticks = axes.set_yticks if axis == "y" else axes.set_xticks
    set_ticks(range(len(classes)), [short(name) for name in classes], fontsize=7, rotation=0 if axis == "y" else 90)


def short(name: str) -> str:
    """The name of a class in a picture; matplotlib would leave one that begins with _ out of a legend."""
    cut = name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME - 1]}…"
    return plain(f" {cut}" if cut.startswith("_") else cut)


def colour_scale(figure: Figure, image: AxesImage, axes: np.ndarray, label: str, **how: object) -> None:
    """One for all panels, a fifth of an inch wide whatever their height."""
    figure.colorbar(image, ax=axes, label=label, aspect=5 * figure.get_figheight(), **how)


def angle_histograms(runs: Mapping[str, Mapping[str, np.ndarray]], title: str) -> Figure:
    """runs: {label: {modality: (N,) degrees between a clip's feature and its class weight}}."""
    everything = np.concatenate([values for one in runs.values() for values in one.values()])
    bins = np.arange(np.floor(everything.min() / ANGLE_BIN), np.floor(everything.max() / ANGLE_BIN) + 2) * ANGLE_BIN
    figure, axes = panels(list(runs), f"{title}\nangle between the test clips' features and their class weight")
    for one, by_modality in zip(axes[0], runs.values(), strict=True):
        colour = colours(by_modality)
        for name, values in by_modality.items():
            share = np.full(len(values), 1 / len(values))
            one.hist(values, bins, weights=share, alpha=0.5, color=colour[name],
                     label=f"{name}, mean {values.mean():.1f}°")
            one.axvline(values.mean(), linestyle="--", color=colour[name])
        one.set_xlabel("angle (degrees)")
        one.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        one.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2, frameon=False, fontsize=9)
    axes[0, 0].set_ylabel(f"share of the test clips per {ANGLE_BIN}°")
    return figure


def embedding(runs: Mapping[str, tuple[np.ndarray, np.ndarray]], title: str, classes: Sequence[str]) -> Figure:
    """runs: {label: (points (N, 2), labels (N,))} -> scatter plots, one colour per class, named up to 20 classes."""
    figure, axes = panels(list(runs), f"{title}\nt-SNE of the test clips' features as the head takes them",
                           height=4.4, share=False)
    table = colormaps["tab10" if len(classes) <= 10 else "tab20" if len(classes) <= 20 else "nipy_spectral"]
    colour = [table(c if len(classes) <= 20 else c / (len(classes) - 1)) for c in range(len(classes))]
    for one, (points, labels) in zip(axes[0], runs.values(), strict=True):
        for c, name in enumerate(classes):
            one.scatter(*points[labels == c].T, s=14, color=colour[c], label=short(name))
        one.set(xticks=[], yticks=[], xlabel="t-SNE 1 (arbitrary units)")
    axes[0, 0].set_ylabel("t-SNE 2 (arbitrary units)")
    if len(classes) <= 20:
        common_legend(figure, axes[0, 0], columns=len(classes))
    return figure


def confusion(runs: Mapping[str, np.ndarray], title: str, classes: Sequence[str]) -> Figure:
    """runs: {label: (C, C) share of the row's clips taken for the column's class}."""
    names = 0.08 * max(map(len, map(short, classes)))  # inches
    side = max(3.6, CLASS_HEIGHT * len(classes) + 1 + names)
    figure, axes = panels(list(runs), f"{title}\nconfusions, test clips", width=side, height=side)
    for one, shares in zip(axes[0], runs.values(), strict=True):
        image = one.imshow(shares, vmin=0, vmax=1, cmap="Blues")
        name_classes(one, "x", classes)
        one.set_xlabel("taken for")
        for row, column in np.ndindex(shares.shape) if len(classes) <= CELLS_WITH_NUMBERS else ():
            one.text(column, row, f"{100 * shares[row, column]:.0f}", ha="center", va="center", fontsize=7,
                     color="white" if shares[row, column] > 0.5 else "black")
    name_classes(axes[0, 0], "y", classes)
    axes[0, 0].set_ylabel("true class")
    colour_scale(figure, image, axes, "share of the true class's clips", format=PercentFormatter(1.0))
    return figure


def gap(curves: Mapping[str, np.ndarray], bars: Mapping[str, Mapping[str, float]], title: str,
        modalities: Sequence[str]) -> Figure:
    """How far the first modality is ahead of the second.

    curves: {label of a run: (epochs,) difference of accuracies}. bars: {what is measured: {modality: accuracy}}.
    """
    figure, axes = panels(["over the epochs, by modality logits", "accuracies at the best epoch"],
                          f"{title}\nmodality gap: {modalities[0]} minus {modalities[1]} accuracy",
                          height=max(3.6, 0.6 * len(bars)), share=False)
    over_epochs, at_best = axes[0]
    for colour, (label, values) in zip(RUN_COLOURS * len(curves), curves.items(), strict=False):
        over_epochs.plot(np.arange(1, len(values) + 1), 100 * values, ".-", markersize=4, color=colour,
                         label=plain(label))
    over_epochs.axhline(0, color="grey", linewidth=0.8)
    whole_numbers(over_epochs, "epoch")
    over_epochs.set_ylabel("gap (percentage points)")
    over_epochs.grid(alpha=0.3)
    if len(curves) > 1:
        over_epochs.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), frameon=False, fontsize=9)
    draw_bars(at_best, bars, modalities)
    return figure


def draw_bars(axes: Axes, bars: Mapping[str, Mapping[str, float]], modalities: Sequence[str]) -> None:
    """Horizontal, because names of runs are long; the gap in points is written behind each pair."""
    rows, colour = np.arange(len(bars)), colours(modalities)
    top = scale_top(values[name] for values in bars.values() for name in modalities)
    for number, name in enumerate(modalities):
        accuracies = [values[name] for values in bars.values()]
        axes.barh(rows + 0.38 * (number - 0.5), accuracies, 0.36, color=colour[name], label=name)
    for index, values in enumerate(bars.values()):
        first, second = (values[name] for name in modalities)
        axes.text(max(first, second) + 0.02 * top, index, f"{100 * (first - second):+.1f}", va="center", fontsize=9)
    axes.set_yticks(rows, [plain(fill(name, 28)) for name in bars], fontsize=8)
    ticks = MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(0, top)
    axes.set(xlim=(0, 1.2 * top), ylim=(len(bars) - 0.4, -0.6), xticks=ticks[ticks < top + 0.01])
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel("top-1 accuracy; behind the bars: gap (points)")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2, frameon=False, fontsize=9)
