"""`vicreg_loss` and `barlow_twins_loss`: two losses that want features that agree and do not repeat each other."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from neurokernels._core import checks
from neurokernels._core.arrays import accepts_arrays
from neurokernels._core.autograd import eager, forward_mode, transformed
from neurokernels._core.covariance import covariance as second_moments
from neurokernels._core.products import product as _product

# A matrix in two parts ----------------------------------------------------------------------------------------------


def _gradient(off: Tensor, g: Tensor | None, g_diagonal: Tensor | None) -> Tensor:
    """2 g off, with the gradient of the diagonal in its place: one product and one copy of D^2 elements."""
    g = off.new_zeros(off.shape[:-2]) if g is None else g
    g_diagonal = off.new_zeros(off.shape[:-1]) if g_diagonal is None else g_diagonal
    return torch.diagonal_scatter(off * (2 * g)[..., None, None], g_diagonal, dim1=-2, dim2=-1)


class _Parts(Function):
    """``c[..., D, D]`` to the sum of squares off its diagonal, its diagonal, and c without it.

    Autograd of the obvious code would make five matrices of c's size. Differentiable as often as one likes.
    """

    @staticmethod
    def forward(c: Any) -> Any:
        off = torch.diagonal_scatter(c, c.new_zeros(c.shape[:-1]), dim1=-2, dim2=-1)
        return off.square().sum((-2, -1)), c.diagonal(dim1=-2, dim2=-1).clone(), off

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(output[2])

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, g_diagonal: Tensor | None, g_off: Tensor | None) -> Tensor:
        # Only a second derivative differentiates the third output: zero on the diagonal, the identity elsewhere.
        (off,) = ctx.saved_tensors
        dc = _gradient(off, g, g_diagonal)
        if g_off is None:
            return dc
        return dc + torch.diagonal_scatter(g_off, g_off.new_zeros(off.shape[:-1]), dim1=-2, dim2=-1)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], c: Tensor) -> Any:
        return _Parts.apply(c.movedim(in_dims[0], 0)), (0, 0, 0)


class _PartsEager(_Parts):
    """The same with forward-mode derivatives, which Dynamo does not trace."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _Parts.setup_context(ctx, inputs, output)
        if forward_mode():
            ctx.save_for_forward(output[2])

    @staticmethod
    def jvp(ctx: Any, dc: Tensor) -> tuple[Tensor, ...]:
        (off,) = ctx.saved_tensors
        d_off = torch.diagonal_scatter(dc, dc.new_zeros(dc.shape[:-1]), dim1=-2, dim2=-1)
        return 2 * (off * dc).sum((-2, -1)), dc.diagonal(dim1=-2, dim2=-1).clone(), d_off

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], c: Tensor) -> Any:
        return _PartsEager.apply(c.movedim(in_dims[0], 0)), (0, 0, 0)


_run = eager(_PartsEager)


def _parts(c: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of squares off the diagonal ``[...]``, and the diagonal ``[..., D]``."""
    if torch.compiler.is_compiling():
        return _Parts.apply(c)[:2]
    if transformed():
        return _PartsEager.apply(c)[:2]
    return _run(c)[:2]


# The losses ---------------------------------------------------------------------------------------------------------


def _views(op: str, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Two views of one shape, in the dtype to compute in."""
    checks.floating(op, "x", x)
    checks.floating(op, "y", y)
    if x.ndim < 2:
        checks.value_error(op, "x", "[..., N, D] with at least 2 dimensions", f"shape {tuple(x.shape)}")
    if x.shape != y.shape:
        checks.value_error(op, "y", f"of the shape of x, {tuple(x.shape)}", f"shape {tuple(y.shape)}")
    checks.same_device(op, "y", y, x.device)
    if x.shape[-2] < 2:
        checks.value_error(op, "x", "of at least 2 samples, or there is no variance", f"N = {x.shape[-2]}")
    if x.shape[-1] < 1:
        checks.value_error(op, "x", "of at least 1 feature", f"D = {x.shape[-1]}")
    compute = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    # Sums are added in the order of strides, which are nothing to a result.
    return x.to(compute).contiguous(), y.to(compute).contiguous()


@accepts_arrays
def vicreg_loss(
    x: Tensor,
    y: Tensor,
    *,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
    gamma: float = 1.0,
    eps: float = 1e-4,
) -> Tensor:
    """Variance-invariance-covariance regularisation of two views (Bardes, Ponce and LeCun 2022, arXiv 2105.04906).

    With C the unbiased covariance of x and of y, both of them ``[D, D]``::

        invariance * mean((x - y)^2)
        + variance / 2 * sum over x, y of mean_i relu(gamma - sqrt(C_ii + eps))
        + covariance * sum over x, y of sum_{i != j} C_ij^2 / D

    as the authors' code has it: the paper's text divides the first term by N alone, and does not halve the second one.
    Derivatives of any order. The third term has one pass over C and one product of matrices for a gradient.

    Args:
        x: One view ``[..., N, D]``; float32, float64, bfloat16 or float16 (half precision computes in float32).
        y: The other one, of the same shape.
        invariance: Weight of the first term.
        variance: Weight of the second one.
        covariance: Weight of the third one.
        gamma: The standard deviation that every feature is to reach.
        eps: Added to variances before the root is taken: a constant feature has a gradient of 0, not NaN.

    Returns:
        ``[...]``, one loss per leading dimension; float32, or float64 if x or y is.

    Raises:
        TypeError: x or y is not floating point, or a weight is not a number.
        ValueError: Shapes differ, there are fewer than 2 samples or no features, or eps is not positive.
        BackendError: The backend that was asked for cannot run the covariance.
    """
    op = "vicreg_loss"
    x, y = _views(op, x, y)
    weights = {"invariance": invariance, "variance": variance, "covariance": covariance, "gamma": gamma}
    invariance, variance, covariance, gamma = (checks.number(op, name, value) for name, value in weights.items())
    eps = _positive(op, "eps", eps)
    off, variances = _parts(second_moments(torch.stack((x, y))))
    short = (gamma - (variances + eps).sqrt()).relu().mean(-1).sum(0)
    loss = invariance * (x - y).square().mean((-2, -1)) + variance / 2 * short
    return loss + covariance / x.shape[-1] * off.sum(0)


@accepts_arrays
def barlow_twins_loss(x: Tensor, y: Tensor, *, lambd: float = 5e-3, eps: float = 1e-5) -> Tensor:
    """The redundancy reduction loss of two views (Zbontar et al. 2021, arXiv 2103.03230).

    With Z the features divided by ``sqrt(variance + eps)`` (of N, not N - 1, samples) without their mean, as a batch
    normalisation without affine parameters leaves them, and ``C = Zx' Zy / N``::

        sum_i (C_ii - 1)^2 + lambd * sum_{i != j} C_ij^2

    as in the authors' code. Derivatives of any order.

    Args:
        x: One view ``[..., N, D]``; float32, float64, bfloat16 or float16 (half precision computes in float32).
        y: The other one, of the same shape.
        lambd: Weight of what is off the diagonal.
        eps: Added to variances: a constant feature correlates with nothing, and its gradient is 0, not NaN.

    Returns:
        ``[...]``, one loss per leading dimension; float32, or float64 if x or y is.

    Raises:
        TypeError: x or y is not floating point, or an option is not a number.
        ValueError: Shapes differ, there are fewer than 2 samples or no features, or eps is not positive.
    """
    op = "barlow_twins_loss"
    x, y = _views(op, x, y)
    lambd, eps = checks.number(op, "lambd", lambd), _positive(op, "eps", eps)
    # The covariance of [x y] has C in a corner, at twice the operations and four times the memory.
    c = _product(_normalised(x, eps).mT, _normalised(y, eps)) / x.shape[-2]
    off, same = _parts(c)
    return (same - 1).square().sum(-1) + lambd * off


def _normalised(x: Tensor, eps: float) -> Tensor:
    """Without mean, of unit variance but for eps. The mean is taken relative to the first sample: constants give 0."""
    x = x - x[..., :1, :].detach()
    x = x - x.mean(-2, keepdim=True)
    return x * (x.square().mean(-2, keepdim=True) + eps).rsqrt()


def _positive(op: str, name: str, value: Any) -> float:
    value = checks.number(op, name, value)
    if not 0 < value < float("inf"):
        checks.value_error(op, name, "positive and finite", value)
    return value
