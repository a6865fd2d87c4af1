"""Symmetric eigenproblems by torch.linalg, on any device, for every op family that needs them."""

import torch
from torch import Tensor

from neurokernels._core.covariance import compute_dtype


def eigh(a: Tensor, vectors: bool) -> tuple[Tensor, Tensor]:
    """`torch.linalg.eigh`, matrix by matrix where one of them is not finite: that one becomes NaN, alone."""
    a = a.to(compute_dtype(a)).tril()
    sound = a.isfinite().flatten(-2).all(-1)
    safe = torch.where(sound[..., None, None], a, torch.zeros_like(a))
    if vectors:
        values, columns = decomposed(safe)
        columns = columns.contiguous().masked_fill(~sound[..., None, None], torch.nan)
    else:
        values, columns = torch.linalg.eigvalsh(safe), a.new_empty(0)
    return values.masked_fill(~sound[..., None], torch.nan), columns


def decomposed(a: Tensor) -> tuple[Tensor, Tensor]:
    """`torch.linalg.eigh` of finite matrices, for which LAPACK's divide and conquer does not always converge.

    Rows of zeros, as in the covariance of dead units, are enough for some builds to give up or to return NaN. Such a
    matrix is solved again alone: in float64 if it has fewer digits; after a rotation, which leaves no zeros, if not.
    """
    try:
        values, columns = torch.linalg.eigh(a)
        # Those of a right answer are of length one. A graph cannot ask.
        if torch.compiler.is_compiling() or columns.sum().isfinite():
            return values, columns
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        pass
    if a.ndim > 2:
        alone = [decomposed(matrix) for matrix in a.flatten(0, -3)]
        values, columns = (torch.stack(parts) for parts in zip(*alone, strict=True))
        return values.view(a.shape[:-1]), columns.view(a.shape)
    if a.dtype != torch.float64:
        values, columns = decomposed(a.double())
        return values.to(a.dtype), columns.to(a.dtype)
    generator = torch.Generator().manual_seed(a.shape[-1])
    q = torch.linalg.qr(torch.randn(a.shape, dtype=a.dtype, generator=generator).to(a.device)).Q
    values, columns = torch.linalg.eigh(q @ (a.tril() + a.tril(-1).mT) @ q.mT)
    return values, q.mT @ columns
