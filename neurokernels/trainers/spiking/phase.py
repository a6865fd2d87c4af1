"""Gerum & Schilling's phase diagram: how far apart unit pulses may come and still make a neuron fire.

A neuron with input weight g and leak w, which has decayed to ``a = (1 - w)**m`` when the next pulse comes m steps
later, fires on the k-th pulse if ``g (1 + a + ... + a**(k - 1)) >= 1``.
"""

import math

import torch
from torch import Tensor

from neurokernels import lif


def measured_gap(gain: Tensor, leak: float, pulses: float, longest: int) -> Tensor:
    """The largest gap at which ``pulses`` unit pulses make a neuron fire, found by letting neurons run.

    Args:
        gain: ``[N]``, input weights.
        leak: Part of the membrane that is lost per step.
        pulses: How many pulses; infinity stands for as many as change the membrane by more than rounding.
        longest: Largest gap tried.

    Returns:
        ``[N]`` int64: steps from pulse to pulse, 0 where even pulses in successive steps do not suffice.
    """
    count = math.ceil(math.log(1e-14) / math.log1p(-leak)) if math.isinf(pulses) else int(pulses)
    gaps = torch.arange(1, longest + 1)
    time = torch.arange((count - 1) * longest + 1).unsqueeze(1)
    train = ((time % gaps == 0) & (time < count * gaps)).double()
    fired = torch.stack(
        [lif(train, decay=1 - leak, gain=float(g), surrogate="constant").spikes.amax(0) for g in gain]
    )  # one neuron per gap at a time: all at once would be gigabytes for endless pulses
    return (fired * gaps).amax(1).long()


def analytic_gap(gain: Tensor, leak: float, pulses: float) -> Tensor:
    """The same from the formula for 2, 3 or endlessly many pulses: ``[N]`` real steps, NaN where no gap suffices."""
    remains = {
        2: 1 / gain - 1,
        3: 0.5 * ((4 / gain - 3).clamp(min=0).sqrt() - 1),
        math.inf: 1 - gain,
    }[pulses]
    gap = remains.clamp(min=0).log() / math.log1p(-leak)
    return gap.where(gap >= 0, torch.nan)
