"""Accuracy against the level of a difficulty, one curve per method. Nothing here reads files."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from utils.experiments.figures import RUN_COLOURS, common_legend, panels
from utils.experiments.run_rows import RunRow
from utils.experiments.tables import mean_interval
from utils.training.modalities import predicts_jointly
from utils.training.plots import plain

SPREAD = 0.3  # of the distance between two levels: over so much of it the curves' points are set side by side
Curves = Mapping[str, Sequence[Sequence[RunRow]]]  # {method: its runs at each level}
Metric = Callable[[RunRow], float | None]


def draw(curves: Curves, labels: Sequence[str]) -> Figure:
    """One panel for the prediction and one for each modality. labels: of the levels."""
    modalities = list(dict.fromkeys(name for levels in curves.values() for runs in levels for run in runs
                                    for name in run.modalities))
    figure, axes = panels(["prediction", *(f"{name}: its logits" for name in modalities)],
                          "accuracy on the test clips", width=4.4, share=False)
    colours = dict(zip(curves, RUN_COLOURS * len(curves), strict=False))
    draw_panel(axes[0, 0], predictions(curves), colours, lambda run: run.result["accuracy"], "o-")
    for one, name in zip(axes[0, 1:], modalities, strict=True):
        draw_panel(one, curves, colours, lambda run, name=name: by_logits(run, name), "o-")
        draw_panel(one, curves, colours, lambda run, name=name: run.result.get(f"probe_{name}"), "^:")
        if any(f"probe_{name}" in run.result for levels in curves.values() for runs in levels for run in runs):
            one.set_title(f"{name}: its logits (dots), probe of its encoder (triangles)", fontsize=10)
    for one in axes[0]:
        one.set_xticks(range(len(labels)), [plain(label) for label in labels])
        one.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        one.grid(alpha=0.3)
    axes[0, 0].set_ylabel("top-1 accuracy, mean and 95 % interval")
    for method, colour in colours.items():  # for the legend: not every method is in the first panel
        axes[0, 0].plot([], [], "o-", markersize=4, linewidth=1, color=colour, label=plain(method))
    common_legend(figure, axes[0, 0], columns=3)
    return figure


def predictions(curves: Curves) -> Curves:
    """But for encoders alone that are below another one throughout, and would only squeeze the others together."""
    alone = {method: [mean_interval([run.result["accuracy"] for run in runs])[0] if runs else 0.0 for runs in levels]
             for method, levels in curves.items()
             if not any(predicts_jointly(run.settings["modality"]) for runs in levels for run in runs)}
    weaker = {method for method, mine in alone.items() for theirs in alone.values()
              if all(a < b for a, b in zip(mine, theirs, strict=True) if a)}
    return {method: levels for method, levels in curves.items() if method not in weaker}


def by_logits(run: RunRow, modality: str) -> float | None:
    """Of this modality's logits; of an encoder alone, its accuracy, and None for another modality's."""
    if predicts_jointly(run.settings["modality"]):
        return run.result.get(f"accuracy_{modality}")
    return run.result["accuracy"] if run.settings["modality"] == modality else None


def draw_panel(axes: Axes, curves: Curves, colours: Mapping[str, str], metric: Metric, style: str) -> None:
    for number, (method, levels) in enumerate(curves.items()):
        found = [[value for run in runs if (value := metric(run)) is not None] for runs in levels]
        if any(found):
            mean, half = np.array([mean_interval(values) if values else (np.nan, np.nan) for values in found]).T
            side = SPREAD * ((number + 0.5) / len(curves) - 0.5)
            axes.errorbar(np.arange(len(found)) + side, mean, half, fmt=style, markersize=4, linewidth=1, capsize=2,
                          color=colours[method])  # a level without runs interrupts the line
