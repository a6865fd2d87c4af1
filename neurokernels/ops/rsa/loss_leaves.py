"""The leaf ops of the similarity losses: each one gives the loss and its gradient, which a backward pass scales."""

from typing import Any, NamedTuple

from torch import Tensor

from neurokernels._core import backends, native, triton
from neurokernels._core.covariance import compute_dtype, full_precision
from neurokernels._core.library import leaf

FORMS = ("li2019", "pearson", "cosine", "mse", "cka", "cka_debiased")
#: What patterns are compared by once a precision matrix or folds are taken care of.
METRICS = ("cosine", "correlation", "linear", "sqeuclidean")
ACCURACIES = ("high", "fast")

backends.register(
    "rsa_loss",
    backends.Backend("cpu", ("cpu",), lambda x: native.reason(), "neurokernels.ops.rsa.loss_cpu"),
    backends.Backend("triton", (), triton.refuses, "neurokernels.ops.rsa.loss_triton"),
    backends.Backend("reference", (), lambda x: None, "neurokernels.ops.rsa.loss_reference"),
)


class Options(NamedTuple):
    """What a loss is, but for its tensors.

    Attributes:
        form: One of `FORMS`.
        metric: One of `METRICS`.
        kind: What the target is: ``"square"`` ``[N, N]``, ``"condensed"`` ``[N (N - 1) / 2]``, or ``"features"``
            ``[N, M]``, responses of which it is made as the similarities of patterns are: see `loss_rows`.
        widths: Units of each layer, which stand side by side.
        folds: For crossnobis the number of folds, whose sum stands before them in each layer; else 0.
        distances: Whether dense targets are distances, and cosine and correlation are compared as 1 minus themselves.
        disjoint: Whether pairs are (0, 1), (2, 3) and so on, instead of all.
        eps, factor: Of li2019: inside its logarithms, and on the loss.
        accuracy: ``"high"``, or ``"fast"`` where fewer digits save time.
    """

    form: str
    metric: str
    kind: str
    widths: tuple[int, ...]
    folds: int
    distances: bool
    disjoint: bool
    eps: float
    factor: float
    accuracy: str


def _loss(
    x: Tensor, logits: Tensor | None, mean: Tensor | None, target: Tensor, form: str, metric: str, kind: str,
    widths: list[int], folds: int, distances: bool, disjoint: bool, eps: float, factor: float, accuracy: str,
    gradient: bool, backend: str,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    o = Options(form, metric, kind, tuple(widths), folds, distances, disjoint, eps, factor, accuracy)
    with full_precision(x):
        kernels = backends.select("rsa_loss", backend, x).kernels()
        value, dx, dlogits = kernels.rsa_loss(x, logits, mean, target, o, gradient)
    return value, value.new_empty(0) if dx is None else dx, value.new_empty(0) if dlogits is None else dlogits


def _loss_fake(x: Tensor, logits: Tensor | None, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    gradient, compute = rest[-2], compute_dtype(x)
    shapes = (x.shape if gradient else (0,), logits.shape if gradient and logits is not None else (0,))
    dx, dlogits = (x.new_empty(shape, dtype=compute) for shape in shapes)
    return x.new_empty(x.shape[:-2], dtype=compute), dx, dlogits


def _cka(x: Tensor, y: Tensor, debiased: bool, of_x: bool, of_y: bool, backend: str) -> tuple[Tensor, Tensor, Tensor]:
    with full_precision(x):
        kernels = backends.select("rsa_loss", backend, x).kernels()
        value, dx, dy = kernels.cka(x, y, debiased, of_x, of_y)
    return value, dx if of_x else value.new_empty(0), dy if of_y else value.new_empty(0)


def _cka_fake(x: Tensor, y: Tensor, debiased: bool, of_x: bool, of_y: bool, backend: str) -> tuple[Tensor, ...]:
    shapes = (x.shape[:-2], x.shape if of_x else (0,), y.shape if of_y else (0,))
    return tuple(x.new_empty(shape, dtype=compute_dtype(x)) for shape in shapes)


#: Layers side by side ``x[..., N, D]``, logits of their weights ``[..., layers]``, what is subtracted from every
#: pattern ``mean[..., D]`` and a target ``[..., N, N]``, ``[..., N (N - 1) / 2]`` or ``[..., N, M]`` to the loss
#: ``[...]`` and the gradients of x and of the logits (``[0]`` unless asked for), all in the type that is computed in.
rsa_loss_fwd = leaf(
    "rsa_loss_fwd(Tensor x, Tensor? logits, Tensor? mean, Tensor target, str form, str metric, str kind, "
    "SymInt[] widths, SymInt folds, bool distances, bool disjoint, float eps, float factor, str accuracy, "
    "bool gradient, str backend) -> (Tensor, Tensor, Tensor)",
    _loss,
    _loss_fake,
)

#: Two views ``[..., N, D1]`` and ``[..., N, D2]`` to their similarity ``[...]`` and its gradients, likewise.
cka_fwd = leaf(
    "cka_fwd(Tensor x, Tensor y, bool debiased, bool of_x, bool of_y, str backend) -> (Tensor, Tensor, Tensor)",
    _cka,
    _cka_fake,
)
