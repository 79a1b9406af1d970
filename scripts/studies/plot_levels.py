"""A picture of one comparison on several data sets, such as levels of noise: accuracy against the level, by method.

    python scripts/studies/plot_levels.py docs/results/grid_babble.csv --out docs/grid_babble.png \
        --levels digits="no babble" digits-snr5="+5 dB" digits-snr-5="-5 dB"

Left the accuracy of the prediction, then that of each modality's logits, and of linear probes of the encoders where
scripts/probe.py was run before the csv was made: means over seeds (or folds), with 95 % intervals of Student's t. A
method is drawn with the settings that it has on each data set; methods that are on one data set only are left out.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from utils import startup

if __name__ == "__main__":
    startup.explain_import_errors()

from dataset.errors import InputError
from utils import cli


def level(text: str) -> tuple[str, str]:
    """`digits-snr5=+5 dB` -> ("digits-snr5", "+5 dB")"""
    name, _, label = text.partition("=")
    if not name:
        raise argparse.ArgumentTypeError(f"{text!r} names no data set: expected NAME=LABEL")
    return name, label or name


def get_args_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(description=__doc__, formatter_class=cli.DocstringHelpFormatter)
    parser.add_argument("csv", type=Path, help="the runs.csv of a sweep")
    parser.add_argument("--levels", type=level, nargs="+", required=True, metavar="DATASET=LABEL",
                        help="the data sets from left to right, and what stands below them")
    parser.add_argument("--out", type=Path, default=Path("levels.png"), metavar="FILE", help="the picture")
    return parser


if __name__ == "__main__":
    get_args_parser().parse_args()  # --help is answered before the slow imports below

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from dataset.whole_files import write_whole
from utils.experiments import comparison
from utils.experiments.figures import RUN_COLOURS, common_legend, panels
from utils.experiments.run_rows import RunRow, read_csv
from utils.experiments.tables import mean_interval
from utils.training.modalities import ENSEMBLE, predicts_jointly
from utils.training.plots import plain

SPREAD = 0.3  # of the distance between two levels: over so much of it the curves' points are set side by side
Curves = Mapping[str, Sequence[Sequence[RunRow]]]  # {method: its runs at each level}
Metric = Callable[[RunRow], float | None]


def method_of(settings: Mapping[str, object]) -> str:
    """What a row is called whatever its learning rate and its method's own parameters, which may have been searched."""
    if settings["modality"] == ENSEMBLE:
        return "ensemble of the encoders alone"
    if not predicts_jointly(settings["modality"]):
        return f"{settings['modality']} encoder alone"
    pretrained = any(settings.get(name) for name in settings if name.endswith("_pretrain"))
    start = "frozen" if settings.get("freeze_encoders") else "fine-tuned"
    parts = [["joint training", "MMCosine"][bool(settings["mmcosine"])],
             settings["modulation"] if settings["modulation"] != "none" else "",
             settings["fusion_method"] if settings["fusion_method"] != "concat" else "",
             f"encoders alone, then {start}" if pretrained else ""]
    return " + ".join(filter(None, parts)).removeprefix("joint training + ")


def curves_of(runs: Sequence[RunRow], levels: Sequence[str]) -> dict[str, list[list[RunRow]]]:
    """{method: its runs at each level} of the methods that are on two levels or more. Raises InputError: a method with
    several settings on a data set."""
    curves = {}
    for run in runs:
        if run.settings["dataset"] in levels:
            at = curves.setdefault(method_of(run.settings), [[] for _ in levels])
            at[levels.index(run.settings["dataset"])].append(run)
    for method, every in curves.items():
        for one in every:
            if len(comparison.make_groups(one, comparison.varying(one))) > 1:
                raise InputError(f"{method} has several settings on {one[0].settings['dataset']}: keep the runs of one")
    return {method: every for method, every in curves.items() if sum(map(bool, every)) > 1}


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


def main(argv: list[str]) -> Path:
    """The picture that was written. Raises InputError."""
    args = get_args_parser().parse_args(argv)
    names, labels = zip(*args.levels, strict=True)
    if len(set(names)) < len(names):
        raise InputError(f"--levels names a data set twice: {', '.join(names)}")
    runs, _ = read_csv(args.csv)
    if missing := [name for name in names if name not in {run.settings["dataset"] for run in runs}]:
        raise InputError(f"{args.csv} has no runs on {', '.join(missing)}: its data sets are "
                         f"{', '.join(dict.fromkeys(str(run.settings['dataset']) for run in runs))}")
    curves = curves_of(runs, names)
    if not curves:
        raise InputError(f"no method of {args.csv} is on two of the data sets {', '.join(names)}: name others with "
                         "--levels")
    figure = draw(curves, labels)
    figure.canvas.draw()  # the layout leaves room enough only when it is computed twice
    write_whole(args.out, figure.canvas.print_png)
    print(args.out)
    return args.out


if __name__ == "__main__":
    cli.run(main)
