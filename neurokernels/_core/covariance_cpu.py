"""The CPU kernels of the covariance: hands addresses, sizes and strides to the C++ core (csrc/cpu/moments.h)."""

from typing import Any

import torch
from torch import Tensor

from neurokernels._core import native
from neurokernels._core.covariance import allocate_backward, allocate_forward, compute_dtype

#: Bytes of a row up to which the core multiplies by the gradient; BLAS is faster from there on, measured.
_NARROW = 960
#: nk::Dtype in csrc/common/element.h.
DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}


def matrices(x: Tensor) -> tuple[Tensor, tuple[Any, ...]]:
    """``[..., N, D]`` with dense rows and one stride for all leading dimensions, and how the core sees it."""
    *batch, n, d = x.shape
    items = torch.Size(batch).numel()
    x = x if d < 2 or x.stride(-1) == 1 else x.contiguous()
    if x.ndim > 3:
        x = x.reshape(items, n, d)
    return x, (x.data_ptr(), items, n, d, x.stride(0) if x.ndim == 3 else 0, x.stride(-2))


def pair(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, tuple[Any, ...]]:
    """Two views of the same samples, and how the core sees them."""
    x, (x_data, items, n, d1, *x_strides) = matrices(x)
    y, (y_data, _, _, d2, *y_strides) = matrices(y)
    return x, y, (items, n, x_data, d1, *x_strides, y_data, d2, *y_strides)


def _centre(x: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
    """Writes to columns of a dense matrix that may have more of them; the mean and the total variation."""
    mean = x.new_empty((*x.shape[:-2], x.shape[-1]), dtype=compute_dtype(x))
    total = x.new_empty(x.shape[:-2], dtype=torch.float64)
    _held, given = matrices(x)
    native.core().centre(
        DTYPES[x.dtype], *given, mean.data_ptr(), DTYPES[out.dtype], out.data_ptr(), out.stride(-2), total.data_ptr(),
        native.threads(),
    )  # fmt: skip
    return mean, total


def centred(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """`neurokernels._core.covariance.centred` of a tensor that is not empty, to bfloat16 or the dtype of the mean."""
    out = x.new_empty(x.shape, dtype=dtype)
    native.fresh(out)
    mean, total = _centre(x, out)
    return out, mean, total.to(mean.dtype)


def centred_pair(x: Tensor, y: Tensor) -> Tensor:
    """Two views that are not empty, centred, side by side ``[..., N, D1 + D2]`` in the dtype that they compute in."""
    d1 = x.shape[-1]
    out = x.new_empty((*x.shape[:-1], d1 + y.shape[-1]), dtype=compute_dtype(x))
    native.fresh(out)
    _centre(x, out)
    _centre(y, out[..., d1:])
    return out


def covariance_pair(x: Tensor, y: Tensor, correction: float) -> tuple[Tensor, Tensor]:
    """The covariance ``[..., D1 + D2, D1 + D2]`` of two views of one dtype side by side, and their mean."""
    (*batch, n, d1), d2 = x.shape, y.shape[-1]
    out = x.new_empty((*batch, d1 + d2, d1 + d2), dtype=compute_dtype(x))
    mean = x.new_empty((*batch, d1 + d2), dtype=compute_dtype(x))
    if out.numel():
        native.fresh(out)
        *_held, given = pair(x, y)
        native.core().covariance_pair(
            DTYPES[x.dtype], *given, 1 / (n - correction), mean.data_ptr(), out.data_ptr(), native.threads()
        )
    return out, mean


def covariance_forward(x: Tensor, correction: float) -> tuple[Tensor, Tensor]:
    """The leaf op ``covariance_fwd``."""
    out, mean = allocate_forward(x)
    if out.numel():
        native.fresh(out)
        _held, given = matrices(x)
        scale = 1 / (x.shape[-2] - correction)
        native.core().covariance(DTYPES[x.dtype], *given, scale, mean.data_ptr(), out.data_ptr(), native.threads())
    return out, mean


def covariance_backward(g: Tensor, x: Tensor, mean: Tensor, correction: float) -> Tensor:
    """The leaf op ``covariance_bwd``. The mean is taken again, to more digits than ``mean`` has."""
    dx, scale = allocate_backward(x), 1 / (x.shape[-2] - correction)
    if dx.numel() == 0:
        return dx
    native.fresh(dx)
    if x.shape[-1] * mean.element_size() > _NARROW:
        xc, factor = centred(x, mean.dtype)[0], (g + g.mT).mul_(scale)
        return torch.matmul(xc, factor, out=dx) if dx.dtype == xc.dtype else dx.copy_(xc @ factor)
    _held, given = matrices(x)
    g = g.contiguous()
    native.core().covariance_gradient(DTYPES[x.dtype], *given, scale, g.data_ptr(), dx.data_ptr(), native.threads())
    return dx
