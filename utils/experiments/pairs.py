"""Whether two videos show one person, by a model of main_Vox.py, and how often such a decision was wrong on its trials.

N trials. The score of a pair is that of main_Vox.py: the cosine of two embeddings, higher for the same identity.
"""

import tempfile
from argparse import Namespace
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import norm

from dataset.errors import InputError, first_few, readable
from dataset.lists import read_text
from dataset.preparation.faces import Detector
from dataset.preparation.for_prediction import voice_and_faces
from dataset.trials import Trials, identity_of
from dataset.whole_files import read_json
from utils.experiments.saved_model import SavedModel
from utils.training.loading import Loaders
from utils.training.metrics import equal_error_rate, error_rates
from utils.training.plots import plain, plot_det
from utils.training.verification import TrialSet, Verification, VerificationData

SAME_RATE = 1e-4  # that an equal error rate may differ by, as scores are written with nine digits


class ScoredTrials(NamedTuple):
    """The trials that the model was evaluated on. scores (N,), labels (N,): True for the same identity."""

    name: str
    scores: np.ndarray
    labels: np.ndarray

    def rates_at(self, threshold: float) -> tuple[float, float]:
        """(false acceptance, miss) if pairs of this score or more are accepted: parts of non-targets and targets."""
        accepted = self.scores >= threshold
        return float(accepted[~self.labels].mean()), float((~accepted[self.labels]).mean())

    @property
    def equal_error_rate(self) -> float:
        return equal_error_rate(self.scores, self.labels)


class Pair(NamedTuple):
    """scores: {"joint" and each modality: cosine}; of one modality only its own."""

    first: Path
    second: Path
    scores: Mapping[str, float]

    @property
    def score(self) -> float:
        return next(iter(self.scores.values()))

    def row(self, trials: ScoredTrials | None) -> dict[str, object]:
        """For a csv or JSON file; the rates are empty without trials."""
        false_alarm, miss = trials.rates_at(self.score) if trials else (None, None)
        return {"first": readable(self.first), "second": readable(self.second),
                **{f"{name}_score": round(score, 6) for name, score in self.scores.items()},
                "trials": trials.name if trials else None, "false_acceptance": false_alarm, "miss": miss}


def compare(saved: SavedModel, videos: Sequence[Path], detector: Detector | None,
            fps: float) -> tuple[list[Pair], dict[Path, str]]:
    """(all pairs of the videos, {video: why it cannot be used}), prepared as scripts/prepare_voxceleb.py does."""
    utterances, used, problems = [], [], {}
    with tempfile.TemporaryDirectory() as folder:
        for video in videos:
            try:
                utterances.append(voice_and_faces(video, Path(folder, "test"), len(used), detector, fps))
                used.append(video)
            except InputError as error:
                problems[video] = str(error)
        pairs = list(combinations(range(len(used)), 2))
        if not pairs:
            return [], problems
        trials = Trials([one.wav for one in utterances], np.array(pairs), np.zeros(len(pairs), bool))
        args = Namespace(**{**vars(saved.args), "data_root": Path(folder)})
        dataset = saved.script.make_dataset(args, "test", utterances, train=False)
        scores = score(saved, TrialSet({"pairs": trials}, dataset))
    return [Pair(used[a], used[b], {name: float(values[place]) for name, values in scores.items()})
            for place, (a, b) in enumerate(pairs)], problems


def score(saved: SavedModel, trials: TrialSet) -> Mapping[str, np.ndarray]:
    """As an evaluation scores its trials."""
    data = VerificationData((), None, None, trials, {})
    loaders = Loaders(1, 0, 0, saved.compute.device)
    return Verification(data, saved.model, saved.compute, loaders, saved.args.score, None).score(trials)["pairs"]


def read_scored_trials(run: Path) -> ScoredTrials:
    """What the run's folder holds of its first trial list. Who is who is known from the names of the utterances,
    <identity>/...; if that gives another equal error rate than the run has, its list says otherwise.

    Raises InputError: no scores, damaged ones, or their labels are not known.
    """
    if not (run / "result.json").is_file():
        raise InputError(f"{run} holds no scores of trials: it is an export, or not finished. Name a finished run")
    result = read_json(run / "result.json")
    name = next(iter(result["trials"]))
    path = run / f"{name}.scores.txt"
    if not path.is_file():
        raise InputError(f"{run} holds no {path.name}, the scores of its trials: write it with --ckpt_path "
                         f"{run / 'best.pt'} --scores_path {run}")
    rows = [line.split() for line in read_text(path).splitlines()]
    try:
        scores = np.array([float(value) for value, _, _ in rows])
    except ValueError:
        raise InputError(f"{path} is damaged: a line is not score utt1 utt2. Write it again with --ckpt_path") from None
    unknown = [name for row in rows for name in row[1:] if not identity_of(name)]
    if unknown:
        raise InputError(f"{path} does not say who is who: {first_few(unknown, 1)} is in no identity's folder")
    trials = ScoredTrials(name, scores, np.array([identity_of(a) == identity_of(b) for _, a, b in rows]))
    if not 0 < trials.labels.sum() < len(rows) or abs(trials.equal_error_rate - result["eer"]) > SAME_RATE:
        raise InputError(f"{path}: by the folders of its utterances the equal error rate is another than the run's "
                         f"{result['eer']:.2%}: the trial list has other labels")
    return trials


def draw_pair(pair: Pair, trials: ScoredTrials) -> Figure:
    """The detection error trade-off of the run's trials, with the point at which this pair would just be accepted."""
    figure = plot_det({f"trials {trials.name}": error_rates(trials.scores, trials.labels)}, None)
    axes, rates = figure.get_axes()[0], trials.rates_at(pair.score)
    place = [np.clip(norm.ppf(np.clip(rate, 1e-6, 1 - 1e-6)), *limits)
             for rate, limits in zip(rates, (axes.get_xlim(), axes.get_ylim()), strict=True)]
    axes.plot(*place, "*", markersize=18, color="tab:red", markeredgecolor="white", clip_on=False, zorder=5)
    axes.set_title(plain(f"{shown(pair.first)} and {shown(pair.second)}: score {pair.score:.3f}\n"
                         f"threshold there: {rates[0]:.2%} false acceptance, {rates[1]:.2%} misses"), fontsize=10)
    return figure


def shown(video: Path, longest: int = 30) -> str:
    name = readable(video.name)
    return name if len(name) <= longest else f"{name[:longest - 1]}…"
