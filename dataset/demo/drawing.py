"""Antialiased shapes drawn with OpenCV, for the demos. P points, S pixels per side."""

import cv2
import numpy as np

POINT_BITS = 4  # opencv takes points in 1/16 pixel

Colour = np.ndarray  # (3,) red, green, blue, 0 to 255


class Canvas:
    """Draws antialiased shapes, given as (P, 2) points in units of the object, on a picture (S, S, 3)."""

    def __init__(self, picture: np.ndarray, matrix: np.ndarray):
        """picture: uint8, drawn on in place; matrix: (2, 3), units -> pixels."""
        self.picture, self.matrix = picture, matrix
        self.scale = np.sqrt(np.linalg.det(matrix[:, :2]))  # pixels per unit

    def fill(self, points: np.ndarray, colour: Colour) -> None:
        cv2.fillPoly(self.picture, [self.pixels(points)], colour.tolist(), cv2.LINE_AA, POINT_BITS)

    def line(self, points: np.ndarray, colour: Colour, width: float) -> None:
        thickness = max(1, round(width * self.scale))
        cv2.polylines(self.picture, [self.pixels(points)], False, colour.tolist(), thickness, cv2.LINE_AA, POINT_BITS)

    def pixels(self, points: np.ndarray) -> np.ndarray:
        placed = points @ self.matrix[:, :2].T + self.matrix[:, 2]
        return np.round(placed * 2**POINT_BITS).astype(np.int32)


def ellipse(x: float, y: float, half_width: float, half_height: float) -> np.ndarray:  # (P, 2)
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    return np.stack([x + half_width * np.cos(angle), y + half_height * np.sin(angle)], 1)


def between(x: np.ndarray, upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """The outline (2P, 2) of the area between two curves over the same x."""
    return np.concatenate([np.stack([x, upper], 1), np.stack([x, lower], 1)[::-1]])


def mix(first: Colour, second: Colour, share: float) -> Colour:
    return first + share * (second - first)


def darker(colour: Colour, factor: float) -> Colour:
    return colour * factor
