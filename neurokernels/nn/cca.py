"""The DCCA regulariser: pulls what a layer represents towards what was measured in a brain, or in another network."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from neurokernels._core import backends, checks
from neurokernels.nn.regularizer import Regularizer, key
from neurokernels.ops.cca.correlations import canonical_correlations, dcca_loss
from neurokernels.ops.cca.selfsupervised import barlow_twins_loss, vicreg_loss

_OPTIONS: dict[str, tuple[str, ...]] = {
    "dcca": (),
    "vicreg": ("invariance", "variance", "covariance", "gamma", "eps"),
    "barlow_twins": ("lambd", "eps"),
}
_OP = "nn.DCCARegularizer"


class DCCARegularizer(Regularizer):
    """``loss = task + reg(h, y)`` makes activations h and responses y predictable from each other.

    Two projection heads, multilayer perceptrons with ReLU, map both to a few dimensions, and a loss says how far the
    projections are from being correlated (Pirlot et al. 2022, arXiv 2209.02582). The heads are trained with the model:
    hand ``reg.parameters()`` to the optimiser too. The published experiment has a weight decay of 1e-5 on them.

    Activations and responses with more than two dimensions are flattened per sample, and converted to the dtype of the
    heads. In evaluation mode there is no dropout.

    Attached to layers (``reg.attach(model, ["layer3"])``, then ``reg.loss(y)``) it has a pair of heads for each of
    them, made when it is attached: make the optimiser afterwards.

    Args:
        dims: Dimensions of both projections.
        features: Sizes of activations and responses per sample, either of them None: that head is then made when it
            sees its first batch (`torch.nn.LazyLinear`).
        hidden: Sizes of the hidden layers of each head; ``()`` for linear projections.
        dropout: Probability after each hidden layer.
        loss: ``"dcca"`` (`neurokernels.dcca_loss`), ``"vicreg"`` (`neurokernels.vicreg_loss`) or ``"barlow_twins"``
            (`neurokernels.barlow_twins_loss`).
        strength: Factor on the loss.
        reg: Regularisation of the covariances, of the loss ``"dcca"`` and of the correlations in the metrics.
        objective, k, precision: Of the loss ``"dcca"``.
        **options: Of the losses ``"vicreg"`` and ``"barlow_twins"``.

    Metrics: ``loss`` (without the strength), ``correlations`` (canonical correlations of the two projections,
    ``[dims]``, computed when they are asked for) and ``correlation`` (their mean).

    Raises:
        TypeError: An option is unknown or has the wrong type.
        ValueError: An option has a wrong value, or is not one of this loss.
    """

    def __init__(
        self,
        dims: int = 10,
        *,
        features: tuple[int | None, int | None] = (None, None),
        hidden: tuple[int, ...] = (1024, 1024, 1024),
        dropout: float = 1e-4,
        loss: str = "dcca",
        strength: float = 1.0,
        reg: float | tuple[float, float] = 1e-4,
        objective: str = "nuclear",
        k: int | None = None,
        precision: str = "high",
        **options: float,
    ) -> None:
        super().__init__()
        self.dims = checks.count(_OP, "dims", dims, 1)
        self.features = _sizes(features)
        self.hidden = tuple(checks.count(_OP, "hidden", size, 1) for size in hidden)
        self.dropout = checks.number(_OP, "dropout", dropout, 0, 1)
        self.kind = checks.choice(_OP, "loss", loss, tuple(_OPTIONS))
        self.strength = checks.number(_OP, "strength", strength)
        self.reg = reg
        unknown = sorted(set(options) - set(_OPTIONS[self.kind]))
        if unknown:
            known = ", ".join(_OPTIONS[self.kind]) or "objective, k, precision, reg"
            checks.type_error(_OP, "options", f"those of loss={self.kind!r} ({known})", ", ".join(unknown))
        self.options: dict[str, Any] = dict(options)
        own: dict[str, Any] = {"objective": objective, "k": k, "precision": precision}
        if self.kind == "dcca":
            self.options = {"reg": reg, **own}
        elif own != {"objective": "nuclear", "k": None, "precision": "high"}:
            checks.value_error(_OP, "objective, k and precision", "left alone: they are of loss='dcca'", repr(own))
        self._try()
        self.heads = nn.ModuleDict()
        self._prepare("")
        self._projections: dict[str, tuple[Tensor, Tensor]] = {}

    def _try(self) -> None:
        """Refuses wrong options now, in the words of the loss, and not at the first step of a training."""
        sample = torch.eye(self.dims + 2, self.dims, device="cpu")
        with torch.no_grad(), backends.backend("reference"):
            self._compare(sample, sample)
            canonical_correlations(sample, sample, reg=self.reg)

    def _compare(self, u: Tensor, v: Tensor) -> Tensor:
        losses: dict[str, Any] = {"dcca": dcca_loss, "vicreg": vicreg_loss, "barlow_twins": barlow_twins_loss}
        return losses[self.kind](u, v, **self.options)

    # The heads --------------------------------------------------------------------------------------------------------

    def _prepare(self, layer: str) -> None:
        if key(layer) not in self.heads:
            self.heads[key(layer)] = nn.ModuleList([self._head(size) for size in self.features])

    def _head(self, features: int | None) -> nn.Sequential:
        sizes, layers = [features, *self.hidden, self.dims], []
        for n, m in zip(sizes[:-1], sizes[1:], strict=True):
            assert m is not None
            layers += [nn.LazyLinear(m) if n is None else nn.Linear(n, m), nn.ReLU(), nn.Dropout(self.dropout)]
        return nn.Sequential(*layers[:-2])

    def attach(self, model: nn.Module, layers: Iterable[str]) -> "DCCARegularizer":
        """Collects the outputs of named layers of a model in each forward pass; returns itself.

        The heads for calls without a layer are dropped: nothing would train them.

        Raises:
            ValueError: The model has no such layer.
        """
        super().attach(model, layers)
        self.heads.pop(key("")) if key("") in self.heads else None
        return self

    def project(self, h: Tensor, y: Tensor, layer: str = "") -> tuple[Tensor, Tensor]:
        """Both projections ``[N, dims]``, by the heads of an attached layer or by those for calls without one.

        Raises:
            TypeError: h or y is not a tensor of numbers.
            ValueError: Numbers of samples differ, or there is no head for this layer.
        """
        if key(layer) not in self.heads:
            known = ", ".join(repr(name.replace("/", ".")) for name in self.heads)
            checks.value_error(_OP, "layer", f"one that is attached ({known})", repr(layer))
        heads: Any = self.heads[key(layer)]
        of_h, of_y = heads
        h, y = _flat("h", h, of_h), _flat("y", y, of_y)
        if h.shape[0] != y.shape[0]:
            checks.value_error(_OP, "y", f"of N = {h.shape[0]} samples as h is", f"N = {y.shape[0]}")
        return of_h(h), of_y(y)

    # The loss ---------------------------------------------------------------------------------------------------------

    def forward(self, h: Tensor, y: Tensor, layer: str = "") -> Tensor:  # type: ignore[override]
        """The scalar loss of activations ``[N, ...]`` and responses ``[N, ...]``, differentiable in both.

        After `attach`, ``layer`` names the layer whose heads are to be used.
        """
        self._metrics, self._projections = {}, {}
        return self._measure(h, layer, y)

    def loss(self, y: Tensor) -> Tensor:  # type: ignore[override]
        """The sum over the attached layers in the last forward pass, against responses ``[N, ...]``.

        Raises:
            RuntimeError: No forward pass has gone through an attached layer since the last call.
        """
        self._projections = {}
        return super().loss(y)

    def one(self, h: Tensor, layer: str, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of one layer's activations, and what was measured."""
        u, v = self.project(h, y, layer)
        loss = self._compare(u, v)
        self._projections[layer] = u.detach(), v.detach()
        return self.strength * loss, {"loss": loss}

    def metrics(self) -> dict[str, Tensor]:
        """What one would plot of the last pass, detached; attached layers come as ``"layer.name"``."""
        found = super().metrics()
        for layer, (u, v) in self._projections.items():
            prefix = f"{layer}." if layer else ""
            values = canonical_correlations(u, v, reg=self.reg)
            found |= {f"{prefix}correlations": values, f"{prefix}correlation": values.mean()}
        return found

    def extra_repr(self) -> str:
        """The settings, for ``print(model)``."""
        options = "".join(f", {name}={value!r}" for name, value in self.options.items())
        return f"dims={self.dims}, loss={self.kind!r}, strength={self.strength:g}, dropout={self.dropout:g}{options}"


def _sizes(features: Any) -> tuple[int | None, int | None]:
    if not isinstance(features, tuple | list) or len(features) != 2:
        checks.type_error(_OP, "features", "a pair, of activations and responses", repr(features))
    x, y = (None if size is None else checks.count(_OP, "features", size, 1) for size in features)
    return x, y


def _flat(name: str, value: Tensor, head: nn.Module) -> Tensor:
    """``[N, ...]`` as ``[N, D]`` in the dtype of the head. Responses may be counts, or doubles from a file."""
    if not isinstance(value, Tensor) or value.is_complex():
        got = type(value).__name__ if not isinstance(value, Tensor) else str(value.dtype)
        checks.type_error(_OP, name, "a tensor of real numbers", got)
    if value.ndim < 2:
        checks.value_error(_OP, name, "[N, ...] with at least 2 dimensions", f"shape {tuple(value.shape)}")
    return value.flatten(1).to(next(head.parameters()).dtype)
