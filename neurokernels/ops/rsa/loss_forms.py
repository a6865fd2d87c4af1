"""What the losses are of pairs, given one by one, and of sums over pairs: values and derivatives."""

from typing import NamedTuple

import torch
from torch import Tensor

from neurokernels.ops.rsa.loss_leaves import Options


def log_odds(x: Tensor, eps: float) -> Tensor:
    """``A(x) = log(1 + x + eps) - log(1 - x + eps)``: 2 arctanh, finite for duplicates."""
    return (1 + x + eps).log() - (1 - x + eps).log()


def of_pairs(s: Tensor, t: Tensor, o: Options) -> tuple[Tensor, Tensor]:
    """Pairs ``s[..., P]`` of the network and ``t[..., P]`` to the loss ``[...]`` and its derivative by s."""
    pairs = s.shape[-1]
    if o.form == "li2019":
        gap = log_odds(s, o.eps) - log_odds(t, o.eps)
        slope = 1 / (1 + s + o.eps) + 1 / (1 - s + o.eps)
        return o.factor * gap.square().mean(-1), 2 * o.factor / pairs * gap * slope
    if o.form == "mse":
        return (s - t).square().mean(-1), 2 / pairs * (s - t)
    if o.form == "pearson":
        s, t = s - s.mean(-1, keepdim=True), t - t.mean(-1, keepdim=True)
    norm_s, norm_t = (v.square().sum(-1, keepdim=True).sqrt() for v in (s, t))
    u, v = s / norm_s, t / norm_t
    r = (u * v).sum(-1, keepdim=True)
    return 1 - r.squeeze(-1), (r * u - v) / norm_s


class Sums(NamedTuple):
    """Sums over pairs, each ``[...]``, float64: of x, of its square, of the target likewise, and of their product."""

    x: Tensor
    xx: Tensor
    y: Tensor
    yy: Tensor
    xy: Tensor


def of_sums(sums: Sums, pairs: int, o: Options) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """The loss, and its derivatives by the sums of x, of x squared and of the product."""
    x, xx, y, yy, xy = sums
    if o.form == "mse":
        one = torch.ones_like(x) / pairs
        return (xx - 2 * xy + yy) / pairs, (torch.zeros_like(x), one, -2 * one)
    if o.form == "pearson":
        vx, vy, c = xx - x * x / pairs, yy - y * y / pairs, xy - x * y / pairs
    else:
        vx, vy, c = xx, yy, xy
    scale = (vx * vy).rsqrt()
    r = c * scale
    by_xx, by_xy = r / (2 * vx), -scale
    by_x = -(2 * by_xx * x + by_xy * y) / pairs if o.form == "pearson" else torch.zeros_like(x)
    return 1 - r, (by_x, by_xx, by_xy)
