"""What every regulariser does alike: a scalar of activations, and of targets if it has any, by call or by hooks."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from neurokernels._core import checks


class Regularizer(nn.Module):
    """``loss = task + reg(h)``; or ``reg.attach(model, ["layer3"])`` once and ``loss = task + reg.loss()``.

    A subclass gives `one`, the scalar of one layer's activations, and keeps what it knows of a layer under its name.
    Where it compares activations with something, that follows them: ``reg(h, y)``, ``reg.loss(y)``.
    """

    def __init__(self) -> None:
        super().__init__()
        self._hooks: list[Any] = []
        self._seen: dict[str, Tensor] = {}
        self._metrics: dict[str, Tensor] = {}

    def one(self, h: Tensor, layer: str, *targets: Any, **_: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar of one layer, and what one would plot."""
        raise TypeError(f"{type(self).__name__} is the common part of regularisers; use one of them")

    def _measure(self, h: Tensor, layer: str, *targets: Tensor) -> Tensor:
        loss, metrics = self.one(h, layer, *targets)
        prefix = f"{layer}." if layer else ""
        self._metrics |= {prefix + name: value.detach() for name, value in metrics.items()}
        return loss

    def forward(self, h: Tensor, *targets: Tensor) -> Tensor:
        """The scalar loss of activations ``[N, ...]``."""
        self._metrics = {}
        return self._measure(h, "", *targets)

    def attach(self, model: nn.Module, layers: Iterable[str]) -> "Regularizer":
        """Collects the outputs of named layers of a model in each forward pass; returns itself.

        Raises:
            ValueError: The model has no such layer.
        """
        modules = dict(model.named_modules())
        layers = [layers] if isinstance(layers, str) else list(layers)
        for name in layers:
            if name not in modules:
                known = ", ".join(n for n in modules if n)
                checks.value_error(
                    f"nn.{type(self).__name__}", "layers", f"names of modules of the model ({known})", name
                )
        for name in layers:
            self._prepare(name)
            self._hooks.append(modules[name].register_forward_hook(self._collect(name)))
        return self

    def _prepare(self, layer: str) -> None:
        """Makes what is kept per layer, before the first pass: optimisers and checkpoints see it."""

    def _collect(self, layer: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            self._seen[layer] = output

        return hook

    def detach(self) -> None:
        """Removes the hooks and forgets what they collected."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._seen.clear()

    def loss(self, *targets: Tensor) -> Tensor:
        """The sum over the attached layers in the last forward pass, which is forgotten afterwards.

        Raises:
            RuntimeError: No forward pass has gone through an attached layer since the last call.
        """
        if not self._seen:
            raise RuntimeError(
                f"nn.{type(self).__name__}: loss() needs a forward pass of the attached model before each call; "
                "attach() a model and run it first"
            )
        seen, self._seen, self._metrics = self._seen, {}, {}
        return torch.stack([self._measure(h, layer, *targets) for layer, h in seen.items()]).sum()

    def metrics(self) -> dict[str, Tensor]:
        """What one would plot of the last pass, detached; attached layers come as ``"layer.name"``."""
        return dict(self._metrics)


def key(layer: str) -> str:
    """A layer's name as that of a module, which must not have dots and must not be empty."""
    return layer.replace(".", "/") or "called"
