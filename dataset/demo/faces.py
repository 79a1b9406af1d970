"""Drawing of the demo's faces, by expression, identity, pose and light.

Lengths are in face units: the origin is the middle of the head, which reaches from -1 (crown) to 1 (chin); x points
right, y down. Shapes: P points, S pixels per side.
"""

from typing import NamedTuple

import cv2
import numpy as np

from dataset.demo.drawing import Canvas, Colour, between, darker, ellipse, mix

IMAGE_SIDE = 128  # pixels
FRAMES = 2  # at one frame per second: 0 s and 1 s of a clip that is over one second long
OVERSAMPLING = 3  # faces are drawn this many times larger, then averaged down

class Expression(NamedTuple):
    """Deviations from the neutral face, in face units unless noted."""

    brow_inner: float = 0.0  # inner ends of the brows, raised
    brow_outer: float = 0.0  # outer ends, raised
    frown: float = 0.0  # 0 to 1: upright furrows between the brows
    wrinkle: float = 0.0  # 0 to 1: nose wrinkled
    eye: float = 0.0  # logarithm of the eyes' opening
    smile: float = 0.0  # corners of the mouth, raised
    jaw: float = 0.0  # lower lip, lowered
    lip: float = 0.0  # upper lip, raised
    stretch: float = 0.0  # half the mouth's width, added


EXPRESSIONS = {
    "NEU": Expression(),
    "HAP": Expression(brow_outer=0.03, eye=-0.25, smile=0.15, jaw=0.13, lip=0.04, stretch=0.09),
    "SAD": Expression(brow_inner=0.14, brow_outer=-0.06, frown=0.3, eye=-0.3, smile=-0.11, stretch=-0.04),
    "FEA": Expression(brow_inner=0.15, brow_outer=0.09, frown=0.3, eye=0.4, smile=-0.04, jaw=0.15, stretch=0.02),
    "DIS": Expression(brow_inner=-0.09, brow_outer=-0.03, frown=0.5, wrinkle=1.0, eye=-0.5, smile=-0.09, jaw=0.02,
                      lip=0.09),
    "ANG": Expression(brow_inner=-0.13, brow_outer=0.06, frown=1.0, wrinkle=0.2, eye=0.05, smile=-0.08, jaw=0.05,
                      lip=0.03, stretch=0.02),
}
# factors on red, green and blue of the speaker's skin: rosy, grey, pale, greenish, flushed
COMPLEXIONS = {"NEU": (1.0, 1.0, 1.0), "HAP": (1.12, 1.03, 0.99), "SAD": (0.88, 0.93, 1.0), "FEA": (1.01, 1.09, 1.16),
               "DIS": (0.91, 1.04, 0.85), "ANG": (1.08, 0.86, 0.84)}
# standard deviation of a face's random movement, and (half of it) of a speaker's neutral face
SCATTER = Expression(0.03, 0.028, 0.14, 0.14, 0.14, 0.03, 0.03, 0.018, 0.028)


class Face(NamedTuple):
    """Properties shared by all clips of a speaker."""

    skin: Colour
    hair: Colour
    iris: Colour
    width: float
    taper: float  # how much narrower the chin is than the cheeks
    eye_distance: float  # from the middle of the face
    eye_size: float  # half the width
    brow_weight: float
    nose: float  # half the width
    mouth: float  # half the width
    hairline: float  # y of its middle
    hair_end: float  # y down to which the hair falls beside the face
    rest: np.ndarray  # of Expression: the neutral face


def random_face(rng: np.random.Generator) -> Face:
    skin = mix(np.array([236.0, 196, 168]), np.array([112.0, 72, 50]), rng.uniform(0, 1) ** 1.5)
    hair = mix(np.array([38.0, 28, 24]), np.array([186.0, 140, 84]), rng.uniform(0, 1) ** 2)
    iris = np.array([[92.0, 62, 40], [78, 112, 148], [92, 120, 78]])[rng.integers(3)]
    return Face(skin, hair, iris, width=rng.uniform(0.7, 0.82), taper=rng.uniform(0.18, 0.4),
                eye_distance=rng.uniform(0.33, 0.38), eye_size=rng.uniform(0.2, 0.24),
                brow_weight=rng.uniform(0.045, 0.07), nose=rng.uniform(0.1, 0.15), mouth=rng.uniform(0.27, 0.34),
                hairline=rng.uniform(-0.75, -0.55), hair_end=rng.choice([-0.3, 0.1, 1.1]),
                rest=0.5 * rng.normal(0, SCATTER))


def film(label: str, face: Face, rng: np.random.Generator, difficulty: float) -> list[np.ndarray]:
    """The pictures, (S, S, 3) uint8 RGB, of one clip: same place, light and mood, with slight movement between them."""
    strength = 1 - 0.5 * min(difficulty, 1) * rng.uniform()
    mood = strength * np.array(EXPRESSIONS[label]) + difficulty * (face.rest + rng.normal(0, SCATTER))
    tint = 1 + strength * (np.array(COMPLEXIONS[label]) - 1) + difficulty * rng.normal(0, 0.035, 3)
    face = face._replace(skin=np.clip(face.skin * tint, 0, 255))
    pose = rng.normal(0, [0.06, 3.5, 3.5, 3.0])  # rotation in radians, shift and growth in pixels
    light = rng.normal(0, [0.1, 0.1, 0.06]) * difficulty  # from the right, from below, brighter
    wall = rng.uniform(90, 210) + rng.normal(0, 15, 3)
    shirt = rng.uniform(30, 200, 3)
    pictures = []
    for _ in range(FRAMES):
        moment = Expression(*(mood + 0.25 * difficulty * rng.normal(0, SCATTER)))
        matrix = pose_matrix(*(pose + rng.normal(0, [0.015, 0.8, 0.8, 0.5])))
        picture = draw(face, moment, matrix, wall, shirt)
        pictures.append(expose(picture, matrix, light, rng))
    return pictures


def pose_matrix(rotation: float, right: float, down: float, growth: float) -> np.ndarray:
    """(2, 3), from face units to pixels of the finished picture."""
    scale = 58 + growth
    across, along = scale * np.cos(rotation), scale * np.sin(rotation)
    middle = IMAGE_SIDE / 2
    return np.array([[across, -along, middle + right], [along, across, middle + 4 + down]])


def draw(face: Face, expression: Expression, matrix: np.ndarray, wall: Colour, shirt: Colour) -> np.ndarray:
    """A picture (S, S, 3) uint8 under even light."""
    side = IMAGE_SIDE * OVERSAMPLING
    picture = np.full((side, side, 3), np.clip(wall, 0, 255), np.uint8)
    canvas = Canvas(picture, matrix * OVERSAMPLING)
    draw_head(canvas, face, expression, shirt)
    for side in (-1, 1):
        draw_eye(canvas, face, expression, side)
        draw_brow(canvas, face, expression, side)
    draw_nose(canvas, face, expression)
    draw_mouth(canvas, face, expression)
    return cv2.resize(picture, (IMAGE_SIDE, IMAGE_SIDE), interpolation=cv2.INTER_AREA)


def draw_head(canvas: Canvas, face: Face, expression: Expression, shirt: Colour) -> None:
    """Hair, neck, shirt, ears, the face without its features, and the hair above it."""
    if face.hair_end > 1:  # long hair hangs behind the neck
        canvas.fill(ellipse(0, 0.15, face.width + 0.2, 1.25), face.hair)
    canvas.fill(box(0.36, 0.5, 1.7), darker(face.skin, 0.82))
    canvas.fill(ellipse(0, 2.05, 1.35, 0.85), shirt)
    for side in (-1, 1) if face.hair_end < 1 else ():  # the ears, unless covered
        canvas.fill(ellipse(side * face.width, 0.02, 0.1, 0.2), darker(face.skin, 0.88))
    angle = np.linspace(0, 2 * np.pi, 80)
    x, y = np.sin(angle), -np.cos(angle)
    lower = np.maximum(y, 0)
    x = face.width * np.sign(x) * np.abs(x) ** 0.85 * (1 - face.taper * lower**2)
    canvas.fill(np.stack([x, y + 0.5 * max(expression.jaw, 0) * lower], 1), face.skin)
    draw_hair(canvas, face)


def draw_hair(canvas: Canvas, face: Face) -> None:
    """The hair on the head: between a cap somewhat larger than the skull and the hairline."""
    end = min(face.hair_end, 0.35)
    reach = np.arccos(-end / 1.12)
    angle = np.linspace(-reach, reach, 60)
    cap = np.stack([(face.width + 0.09) * np.sin(angle), -1.12 * np.cos(angle)], 1)
    x = np.linspace(face.width - 0.03, -face.width + 0.03, 40)
    line = np.stack([x, face.hairline + (end - face.hairline) * np.abs(x / x[0]) ** 5], 1)
    canvas.fill(np.concatenate([cap, line]), face.hair)


def draw_eye(canvas: Canvas, face: Face, expression: Expression, side: int) -> None:
    height = 0.5 * face.eye_size * np.exp(np.clip(expression.eye, -1.2, 0.8))
    middle, level = side * face.eye_distance, -0.1
    u = np.linspace(-1, 1, 24)
    upper = np.stack([middle + face.eye_size * u, level - height * (1 - u**2)], 1)
    lower = np.stack([middle + face.eye_size * u, level + 0.75 * height * (1 - u**2)], 1)
    canvas.fill(np.concatenate([upper, lower[::-1]]), np.array([246.0, 244, 240]))
    for radius, colour in ((0.105, face.iris), (0.055, np.array([20.0, 16, 16]))):
        disc = ellipse(middle, level, radius, radius)
        disc[:, 1] = np.clip(disc[:, 1], *(np.interp(disc[:, 0], lid[:, 0], lid[:, 1]) for lid in (upper, lower)))
        canvas.fill(disc, colour)
    canvas.line(upper, darker(face.skin, 0.28), 0.035)
    canvas.line(lower, darker(face.skin, 0.65), 0.015)
    canvas.line(upper - [0, 0.055], darker(face.skin, 0.8), 0.015)


def draw_brow(canvas: Canvas, face: Face, expression: Expression, side: int) -> None:
    """A brow, thick inside and thin outside, and the furrow beside its inner end."""
    u = np.linspace(0, 1, 16)
    x = face.eye_distance - 0.22 + 0.47 * u
    y = -0.38 - (1 - u) * expression.brow_inner - u * expression.brow_outer - 0.16 * u * (1 - u)
    weight = face.brow_weight * (1 - 0.6 * u)
    brow = np.concatenate([np.stack([x, y - weight], 1), np.stack([x, y + weight], 1)[::-1]])
    canvas.fill(brow * [side, 1], darker(face.hair, 0.8))
    furrow = np.array([[0.05, y[0] - 0.06], [0.045, y[0] + 0.12]])
    canvas.line(furrow * [side, 1], fold(face, expression.frown), 0.025)


def draw_nose(canvas: Canvas, face: Face, expression: Expression) -> None:
    """The nose; wrinkled it is shorter, with lines across its bridge and folds down to the mouth."""
    wrinkle = np.clip(expression.wrinkle, 0, 1)
    tip = 0.3 - 0.04 * wrinkle
    u = np.linspace(-1, 1, 24)
    wing = np.stack([face.nose * u, tip - 0.06 * u**4 - 0.015 * np.cos(2 * np.pi * u)], 1)
    canvas.line(wing, darker(face.skin, 0.6), 0.025)
    for side in (-1, 1):
        canvas.fill(ellipse(side * 0.5 * face.nose, tip - 0.01, 0.032, 0.018), darker(face.skin, 0.4))
        canvas.line(np.array([[0.06, -0.15], [0.05, 0.08]]) * [side, 1], darker(face.skin, 0.88), 0.02)
        crease = max(wrinkle, 5 * expression.smile)
        canvas.line(np.array([[face.nose + 0.04, tip - 0.06], [face.mouth + 0.08, 0.5]]) * [side, 1],
                    fold(face, crease), 0.02)
    for y in (-0.14, -0.07):
        canvas.line(np.stack([0.08 * u, y + 0.03 * u**2], 1), fold(face, wrinkle), 0.02)


def draw_mouth(canvas: Canvas, face: Face, expression: Expression) -> None:
    u = np.linspace(-1, 1, 40)
    hill = 1 - u**2
    x = (face.mouth + expression.stretch) * u
    rest = 0.58 + expression.smile * (0.5 - u**2)
    upper = rest - max(expression.lip, 0) * hill
    lower = rest + max(expression.jaw, 0) * hill
    skin = mix(face.skin, np.array([190.0, 70, 80]), 0.45)
    above, below = upper - 0.05 * np.sqrt(hill) * (1 - 0.3 * np.exp(-40 * u**2)), lower + 0.07 * hill
    canvas.fill(between(x, above, below), darker(skin, 0.92))
    canvas.fill(between(x, upper, lower), np.array([70.0, 22, 28]))
    teeth = np.minimum(upper + 0.07 * hill, lower)
    canvas.fill(between(x, upper, teeth), np.array([240.0, 236, 226]))
    canvas.line(np.stack([x, upper], 1), darker(skin, 0.5), 0.02)


def expose(picture: np.ndarray, matrix: np.ndarray, light: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shades the head as a round body and adds camera noise: (S, S, 3) uint8 -> uint8."""
    rows, columns = np.mgrid[:IMAGE_SIDE, :IMAGE_SIDE]
    scale = np.hypot(*matrix[:, 0])
    right, down = (columns - matrix[0, 2]) / scale, (rows - matrix[1, 2]) / scale
    from_right, from_below, gain = light
    brightness = (1 + gain) * (1.04 - 0.12 * (right**2 + down**2) + from_right * right + from_below * down)
    lit = picture * np.clip(brightness, 0.45, 1.4)[:, :, None]
    return np.clip(lit + rng.normal(0, 3, picture.shape), 0, 255).astype(np.uint8)


def box(half_width: float, top: float, bottom: float) -> np.ndarray:  # (4, 2)
    return np.array([[-half_width, top], [half_width, top], [half_width, bottom], [-half_width, bottom]])


def fold(face: Face, depth: float) -> Colour:
    """Colour of a fold of the skin; at depth 0 the colour of the skin."""
    return darker(face.skin, 1 - 0.4 * np.clip(depth, 0, 1))
