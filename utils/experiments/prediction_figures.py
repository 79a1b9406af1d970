"""Pictures of predictions: what the model got, and what it makes of it."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from dataset.errors import readable
from dataset.whole_files import write_whole
from utils.experiments.prediction import JOINT, Prediction
from utils.training.plots import MORE_COLOURS, colours, plain

FRAMES_SHOWN = 6
LONGEST_NAME = 28  # characters of a class beside a bar
LINES_SHOWN = 6  # classes of a time line


def draw_clip(found: Prediction) -> Figure:
    """Frames and spectrogram as the network gets them, and the most probable classes of the joint logits and of each
    modality, on one scale."""
    images, spectrogram, kinds = frames_of(found), spectrogram_of(found), kinds_of(found)
    shown = len(images) + (spectrogram is not None)
    figure = Figure(figsize=(max(8.5, 3.6 * len(kinds)), 6.2 if shown else 3.4), layout="constrained")
    if shown:
        top, bottom = figure.subfigures(2, 1, height_ratios=(1.1, 1))
        draw_inputs(top.subplots(1, shown, squeeze=False)[0], images, spectrogram)
    else:
        bottom = figure.subfigures()
    shades, shares, leads = colours(kinds), found.contributions(), found.leads()
    for axes, of in zip(bottom.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        draw_bars(axes, found.top(of), shades[of])
        share = f"{shares[of]:+.2f} of it" if of in shares else f"winning logit {found.logits[of].max():.2f}"
        share += f", lead {leads[of]:{'+.2f' if of in shares else '.2f'}}" if leads else ""
        axes.set_title(f"{of}\n{share}", fontsize=10)
    name, probability = found.top(JOINT, 1)[0]
    figure.suptitle(plain(f"{part_name(found)}: {name} ({probability:.0%})"), fontsize=12)
    return figure


def draw_inputs(panels: Sequence[Axes], images: Sequence[np.ndarray], spectrogram: np.ndarray | None) -> None:
    for axes, image in zip(panels, images, strict=False):
        axes.imshow(image)
        axes.set_axis_off()
    if images:
        panels[0].set_title(f"{len(images)} frame{'s' * (len(images) > 1)}", fontsize=10, loc="left")
    if spectrogram is not None:
        panels[-1].imshow(spectrogram, origin="lower", aspect="auto", cmap="magma")
        panels[-1].set_title("spectrogram", fontsize=10)
        panels[-1].set(xlabel="time", ylabel="frequency", xticks=[], yticks=[])


def draw_bars(axes: Axes, best: Sequence[tuple[str, float]], colour: str) -> None:
    names, values = zip(*best, strict=True)
    places = np.arange(len(names))
    axes.barh(places, values, color=colour, alpha=0.85)
    axes.set_yticks(places, [plain(shortened(name)) for name in names], fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("probability")
    axes.grid(axis="x", alpha=0.3)


def draw_time_line(found: Sequence[Prediction]) -> Figure:
    """The probabilities of the classes that lead somewhere in a long video, window by window: of the joint logits and
    of each modality, and what the modalities contribute to the logit that wins."""
    kinds = kinds_of(found[0])
    leading = leaders(found)
    middles = [(one.clip.start + one.clip.end) / 2 for one in found]
    figure = Figure(figsize=(10, 1.9 * (len(kinds) + 1) + 0.8), layout="constrained")
    rows = figure.subplots(len(kinds) + 1, 1, sharex=True)
    for axes, of in zip(rows, kinds, strict=False):
        for name, colour in zip(leading, MORE_COLOURS, strict=False):  # the others are those of the modalities
            place = list(found[0].classes).index(name)
            axes.plot(middles, [one.probabilities(of)[place] for one in found], color=colour, marker="o", markersize=3,
                      label=plain(shortened(name)))
        axes.set_ylim(-0.02, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_title(of, fontsize=10, loc="left")
        axes.grid(alpha=0.3)
    rows[0].legend(fontsize=8, ncols=min(3, len(leading)), loc="lower left", bbox_to_anchor=(0.2, 1.0), frameon=False)
    shades = colours(kinds)
    for name in found[0].contributions():
        rows[-1].plot(middles, [one.contributions()[name] for one in found], color=shades[name], label=name)
    rows[-1].set_title("contribution to the winning logit", fontsize=10, loc="left")
    rows[-1].set_xlabel("middle of the window (seconds)")
    rows[-1].legend(fontsize=8)
    rows[-1].grid(alpha=0.3)
    figure.suptitle(plain(readable(found[0].clip.video.name)), fontsize=12)
    return figure


def leaders(found: Sequence[Prediction]) -> list[str]:
    """The classes that the joint logits put first somewhere, the most frequent ones."""
    first = [one.top(JOINT, 1)[0][0] for one in found]
    return sorted(set(first), key=lambda name: (-first.count(name), name))[:LINES_SHOWN]


def kinds_of(found: Prediction) -> list[str]:
    """The rows or columns of a picture: the joint logits, and the modalities where there are several."""
    return list(found.logits) if len(found.logits) > 2 else [JOINT]


def frames_of(found: Prediction) -> list[np.ndarray]:
    """Images (H, W, 3) uint8 that the network got; some of many."""
    frames = found.item.get("visual", found.item.get("rgb"))
    if frames is None:
        return []
    chosen = np.linspace(0, len(frames) - 1, min(FRAMES_SHOWN, len(frames))).round().astype(int)
    return [frames[index].transpose(1, 2, 0) for index in chosen]


def spectrogram_of(found: Prediction) -> np.ndarray | None:
    """(F, T'), None without one."""
    image = found.inputs.get("audio")
    return image[0] if image is not None and image.ndim == 3 else None


def part_name(found: Prediction) -> str:
    clip = found.clip
    part = f", {clip.start:g} to {clip.end:g} s" if clip.end is not None else ""
    return f"{readable(clip.video.name)}{part}"


def shortened(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME - 1]}…"


def write_figure(figure: Figure, path: Path) -> None:
    """As a PNG, whole or not at all."""
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # names in a script that the font lacks: boxes are drawn
        write_whole(path, lambda temporary: canvas.print_png(temporary))
