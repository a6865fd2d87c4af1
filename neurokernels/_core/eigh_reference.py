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
        values, columns = torch.linalg.eigh(safe)
        columns = columns.contiguous().masked_fill(~sound[..., None, None], torch.nan)
    else:
        values, columns = torch.linalg.eigvalsh(safe), a.new_empty(0)
    return values.masked_fill(~sound[..., None], torch.nan), columns
