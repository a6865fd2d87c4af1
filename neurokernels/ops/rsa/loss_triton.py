"""The Triton backend of the similarity losses; functions are those of `neurokernels.ops.rsa.loss_reference`.

li2019 takes two launches for a strip of images: similarities of pairs above the diagonal with their loss and
derivative, and what these derivatives add to the gradient of every image. Nothing is added atomically: sums are in a
fixed order.
Losses that are sums over pairs are `loss_closed` on the GPU: a handful of torch's products, and no N x N matrix.
"""

import torch
from torch import Tensor

from neurokernels._core import tuned
from neurokernels._core.covariance import compute_dtype
from neurokernels._core.triton import launch_wide
from neurokernels.ops.rsa import loss_closed, loss_pairs, loss_rows
from neurokernels.ops.rsa.loss_leaves import Options
from neurokernels.ops.rsa.loss_rows import flat
from neurokernels.ops.rsa.loss_triton_kernels import gradient_kernel, pairs_kernel

#: Elements of the derivatives that are held at once: 256 MB of float32.
ROOM = 1 << 26


def _cdiv(a: int, b: int) -> int:
    return -(-a // b)


def rsa_loss(
    x: Tensor, logits: Tensor | None, mean: Tensor | None, target: Tensor, o: Options, gradient: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:  # fmt: skip
    """The leaf op ``rsa_loss_fwd``."""
    compute = compute_dtype(x)
    rows = loss_rows.features(x, logits, mean, o, compute)
    target = flat(target, 1 if o.kind == "condensed" else 2)
    if o.disjoint:
        value, df = loss_pairs.by_disjoint(rows, target, o, gradient)
    elif o.form == "li2019":
        value, df = log_odds(rows.f, target, o, gradient)
    else:
        value, df = loss_closed.of_sums_over_pairs(rows, target, o, gradient)
    value = value.to(compute).view(x.shape[:-2])
    if df is None:
        return value, None, None
    return value, *loss_rows.gradients(rows, df, x, logits, o)


def log_odds(f: Tensor, target: Tensor, o: Options, gradient: bool) -> tuple[Tensor, Tensor | None]:
    """The loss ``[B]`` of unit features ``[B, N, D]``, float64, and their gradient."""
    items, n, d = f.shape
    exact, fast = f.dtype == torch.float64, o.accuracy == "fast"
    precision = "ieee" if exact else "tf32" if fast else "tf32x3"
    config = tuned.choice("rsa_loss_fast" if fast else "rsa_loss", f, n)
    tile, inner, warps, stages = (config[name] for name in ("tile", "inner", "warps", "stages"))
    tiles, columns = _cdiv(n, tile), config["columns"]
    strip = max(1, min(tiles, ROOM // max(items * n * tile, 1)))
    target = target if target.stride(-1) == 1 else target.contiguous()
    if o.kind == "features":
        target = target.contiguous()
    df = f.new_empty(f.shape) if gradient else None
    value = f.new_zeros(items, dtype=torch.float64)
    for first in range(0, tiles if items else 0, strip):
        across, count = tiles - first, min(strip, tiles - first)
        blocks = across * count
        work = f.new_empty((items, count * tile, across * tile)) if gradient else None
        partial = f.new_empty((items, blocks))
        launch_wide(
            pairs_kernel, (items * blocks,), f, warps, stages, f=f, target=target, work=work, partial=partial, n=n, d=d,
            m=target.shape[-1], item=target.stride(0), row=target.stride(1) if o.kind == "square" else 0, first=first,
            blocks=blocks, across=across, eps=o.eps, weight=o.factor / (n * (n - 1) // 2), KIND=o.kind,
            FLIPPED=o.distances and o.kind != "features", GRADIENT=gradient, PRECISION=precision, TILE=tile,
            INNER=inner,
        )  # fmt: skip
        value += partial.sum(-1, dtype=torch.float64)
        if df is not None:
            launch_wide(
                gradient_kernel, (items * across, _cdiv(d, columns)), f, min(warps, 8), stages, f=f, work=work, df=df,
                n=n, d=d, first=first, tiles=count, across=across, ADD=first > 0, PRECISION=precision, TILE=tile,
                COLUMNS=columns, INNER=inner,
            )  # fmt: skip
    return value, df


def cka(x: Tensor, y: Tensor, debiased: bool, of_x: bool, of_y: bool) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The leaf op ``cka_fwd``."""
    compute = compute_dtype(x)
    fx, fy = (loss_rows.centred(flat(v.contiguous()).to(compute)) for v in (x, y))
    return loss_closed.finished_cka(loss_closed.cka(fx, fy, debiased, of_x, of_y), x, y)
