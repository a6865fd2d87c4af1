"""`rsa_loss`: how far similarities of images in a network are from a target; checks and derivatives."""

import functools
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from neurokernels._core import arrays, backends, checks
from neurokernels._core.arrays import accepts_arrays
from neurokernels._core.autograd import FirstOrderOnly, eager, forward_mode, transformed
from neurokernels._core.covariance import compute_dtype, full_precision
from neurokernels.ops.rsa.loss_leaves import ACCURACIES, FORMS, rsa_loss_fwd
from neurokernels.ops.rsa.loss_rows import of_responses

_OP = "rsa_loss"
METRICS = ("cosine", "correlation", "linear", "sqeuclidean", "mahalanobis", "crossnobis")
SCALES, PAIRS = {"code": 1.0, "paper": 0.25}, ("all", "disjoint")
REFUSAL = "rsa_loss: second-order derivatives are not supported: a loss and its gradient are computed in one pass"

# Derivatives --------------------------------------------------------------------------------------------------------


def scaled(g: Tensor, gradient: Tensor, like: Tensor) -> Tensor:
    """A gradient that is there already, times that of the loss ``[...]``, in the dtype of the input."""
    return (gradient * g[(...,) + (None,) * (gradient.ndim - g.ndim)]).to(like.dtype)


def first(tensors: tuple[Any, ...], in_dims: tuple[Any, ...], size: int) -> list[Any]:
    """`neurokernels._core.autograd.leading` of tensors of which some may be None."""
    return [
        t if t is None else t.unsqueeze(0).expand(size, *t.shape) if d is None else t.movedim(d, 0)
        for t, d in zip(tensors, in_dims, strict=True)
    ]


class _Loss(Function):
    """``(x, logits, mean, target, options, backend)`` to the loss and its gradients by x and by the logits."""

    @staticmethod
    def forward(x: Any, logits: Any, mean: Any, target: Any, options: Any, backend: Any) -> Any:
        return rsa_loss_fwd(x, logits, mean, target, *options, True, backend)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.has_logits = inputs[1] is not None
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(inputs[0], *([inputs[1]] if ctx.has_logits else []), *output[1:])

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, *_: Any) -> tuple[Any, ...]:
        if g is None:
            return (None,) * 6
        *given, dx, dlogits = ctx.saved_tensors
        found = _scale(g, (dx, dlogits)[: len(given)], given)
        return found[0], found[1] if ctx.has_logits else None, None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
        return _Loss.apply(*first(inputs[:4], in_dims[:4], info.batch_size), *inputs[4:]), _outputs(inputs)


class _LossEager(_Loss):
    """The same with forward-mode derivatives, which Dynamo does not trace."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _Loss.setup_context(ctx, inputs, output)
        if forward_mode():
            ctx.save_for_forward(inputs[0], *([inputs[1]] if ctx.has_logits else []), *output[1:])

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Any, ...]:
        *given, dx, dlogits = ctx.saved_tensors
        return _along(tangents[: len(given)], (dx, dlogits)[: len(given)], given), None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
        return _LossEager.apply(*first(inputs[:4], in_dims[:4], info.batch_size), *inputs[4:]), _outputs(inputs)


def _outputs(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return 0, 0, None if inputs[1] is None else 0


def _scale(g: Tensor, gradients: tuple[Tensor, ...], given: list[Tensor]) -> tuple[Tensor, ...]:
    if torch.is_grad_enabled():
        return Scaled.apply(g, *gradients, *given)
    return tuple(scaled(g, d, like) for d, like in zip(gradients, given, strict=True))


def _along(tangents: tuple[Any, ...], gradients: tuple[Tensor, ...], given: list[Tensor]) -> Tensor:
    tangents = tuple(torch.zeros_like(v) if t is None else t for t, v in zip(tangents, given, strict=True))
    return Along.apply(*tangents, *gradients, *given)


class Scaled(FirstOrderOnly):
    """``(g, gradients..., inputs...)``: takes the inputs so that whoever differentiates it is told."""

    refusal = REFUSAL

    @staticmethod
    def forward(g: Any, *rest: Any) -> Any:
        """Every gradient times g."""
        half = len(rest) // 2
        return tuple(scaled(g, d, like) for d, like in zip(rest[:half], rest[half:], strict=True))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
        """Of leading dimensions."""
        return Scaled.apply(*first(inputs, in_dims, info.batch_size)), (0,) * (len(inputs) // 2)


class Along(FirstOrderOnly):
    """``(tangents..., gradients..., inputs...)`` to the tangent of the loss."""

    refusal = REFUSAL

    @staticmethod
    def forward(*rest: Any) -> Any:
        """The sum over inputs of tangents times gradients."""
        third = len(rest) // 3
        dx = rest[third]
        items = dx.shape[:-2]
        terms = [
            (t * d).reshape(*items, -1).sum(-1, dtype=dx.dtype)
            for t, d in zip(rest[:third], rest[third : 2 * third], strict=True)
        ]
        return sum(terms[1:], terms[0])

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
        """Of leading dimensions."""
        return Along.apply(*first(inputs, in_dims, info.batch_size)), 0


_run = eager(_LossEager)

# Arguments ----------------------------------------------------------------------------------------------------------


def _layers(x: Any, metric: str) -> tuple[Tensor, ...]:
    """The layers in one dtype, all of the same images."""
    layers = tuple(x) if isinstance(x, tuple | list) else (x,)
    if not layers:
        checks.value_error(_OP, "x", "a tensor or several of them", "none")
    least, shape = (3, "[..., folds, N, D]") if metric == "crossnobis" else (2, "[..., N, D]")
    for k, layer in enumerate(layers):
        name = "x" if len(layers) == 1 else f"x[{k}]"
        checks.floating(_OP, name, layer)
        if layer.ndim < least:
            checks.value_error(_OP, name, f"{shape} with at least {least} dimensions", f"shape {tuple(layer.shape)}")
        checks.same_device(_OP, name, layer, layers[0].device)
        if layer.shape[:-1] != layers[0].shape[:-1]:
            checks.value_error(
                _OP, name, f"of {tuple(layers[0].shape[:-1])} patterns as x[0] is", f"shape {tuple(layer.shape)}"
            )
        fewest = 2 if metric in ("cosine", "correlation") else 1
        if layer.shape[-1] < fewest:
            why = "of at least 2 units: patterns of one are parallel" if fewest == 2 else "of at least 1 unit"
            checks.value_error(_OP, name, why, f"D = {layer.shape[-1]} in shape {tuple(layer.shape)}")
    wide = layers[0].dtype
    for layer in layers[1:]:
        wide = torch.promote_types(wide, layer.dtype)
    return tuple(layer.to(wide) for layer in layers)


def _per_layer(name: str, value: Any, layers: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A tensor for every layer: data, to which no gradient goes."""
    given = tuple(value) if isinstance(value, tuple | list) else (value,)
    if len(given) != len(layers):
        checks.value_error(_OP, name, f"one tensor for each of {len(layers)} layers", f"{len(given)} of them")
    for k, own in enumerate(given):
        _data(name if len(given) == 1 else f"{name}[{k}]", own, layers[0].device)
    return given


def _data(name: str, value: Any, device: torch.device) -> None:
    checks.floating(_OP, name, value)
    checks.same_device(_OP, name, value, device)
    if value.requires_grad and torch.is_grad_enabled():
        checks.value_error(
            _OP, name, "data, without a gradient: .detach() it (nk.cka differentiates by both sides)", "requires_grad"
        )


def _whitened(layers: tuple[Tensor, ...], precision: Any) -> tuple[Tensor, ...]:
    """Layers whose squared Euclidean distances are the Mahalanobis distances of the given ones."""
    out = []
    for layer, p in zip(layers, _per_layer("precision", precision, layers), strict=True):
        d = layer.shape[-1]
        if p.shape != (d, d):
            checks.value_error(_OP, "precision", f"[D, D] = [{d}, {d}]", f"shape {tuple(p.shape)}")
        root, info = torch.linalg.cholesky_ex(p.to(compute_dtype(layer)))
        if not torch.compiler.is_compiling() and info.any():
            checks.value_error(
                _OP, "precision", "symmetric and positive definite", "a matrix without a Cholesky factor"
            )
        with full_precision(layer):
            out.append(layer.to(root.dtype) @ root)
    return tuple(out)


def _folded(layers: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], int]:
    """``[..., folds, N, D]`` to ``[..., N, (folds + 1) D]``: the sum over folds, and every fold, side by side."""
    folds = layers[0].shape[-3]
    if folds < 2:
        checks.value_error(_OP, "x", "[..., folds, N, D] of at least 2 folds", f"shape {tuple(layers[0].shape)}")
    out = []
    for layer in layers:
        z = layer.to(compute_dtype(layer))
        z = z - z.mean((-3, -2), keepdim=True)
        out.append(torch.cat([z.sum(-3), *z.unbind(-3)], -1))
    return tuple(out), folds


def _target(target: Any, responses: Any, form: str, metric: str, centre: bool, like: Tensor, batch: torch.Size,
            n: int) -> tuple[Tensor, str]:  # fmt: skip
    """The target with the leading dimensions of x, in the dtype that is computed in, and its kind."""
    if (target is None) == (responses is None):
        got = "neither" if target is None else "both"
        checks.value_error(_OP, "target or responses", "given, one of them", got)
    if responses is not None:
        scans = tuple(responses) if isinstance(responses, tuple | list) else (responses,)
        if not scans:
            checks.value_error(_OP, "responses", "a tensor or several of them", "none")
        done = []
        for k, scan in enumerate(scans):
            name = "responses" if len(scans) == 1 else f"responses[{k}]"
            _data(name, scan, like.device)
            if scan.ndim < 2 or scan.shape[-2] != n or scan.shape[-1] < 1:
                checks.value_error(_OP, name, f"[..., N, M] of the N = {n} images of x", f"shape {tuple(scan.shape)}")
            v = of_responses(scan.detach().to(like.dtype), metric, centre)
            done.append(_leading(name, v, 2, batch))
        return (done[0] if len(done) == 1 else torch.cat(done, -1) / len(done) ** 0.5), "features"
    _data("target", target, like.device)
    if target.ndim >= 2 and target.shape[-2:] == (n, n):
        kind, trailing = "square", 2
    elif target.ndim >= 1 and target.shape[-1] == n * (n - 1) // 2 and form != "cka":
        kind, trailing = "condensed", 1
    else:
        condensed = "" if form == "cka" else f" or [..., {n * (n - 1) // 2}]"
        checks.value_error(_OP, "target", f"[..., {n}, {n}]{condensed} for N = {n}", f"shape {tuple(target.shape)}")
    return _leading("target", target.detach().to(like.dtype), trailing, batch), kind


def _leading(name: str, value: Tensor, trailing: int, batch: torch.Size) -> Tensor:
    """A tensor for every item: with the leading dimensions of x, or one for all."""
    own = value.shape[: value.ndim - trailing]
    if own != batch:
        if own:
            checks.value_error(_OP, name, f"of leading dimensions {tuple(batch)} as x, or without", f"{tuple(own)}")
        value = value.expand(*batch, *value.shape)
    return value


def _mean(mean: Any, layers: tuple[Tensor, ...], metric: str, batch: torch.Size, like: Tensor) -> Tensor:
    if metric not in ("cosine", "correlation"):
        checks.value_error(_OP, "mean", "left out: it changes cosine and correlation alone", f"metric={metric!r}")
    means = _per_layer("mean", mean, layers)
    for own, layer in zip(means, layers, strict=True):
        if own.shape != layer.shape[-1:]:
            checks.value_error(_OP, "mean", f"[D] = [{layer.shape[-1]}]", f"shape {tuple(own.shape)}")
    return torch.cat([own.detach().to(like.dtype) for own in means]).expand(*batch, -1)


def _weights(weights: Any, layers: tuple[Tensor, ...], batch: torch.Size) -> Tensor:
    checks.floating(_OP, "weights", weights)
    checks.same_device(_OP, "weights", weights, layers[0].device)
    if weights.shape not in ((len(layers),), (*batch, len(layers))):
        checks.value_error(
            _OP, "weights", f"logits [{len(layers)}], one for each layer of x", f"shape {tuple(weights.shape)}"
        )
    return weights.expand(*batch, -1)


def _options(form: str, metric: str | None, scale: str, pairs: str, eps: Any, distances: bool, accuracy: str) -> str:
    """Checks words and numbers; the metric."""
    checks.choice(_OP, "form", form, FORMS)
    is_cka = form.startswith("cka")
    metric = ("linear" if is_cka else "cosine") if metric is None else checks.choice(_OP, "metric", metric, METRICS)
    checks.choice(_OP, "scale", scale, tuple(SCALES))
    checks.choice(_OP, "pairs", pairs, PAIRS)
    checks.choice(_OP, "accuracy", accuracy, ACCURACIES)
    if form == "li2019" and metric not in ("cosine", "correlation"):
        checks.value_error(_OP, "metric", "cosine or correlation for form='li2019': it takes arctanh", repr(metric))
    if is_cka and metric not in ("linear", "cosine", "correlation"):
        checks.value_error(_OP, "metric", f"linear, cosine or correlation for form={form!r}", repr(metric))
    if is_cka and (pairs != "all" or distances):
        checks.value_error(_OP, "pairs and distances", f"left alone for form={form!r}", f"{pairs!r}, {distances}")
    if form != "li2019" and scale != "code":
        checks.value_error(_OP, "scale", "left alone: it is of form='li2019'", repr(scale))
    if distances and metric == "linear":
        checks.value_error(_OP, "distances", "False for metric='linear', which has none", "True")
    if not 1e-12 <= checks.number(_OP, "eps", eps) <= 1:
        checks.value_error(_OP, "eps", "in [1e-12, 1]", eps)
    return metric


# The op -------------------------------------------------------------------------------------------------------------


def _accepts_layers(op: Any) -> Any:
    """Takes several layers as arrays too; one is `accepts_arrays`."""

    @functools.wraps(op)
    def wrapper(x: Any, *args: Any, **options: Any) -> Any:
        which = arrays.kind(x[0]) if isinstance(x, tuple | list) and x else None
        if which is None:
            return op(x, *args, **options)
        with torch.no_grad():
            given = {name: arrays.to_tensor(value) for name, value in options.items()}
            return arrays.to_array(op(*map(arrays.to_tensor, (tuple(x), *args)), **given), which)

    return wrapper


@_accepts_layers
@accepts_arrays
def rsa_loss(
    x: Any,
    target: Tensor | None = None,
    *,
    responses: Any = None,
    form: str = "li2019",
    metric: str | None = None,
    weights: Tensor | None = None,
    eps: float = 1e-5,
    scale: str = "code",
    pairs: str = "all",
    mean: Any = None,
    precision: Any = None,
    distances: bool = False,
    centre: bool = True,
    accuracy: str = "high",
) -> Tensor:
    """How far the similarities of images in a network are from a target, for training: exact, without N x N memory.

    A similarity ``S_ij`` of the patterns of two images is compared with ``T_ij`` over all pairs i < j:

    - ``"li2019"``: the mean of ``(A(S) - A(T))^2``, ``A(s) = log(1 + s + eps) - log(1 - s + eps)``, twice arctanh
      (Li et al. 2019, arXiv 1911.05072);
    - ``"pearson"``, ``"cosine"``: 1 minus the correlation or the cosine of both over pairs (Kriegeskorte 2008);
    - ``"mse"``: the mean of ``(S - T)^2``;
    - ``"cka"``, ``"cka_debiased"``: 1 minus the centred kernel alignment of S and T (Kornblith et al. 2019), with the
      biased HSIC, or with the unbiased one of Song et al. 2012.

    Args:
        x: Activations ``[..., N, D]`` of N images, or a tuple of them from several layers, whose similarities are then
            averaged; float32, float64, bfloat16 or float16 (half precision computes in float32). Leading dimensions are
            independent items.
        target: T, ``[..., N, N]``, of which the upper triangle is read, or condensed ``[..., N (N - 1) / 2]``, row by
            row as SciPy has it: similarities, but distances for the metrics that are distances, and with
            ``distances=True``. ``"cka"`` needs the diagonal, and so the square form.
        responses: Instead of a target: responses ``[..., N, M]`` of M neurons, or a tuple of scans ``[..., N, M_s]``
            whose similarities are averaged. T is made of them as S is of x; for cosine each neuron's mean over images
            is subtracted first (see ``centre``). The metrics mahalanobis and crossnobis compare responses by
            sqeuclidean.
        form: What is compared, see above.
        metric: ``"cosine"``, ``"correlation"`` (cosine after each pattern's mean over units is subtracted),
            ``"linear"`` (the inner product), or the distances ``"sqeuclidean"``, ``"mahalanobis"`` and ``"crossnobis"``
            (x is ``[..., folds, N, D]``), which are divided by the number of units. By default cosine; linear for CKA.
        weights: Logits ``[layers]`` of the layers' weights, which are their softmax; None for equal weights. They get a
            gradient.
        eps: Of li2019.
        scale: ``"code"`` as above, or ``"paper"``: arctanh itself, a quarter of the loss.
        pairs: ``"all"``, or ``"disjoint"``: (0, 1), (2, 3) and so on, as published.
        mean: What is subtracted from every pattern for cosine and correlation, ``[D]`` or one for each layer: a running
            mean of each unit.
        precision: The precision matrix ``[D, D]`` of mahalanobis, and if wanted of crossnobis, or one for each layer.
        distances: Whether a target of cosine or correlation holds distances 1 - T (`neurokernels.rdm` makes them), and
            the form ``"cosine"`` compares distances.
        centre: Whether responses are centred over these images; False if they are already over more of them.
        accuracy: ``"high"``: float32 throughout; ``"fast"``: fewer digits on GPUs, where that saves time.

    Returns:
        ``[...]``, float32, or float64 for float64 input. A pattern without variance has no direction: under cosine and
        correlation its item is NaN, as is one with a NaN.

    Raises:
        TypeError: A tensor is not floating point, or an argument has the wrong type.
        ValueError: A shape or a value is wrong, or a target requires a gradient.
        BackendError: The backend that was asked for cannot run this call.
    """
    metric = _options(form, metric, scale, pairs, eps, distances, accuracy)
    layers = _layers(x, metric)
    n = layers[0].shape[-2]
    least = 4 if form == "cka_debiased" else 2
    if n < least:
        checks.value_error(_OP, "x", f"of at least {least} images", f"N = {n} in shape {tuple(layers[0].shape)}")
    if pairs == "disjoint" and n % 2:
        checks.value_error(_OP, "x", "of an even number of images for pairs='disjoint'", f"N = {n}")
    if metric == "mahalanobis" and precision is None:
        checks.value_error(_OP, "precision", "given for metric='mahalanobis'", "None")
    if precision is not None:
        if metric not in ("mahalanobis", "crossnobis"):
            checks.value_error(_OP, "precision", "left out: it is of mahalanobis and crossnobis", f"metric={metric!r}")
        layers = _whitened(layers, precision)
    layers, folds = _folded(layers) if metric == "crossnobis" else (layers, 0)
    kernel = "sqeuclidean" if metric in ("mahalanobis", "crossnobis") else metric
    batch, compute = layers[0].shape[:-2], torch.empty(0, dtype=compute_dtype(layers[0]), device=layers[0].device)
    t, kind = _target(target, responses, form, kernel, centre, compute, batch, n)
    means = None if mean is None else _mean(mean, layers, metric, batch, compute)
    logits = None if weights is None else _weights(weights, layers, batch)
    together = layers[0] if len(layers) == 1 else torch.cat(layers, -1)
    options = (
        form, kernel, kind, [layer.shape[-1] for layer in layers], folds, bool(distances), pairs == "disjoint",
        float(eps), SCALES[scale], accuracy,
    )  # fmt: skip
    return _dispatch(together, logits, means, t, options)


def _dispatch(x: Tensor, logits: Tensor | None, mean: Tensor | None, target: Tensor, options: Any) -> Tensor:
    if torch.compiler.is_compiling():
        if torch.is_grad_enabled():  # nothing else says there whether a gradient will be asked for
            return _Loss.apply(x, logits, mean, target, options, backends.INHERIT)[0]
        return rsa_loss_fwd(x, logits, mean, target, *options, False, backends.INHERIT)[0]
    given = (x, logits, mean, target, options, backends.requested())
    if transformed():
        return _LossEager.apply(*given)[0]
    wanted = torch.is_grad_enabled() and (x.requires_grad or (logits is not None and logits.requires_grad))
    if forward_mode() or wanted:
        return _run(*given)[0]
    return rsa_loss_fwd(x, logits, mean, target, *options, False, backends.requested())[0]
