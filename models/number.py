"""The values that a setting of a method may have, as functions of a text."""

import math
from collections.abc import Sequence
from typing import NamedTuple


class Number(NamedTuple):
    """An int or a float (`kind`) in [low, high], in (low, high) with `exclusive`; never nan or infinite."""

    kind: type[int] | type[float]
    low: float
    high: float = math.inf
    exclusive: bool = False

    def __call__(self, text: str) -> float:
        """The number that a text stands for. Raises ValueError, with a sentence: it is none of these numbers."""
        try:
            value = self.kind(text)
        except ValueError:
            kind = "a whole number" if self.kind is int else "a number"
            raise ValueError(f"{text!r} is not {kind}") from None
        outside = not self.low <= value <= self.high or value in (math.inf, -math.inf)
        if outside or (self.exclusive and value in (self.low, self.high)):
            bounds = f"{'more than' if self.exclusive else 'at least'} {self.low:g}"
            if self.high < math.inf:
                bounds += f" and {'less than' if self.exclusive else 'at most'} {self.high:,}"
            raise ValueError(f"{text} is out of range: expected {bounds}")
        return value


class Choice(NamedTuple):
    """One of some words."""

    words: Sequence[str]

    def __call__(self, text: str) -> str:
        """The word. Raises ValueError, with a sentence: it is none of them."""
        if text not in self.words:
            raise ValueError(f"{text!r} is not one of {', '.join(self.words)}")
        return text
