"""The definition of the room in plain PyTorch, and the reference backend: singular values, in float64 throughout.

With S11 = Xc' Xc / n + r1 I, S22 likewise, S12 = Xc' Yc / n, n = N - 1, and any T with T S T' = I, the singular values
of M = T1 S12 T2' are the canonical correlations. Let M = U diag(s) V' and an objective have derivatives t_i by s_i:

    W = U diag(t) V'     P = U diag(s t) U'     H = V diag(s t) V'
    dX = (Yc T2' W' - Xc T1' P) T1 / n          dY = (Xc T1' W - Yc T2' H) T2 / n

No gap between singular values enters. A correlation that is zero (to `zero_level`) has t = 0 under ``nuclear`` and
``topk``: the subgradient of the smallest norm.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from neurokernels._core import eigh_reference
from neurokernels._core.covariance import compute_dtype
from neurokernels._core.covariance_reference import centred
from neurokernels.ops.cca.leaves import allocate_weights, is_dual


def definition(
    x: Tensor, y: Tensor, r1: float, r2: float, objective: str = "nuclear", k: int = 0
) -> tuple[Tensor, Tensor]:
    """The objective ``[...]`` and the correlations ``[..., m]``, by covariances whatever N is."""
    xc, yc, n = centred(x)[0], centred(y)[0], x.shape[-2] - 1
    s11, s22 = _regularised(xc.mT @ xc / n, r1), _regularised(yc.mT @ yc / n, r2)
    half = torch.linalg.solve_triangular(torch.linalg.cholesky(s11), xc.mT @ yc / n, upper=False)
    m = torch.linalg.solve_triangular(torch.linalg.cholesky(s22), half.mT, upper=False).mT
    s = torch.linalg.svdvals(m)
    level = zero_level(s11.diagonal(dim1=-2, dim2=-1) - r1, s22.diagonal(dim1=-2, dim2=-1) - r2, r1, r2)
    s = torch.where(s > level.detach()[..., None], s, 0)
    if objective == "fro2":
        return m.square().sum((-2, -1)), s
    return s[..., : k or None].sum(-1), s


def _regularised(s: Tensor, r: float) -> Tensor:
    return s + r * torch.eye(s.shape[-1], dtype=s.dtype, device=s.device)


def zero_level(v1: Tensor, v2: Tensor, r1: float, r2: float) -> Tensor:
    """The correlation up to which M holds nothing but rounding ``[...]``, by variances ``[..., D1]`` and ``[..., D2]``.

    A direction without variance, of a duplicated unit for example, has a row in M which is the rounding of a covariance
    over the root of its regulariser; the other side is as its variance allows.
    """
    a, b = v1.amax(-1), v2.amax(-1)
    dead = (a / r1 * (b / (b + r2))).sqrt() + (b / r2 * (a / (a + r1))).sqrt()
    return 16 * torch.finfo(v1.dtype).eps * dead


class View(NamedTuple):
    """One view: scores ``f[..., N, q]``, of which M = f1' f2, and what takes them back to units.

    That is ``t[..., q, D]``; in the dual form ``t[..., q, N]`` and the centred samples ``xc[..., N, D]``. ``live`` are
    the units that have any variance: singular vectors are zero for the others, but for rounding.
    """

    f: Tensor
    t: Tensor
    xc: Tensor | None
    live: Tensor

    def units(self, vectors: Tensor) -> Tensor:
        """Singular vectors ``[..., q, m]`` as weights of units ``[..., D, m]``."""
        back = self.t.mT @ vectors
        return (back if self.xc is None else self.xc.mT @ back) * self.live[..., None]


class Solved(NamedTuple):
    """Two views, the singular triplets of M, which of them are zero, which items are finite, the mean of both views."""

    x: View
    y: View
    u: Tensor
    s: Tensor
    v: Tensor
    zero: Tensor
    sound: Tensor
    mean: Tensor


def _inverse_root(s: Tensor, r: float) -> Tensor:
    """T with T S T' = I: the inverse Cholesky factor; from eigenvectors where rounding made S indefinite."""
    factor, info = torch.linalg.cholesky_ex(s)
    eye = torch.eye(s.shape[-1], dtype=s.dtype, device=s.device).expand_as(s)
    if not info.any():
        return torch.linalg.solve_triangular(factor, eye, upper=False)
    values, vectors = eigh_reference.decomposed(s)  # no eigenvalue of S is below r but by rounding
    return (vectors * values.clamp(min=r).rsqrt()[..., None, :]).mT


def _live(xc: Tensor) -> Tensor:
    return (xc != 0).any(-2)


def _primal(xc: Tensor, r: float) -> View:
    n = xc.shape[-2] - 1
    t = _inverse_root(_regularised(xc.mT @ xc / n, r), r) / n**0.5
    return View(xc @ t.mT, t, None, _live(xc))


def _dual(xc: Tensor, r: float) -> View:
    """From Xc Xc' = U diag(w) U': the row space of Xc, and nothing of what is orthogonal to it."""
    n, (samples, units) = xc.shape[-2] - 1, xc.shape[-2:]
    w, u = eigh_reference.decomposed(xc @ xc.mT)
    rank = min(n, units)
    w, u = w[..., samples - rank :], u[..., samples - rank :]
    real = w > samples * torch.finfo(w.dtype).eps * w[..., -1:]
    w = torch.where(real, w, 1)
    left = torch.where(real, (w / (w + n * r)).sqrt(), 0)
    right = torch.where(real, (w * (w + n * r)).rsqrt(), 0)
    return View(u * left[..., None, :], (u * right[..., None, :]).mT, xc, _live(xc))


def solve(x: Tensor, y: Tensor, r1: float, r2: float) -> Solved:
    """Everything that values and derivatives are made of, float64."""
    n, (xc, mean_x), (yc, mean_y) = x.shape[-2] - 1, *(centred(v.double().contiguous()) for v in (x, y))
    sound = xc.isfinite().flatten(-2).all(-1) & yc.isfinite().flatten(-2).all(-1)
    xc, yc = (torch.where(sound[..., None, None], c, 0) for c in (xc, yc))
    side = _dual if is_dual(x.shape[-2], x.shape[-1], y.shape[-1]) else _primal
    fx, fy = side(xc, r1), side(yc, r2)
    u, s, vh = torch.linalg.svd(fx.f.mT @ fy.f, full_matrices=False)
    zero = s <= zero_level(xc.square().sum(-2) / n, yc.square().sum(-2) / n, r1, r2)[..., None]
    return Solved(fx, fy, u, s, vh.mT, zero, sound, torch.cat([mean_x, mean_y], -1))


def slopes(s: Tensor, zero: Tensor, objective: str, k: int) -> Tensor:
    """The derivative of an objective by every correlation."""
    if objective == "fro2":
        return 2 * s
    wanted = zero.logical_not()
    if objective == "topk":
        wanted = wanted & (torch.arange(s.shape[-1], device=s.device) < k)
    return wanted.to(s.dtype)


def _weights(found: Solved, t: Tensor) -> Tensor:
    """The weights of the backward pass, float64: see `leaves.dcca_fwd`."""
    (x, y, u, s, v), st = found[:5], found.s * t
    if x.xc is None:
        a, b = x.units(u), y.units(v)
        cross = (a * t[..., None, :]) @ b.mT
        own = [(c * -st[..., None, :]) @ c.mT for c in (a, b)]
        return torch.cat([torch.cat([own[0], cross], -1), torch.cat([cross.mT, own[1]], -1)], -2)
    p, q = (x.f @ u) * t[..., None, :], (y.f @ v) * t[..., None, :]
    to_x, to_y = u.mT @ x.t, v.mT @ y.t
    s = s[..., None, :]
    return torch.stack([(q - p * s) @ to_x, (p - q * s) @ to_y], -3)


def _finished(out: Tensor, sound: Tensor, dtype: torch.dtype) -> Tensor:
    """Rounded and dense; NaN in the items that are not finite."""
    spoilt = ~sound[(...,) + (None,) * (out.ndim - sound.ndim)]
    return out.to(dtype).masked_fill(spoilt, torch.nan).contiguous()


def dcca(
    x: Tensor, y: Tensor, r1: float, r2: float, objective: str, k: int, precision: str, factors: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The leaf op ``dcca_fwd``; both precisions are float64 here."""
    found, dtype = solve(x, y, r1, r2), compute_dtype(x)
    t = slopes(found.s, found.zero, objective, k)
    value = (t * found.s).sum(-1) / (2 if objective == "fro2" else 1)
    weights = _finished(_weights(found, t), found.sound, dtype) if factors else allocate_weights(x, y, False)
    return _finished(value, found.sound, dtype), weights, found.mean.to(dtype)


def dcca_backward(g: Tensor, x: Tensor, y: Tensor, weights: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """The leaf op ``dcca_bwd``. The mean is taken again, to more digits than ``mean`` has."""
    xc, yc = (centred(v.contiguous())[0] for v in (x, y))
    if is_dual(x.shape[-2], x.shape[-1], y.shape[-1]):
        dx, dy = weights[..., 0, :, :] @ xc, weights[..., 1, :, :] @ yc
    else:
        dx, dy = (torch.cat([xc, yc], -1) @ weights).split([x.shape[-1], y.shape[-1]], -1)
    g = g[..., None, None]
    return (dx * g).to(x.dtype).contiguous(), (dy * g).to(y.dtype).contiguous()


def correlations(x: Tensor, y: Tensor, r1: float, r2: float, factors: bool) -> tuple[Tensor, ...]:
    """The leaf op ``correlations_fwd``."""
    found, dtype = solve(x, y, r1, r2), compute_dtype(x)
    m, n = min(x.shape[-1], y.shape[-1]), x.shape[-2] - 1

    def done(out: Tensor) -> Tensor:
        """In the dual form what is beyond its rank is zero."""
        return _finished(torch.nn.functional.pad(out, (0, m - out.shape[-1])), found.sound, dtype)

    if not factors:
        return done(found.s), *(x.new_empty(0, dtype=dtype) for _ in range(4))
    live = found.zero.logical_not()[..., None, :].to(found.s.dtype)
    views, vectors, columns = (found.x, found.y), (found.u * live, found.v * live), []
    p, q = (view.f @ own for view, own in zip(views, vectors, strict=True))
    for view, own, mine, others in ((found.x, vectors[0], p, q), (found.y, vectors[1], q, p)):
        columns += [done((others - mine * found.s[..., None, :]) / n**0.5), done(view.units(own) * n**0.5)]
    return done(found.s), *columns


def correlations_backward(g: Tensor, ex: Tensor, ax: Tensor, ey: Tensor, by: Tensor) -> tuple[Tensor, Tensor]:
    """The leaf op ``correlations_bwd``."""
    g = g[..., None, :]
    return (ex * g) @ ax.mT, (ey * g) @ by.mT
