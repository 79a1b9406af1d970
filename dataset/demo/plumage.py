"""Drawing of the demo's birds, by shape, plumage, perch and light.

Lengths are in bird units: the origin is the middle of the body, which is about 2 long; x points forward, y down.
Shapes: S pixels per side.
"""

from typing import NamedTuple

import cv2
import numpy as np

from dataset.demo.drawing import Canvas, Colour, darker, ellipse, mix

IMAGE_SIDE = 96  # pixels
OVERSAMPLING = 2  # birds are drawn this many times larger, then averaged down
PALETTE = np.array([[52.0, 48, 46], [120, 84, 56], [168, 128, 84], [196, 64, 48], [224, 140, 52], [226, 200, 84],
                    [110, 138, 70], [62, 112, 158], [128, 132, 140], [226, 222, 210]])  # of feathers


class Look(NamedTuple):
    """The appearance shared by all birds of a species."""

    back: Colour
    belly: Colour
    head: Colour
    wing: Colour
    bill: Colour
    height: float  # half the body's
    head_size: float  # radius
    neck: float  # how far the head is above the body
    bill_length: float
    tail: float  # length
    legs: float  # length
    crest: float  # height
    wing_bar: float  # width of a light bar, 0: none
    eye_stripe: float  # width of a dark stripe, 0: none
    spots: int  # on the belly


def random_look(rng: np.random.Generator) -> Look:
    back, belly, head, wing = PALETTE[rng.integers(len(PALETTE), size=4)]
    return Look(back, mix(belly, PALETTE[-1], rng.choice([0.1, 0.6])), head, wing,
                bill=np.array([[40.0, 38, 36], [214, 150, 60]])[rng.integers(2)],
                height=rng.uniform(0.42, 0.62), head_size=rng.uniform(0.28, 0.42), neck=rng.choice([0.25, 0.45, 0.75]),
                bill_length=rng.choice([0.2, 0.4, 0.75]), tail=rng.choice([0.4, 0.8, 1.2]),
                legs=rng.choice([0.25, 0.8]), crest=rng.choice([0, 0, 0.4]), wing_bar=rng.choice([0, 0.09]),
                eye_stripe=rng.choice([0, 0, 0.1]), spots=int(rng.choice([0, 0, 9])))


def sister_look(look: Look, rng: np.random.Generator) -> Look:
    """A species that differs slightly from `look`: a longer bill, slightly different colours."""
    shade = 1 + rng.normal(0, 0.04, 3)
    return look._replace(back=look.back * shade, wing=look.wing * shade, bill_length=1.15 * look.bill_length)


def film_bird(look: Look, frames: int, rng: np.random.Generator, difficulty: float) -> list[np.ndarray]:
    """The pictures, (S, S, 3) uint8 RGB, of one bird in one place, with slight movement between them."""
    tint = np.clip(1 + difficulty * rng.normal(0, 0.03, 4), 0.5, 1.5)  # age, season
    look = look._replace(back=look.back * tint[0], belly=look.belly * tint[1], head=look.head * tint[2],
                         wing=look.wing * tint[3], height=look.height * np.exp(0.08 * difficulty * rng.normal()))
    pose = rng.normal(0, [0.08, 4, 4, 1.5])  # rotation in radians, shift and growth in pixels
    place = draw_place(rng, difficulty)
    light = 1 + difficulty * rng.normal(0, [0.06, 0.02, 0.02])  # together, then red and blue
    left = rng.uniform() < 0.5
    pictures = []
    for _ in range(frames):
        matrix = pose_matrix(*(pose + rng.normal(0, [0.06, 1.5, 1.0, 0.5])))
        picture = draw_bird(place.copy(), look, matrix * OVERSAMPLING, rng)
        picture = cv2.resize(picture, (IMAGE_SIDE, IMAGE_SIDE), interpolation=cv2.INTER_AREA)
        lit = picture * (light[0] * np.array([light[1], 1, light[2]])) + rng.normal(0, 4, picture.shape)
        lit = np.clip(lit, 0, 255).astype(np.uint8)
        pictures.append(lit[:, ::-1] if left else lit)
    return pictures


def pose_matrix(rotation: float, right: float, down: float, growth: float) -> np.ndarray:
    """(2, 3), from bird units to pixels of the finished picture."""
    scale = 23 + growth
    across, along = scale * np.cos(rotation), scale * np.sin(rotation)
    middle = IMAGE_SIDE / 2
    return np.array([[across, -along, middle + right], [along, across, middle + down]])


def draw_place(rng: np.random.Generator, difficulty: float) -> np.ndarray:
    """Sky, water or leaves, out of focus: (S, S, 3) uint8, oversampled."""
    tone = np.array([[168.0, 196, 222], [120, 146, 140], [96, 128, 66], [150, 132, 104]])[rng.integers(4)]
    blobs = rng.normal(0, 1, (7, 7, 1)) + 0.4 * rng.normal(0, 1, (7, 7, 3))
    side = IMAGE_SIDE * OVERSAMPLING
    smooth = cv2.resize(blobs, (side, side), interpolation=cv2.INTER_CUBIC)
    return np.clip(tone + 12 * difficulty * smooth, 0, 255).astype(np.uint8)


def draw_bird(picture: np.ndarray, look: Look, matrix: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws onto `picture` (S, S, 3) uint8 and returns it."""
    canvas = Canvas(picture, matrix)
    head = np.array([0.85, -look.height - look.neck]) + rng.normal(0, 0.05, 2)
    draw_legs(canvas, look)
    draw_body(canvas, look, head)
    draw_wing(canvas, look)
    draw_head(canvas, look, head)
    return picture


def draw_legs(canvas: Canvas, look: Look) -> None:
    foot = look.height + look.legs
    canvas.line(np.array([[-3.0, foot], [3.0, foot + 0.15]]), np.array([92.0, 72, 52]), 0.14)  # the branch
    for x in (-0.1, 0.2):
        canvas.line(np.array([[x, 0.7 * look.height], [x + 0.05, foot]]), look.bill, 0.08)


def draw_body(canvas: Canvas, look: Look, head: np.ndarray) -> None:
    """Tail, neck, back, belly and the spots on it."""
    tail = np.array([[-0.8, -0.15], [-0.9 - look.tail, 0.05], [-0.85 - look.tail, 0.25], [-0.7, 0.2]])
    canvas.fill(tail, darker(look.back, 0.8))
    x, y = head
    neck = np.array([[0.35, -0.2], [x - look.head_size, y], [x + look.head_size, y + 0.1], [0.95, 0.1]])
    canvas.fill(neck, look.head)
    canvas.fill(ellipse(0, 0, 1, look.height), look.back)
    canvas.fill(ellipse(0.2, 0.3 * look.height, 0.78, 0.68 * look.height), look.belly)
    for i in range(look.spots):
        canvas.fill(ellipse(0.25 + 0.5 * np.cos(2.4 * i), (0.4 + 0.3 * np.sin(2.4 * i)) * look.height, 0.06, 0.06),
                    darker(look.belly, 0.4))


def draw_wing(canvas: Canvas, look: Look) -> None:
    wing = ellipse(-0.25, -0.08, 0.68, 0.55 * look.height)
    wing[:, 0] -= 0.35 * np.maximum(-wing[:, 0], 0)  # pointed behind
    canvas.fill(wing, look.wing)
    if look.wing_bar:
        canvas.line(np.array([[-0.15, -0.4 * look.height], [-0.3, 0.35 * look.height]]), np.array([240.0, 238, 230]),
                    look.wing_bar)


def draw_head(canvas: Canvas, look: Look, head: np.ndarray) -> None:
    x, y = head
    size = look.head_size
    canvas.fill(np.array([[x - 0.7 * size, y - 0.5 * size], [x - 0.9 * size, y - size - look.crest],
                          [x + 0.4 * size, y - 0.8 * size]]), look.head)
    canvas.fill(ellipse(x, y, size, size), look.head)
    canvas.fill(np.array([[x + 0.8 * size, y - 0.1], [x + size + look.bill_length, y + 0.06],
                          [x + 0.8 * size, y + 0.12]]), look.bill)
    if look.eye_stripe:
        canvas.line(np.array([[x - 0.9 * size, y - 0.05], [x + 0.9 * size, y - 0.05]]), np.array([28.0, 26, 26]),
                    look.eye_stripe)
    canvas.fill(ellipse(x + 0.3 * size, y - 0.1 * size, 0.07, 0.07), np.array([10.0, 10, 10]))
