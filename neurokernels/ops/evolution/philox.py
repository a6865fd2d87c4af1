"""Philox4x32-10, the counter-based generator behind every random number of this room, in torch.

A draw is a function of a seed and a 128-bit counter, and of nothing else: not of the order of draws, of threads
or of devices. The counter is four words: position, agent or maze, generation, and what the draw is for.

Source: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

from neurokernels._core import checks

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


class Stream(IntEnum):
    """The fourth word of a counter. Files and results depend on these numbers: none may change."""

    MAZE = 0
    WEIGHT = 1
    EDGE = 2
    PARENT = 3
    MUTATION = 4
    SEVERANCE = 5
    NOISE = 6


def key(op: str, seed: Any) -> int:
    """A seed that every backend can take.

    Raises:
        TypeError: It is no integer.
        ValueError: It is below 0, or 2**63 or more.
    """
    if checks.count(op, "seed", seed) >= 2**63:
        checks.value_error(op, "seed", "an integer below 2**63", seed)
    return int(seed)


def words(seed: int, position: Tensor, item: Tensor | int, generation: int, stream: Stream) -> tuple[Tensor, ...]:
    """Four words for each counter, int64 in [0, 2**32).

    Args:
        seed: The key, of up to 64 bits.
        position: First word of the counters, int64.
        item: Second word, an integer or int64 that broadcasts against ``position``.
        generation: Third word.
        stream: Fourth word.
    """
    a, b = torch.broadcast_tensors(position, torch.as_tensor(item, device=position.device))
    c, d = torch.full_like(a, generation), torch.full_like(a, int(stream))
    key = [seed & _MASK, seed >> 32 & _MASK]
    for _ in range(_ROUNDS):
        # int64 products wrap; their 64 bits are those of the unsigned product.
        left, right = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a, c = (right >> 32 & _MASK) ^ b ^ key[0], (left >> 32 & _MASK) ^ d ^ key[1]
        b, d = right & _MASK, left & _MASK
        key = [(k + w) & _MASK for k, w in zip(key, _WEYL, strict=True)]
    return a, b, c, d


def below(word: Tensor, bound: Tensor | int) -> Tensor:
    """A word as an integer in [0, bound): the high half of their product. No bound exceeds 2**31."""
    return word * bound >> 32


def threshold(probability: float) -> int:
    """The words below which an event of this probability happens, of 2**32."""
    return round(probability * 2**32)


def happens(seed: int, agents: int, edges: int, generation: int, stream: Stream, probability: float) -> Tensor:
    """Which edges of which agents an event meets, ``[agents, edges]`` bool: word e % 4 of the block e // 4 decides."""
    position = torch.arange(-(-edges // 4))
    drawn = torch.stack(words(seed, position, torch.arange(agents)[:, None], generation, stream), -1)
    return drawn.flatten(1)[:, :edges] < threshold(probability)


def normal(seed: int, position: Tensor, item: Tensor | int, generation: int, stream: Stream) -> Tensor:
    """Normal numbers that are the same bits everywhere, float32: sums of twelve uniform numbers of ten bits.

    The variance is that of the normal distribution to six digits, the excess kurtosis -0.1, the largest value 5.99;
    values are multiples of 1/1024.
    """
    drawn = words(seed, position, item, generation, stream)
    parts = [word >> shift & 1023 for word in drawn for shift in (0, 10, 20)]
    return (
        torch.stack(parts).sum(0) - 6138
    ).float() / 1024  # both exact: 6138 is the mean of the sum, 1024 its standard deviation
