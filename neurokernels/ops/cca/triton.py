"""The Triton backend of the room. Functions have the names and arguments of `neurokernels.ops.cca.reference`.

Up to `SMALL` units in each view, and with more samples than units, the nuclear objective and the sum of squares are one
launch, and their gradient is another one. Wider views take one launch for every product: covariances and Cholesky
factors in float64, the polar iteration in float32. Nothing of this waits for the GPU, so that CUDA graphs can hold it.

What needs singular values or eigenvectors (single correlations, the k largest, no more samples than units) is the
reference on the GPU: torch.linalg decomposes there, and waits for the result.
"""

import torch
from torch import Tensor

from neurokernels._core import tuned
from neurokernels._core.covariance import compute_dtype
from neurokernels._core.covariance_triton import covariance_forward
from neurokernels._core.covariance_triton_kernels import Samples
from neurokernels._core.triton import launch_wide
from neurokernels.ops.cca import reference
from neurokernels.ops.cca.leaves import allocate_weights, is_dual
from neurokernels.ops.cca.triton_products import gradient_kernel, gram_kernel, update_kernel
from neurokernels.ops.cca.triton_schedule import FAST, HIGH
from neurokernels.ops.cca.triton_small import small_kernel

#: The widest views that a program holds.
SMALL = 32

#: Up to so many samples a program reads them itself; more are shared out.
FEW = 512

#: Up to so many units the polar iteration is float64 too: its small products take the time that their launch takes.
EXACT = 64

correlations = reference.correlations
correlations_backward = reference.correlations_backward


def _cdiv(a: int, b: int) -> int:
    return -(-a // b)


def _items(x: Tensor) -> int:
    return x.shape[:-2].numel()


def _samples(x: Tensor) -> Samples:
    flat = x.reshape(_items(x), *x.shape[-2:])
    return Samples(flat, *flat.stride())


# Covariances ---------------------------------------------------------------------------------------------------------


def _moments(x: Tensor, y: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The joint covariance and mean, from one copy of both views side by side."""
    return covariance_forward(torch.cat([x.to(dtype), y.to(dtype)], -1), 1.0)


def _inverse_factor(s: Tensor, r: float) -> Tensor:
    """T with T (S + r I) T' = I, lower triangular; NaN where S + r I has no Cholesky factor. Adds r to S."""
    s.diagonal(dim1=-2, dim2=-1).add_(r)
    factor, info = torch.linalg.cholesky_ex(s)
    factor = factor.masked_fill((info > 0)[..., None, None], torch.nan)
    eye = torch.eye(s.shape[-1], dtype=s.dtype, device=s.device).expand_as(s)
    return torch.linalg.solve_triangular(factor, eye, upper=False)


# The polar factor ----------------------------------------------------------------------------------------------------


def _precision(dtype: torch.dtype, fast: bool) -> str:
    """Products of float32 on tensor cores: three of TF32 are nearly float32, one has three digits."""
    return "ieee" if dtype == torch.float64 else "tf32" if fast else "tf32x3"


def gram(f: Tensor, alpha: float, beta: float = 0.0, other: Tensor | None = None, fast: bool = False) -> Tensor:
    """``alpha f' f + beta other`` of ``f[..., K, D]``, symmetric to the bit; ``other`` is symmetric itself."""
    k, d = f.shape[-2:]
    out, config = f.new_empty((*f.shape[:-2], d, d)), tuned.choice("polar", f, d)
    tiles = _cdiv(d, config["tile"])
    blocks = tiles * (tiles + 1) // 2
    launch_wide(
        gram_kernel, (_items(f) * blocks,), f, config["warps"], config["stages"], f=f, other=other, out=out, k=k, d=d,
        blocks=blocks, tiles=tiles, alpha=alpha, beta=beta, PRECISION=_precision(f.dtype, fast), TILE=config["tile"],
        INNER=config["inner"],
    )  # fmt: skip
    return out


def update(w: Tensor, s: Tensor, alpha: float, fast: bool = False) -> Tensor:
    """``alpha w + w s`` of ``w[..., N, D]`` and ``s[..., D, D]``."""
    n, d = w.shape[-2:]
    out, config = w.new_empty(w.shape), tuned.choice("polar", w, d)
    blocks, across = _cdiv(n, config["tile"]), _cdiv(d, config["tile"])
    launch_wide(
        update_kernel, (_items(w) * blocks, across), w, config["warps"], config["stages"], w=w, s=s, out=out, n=n, d=d,
        blocks=blocks, alpha=alpha, PRECISION=_precision(w.dtype, fast), TILE=config["tile"], INNER=config["inner"],
    )  # fmt: skip
    return out


def polar_factor(m: Tensor, fast: bool = False) -> Tensor:
    """The partial isometry W of M = W H, in the dtype of M, by a fixed number of steps.

    Small M, of units far below the regulariser, is brought to norm 1 first. Singular values below what the steps reach
    count in part, and those far below not at all: see `triton_schedule`.
    """
    if m.shape[-2] < m.shape[-1]:
        return polar_factor(m.mT, fast).mT
    norm = torch.linalg.matrix_norm(m)[..., None, None]
    w = (m / torch.where((norm > 0) & (norm < 1), norm, 1)).contiguous()
    for a, b, c in FAST if fast else HIGH[m.dtype]:
        square = gram(w, 1.0, fast=fast)
        w = update(w, gram(square, c, b, square, fast), a, fast)
    return w


# The leaf ops --------------------------------------------------------------------------------------------------------


def _symmetric(a: Tensor) -> Tensor:
    return (a + a.mT) / 2


def _weights(x: Tensor, y: Tensor, w: Tensor, m: Tensor, t1: Tensor, t2: Tensor) -> Tensor:
    """``[[-G11, G12], [G12', -G22]] / (N - 1)``; W is the polar factor, or what a sum of squares has in its place."""
    out, d1, n = allocate_weights(x, y, True), x.shape[-1], x.shape[-2] - 1
    left, right = t1.mT @ w, w @ t2
    across = (left @ t2) / n
    out[..., :d1, d1:], out[..., d1:, :d1] = across, across.mT
    out[..., :d1, :d1] = _symmetric((t1.mT @ m) @ left.mT) / -n
    out[..., d1:, d1:] = _symmetric(right.mT @ (m @ t2)) / -n
    return out


def _wide(
    x: Tensor, y: Tensor, r1: float, r2: float, nuclear: bool, fast: bool, factors: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Views that fit no program. What `fast` saves is float64 where float32 will do, and two of three TF32 products."""
    d1, d2, compute = x.shape[-1], y.shape[-1], compute_dtype(x)
    s, mean = _moments(x, y, compute if fast else torch.float64)
    s = s.double()
    t1, t2 = _inverse_factor(s[..., :d1, :d1], r1), _inverse_factor(s[..., d1:, d1:], r2)
    m = t1 @ s[..., :d1, d1:] @ t2.mT
    if fast:
        m, t1, t2 = m.to(compute), t1.to(compute), t2.to(compute)
    if nuclear:
        w = polar_factor(m.to(torch.float64 if max(d1, d2) <= EXACT and not fast else compute), fast).to(m.dtype)
        value = (w * m).sum((-2, -1))
    else:
        w, value = 2 * m, m.square().sum((-2, -1))
    weights = _weights(x, y, w, m, t1, t2) if factors else allocate_weights(x, y, False)
    return value.to(compute), weights, mean.to(compute)


def _small(x: Tensor, y: Tensor, r1: float, r2: float, nuclear: bool, factors: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Views that fit a program."""
    n, d1, d2, compute = x.shape[-2], x.shape[-1], y.shape[-1], compute_dtype(x)
    value, weights = x.new_empty(x.shape[:-2], dtype=compute), allocate_weights(x, y, factors)
    covariance, mean = None, x.new_empty((*x.shape[:-2], d1 + d2), dtype=compute)
    if n > FEW:
        covariance, found = _moments(x, y, torch.float64)
        mean = found.to(compute)
    config = tuned.choice("dcca_small", value, max(d1, d2))
    launch_wide(
        small_kernel, (_items(x),), x, config["warps"], config["stages"], x=_samples(x), y=_samples(y),
        covariance=covariance, value=value, weights=weights if factors else None, mean=mean, n=n, d1=d1, d2=d2, r1=r1,
        r2=r2, NUCLEAR=nuclear, ROWS=config["rows"], SIZE=16 if max(d1, d2) <= 16 else 32,
    )  # fmt: skip
    return value, weights, mean


def dcca(
    x: Tensor, y: Tensor, r1: float, r2: float, objective: str, k: int, precision: str, factors: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The leaf op ``dcca_fwd``. Small views are float64 in both precisions, and so is what the reference computes."""
    n, d1, d2 = x.shape[-2], x.shape[-1], y.shape[-1]
    if objective == "topk" or is_dual(n, d1, d2):
        return reference.dcca(x, y, r1, r2, objective, k, precision, factors)
    if max(d1, d2) <= SMALL:
        return _small(x, y, r1, r2, objective == "nuclear", factors)
    fast = precision == "fast" and x.dtype != torch.float64
    return _wide(x, y, r1, r2, objective == "nuclear", fast, factors)


def _drift(x: Tensor, y: Tensor, mean: Tensor) -> Tensor:
    """What rounding left of the means."""
    both = zip((x, y), mean.split([x.shape[-1], y.shape[-1]], -1), strict=True)
    return torch.cat([(v.contiguous() - own[..., None, :]).mean(-2, dtype=mean.dtype) for v, own in both], -1)


def dcca_backward(g: Tensor, x: Tensor, y: Tensor, weights: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """The leaf op ``dcca_bwd``."""
    n, d1, d2 = x.shape[-2], x.shape[-1], y.shape[-1]
    if is_dual(n, d1, d2):
        return reference.dcca_backward(g, x, y, weights, mean)
    dx, dy = x.new_empty(x.shape), y.new_empty(y.shape)
    small, exact = max(d1, d2) <= SMALL, mean.dtype == torch.float64
    config = tuned.choice("dcca_gradient", mean, max(d1, d2))
    rows, columns = config["rows"], config["columns"]
    blocks, across, below = _cdiv(n, rows), _cdiv(d1, columns), _cdiv(d2, columns)
    launch_wide(
        gradient_kernel, (_items(x) * blocks, across + below), x, config["warps"], config["stages"],
        g=g.to(mean.dtype).contiguous(), x=_samples(x), y=_samples(y), weights=weights.contiguous(),
        mean=mean.contiguous(), drift=None if small and n <= FEW else _drift(x, y, mean), dx=dx, dy=dy, n=n, d1=d1,
        d2=d2, blocks=blocks, across=across, PRECISION="ieee" if exact or small else "tf32x3", ROWS=rows,
        COLUMNS=columns, INNER=16,
    )  # fmt: skip
    return dx, dy
