"""The integers of ``mode="exact"``: weights, activations, and tanh by a table.

A weight w is the int8 ``round(32 w)``, so |w| is at most 127/32. An activation a is an integer in [-127, 127] that
means a / 127; an input that is on is 127. A sum of products is an int32 in units of 1/4064. Nothing else is rounded,
and no step of it depends on an order of additions, on fused multiply-adds or on a mathematical library.
"""

import torch
from torch import Tensor

from neurokernels._core import checks

ONE = 127
SCALE = 32
LIMIT = ONE / SCALE

#: float32 holds every integer up to 2**24: with so many sources, no sum of products exceeds it, in whatever order.
MOST_SOURCES = 2**24 // ONE**2

#: ``round(64 * 127 * tanh(512 i / 4064))``. A segment of the table is 512 units of the sum, 0.126 in the argument.
KNOTS = (
    0, 1019, 2006, 2934, 3781, 4535, 5191, 5749, 6217, 6603, 6917, 7171, 7374, 7536, 7664, 7765, 7845, 7907, 7956,
    7994, 8023, 8047, 8065, 8079, 8090, 8098, 8105, 8110, 8114, 8117, 8120, 8121, 8123,
)  # fmt: skip
SHIFT = 9
SEGMENT = 1 << SHIFT
LAST = SEGMENT * (len(KNOTS) - 1) - 1


def quantised(weights: Tensor) -> Tensor:
    """Weights as int8, rounded to the nearest multiple of 1/32, ties to even.

    Raises:
        ValueError: A weight is larger than 127/32 in magnitude.
    """
    largest = float(weights.abs().max()) if weights.numel() else 0.0
    if largest > LIMIT:
        checks.value_error(
            "maze_rollout",
            "population",
            f"of weights in [-{LIMIT}, {LIMIT}] for mode='exact'; weights.clamp_(-{LIMIT}, {LIMIT})",
            f"one of magnitude {largest:g}",
        )
    return (weights * SCALE).round().to(torch.int8)


def integer_tanh(total: Tensor) -> Tensor:
    """The integer next to ``127 tanh(total / 4064)``, within 0.7 of it: linear between the knots, and odd."""
    knots = torch.tensor(KNOTS, dtype=total.dtype, device=total.device)
    size = total.abs().clamp(max=LAST)
    segment, rest = size >> SHIFT, size & SEGMENT - 1
    low, high = knots[segment], knots[segment + 1]
    return total.sign() * (low * SEGMENT + (high - low) * rest + SEGMENT * 32 >> SHIFT + 6)
