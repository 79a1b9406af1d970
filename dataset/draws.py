"""Random numbers of a training clip, which depend on (seed, epoch, clip) alone.

A clip's numbers are the same whether they are drawn alone, in a loader's process, or for all clips at once, for
`--cache`: they are a row of one long sequence of NumPy's counter-based Philox generator.
"""

import numpy as np

BLOCK = 4  # numbers that Philox makes of one value of its counter


def draws_of_clips(seed: int, epoch: int, clips: int, count: int) -> np.ndarray:
    """(N, count) uniform numbers in [0, 1), of the clips 0 to N - 1 in this epoch."""
    return generator(seed, epoch).random((clips, row_length(count)))[:, :count]


def draws_of_clip(seed: int, epoch: int, clip: int, count: int) -> np.ndarray:
    """(count,): row `clip` of `draws_of_clips`."""
    return generator(seed, epoch, clip * row_length(count) // BLOCK).random(count)


def generator(seed: int, epoch: int, skipped: int = 0) -> np.random.Generator:
    """skipped: blocks of BLOCK numbers that are left out at the beginning."""
    philox = np.random.Philox(np.random.SeedSequence((seed, epoch)))
    return np.random.Generator(philox.advance(skipped) if skipped else philox)


def row_length(count: int) -> int:
    """`count` rounded up to whole blocks."""
    return -(-count // BLOCK) * BLOCK
