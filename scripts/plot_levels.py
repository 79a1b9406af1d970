"""A picture of one comparison on several data sets, such as levels of noise: accuracy against the level, by method.

    python scripts/plot_levels.py docs/results/grid_babble.csv --out docs/grid_babble.png \
        --levels digits="no babble" digits-snr5="+5 dB" digits-snr-5="-5 dB"

Left the accuracy of the prediction, then that of each modality's logits, and of linear probes of the encoders where
scripts/probe.py was run before the csv was made: means over seeds (or folds), with 95 % intervals of Student's t. A
method is drawn with the settings that it has on each data set; methods that are on one data set only are left out.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

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

from dataset.whole_files import write_whole
from utils.experiments import comparison, level_figure
from utils.experiments.run_rows import RunRow, read_csv
from utils.training.modalities import ENSEMBLE, predicts_jointly


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
    figure = level_figure.draw(curves, labels)
    figure.canvas.draw()  # the layout leaves room enough only when it is computed twice
    write_whole(args.out, figure.canvas.print_png)
    print(args.out)
    return args.out


if __name__ == "__main__":
    cli.run(main)
