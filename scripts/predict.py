"""Asks a trained model about videos: the most probable classes, and what each modality says.

    python scripts/predict.py runs/NAME video.mp4 other.mp4
    python scripts/predict.py runs/NAME my_videos --out answers             # a folder; tables, and one picture per clip
    python scripts/predict.py runs/NAME talk.mp4 --every 1 --length 3 --out answers     # a long video, window by window
    python scripts/predict.py runs/VOX a.mp4 b.mp4 --detector mtcnn      # a run of main_Vox.py: is it one person?

RUN is the folder of a run, or what scripts/export.py made of one; its data is not needed. Videos are files, folders of
them, or a csv with a column path (and start, end in seconds). They are prepared as the training data was: the same
rates, frames, sizes and front ends. Runs of main_Vox.py score each pair of the videos, and say how often the run's
trials would be decided wrongly with this score as the threshold.

Writes   <out>/predictions.csv, predictions.json    one row per clip: the five best classes of the joint logits and each
                                                    modality with probabilities; what each modality contributes to
                                                    the winning logit, and to its lead over the second class
                                                    (the contributions add up to it)
         <out>/<video>.png                          frames, spectrogram, probabilities; with --every a time line

Exit status: 0 if every video could be read, 2 otherwise (the others are answered).
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils import startup

if __name__ == "__main__":
    startup.explain_import_errors()

from dataset.errors import InputError, counted, readable
from dataset.names import VIDEOS, cut_to, first_suffixes, is_named, on_disk
from dataset.preparation.clips import walk
from dataset.preparation.faces import DETECTORS
from dataset.preparation.reader import print_notes, read_length
from dataset.preparation.videos import from_list, tell_left_out
from dataset.whole_files import write_csv, write_whole
from utils import cli
from utils.experiments import pairs, saved_model
from utils.experiments.prediction import JOINT, Clip, Prediction, predict, windows
from utils.experiments.prediction_figures import draw_clip, draw_time_line, write_figure
from utils.training.precision import PRECISIONS

LONGEST_STEM = 100  # bytes of a video's name in its picture's


def get_args_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(description=__doc__, formatter_class=cli.DocstringHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run, or of an export")
    parser.add_argument("videos", type=Path, nargs="+", metavar="VIDEO", help="video, folder of videos, or csv")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for tables and pictures; without it none")
    parser.add_argument("--every", type=cli.number(float, 0.01), help="seconds between two windows over a long video")
    parser.add_argument("--length", type=cli.number(float, 0.1), default=3.0, help="seconds of a window")
    parser.add_argument("--detector", choices=DETECTORS, help="of faces, as the data was prepared; default: none")
    parser.add_argument("--fps", type=cli.number(float, 0, 1000, exclusive=True), help="faces a second; default: 2")
    parser.add_argument("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda or cuda:<index>")
    parser.add_argument("--amp", choices=["auto", *PRECISIONS], help="precision; default: that of the run")
    return parser


def find_clips(paths: Sequence[Path]) -> tuple[list[Clip], dict[str, str]]:
    """(the clips that are named, {video: why it cannot be used}). Raises InputError: a list that cannot be read."""
    clips, problems = [], {}
    for path in paths:
        if path.is_dir():
            files = [Path(place, file) for place, names in walk(path) for file in names]
            clips += [Clip(file) for file in files if is_named(file.name, VIDEOS)]
            others = [file.relative_to(path) for file in files if not is_named(file.name, VIDEOS)]
            tell_left_out(others, "no videos by their names")
        elif path.suffix.lower() == ".csv":
            for source in from_list(path, path.parent, labelled=False):
                if source.video is None:
                    problems[source.name] = f"{source.looked_for} is not there (listed in {path})"
                else:
                    clips.append(Clip(source.video, source.start, source.end))
        else:
            clips.append(Clip(on_disk(path)))
    if not clips and not problems:
        raise InputError(f"no video in {', '.join(map(str, paths))} ({first_suffixes(VIDEOS)})")
    return clips, problems


def parts_of(clip: Clip, every: float | None, length: float) -> list[Clip]:
    """The clip itself, or windows over it. Raises InputError: it cannot be read."""
    if every is None:
        return [clip]
    end = read_length(clip.video) if clip.end is None else clip.end
    return [Clip(clip.video, clip.start + first, clip.start + last)
            for first, last in windows(end - clip.start, every, length)]


def show(found: Prediction) -> None:
    end = "the end" if found.clip.end is None else f"{found.clip.end:g} s"
    part = "" if found.clip.end is None and not found.clip.start else f", {found.clip.start:g} s to {end}"
    print(f"\n{readable(found.clip.video)}{part}")
    for of in found.logits if len(found.logits) > 2 else [JOINT]:
        best = ", ".join(f"{name} {probability:.1%}" for name, probability in found.top(of))
        print(f"  {of:10} {best}")
    shares = ", ".join(f"{name} {value:+.2f}" for name, value in found.contributions().items())
    print(f"  the winning logit {found.logits[JOINT].max():.2f} is the sum of {shares}")
    leads = found.leads()
    if leads and len(leads) > 2:
        second, lead = found.top(JOINT, 2)[1][0], leads.pop(JOINT)
        shares = ", ".join(f"{name} {value:+.2f}" for name, value in leads.items())
        print(f"  it is {lead:.2f} above that of {second}: {shares}", flush=True)


def picture_path(out: Path, clip: Clip, taken: set[str]) -> Path:
    """A name of its own for each clip of each video."""
    part = f"_{clip.start:g}_{clip.end:g}" if clip.end is not None else ""
    stem = name = f"{cut_to(readable(clip.video.stem), LONGEST_STEM)}{part}".replace("/", "_")
    number = 1
    while name in taken:
        number += 1
        name = f"{stem}-{number}"
    taken.add(name)
    return out / f"{name}.png"


def answer(clip: Clip, saved: saved_model.SavedModel, args: argparse.Namespace, taken: set[str],
           problems: dict[str, str]) -> list[Prediction]:
    """Prints, and draws under --out, what the model says of a clip or of its windows. What cannot be read goes into
    `problems`."""
    found = []
    try:
        for part in parts_of(clip, args.every, args.length):
            one = predict(saved, part)
            show(one)
            found.append(one.without_inputs() if args.every else one)
    except InputError as error:
        problems[str(clip)] = str(error)  # told at the end, once
    if found and args.out:
        figure = draw_time_line(found) if args.every else draw_clip(found[0])
        write_figure(figure, picture_path(args.out, clip, taken))
    return [one.without_inputs() for one in found]


def classify(args: argparse.Namespace, saved: saved_model.SavedModel) -> list[Prediction]:
    """Answers about every clip. Raises InputError: at the end, videos that could not be read."""
    if args.detector or args.fps:
        raise InputError(f"--detector and --fps are of main_Vox.py, not of {saved.args.script}: leave them out")
    clips, problems = find_clips(args.videos)
    total, predictions, taken = len(clips) + len(problems), [], set()
    for clip in clips:
        predictions += answer(clip, saved, args, taken, problems)
    finish(args.out, [found.row() for found in predictions], problems, total)
    return predictions


def verify(args: argparse.Namespace, saved: saved_model.SavedModel) -> list[pairs.Pair]:
    """Scores every pair of the videos. Raises InputError: fewer than two; at the end, videos that cannot be used."""
    clips, problems = find_clips(args.videos)
    total = len(clips) + len(problems)
    if args.every or any(clip.start or clip.end is not None for clip in clips):
        raise InputError(f"{args.run} compares whole videos: leave out --every, and start and end of a list")
    if total < 2:
        raise InputError(f"{args.run} compares the voices and faces of videos: name at least two")
    found, unusable = pairs.compare(saved, [clip.video for clip in clips], DETECTORS[args.detector or "none"](),
                                    args.fps or 2.0)
    trials, why = known_trials(args.run)
    taken = set()
    for pair in found:
        show_pair(pair, trials)
        if args.out and trials:
            name = Path(f"{pair.first.stem}_and_{pair.second.stem}")
            write_figure(pairs.draw_pair(pair, trials), picture_path(args.out, Clip(name), taken))
    if found and why:
        print(f"\nnothing is said about errors at these scores: {why}")
    problems |= {str(video): reason for video, reason in unusable.items()}
    finish(args.out, [pair.row(trials) for pair in found], problems, total)
    return found


def known_trials(run: Path) -> tuple[pairs.ScoredTrials | None, str]:
    """(the run's scored trials, ""), or (None, what is missing)."""
    try:
        return pairs.read_scored_trials(run), ""
    except InputError as error:
        return None, str(error)


def show_pair(pair: pairs.Pair, trials: pairs.ScoredTrials | None) -> None:
    print(f"\n{readable(pair.first)} and {readable(pair.second)}")
    print("  score " + ", ".join(f"{name} {value:.4f}" for name, value in pair.scores.items()))
    if trials:
        false_alarm, miss = trials.rates_at(pair.score)
        print(f"  with this score as the threshold, on the run's {len(trials.labels):,} trials {trials.name}: "
              f"{false_alarm:.2%} false acceptance, {miss:.2%} misses (equal error rate {trials.equal_error_rate:.2%})")


def finish(out: Path | None, rows: Sequence[dict], problems: dict[str, str], total: int) -> None:
    """Writes the tables. Raises InputError: there are problems."""
    print_notes()
    if out and rows:
        write_csv(out / "predictions.csv", rows)
        write_whole(out / "predictions.json", json.dumps(rows, indent=2) + "\n")
        print(f"\ntables and pictures: {out}")
    if problems:
        raise InputError("\n  ".join([f"{len(problems)} of {counted(total, 'video')} could not be read:",
                                      *(readable(reason) for reason in problems.values())]))


def main(argv: Sequence[str]) -> list[Prediction] | list[pairs.Pair]:
    """The predictions. Raises InputError: no model; at the end: videos that could not be read."""
    args = get_args_parser().parse_args(argv)
    saved = saved_model.load(args.run, args.device, args.amp)
    extra = [modality.name for modality in saved.script.MODALITIES
             if modality.extra and modality.name in saved.model.modalities]
    if extra:
        raise InputError(f"{args.run} was trained with {', '.join(extra)}, which a video does not hold: ask a run of "
                         "the other modalities")
    return (verify if saved.verifies else classify)(args, saved)


if __name__ == "__main__":
    cli.run(main)
