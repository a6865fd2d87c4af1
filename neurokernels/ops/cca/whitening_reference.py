"""The definition of whitening in plain PyTorch, and the reference backend.

With C = Xc' Xc / n + eps I, n = N - 1, whitening is Y = Xc T with T' C T = I. That leaves a rotation open, which is the
method's. A change dC moves T by -T E, where E + E' = T' dC T is what the constraint says, and the method says how it is
shared between an element and its mirror image: E = W o (T' dC T), with weights W_ij + W_ji = 1.

    zca        W_ij = sqrt(l_i) / (sqrt(l_i) + sqrt(l_j)) in the eigenbasis of C, l its eigenvalues
    pca        W_ij = l_i / (l_i - l_j), 1/2 for i = j
    cholesky   W_ij = 1 above the diagonal, 1/2 on it, 0 below

Hence dX = (Gc - Y (S + S') / n) T' with S = W o (Y' G): no matrix is inverted, and zca has no gap in a denominator.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from neurokernels._core import eigh_reference
from neurokernels._core.covariance_reference import centred
from neurokernels.ops.cca.whitening_leaves import is_dual


class Parts(NamedTuple):
    """What a backend does in its own way; the rest is the same for all of them.

    Attributes:
        moments: Samples, and whether their covariance is wanted, to the samples without mean, the mean, and the
            covariance (divided by N - 1) or None.
        eigh: A symmetric matrix to ascending values and vectors.
        triangular: A positive definite matrix L L' to L^-T; NaN where there is no L.
    """

    moments: Callable[[Tensor, bool], tuple[Tensor, Tensor, Tensor | None]]
    eigh: Callable[[Tensor, bool], tuple[Tensor, Tensor]]
    triangular: Callable[[Tensor], Tensor]


# Forward ------------------------------------------------------------------------------------------------------------


def _moments(x: Tensor, covariance: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    xc, mean = centred(x.contiguous())  # sums are added in the order of strides, which are nothing to a result
    return xc, mean.contiguous(), xc.mT @ xc / (x.shape[-2] - 1) if covariance else None


def triangular(c: Tensor) -> Tensor:
    """By torch.linalg; the host does not wait for an answer."""
    factor, info = torch.linalg.cholesky_ex(c)
    unit = torch.eye(c.shape[-1], dtype=c.dtype, device=c.device).expand_as(c)
    inverse = torch.linalg.solve_triangular(factor.mT, unit, upper=True)
    return inverse.contiguous().masked_fill((info != 0)[..., None, None], torch.nan)


PARTS = Parts(_moments, eigh_reference.eigh, triangular)


def _none(like: Tensor, dimensions: int) -> Tensor:
    """An empty tensor for each item of a batch of matrices."""
    return like.new_empty((*like.shape[:-2], *(0,) * dimensions))


def _ridged(c: Tensor, eps: float) -> Tensor:
    return c + eps * torch.eye(c.shape[-1], dtype=c.dtype, device=c.device)


def signs(vectors: Tensor) -> Tensor:
    """1 or -1 per column: what makes its element of largest magnitude positive."""
    if vectors.shape[-2] == 0:
        return vectors.sum(-2, keepdim=True) + 1
    largest = vectors.gather(-2, vectors.abs().argmax(-2, keepdim=True))
    return torch.where(largest < 0, -1.0, 1.0).to(vectors.dtype)


def transform(c: Tensor, method: str, eps: float, parts: Parts = PARTS) -> tuple[Tensor, Tensor, Tensor]:
    """T for a covariance matrix, and the eigenvalues of ``c + eps I`` and its vectors as far as the method has them."""
    if method == "cholesky":
        return parts.triangular(_ridged(c, eps)), _none(c, 1), _none(c, 2)
    values, vectors = parts.eigh(c, True)
    values = values.clamp(min=0) + eps  # a covariance has no negative ones: these are zeros that were rounded
    if method == "zca":
        return (vectors * values.rsqrt()[..., None, :]) @ vectors.mT, values, vectors
    values, vectors = values.flip(-1), vectors.flip(-1)
    return vectors * signs(vectors) * values.rsqrt()[..., None, :], values, _none(c, 2)


def _gram(xc: Tensor, eps: float, parts: Parts) -> tuple[Tensor, ...]:
    """Few samples, zca: y, T (which multiplies from the left), values and vectors of the Gram matrix."""
    t, values, vectors = transform(xc @ xc.mT / (xc.shape[-2] - 1), "zca", eps, parts)
    return t @ xc, t, values, vectors


def _components(xc: Tensor, eps: float) -> tuple[Tensor, ...]:
    """The same of pca: y, T for the N components that there can be, and their values.

    Of the samples themselves: small components are lost in a Gram matrix, where they are squared.
    """
    n, d = xc.shape[-2:]
    sound = xc.isfinite().flatten(-2).all(-1)[..., None]
    u, s, vh = torch.linalg.svd(torch.where(sound[..., None], xc, 0), full_matrices=False)
    s = s.masked_fill(~sound, torch.nan)  # and what is made of it, in this item alone
    # Without variance there is no direction: such a component is 0, and so is its derivative.
    dead = s <= n * torch.finfo(s.dtype).eps * s[..., :1]
    values = s.square() / (n - 1) + eps
    root = signs(vh.mT) * values.rsqrt()[..., None, :]
    y, t = (u * s[..., None, :] * root, vh.mT * root)
    y, t = (m.masked_fill(dead[..., None, :], 0) for m in (y, t))
    rest = (0 * s[..., :1, None]).expand(*y.shape[:-1], d - n)
    return torch.cat([y, rest], -1), t.contiguous(), values, _none(y, 2)


def _doubtful(t: Tensor, c: Tensor, eps: float) -> Tensor | None:
    """Items with a pivot, ``1 / t_ii^2``, that is no larger than what rounding has done to its variance; None if none.

    In float64 on the CPU nobody could do better, and on a GPU the host would have to wait for the answer.
    """
    if c.dtype != torch.float32 or c.device.type != "cpu" or c.numel() == 0:
        return None
    shares = t.diagonal(dim1=-2, dim2=-1).square() * (c.diagonal(dim1=-2, dim2=-1) + eps)
    most = 1 / (c.shape[-1] * torch.finfo(c.dtype).eps)
    return None if shares.amax() < most else ~(shares < most).all(-1)


def _rescue(y: Tensor, t: Tensor, xc: Tensor, eps: float, items: Tensor) -> None:
    """Makes these items anew in float64: a float32 covariance of units that depend on each other may have no factor."""
    wide = xc[items].double()
    exact = triangular(_ridged(wide.mT @ wide / (xc.shape[-2] - 1), eps))
    y[items], t[items] = (wide @ exact).to(y.dtype), exact.to(t.dtype)


def run(
    x: Tensor, method: str, eps: float, factors: bool, statistics: bool, parts: Parts
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The leaf op ``whiten_fwd`` from a backend's parts."""
    n, d = x.shape[-2:]
    dual = is_dual(method, n, d)
    xc, mean, c = parts.moments(x, statistics or not dual)
    if dual:
        y, t, values, vectors = _gram(xc, eps, parts) if method == "zca" else _components(xc, eps)
    else:
        assert c is not None
        t, values, vectors = transform(c, method, eps, parts)
        y = xc @ t
        if method == "cholesky" and (items := _doubtful(t, c, eps)) is not None:
            _rescue(y, t, xc, eps, items)
    if not factors:
        t, values, vectors = _none(y, 2), _none(y, 1), _none(y, 2)
    return y, t, values, vectors, mean, c if statistics and c is not None else _none(y, 2)


def whiten(x: Tensor, method: str, eps: float, factors: bool, statistics: bool) -> tuple[Tensor, ...]:
    """The leaf op ``whiten_fwd``."""
    return run(x, method, eps, factors, statistics, PARTS)


# Derivatives --------------------------------------------------------------------------------------------------------


def weights(method: str, values: Tensor, size: int) -> Tensor:
    """W: see above. Where pca's eigenvalues agree to rounding it is 1/2, right for losses that no rotation changes."""
    if method == "zca":
        root = values.sqrt()
        return root[..., :, None] / (root[..., :, None] + root[..., None, :])
    if method == "pca":
        gaps = values[..., :, None] - values[..., None, :]
        noise = size * torch.finfo(values.dtype).eps * values.amax(-1)[..., None, None] if size else 0
        apart = gaps.abs() > noise
        return torch.where(apart, values[..., :, None] / torch.where(apart, gaps, 1), 0.5)
    ones = values.new_ones(size, size)
    return ones.triu(1) + ones.tril().triu() / 2


def _within(basis: Tensor, m: Tensor, weight: Callable[[Tensor], Tensor]) -> Tensor:
    """A function of a matrix in the eigenbasis, where there is one."""
    return basis @ weight(basis.mT @ m @ basis) @ basis.mT if basis.shape[-1] else weight(m)


def _evident(a: Tensor, y: Tensor, g: Tensor) -> Tensor:
    """The differences Y' G - G' Y without those that rounding explains.

    pca divides them by gaps. Of a loss that no rotation changes they are 0, whatever rounding has left of them.
    """
    size = y.square().sum(-2).sqrt()[..., :, None] * g.square().sum(-2).sqrt()[..., None, :]
    return torch.where(a.abs() <= _ROUNDING * torch.finfo(a.dtype).eps * (size + size.mT), 0, a)


#: Roundings in an inner product, more or less; those in the loss are not known here.
_ROUNDING = 16


def whiten_backward(g: Tensor, y: Tensor, t: Tensor, values: Tensor, vectors: Tensor, method: str) -> Tensor:
    """The leaf op ``whiten_bwd``."""
    n, d = y.shape[-2:]
    g = g.contiguous()  # as in `_moments`
    g = g - g.mean(-2, keepdim=True)
    flipped = method == "zca" and is_dual(method, n, d)
    if flipped:
        g, y = g.mT, y.mT  # the same with the roles of samples and features exchanged
    elif t.shape[-1] < d:
        g, y = g[..., : t.shape[-1]], y[..., : t.shape[-1]]  # the other components are 0 for any x

    def shared(p: Tensor) -> Tensor:
        if method == "cholesky":
            both = p.triu() + p.triu(1).mT
        else:
            w = weights(method, values, t.shape[-1])
            if method == "pca":  # the same as below, with a difference that may count as 0
                both = (p + p.mT) / 2 + (w - 0.5) * _evident(p - p.mT, y, g)
            else:
                s = w * p
                both = s + s.mT
        return both / (1 - n)

    dx = (g + y @ _within(vectors, y.mT @ g, shared)) @ t.mT
    return (dx.mT if flipped else dx).contiguous()


def whiten_tangent(dx: Tensor, y: Tensor, t: Tensor, values: Tensor, vectors: Tensor, method: str) -> Tensor:
    """The leaf op ``whiten_jvp``: dY = Z - Y (W o (Y' Z + Z' Y)) / n with Z = dXc T."""
    n, d = y.shape[-2:]
    dx = dx.to(y.dtype).contiguous()
    dx = dx - dx.mean(-2, keepdim=True)
    flipped = method == "zca" and is_dual(method, n, d)
    if flipped:
        dx, y = dx.mT, y.mT
    y = y[..., : t.shape[-1]]
    z = dx @ t
    w = weights(method, values, t.shape[-1])
    dy = z + y @ _within(vectors, y.mT @ z, lambda b: w * (b + b.mT) / (1 - n))
    return (dy.mT if flipped else torch.nn.functional.pad(dy, (0, d - dy.shape[-1]))).contiguous()


# The definition -----------------------------------------------------------------------------------------------------


def definition(x: Tensor, method: str = "zca", eps: float = 1e-5) -> Tensor:
    """Whitening as the contract defines it, differentiable by autograd where eigenvalues are distinct."""
    xc, _ = centred(x)
    n, d = x.shape[-2:]
    if method == "cholesky":
        factor = torch.linalg.cholesky(_ridged(xc.mT @ xc / (n - 1), eps))
        return torch.linalg.solve_triangular(factor, xc.mT, upper=False).mT
    dual = n <= d  # autograd of D x D eigenvectors is NaN there: zeros are repeated
    values, vectors = torch.linalg.eigh((xc @ xc.mT if dual else xc.mT @ xc) / (n - 1))
    root = (values.clamp(min=0) + eps).rsqrt()
    if method == "zca":
        t = (vectors * root[..., None, :]) @ vectors.mT
        return t @ xc if dual else xc @ t
    if not dual:
        vectors = (vectors * root[..., None, :]).flip(-1)
        return xc @ (vectors * signs(vectors.detach()))
    # The first eigenvalue is the zero of the mean; the lengths of the others make components of unit vectors.
    values, vectors, root = (f[..., 1:].flip(-1) for f in (values, vectors, root))
    sign = signs((xc.mT @ vectors).detach())
    y = vectors * sign * (((n - 1) * values.clamp(min=torch.finfo(x.dtype).tiny)).sqrt() * root)[..., None, :]
    return torch.nn.functional.pad(y, (0, d - n + 1))
