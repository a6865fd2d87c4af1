"""Spiking layers: parameters and state over `neurokernels.lif` and `neurokernels.leaky_integrate`."""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from neurokernels._core import checks
from neurokernels.ops.lif import LIFOutput, LIFState, leaky_integrate, lif

_LEARNABLE = ("decay", "threshold", "gain", "v_reset")
_OPTIONS = (
    "reset", "reset_at", "floor", "refractory", "surrogate", "detach_reset", "time_dim", "residual",
)  # fmt: skip


class LIF(nn.Module):
    """A layer of leaky integrate-and-fire neurons: ``spikes = layer(current)``.

    Args:
        features: Size of the last dimension of the input; learnable parameters then have one value per feature. None
            gives one value for all neurons.
        decay, threshold, gain, v_reset: Initial values, floats or tensors ``[features]``.
        learn: Which of ``"decay"``, ``"threshold"``, ``"gain"``, ``"v_reset"`` are trained.
        stateful: Whether the state of one call (detached) is where the next one starts, until `reset_state` is
            called: for streams and truncated BPTT.
        **options: ``reset``, ``reset_at``, ``floor``, ``refractory``, ``surrogate``, ``detach_reset``, ``time_dim`` and
            ``residual`` of `neurokernels.lif`.

    Shape:
        ``[T, *batch, features]`` (or with time at ``time_dim``) to the same.
    """

    state: LIFState | None

    def __init__(
        self,
        features: int | None = None,
        *,
        decay: float | Tensor = 0.9,
        threshold: float | Tensor = 1.0,
        gain: float | Tensor = 1.0,
        v_reset: float | Tensor = 0.0,
        learn: Collection[str] = (),
        stateful: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        if set(options) - set(_OPTIONS):
            checks.type_error("nn.LIF", "options", f"among {', '.join(_OPTIONS)}", sorted(set(options) - set(_OPTIONS)))
        learn = {learn} if isinstance(learn, str) else set(learn)
        if learn - set(_LEARNABLE):
            checks.value_error(
                "nn.LIF", "learn", f"among {', '.join(_LEARNABLE)}", f"{sorted(learn - set(_LEARNABLE))}"
            )
        self.features, self.stateful, self.options, self.state = features, stateful, options, None
        for name, value in zip(_LEARNABLE, (decay, threshold, gain, v_reset), strict=True):
            self._hold(name, value, name in learn)

    def _hold(self, name: str, value: float | Tensor, learnt: bool) -> None:
        """Keeps a value as a parameter, a buffer or a plain float, whichever is least."""
        if isinstance(value, Tensor) or learnt:
            shape = () if self.features is None else (self.features,)
            tensor = torch.as_tensor(value, dtype=torch.get_default_dtype()).detach().expand(shape).clone()
            if learnt:
                self.register_parameter(name, nn.Parameter(tensor))
            else:
                self.register_buffer(name, tensor)
        else:
            setattr(self, name, float(value))

    def neuron(self) -> dict[str, Any]:
        """The parameters as `neurokernels.lif` takes them."""
        return {name: getattr(self, name) for name in _LEARNABLE}

    def run(self, x: Tensor, v0: Tensor | LIFState | None = None) -> LIFOutput:
        """Spikes, membrane and state; ``v0`` overrides the state that a stateful layer holds."""
        out = lif(x, **self.neuron(), v0=self.state if v0 is None else v0, **self.options)
        if self.stateful:
            membrane, countdown = out.state
            self.state = LIFState(membrane.detach(), countdown)
        return out

    def forward(self, x: Tensor, v0: Tensor | LIFState | None = None) -> Tensor:
        """Spikes, shaped like x."""
        return self.run(x, v0).spikes

    def reset_state(self) -> None:
        """Lets the next call start from rest."""
        self.state = None

    def extra_repr(self) -> str:
        """Options for print."""
        options = "".join(f", {name}={value!r}" for name, value in self.options.items())
        return f"features={self.features}, stateful={self.stateful}{options}"

    @classmethod
    def gerum2020(cls, features: int, *, dt: float = 1.0, variant: str = "floor", **kwargs: Any) -> "GerumLIF":
        """The neurons of Gerum & Schilling (arXiv 2004.13532); see `GerumLIF`."""
        return GerumLIF(features, dt=dt, variant=variant, **kwargs)


class GerumLIF(LIF):
    """The neurons of Gerum & Schilling 2021 with a trainable leak: decay is ``1 - w_leak`` and gain is ``w_input``.

    At exactly the threshold a neuron spikes and does not reset, as in their published code; the surrogate is constant
    and the reset detached.

    Args:
        features: Neurons, the last dimension of the input.
        dt: Length of a step; ``w_leak`` starts uniform in ``[0, 0.1 dt]``, one value per neuron.
        variant: ``"floor"`` (the final code: the membrane never falls below zero) or ``"refractory"`` (the first
            version: instead of the floor, the membrane is held at zero for ``refractory`` steps after a spike).
        refractory: Steps of the refractory variant.
        w_input: Initial input weight.
        learn_input: Whether ``w_input`` is trained (one value for all neurons, as in their code).
        generator: For the initial leaks.
        **options: As for `LIF`.

    Raises:
        ValueError: There is no such variant.
    """

    w_leak: Tensor
    w_input: Tensor

    def __init__(
        self,
        features: int,
        *,
        dt: float = 1.0,
        variant: str = "floor",
        refractory: int = 2,
        w_input: float = 1.0,
        learn_input: bool = False,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> None:
        checks.choice("nn.LIF.gerum2020", "variant", variant, ("floor", "refractory"))
        bound: dict[str, Any] = {"floor": 0.0} if variant == "floor" else {"refractory": refractory}
        published: dict[str, Any] = {
            "reset": "zero",
            "reset_at": "above",
            "surrogate": "constant",
            "detach_reset": True,
        }
        super().__init__(features, **(published | bound | options))
        self.w_leak = nn.Parameter(torch.rand(features, generator=generator) * 0.1 * dt)
        if learn_input:
            self.w_input = nn.Parameter(torch.tensor(float(w_input)))
        else:
            self.gain = float(w_input)
        self.learn_input = learn_input

    def neuron(self) -> dict[str, Any]:
        """The parameters as `neurokernels.lif` takes them."""
        gain = {"gain": self.w_input} if self.learn_input else {}
        return super().neuron() | {"decay": 1 - self.w_leak} | gain


class LeakyReadout(nn.Module):
    """A layer of leaky integrators without spikes, read at its last step: ``logits = readout(current)``.

    Args:
        features: Integrators, the last dimension of the input.
        w_leak: Initial leak; decay is ``1 - w_leak``.
        learn: Whether the leaks are trained, one per integrator.
        gain: Factor on the input.
        floor: Lower bound of the membrane, or None.
        time_dim: The dimension of the input that is time.

    Shape:
        ``[T, *batch, features]`` to ``[*batch, features]``, float32 (float64 for float64 input).
    """

    w_leak: Tensor

    def __init__(
        self,
        features: int,
        *,
        w_leak: float = 0.0,
        learn: bool = True,
        gain: float = 1.0,
        floor: float | None = 0.0,
        time_dim: int = 0,
    ) -> None:
        super().__init__()
        self.features, self.gain, self.floor, self.time_dim = features, gain, floor, time_dim
        leak = torch.full((features,), float(w_leak))
        if learn:
            self.w_leak = nn.Parameter(leak)
        else:
            self.register_buffer("w_leak", leak)

    def trace(self, x: Tensor) -> Tensor:
        """The membrane after every step, shaped like x."""
        return leaky_integrate(x, decay=1 - self.w_leak, gain=self.gain, floor=self.floor, time_dim=self.time_dim)

    def forward(self, x: Tensor) -> Tensor:
        """The membrane after the last step; zeros if there is none."""
        trace = self.trace(x)
        return trace.select(self.time_dim, -1) if trace.shape[self.time_dim] else trace.sum(self.time_dim)

    def extra_repr(self) -> str:
        """Options for print."""
        return f"features={self.features}, gain={self.gain}, floor={self.floor}, time_dim={self.time_dim}"
