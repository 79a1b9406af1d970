"""Drawing of the demo's moving shapes. S pixels per side, P points."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from dataset.demo.drawing import Canvas, darker, ellipse

IMAGE_SIDE = 80  # pixels
OVERSAMPLING = 2  # shapes are drawn this many times larger, then averaged down
COLOURS = {"Blue": (70.0, 90, 190), "Green": (80.0, 150, 80), "Orange": (210.0, 130, 60), "Purple": (140.0, 80, 160),
           "Red": (190.0, 70, 70), "Yellow": (190.0, 180, 80), "Grey": (135.0, 135, 135)}
MOTIONS = {"Rising": (0, -1, 0), "Sinking": (0, 1, 0), "Nearing": (0, 0, 1), "Leaving": (0, 0, -1),
           "Crossing": (1, 0, 0)}  # to the right, down, growing
SPEED, GROWTH = 1.5, 0.045  # pixels, and part of the size, per frame


class Scene(NamedTuple):
    """What the clips of a group share: the picture behind the shape (S, S, 3), and the light on all."""

    place: np.ndarray
    light: np.ndarray  # (3,)


def random_scene(rng: np.random.Generator, difficulty: float) -> Scene:
    tone = np.array([[150.0, 150, 140], [110, 120, 130], [130, 120, 105], [95, 105, 95]])[rng.integers(4)]
    blobs = rng.normal(0, 1, (9, 9, 1)) + 0.6 * rng.normal(0, 1, (9, 9, 3))
    side = 2 * IMAGE_SIDE  # larger than the picture, because the camera shakes
    place = tone + 20 * difficulty * cv2.resize(blobs, (side, side), interpolation=cv2.INTER_CUBIC)
    return Scene(place + rng.normal(0, 9, (side, side, 1)), 1 + difficulty * rng.normal(0, 0.06, 3))


def film_shape(colour: str, shape: str, moves: str, scene: Scene, times: Sequence[float], rng: np.random.Generator,
               difficulty: float) -> list[np.ndarray]:
    """The pictures at `times` (frames), (S, S, 3) uint8 BGR, of one shape; at time 0 it is near the middle.

    moves: a name in MOTIONS; whether `Crossing` goes to the left or to the right is random.
    """
    right, down, growing = MOTIONS[moves]
    paint = np.array(COLOURS[colour]) + difficulty * rng.normal(0, 16, 3)
    middle = IMAGE_SIDE / 2 + rng.normal(0, 6, 2)
    size, turn = 18 * np.exp(0.18 * rng.normal()), rng.uniform(0, 2 * np.pi)
    pace = np.exp(0.35 * difficulty * rng.normal())
    drift = difficulty * rng.normal(0, 0.12, 2)  # beside the motion
    velocity = SPEED * pace * np.array([right * rng.choice([-1, 1]), down]) + drift
    pictures = []
    for time in times:
        shaken = difficulty * rng.normal(0, 0.15, 2)
        place = middle + velocity * time + shaken
        picture = background(scene.place, shaken)
        draw(picture, shape, paint, place, size * np.exp(GROWTH * pace * growing * time), turn)
        picture = cv2.resize(picture, (IMAGE_SIDE, IMAGE_SIDE), interpolation=cv2.INTER_AREA)
        lit = picture * scene.light + difficulty * rng.normal(0, 3, picture.shape)
        pictures.append(np.clip(lit, 0, 255).astype(np.uint8)[:, :, ::-1].copy())
    return pictures


def background(place: np.ndarray, shaken: np.ndarray) -> np.ndarray:
    """The middle of a scene moved by `shaken` (pixels to the right and down): oversampled uint8."""
    side, corner = IMAGE_SIDE * OVERSAMPLING, IMAGE_SIDE / 2
    matrix = np.array([[OVERSAMPLING, 0, OVERSAMPLING * (shaken[0] - corner)],
                       [0, OVERSAMPLING, OVERSAMPLING * (shaken[1] - corner)]])
    return np.clip(cv2.warpAffine(place, matrix, (side, side), flags=cv2.INTER_LINEAR), 0, 255).astype(np.uint8)


def draw(picture: np.ndarray, shape: str, paint: np.ndarray, place: np.ndarray, size: float, turn: float) -> None:
    """Draws a shape with a pattern, whose motion can be seen, onto the oversampled picture."""
    across, along = OVERSAMPLING * size * np.cos(turn), OVERSAMPLING * size * np.sin(turn)
    x, y = OVERSAMPLING * place
    canvas = Canvas(picture, np.array([[across, -along, x], [along, across, y]]))
    canvas.fill(outline(shape), np.clip(paint, 0, 255))
    for i in range(5):
        angle = 2.4 * i
        spot = ellipse(0.45 * np.cos(angle), 0.45 * np.sin(angle), 0.16, 0.16)
        canvas.fill(spot, np.clip(darker(paint, 0.55), 0, 255))


def outline(shape: str) -> np.ndarray:
    """(P, 2), of about the same area whatever the shape."""
    if shape == "Disc":
        return ellipse(0, 0, 0.95, 0.95)
    angle = np.arange(10) * np.pi / 5
    radius = np.where(np.arange(10) % 2, 0.62, 1.3)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
