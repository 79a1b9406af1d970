"""Evaluates score files against a trial list: equal error rate, minDCF, DET curve. Scores of any system will do.

    python scripts/score.py --trials data/VoxCeleb/test_pairs.csv --scores runs/NAME/test_pairs.scores.txt
    python scripts/score.py --trials vox1_o.txt --scores ours.txt theirs.txt --p_target 0.01 0.05 --det det.png

Trials   label,utt1,utt2 or label utt1 utt2, label 1 for the same identity
Scores   score utt1 utt2 (or utt1 utt2 score), a line a trial in any order, higher for the same identity

Every trial needs a score; scores of other pairs are counted and left out. Exit status 2 when something cannot be used.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils import startup

if __name__ == "__main__":
    startup.explain_import_errors()

import numpy as np

from dataset.errors import InputError, first_few
from dataset.lists import read_lines
from dataset.trials import Trials, note_of_repeated, read_trials
from utils import cli
from utils.training.metrics import equal_error_rate, error_rates, min_dcf
from utils.training.plots import plot_det

Pair = tuple[str, str]
HOW_TO_GET = "main_Vox.py writes <list>.scores.txt into a run's folder."


def get_args_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(description=__doc__, formatter_class=cli.DocstringHelpFormatter)
    parser.add_argument("--trials", type=Path, required=True, help="the trial list")
    parser.add_argument("--scores", type=Path, nargs="+", required=True, help="a score file a system")
    parser.add_argument("--p_target", type=cli.number(float, 0, 1, exclusive=True), nargs="+", default=[0.01, 0.05],
                        help="prior probabilities of a target for minDCF")
    parser.add_argument("--c_miss", type=cli.number(float, 0, exclusive=True), default=1.0, help="cost of a miss")
    parser.add_argument("--c_fa", type=cli.number(float, 0, exclusive=True), default=1.0, help="of a false alarm")
    parser.add_argument("--det", type=Path, metavar="PNG", help="draw the detection error trade-off of all systems")
    return parser


def read_scores(path: Path, trials: Trials) -> dict[Pair, float]:
    """{(utt1, utt2): score}. Raises InputError: missing, a malformed row, two different scores of a pair."""
    names = set(trials.names)
    scores: dict[Pair, float] = {}
    for number, line in read_lines(path, HOW_TO_GET):
        cells = [cell.lstrip("/") for cell in line.replace(",", " ").split()]
        if len(cells) == 3 and (names.issuperset(cells[:2]) or not is_number(cells[0])):  # utt1 utt2 score
            cells = [cells[2], *cells[:2]]
        score, pair = parse_row(cells, f"{path}, line {number}")
        if scores.setdefault(pair, score) != score:
            raise InputError(f"{path}, line {number}: {' '.join(pair)} was scored {scores[pair]} before, now {score}")
    return scores


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def parse_row(cells: list[str], where: str) -> tuple[float, Pair]:
    """`score utt1 utt2` -> (score, pair). Raises InputError: another form, or a score that is no finite number."""
    if len(cells) != 3 or not is_number(cells[0]):
        raise InputError(f"{where}: expected score utt1 utt2 but found {' '.join(cells)!r}")
    if not np.isfinite(float(cells[0])):
        raise InputError(f"{where}: the score is {cells[0]}: these are the scores of a diverged network")
    return float(cells[0]), (cells[1], cells[2])


def match(scores: dict[Pair, float], trials: Trials, path: Path) -> np.ndarray:
    """The scores in the order of the trials, (N,). Raises InputError: a trial has none."""
    pairs = [(trials.names[a], trials.names[b]) for a, b in trials.pairs.tolist()]
    found = [scores.get(pair, scores.get(pair[::-1])) for pair in pairs]  # a score holds for either order
    missing = [" ".join(pair) for pair, score in zip(pairs, found, strict=True) if score is None]
    if missing:
        raise InputError(f"{path} lacks {len(missing)} of {len(pairs)} trials: {first_few(missing, 3)}. Score them "
                         "too, or give the list that was scored")
    others = len(scores.keys() - {*pairs, *(pair[::-1] for pair in pairs)})
    if others:
        print(f"note: {path} has {others} scores of pairs that are no trials, left out")
    return np.array(found)


def main(argv: list[str]) -> dict[str, dict[str, float]]:
    """{score file: {eer, min_dcf_<p>}}, fractions, printed as a table. Raises InputError."""
    args = get_args_parser().parse_args(argv)
    trials = read_trials(args.trials, "Give the trial list with --trials.")
    print(f"{args.trials}: {len(trials.labels):,} trials, {trials.labels.sum():,} targets{note_of_repeated(trials)}")
    results, curves = {}, {}
    for path in args.scores:
        scores = match(read_scores(path, trials), trials, path)
        costs = {f"min_dcf_{p:g}": min_dcf(scores, trials.labels, p, args.c_miss, args.c_fa) for p in args.p_target}
        results[str(path)] = {"eer": equal_error_rate(scores, trials.labels), **costs}
        curves[str(path)] = error_rates(scores, trials.labels)
        print(f"{path}: EER {100 * results[str(path)]['eer']:.4f} %, "
              + ", ".join(f"{name} {cost:.5f}" for name, cost in costs.items()))
    if args.det:
        plot_det(curves, args.det)
        print(f"curves: {args.det}")
    return results


if __name__ == "__main__":
    cli.run(main)
