"""What is kept of a row's samples."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles


@dataclass(frozen=True)
class Timing:
    """Seconds per call over the rounds of a race.

    Attributes:
        best: The least sample: what the code costs when nothing else disturbs it. Ratios are taken from it.
        median: The middle sample.
        spread: The interquartile range over the median: how quiet the machine was.
        rounds: Samples taken.
        calls: Calls averaged in each sample.
        clock: ``wall``, or device time from ``events`` or from a replayed ``graph``.
    """

    best: float
    median: float
    spread: float
    rounds: int
    calls: int
    clock: str = "wall"


def summarise(samples: Sequence[float], calls: int = 1, clock: str = "wall") -> Timing:
    """The summary of samples in seconds per call.

    Raises:
        ValueError: There is no sample, or one is not a positive finite number.
    """
    if not samples:
        raise ValueError("summarise: samples must hold at least one time, got none")
    if not all(0 < s < math.inf for s in samples):
        raise ValueError(f"summarise: samples must be positive and finite, got {list(samples)}")
    low, middle, high = quantiles(samples, n=4, method="inclusive") if len(samples) > 1 else [samples[0]] * 3
    return Timing(min(samples), median(samples), (high - low) / middle, len(samples), calls, clock)
