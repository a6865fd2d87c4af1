"""Other ways to run the same LIF layer, each in its fastest form: one file each, each with the same three names.

- ``PACKAGE``: the distribution it needs, or None
- ``why_not(config)``: a sentence where it cannot compute this configuration, or None
- ``lif(x, config)``: spikes ``[T, *batch, *neurons]`` of the input ``x``, differentiable
"""

from dataclasses import dataclass, replace
from importlib import import_module
from types import ModuleType
from typing import Any

NAMES = ("unbind", "indexed", "compiled", "spikingjelly", "snntorch", "norse")


@dataclass(frozen=True)
class LIF:
    """The part of `neurokernels.lif`'s contract that peers have too; names and defaults as there.

    Attributes:
        decay: Factor on the membrane per step, in (0, 1).
        threshold: Membrane at which a neuron spikes.
        gain: Factor on the input.
        reset: ``zero``, ``subtract`` or ``none``.
        surrogate: Its name.
        alpha: Its inverse width.
        detach_reset: Whether no gradient passes through the reset.
    """

    decay: float = 0.5
    threshold: float = 1.0
    gain: float = 1.0
    reset: str = "zero"
    surrogate: str = "atan"
    alpha: float = 2.0
    detach_reset: bool = True

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments that make `neurokernels.lif` compute this."""
        own = replace(self).__dict__
        return {name: value for name, value in own.items() if name != "alpha"} | {
            "surrogate": (self.surrogate, self.alpha)
        }


def find(name: str, config: LIF) -> tuple[ModuleType | None, str | None]:
    """The adapter of a name, or None and the reason why it cannot take part."""
    try:
        adapter = import_module(f"benchmarks.peers.{name}")
    except ImportError as error:
        return None, f"it cannot be imported: {error}"
    reason = adapter.why_not(config)
    return (None, reason) if reason else (adapter, None)
