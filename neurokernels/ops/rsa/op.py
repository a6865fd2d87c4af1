"""`rdm`: checks, folds, whitening, and the derivatives of dissimilarities."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from neurokernels._core import backends, checks
from neurokernels._core.arrays import accepts_arrays
from neurokernels._core.autograd import FirstOrderOnly, eager, forward_mode, leading, transformed
from neurokernels._core.covariance import full_precision
from neurokernels.ops.rsa import reference
from neurokernels.ops.rsa.rdm_leaves import rdm_bwd, rdm_fwd, whiten_bwd, whiten_fwd, whiten_tangent

METRICS = ("correlation", "cosine", "euclidean", "sqeuclidean", "mahalanobis", "crossnobis", "poisson")

_REFUSAL = "rdm: second-order derivatives are not supported"

# Derivatives --------------------------------------------------------------------------------------------------------


class _Distances(Function):
    """``(x, metric, condensed, backend)`` to dissimilarities."""

    @staticmethod
    def forward(x: Any, metric: Any, condensed: Any, backend: Any) -> Any:
        return rdm_fwd(x, metric, condensed, backend)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, ctx.metric, ctx.condensed, ctx.backend = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, output if ctx.metric == "euclidean" else x)  # no other metric asks for distances

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple[Any, ...]:
        if g is None:
            return (None,) * 4
        apply = _DistancesBackward.apply if torch.is_grad_enabled() else rdm_bwd
        return apply(g, *ctx.saved_tensors, ctx.metric, ctx.condensed, ctx.backend), None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, *rest: Any) -> Any:
        return _Distances.apply(x.movedim(in_dims[0], 0), *rest), 0


class _DistancesEager(_Distances):
    """The same with forward-mode derivatives, which Dynamo does not trace."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _Distances.setup_context(ctx, inputs, output)
        if forward_mode():
            ctx.save_for_forward(inputs[0])

    @staticmethod
    def jvp(ctx: Any, dx: Tensor, *_: Any) -> Tensor:
        return _DistancesTangent.apply(dx, ctx.saved_tensors[0], ctx.metric, ctx.condensed)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, *rest: Any) -> Any:
        return _DistancesEager.apply(x.movedim(in_dims[0], 0), *rest), 0


class _DistancesBackward(FirstOrderOnly):
    refusal = _REFUSAL

    @staticmethod
    def forward(*inputs: Any) -> Any:
        return rdm_bwd(*inputs)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
        return _DistancesBackward.apply(*leading(inputs[:3], in_dims[:3], info.batch_size), *inputs[3:]), 0


class _DistancesTangent(FirstOrderOnly):
    refusal = _REFUSAL

    @staticmethod
    def forward(dx: Any, x: Any, metric: Any, condensed: Any) -> Any:
        with full_precision(x):
            return reference.tangent(dx, x, metric, condensed)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
        return _DistancesTangent.apply(*leading(inputs[:2], in_dims[:2], info.batch_size), *inputs[2:]), 0


class _Whitened(Function):
    """``(x, precision)`` to whitened patterns and the Cholesky factor; derivatives hold for what turning leaves."""

    @staticmethod
    def forward(x: Any, precision: Any) -> Any:
        return whiten_fwd(x, precision)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.types = tuple(t.dtype for t in inputs)
        ctx.save_for_backward(inputs[0], output[1])

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, _: Any) -> tuple[Any, ...]:
        if g is None:
            return None, None
        apply = _WhitenedBackward.apply if torch.is_grad_enabled() else whiten_bwd
        dx, dp = apply(g, *ctx.saved_tensors)
        return dx, dp.to(ctx.types[1])

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
        return _Whitened.apply(*leading(inputs, in_dims, info.batch_size)), (0, 0)


class _WhitenedEager(_Whitened):
    """The same with forward-mode derivatives, which Dynamo does not trace."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        _Whitened.setup_context(ctx, inputs, output)
        if forward_mode():
            ctx.save_for_forward(inputs[0], output[1])

    @staticmethod
    def jvp(ctx: Any, dx: Tensor | None, dp: Tensor | None) -> tuple[Tensor, None]:
        x, factor = ctx.saved_tensors
        dx, dp = (torch.zeros_like(x) if dx is None else dx), (torch.zeros_like(factor) if dp is None else dp)
        return _WhitenedTangent.apply(dx, dp, x, factor), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
        return _WhitenedEager.apply(*leading(inputs, in_dims, info.batch_size)), (0, 0)


class _WhitenedBackward(FirstOrderOnly):
    refusal = _REFUSAL

    @staticmethod
    def forward(*inputs: Any) -> Any:
        return whiten_bwd(*inputs)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
        return _WhitenedBackward.apply(*leading(inputs, in_dims, info.batch_size)), (0, 0)


class _WhitenedTangent(FirstOrderOnly):
    refusal = _REFUSAL

    @staticmethod
    def forward(*inputs: Any) -> Any:
        return whiten_tangent(*inputs)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
        return _WhitenedTangent.apply(*leading(inputs, in_dims, info.batch_size)), 0


_run, _run_whitened = eager(_DistancesEager), eager(_WhitenedEager)


def _distances(x: Tensor, metric: str, condensed: bool) -> Tensor:
    if torch.compiler.is_compiling():
        return _Distances.apply(x, metric, condensed, backends.INHERIT)
    if transformed():
        return _DistancesEager.apply(x, metric, condensed, backends.requested())
    if forward_mode() or (x.requires_grad and torch.is_grad_enabled()):
        return _run(x, metric, condensed, backends.requested())
    return rdm_fwd(x, metric, condensed, backends.requested())


def _whitened(x: Tensor, precision: Tensor) -> Tensor:
    if torch.compiler.is_compiling():
        return _Whitened.apply(x, precision)[0]
    if transformed():
        return _WhitenedEager.apply(x, precision)[0]
    if forward_mode() or ((x.requires_grad or precision.requires_grad) and torch.is_grad_enabled()):
        return _run_whitened(x, precision)[0]
    return whiten_fwd(x, precision)[0]


# Arguments ----------------------------------------------------------------------------------------------------------


def _gathered(x: Tensor, folds: Any) -> Tensor:
    """Observations ``[..., observations, D]`` as ``[..., folds, N, D]``."""
    if isinstance(folds, Tensor) and torch.compiler.is_compiling():
        if folds.ndim != 2:
            what = "[folds, N] indices, or no tensor, inside torch.compile: labels in one have no shape"
            checks.value_error("rdm", "folds", what, f"shape {tuple(folds.shape)}")
        return x.index_select(-2, folds.flatten()).unflatten(-2, tuple(folds.shape))
    given = folds.tolist() if hasattr(folds, "tolist") else folds
    if not isinstance(given, list | tuple):
        checks.type_error("rdm", "folds", "labels [observations] or indices [folds, N]", type(given).__name__)
    nested = len(given) > 0 and all(isinstance(row, list | tuple) for row in given)
    flat = [i for row in given for i in row] if nested else list(given)
    if not all(isinstance(i, int) and not isinstance(i, bool) for i in flat):
        odd = next(i for i in flat if not isinstance(i, int) or isinstance(i, bool))
        checks.type_error("rdm", "folds", "integers: labels [observations] or indices [folds, N]", repr(odd))
    table = given if nested else _by_label(flat, x.shape[-2])
    _check_partition(table, x.shape[-2])
    index = torch.tensor([i for row in table for i in row], device=x.device)
    return x.index_select(-2, index).unflatten(-2, (len(table), len(table[0])))


def _by_label(labels: list[int], observations: int) -> list[list[int]]:
    """The observations of each fold, in their order."""
    if len(labels) != observations:
        checks.value_error("rdm", "folds", f"one label for each of the {observations} observations", len(labels))
    return [[i for i, label in enumerate(labels) if label == fold] for fold in sorted(set(labels))]


def _check_partition(table: Any, observations: int) -> None:
    sizes = [len(row) for row in table]
    if len(set(sizes)) > 1:
        checks.value_error(
            "rdm", "folds", "of one size, every condition once in each", f"folds of {sizes} observations"
        )
    seen = sorted(i for row in table for i in row)
    if seen != list(range(observations)):
        missing = sorted(set(range(observations)) - set(seen))
        wrong = f"{len(seen)} indices" + (f" without {missing[0]}" if missing else " of which some come twice")
        checks.value_error("rdm", "folds", f"a partition of the {observations} observations, each in one place", wrong)


def _checked_precision(x: Tensor, precision: Any, metric: str) -> Tensor:
    """The precision, with as many dimensions as x."""
    checks.floating("rdm", "precision", precision)
    checks.same_device("rdm", "precision", precision, x.device)
    d, outside = x.shape[-1], x.shape[: -3 if metric == "crossnobis" else -2]
    matrix, batch = precision.shape[-2:], precision.shape[:-2]
    fits = len(batch) <= len(outside) and all(
        p in (1, n) for p, n in zip(reversed(batch), reversed(outside), strict=False)
    )
    if tuple(matrix) != (d, d) or not fits:
        got = f"shape {tuple(precision.shape)} for x of shape {tuple(x.shape)}"
        checks.value_error("rdm", "precision", f"[..., D, D] with D = {d}, and leading dimensions of x", got)
    if metric == "crossnobis":
        precision = precision.unsqueeze(-3)
    return precision[(None,) * (x.ndim - precision.ndim)]


# The op -------------------------------------------------------------------------------------------------------------


@accepts_arrays
def rdm(
    x: Tensor,
    *,
    metric: str = "correlation",
    precision: Tensor | None = None,
    folds: Any = None,
    condensed: bool = True,
) -> Tensor:
    """Representational dissimilarity matrices: how different the response patterns of every two conditions are.

    Conventions are those of rsatoolbox 0.3.2 and, for pairs, of SciPy: i < j, row by row. With D channels:

    - ``"correlation"``: 1 - Pearson's correlation over channels; NaN for a pattern without variance.
    - ``"cosine"``: 1 - cosine; NaN for a pattern of zeros.
    - ``"euclidean"``: the root of the sum of squared differences, SciPy's. Its gradient is 0 between equal patterns.
    - ``"sqeuclidean"``: squared differences divided by D; rsatoolbox calls it euclidean.
    - ``"mahalanobis"``: ``(x_i - x_j)' P (x_i - x_j) / D`` with the precision P, the identity if there is none.
    - ``"crossnobis"``: the mean over folds of ``(t_i - t_j)' P (s_i - s_j) / D``, with s the patterns of one fold and
      t the mean of all others (Walther et al. 2016): 0 on average where patterns differ by noise alone, so that values
      may be negative.
    - ``"poisson"``: the symmetrised Kullback-Leibler divergence of Poisson rates divided by D, with rates
      ``(x + 0.1) / 1.1`` (a prior of 1 with weight 0.1; Schütt et al. 2023); NaN where a rate is negative.

    Equal patterns are exactly 0 apart. A pattern with a NaN or an infinity spoils its own pairs and no others.

    Args:
        x: Patterns ``[..., N, D]`` of N conditions; ``[..., folds, N, D]`` for crossnobis without ``folds``. float32,
            float64, bfloat16 or float16 (half precision computes in float32). Leading dimensions are independent.
        metric: One of the above.
        precision: ``[..., D, D]``, positive definite, for mahalanobis and crossnobis; its symmetric part is used.
            Leading dimensions broadcast against those of x. Differentiable. Its check makes the host wait for a GPU.
        folds: For crossnobis, x then being observations ``[..., observations, D]``: a label for each of them, the r-th
            one of every fold being condition r; or indices ``[folds, N]``, the observation of each fold and condition.
        condensed: Pairs ``[..., N (N - 1) / 2]`` rather than square matrices with zeros on the diagonal.

    Returns:
        ``[..., N (N - 1) / 2]`` or ``[..., N, N]``, float32, or float64 for float64 input. First derivatives are
        supported, in reverse and forward mode.

    Raises:
        TypeError: x or precision is not floating point, or an argument has the wrong type.
        ValueError: A shape or a value is wrong: fewer than two conditions, no channel, a precision that is not positive
            definite, folds that do not partition the observations.
        BackendError: The backend that was asked for cannot run this call.
    """
    checks.floating("rdm", "x", x)
    checks.choice("rdm", "metric", metric, METRICS)
    if not isinstance(condensed, bool):
        checks.type_error("rdm", "condensed", "a bool", type(condensed).__name__)
    if metric != "crossnobis" and folds is not None:
        checks.value_error("rdm", "folds", "None but for metric='crossnobis'", f"folds for {metric!r}")
    cross = metric == "crossnobis" and folds is None
    if x.ndim < 2 + cross:
        shape = "[..., folds, N, D] with at least 3 dimensions, or come with folds" if cross else "[..., N, D]"
        at_least = "" if cross else " with at least 2 dimensions"
        checks.value_error("rdm", "x", shape + at_least, f"shape {tuple(x.shape)}")
    if folds is not None:
        x = _gathered(x, folds)
    _check_sizes(x, metric)
    if precision is not None:
        if metric not in ("mahalanobis", "crossnobis"):
            checks.value_error("rdm", "precision", "None but for mahalanobis and crossnobis", f"one for {metric!r}")
        x = _whitened(x, _checked_precision(x, precision, metric))
    return _distances(x, "sqeuclidean" if metric == "mahalanobis" else metric, condensed)


def _check_sizes(x: Tensor, metric: str) -> None:
    n, d = x.shape[-2:]
    shape = f"in shape {tuple(x.shape)}"
    if n < 2:
        checks.value_error("rdm", "x", "of at least 2 conditions: a pair has two", f"N = {n} {shape}")
    least = 2 if metric == "correlation" else 1
    if d < least:
        why = "1 channel" if least == 1 else "2 channels: one has no variance"
        checks.value_error("rdm", "x", f"of at least {why}", f"D = {d} {shape}")
    if metric == "crossnobis" and x.shape[-3] < 2:
        checks.value_error("rdm", "x", "of at least 2 folds: they are multiplied", f"{x.shape[-3]} {shape}")
