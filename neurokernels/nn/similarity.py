"""The similarity regulariser: what a network finds alike is pulled towards what a brain finds alike."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from neurokernels._core import backends, checks
from neurokernels.nn.regularizer import Regularizer, key
from neurokernels.ops.rsa.loss import rsa_loss

_OP = "nn.SimilarityRegularizer"
_METRICS = ("cosine", "correlation", "linear", "sqeuclidean")


class _RunningMean(nn.Module):
    """The mean of every channel of a layer ``[C]``; empty before the first batch."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.empty(0))

    def forward(self, h: Tensor, momentum: float) -> Tensor:
        """Takes a batch ``[N, C, ...]`` into account when training; the mean for every unit ``[D]``."""
        channels = h.shape[1]
        if self.mean.shape != (channels,) or self.training:
            with torch.no_grad():
                dtype = torch.promote_types(h.dtype, torch.float32)
                batch = h.detach().transpose(0, 1).flatten(1).to(dtype).mean(1)
                if self.mean.numel() == 0:
                    found = batch
                elif self.mean.shape != (channels,):
                    checks.value_error(_OP, "h", f"of {self.mean.numel()} channels as before", f"{channels}")
                else:
                    found = self.mean.to(batch.dtype).lerp(batch, 1 - momentum)
                if not self.training:
                    return _spread(found, h)
                if self.mean.shape == found.shape:
                    self.mean.copy_(found)
                else:
                    self.mean = found
        return _spread(self.mean.clone() if self.training else self.mean, h)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Takes a mean of any size into one that has seen no batch."""
        given = state_dict.get(f"{prefix}mean")
        if given is not None and given.shape != self.mean.shape and 0 in (given.numel(), self.mean.numel()):
            self.mean = self.mean.new_empty(given.shape)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _spread(mean: Tensor, h: Tensor) -> Tensor:
    """The mean of the channel of every unit."""
    return mean[:, None].expand(-1, h[0, 0].numel()).reshape(-1)


class SimilarityRegularizer(Regularizer):
    """``loss = task + reg(h, target)`` makes images alike to a network that are alike to a brain (Li et al. 2019).

    Similarities of several layers are averaged to one, by weights that are learnt: the softmax of ``reg.logits``, one
    for each layer, zero at first. Hand ``reg.parameters()`` to the optimiser too. Activations ``[N, C, ...]`` are
    flattened per image. Under cosine and correlation a running mean of every channel is subtracted first, through which
    no gradient goes; training updates it and then uses it, evaluation uses it as it is.

    Attached to layers (``reg.attach(model, ["layer1", "layer3"])``, then ``reg.loss(target)``) it has a weight for each
    of them, made when it is attached: make the optimiser afterwards. Called, it takes a tensor, or a tuple of
    ``layers`` of them.

    Args:
        form, metric, eps, scale, pairs, distances, centre, accuracy: As for `neurokernels.rsa_loss`; the metric is one
            of cosine, correlation, linear and sqeuclidean.
        strength: Factor on the loss.
        layers: How many layers a call brings; of no account once it is attached.
        learn_weights: Whether the layers' weights are learnt; else they stay alike.
        momentum: Share of the running mean that stays after a batch; None for no running mean.

    Metrics: ``loss`` (without the strength), ``weights`` ``[layers]``, and ``correlation`` of similarities and targets
    over pairs, which is computed when it is asked for: for that the last activations are held until then, or until the
    next call.

    Raises:
        TypeError: An option has the wrong type.
        ValueError: An option has a wrong value, or is not one of this form.
    """

    logits: nn.Parameter

    def __init__(
        self,
        *,
        form: str = "li2019",
        metric: str | None = None,
        strength: float = 1.0,
        layers: int = 1,
        learn_weights: bool = True,
        momentum: float | None = 0.9,
        eps: float = 1e-5,
        scale: str = "code",
        pairs: str = "all",
        distances: bool = False,
        centre: bool = True,
        accuracy: str = "high",
    ) -> None:
        super().__init__()
        if metric is not None:
            checks.choice(_OP, "metric", metric, _METRICS)
        self.strength = checks.number(_OP, "strength", strength)
        self.momentum = None if momentum is None else checks.number(_OP, "momentum", momentum, 0, 1)
        self.options: dict[str, Any] = {
            "form": form, "metric": metric, "eps": eps, "scale": scale, "pairs": pairs, "distances": distances,
            "centre": centre, "accuracy": accuracy,
        }  # fmt: skip
        self._try()
        directed = metric in ("cosine", "correlation") or (metric is None and not form.startswith("cka"))
        self.centres = directed and self.momentum is not None
        count = checks.count(_OP, "layers", layers, 1)
        self.learn_weights = bool(learn_weights)
        self.means = nn.ModuleDict()
        self.names: tuple[str, ...] = ()
        self.attached = False
        self._set([str(k) for k in range(count)])
        self._last: tuple[Any, ...] | None = None

    def _try(self) -> None:
        """Refuses wrong options now, in the words of the loss, and not at the first step of a training."""
        sample = torch.eye(4, device="cpu")
        with torch.no_grad(), backends.backend("reference"):
            rsa_loss(sample, responses=sample, **self.options)

    def _set(self, names: list[str]) -> None:
        """A weight and a running mean for each of these; those that are there already stay."""
        old = dict(zip(self.names, self.logits.detach(), strict=True)) if self.names else {}
        self.names = tuple(names)
        like = next(iter(old.values())) if old else torch.zeros(())
        values = torch.stack([old.get(name, torch.zeros_like(like)) for name in names])
        self.logits = nn.Parameter(values, requires_grad=self.learn_weights and len(names) > 1)
        if self.centres:
            for name in [name for name in self.means if name not in map(key, names)]:
                self.means.pop(name)
            for name in map(key, names):
                if name not in self.means:
                    self.means[name] = _RunningMean()

    def attach(self, model: nn.Module, layers: Iterable[str]) -> "SimilarityRegularizer":
        """Collects the outputs of named layers of a model in each forward pass; returns itself.

        Raises:
            ValueError: The model has no such layer.
        """
        names = [layers] if isinstance(layers, str) else list(layers)
        kept = list(self.names) if self.attached else []
        names = list(dict.fromkeys(name for name in names if name not in kept))
        super().attach(model, names)
        self.attached = True
        self._set(kept + names)
        return self

    def forward(  # type: ignore[override]
        self, h: Tensor | tuple[Tensor, ...], target: Tensor | None = None, *, responses: Any = None
    ) -> Tensor:
        """The scalar loss of activations ``[N, ...]``, or a tuple of them, against a target or responses.

        Raises:
            TypeError: An activation is not a floating point tensor.
            ValueError: A shape is wrong, or there are not as many layers as weights.
        """
        layers = tuple(h) if isinstance(h, tuple | list) else (h,)
        if len(layers) != len(self.names):
            checks.value_error(_OP, "h", f"a tuple of {len(self.names)} layers", f"{len(layers)} of them")
        for layer in layers:
            checks.floating(_OP, "h", layer)
            if layer.ndim < 2:
                checks.value_error(_OP, "h", "[N, ...] with at least 2 dimensions", f"shape {tuple(layer.shape)}")
        means = None
        if self.centres:
            assert self.momentum is not None
            means = tuple(self.means[key(name)](layer, self.momentum)
                          for name, layer in zip(self.names, layers, strict=True))  # fmt: skip
        flat = tuple(layer.flatten(1) for layer in layers)
        weights = self.logits if len(flat) > 1 else None
        loss = rsa_loss(flat, target, responses=responses, weights=weights, mean=means, **self.options)
        self._metrics = {"loss": loss.detach(), "weights": self.logits.detach().softmax(0)}
        self._last = tuple(layer.detach() for layer in flat), target, responses, means, self.logits.detach().clone()
        return self.strength * loss

    def loss(self, target: Tensor | None = None, *, responses: Any = None) -> Tensor:  # type: ignore[override]
        """The loss of the attached layers in the last forward pass, which is forgotten afterwards.

        Raises:
            RuntimeError: No forward pass has gone through the attached layers since the last call.
        """
        missing = [name for name in self.names if name not in self._seen]
        if missing or not self.attached:
            raise RuntimeError(
                f"{_OP}: loss() needs a forward pass of the attached model through all of its layers before each call; "
                f"{'nothing came from ' + ', '.join(missing) if self.attached else 'attach() a model and run it first'}"
            )
        seen, self._seen = self._seen, {}
        return self(tuple(seen[name] for name in self.names), target, responses=responses)

    def detach(self) -> None:
        """Removes the hooks and forgets what they collected."""
        super().detach()
        self._last = None

    @torch.no_grad()
    def metrics(self) -> dict[str, Tensor]:
        """What one would plot of the last pass, detached."""
        if self._last is not None:
            layers, target, responses, means, logits = self._last
            options = self.options | {"form": "pearson", "scale": "code", "eps": 1e-5}
            if self.options["form"].startswith("cka"):
                options["metric"] = self.options["metric"] or "linear"
            weights = logits if len(layers) > 1 else None
            found = rsa_loss(layers, target, responses=responses, weights=weights, mean=means, **options)
            self._metrics["correlation"] = 1 - found
            self._last = None
        return super().metrics()

    def extra_repr(self) -> str:
        """The settings, for ``print(model)``."""
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.items() if value is not None)
        return f"{options}, strength={self.strength:g}, layers={len(self.names)}, momentum={self.momentum}"
