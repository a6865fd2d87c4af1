"""Symmetric eigenproblems on the C++ core (csrc/cpu/eigh.h), many small ones at once, and by LAPACK what is large."""

import torch
from torch import Tensor

from neurokernels._core import eigh_reference, native
from neurokernels._core.covariance import compute_dtype

#: A register takes the time of all its lanes: fewer than D / 28 matrices are faster in LAPACK, measured.
_LONELY = 28


def eigh(a: Tensor, vectors: bool) -> tuple[Tensor, Tensor]:
    """Values and vectors on the core, one matrix per lane; large or lonely matrices by torch.linalg."""
    core, n = native.core(), a.shape[-1]
    if n > core.eigh_limit or a.shape[:-2].numel() * _LONELY < n:
        return _lapack(a, vectors)
    a = a.to(compute_dtype(a))
    values = a.new_empty(a.shape[:-1])
    columns = a.new_empty(a.shape if vectors else (0,))
    if values.numel():
        native.fresh(columns)
        matrices = a if a.ndim == 3 else a.reshape(-1, n, n)
        core.eigh(
            int(a.dtype == torch.float64), matrices.shape[0], n, matrices.data_ptr(), *matrices.stride(),
            values.data_ptr(), columns.data_ptr() if vectors else 0, native.threads(),
        )  # fmt: skip
    return values, columns


def _lapack(a: Tensor, vectors: bool) -> tuple[Tensor, Tensor]:
    """`eigh_reference.eigh`, at once where all is finite: a small matrix takes less time than the care for it."""
    if not vectors or a.dtype not in (torch.float32, torch.float64) or not a.isfinite().all():
        return eigh_reference.eigh(a, vectors)
    values, columns = eigh_reference.decomposed(a)
    return values, columns.contiguous()
