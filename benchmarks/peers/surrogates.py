"""Surrogate derivatives in plain PyTorch, for loops and for peers that lack them."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import Function

from benchmarks.peers import LIF
from neurokernels import surrogate


def _atan(y: Tensor, alpha: float) -> Tensor:
    z = y * (math.pi / 2 * alpha)
    return (alpha / 2) / (1 + z * z)


def _boxcar(y: Tensor, alpha: float) -> Tensor:
    return alpha * (y.abs() < 0.5 / alpha).to(y.dtype)


# What is raced, in the least work; the others as the library defines them.
_SHORT = {"atan": _atan, "boxcar": _boxcar}


class _Spike(Function):
    @staticmethod
    def forward(ctx, y, derivative):
        ctx.derivative = derivative
        ctx.save_for_backward(y)
        return (y >= 0).to(y.dtype)

    @staticmethod
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        return g * ctx.derivative(y), None


class _ConstantSpike(Function):
    @staticmethod
    def forward(ctx, y, alpha):
        ctx.alpha = alpha
        return (y >= 0).to(y.dtype)

    @staticmethod
    def backward(ctx, g):
        return (g if ctx.alpha == 1 else g * ctx.alpha), None


def derivative(config: LIF) -> Callable[[Tensor], Tensor]:
    """The surrogate derivative of a configuration, a function of membrane minus threshold."""
    short, alpha = _SHORT.get(config.surrogate), config.alpha
    if short:
        return lambda y: short(y, alpha)
    named = surrogate.get((config.surrogate, alpha))
    return lambda y: surrogate.derivative(y, named)


def spike(config: LIF) -> Callable[[Tensor], Tensor]:
    """A differentiable step function with the surrogate derivative of a configuration."""
    if config.surrogate == "constant":
        return lambda y: _ConstantSpike.apply(y, config.alpha)
    slope = derivative(config)
    return lambda y: _Spike.apply(y, slope)


def just_below(threshold: float, dtype: torch.dtype) -> float:
    """The number below a threshold: ``u > just_below`` where ``u >= threshold``, for peers that compare so."""
    return float(torch.nextafter(torch.tensor(threshold, dtype=dtype), torch.tensor(-math.inf, dtype=dtype)))
