"""Which populations the Triton kernels take. Imports nothing of Triton."""

from torch import Tensor

from neurokernels._core import triton

#: Hidden units of an agent, in all layers: they lie in the registers of one program.
MOST_UNITS = 64


def probe(weights: Tensor, units: int) -> Tensor:
    """What `refuses` is asked about: an empty tensor that tells the device and, as its last size, the hidden units."""
    return weights.new_empty((0, weights.shape[-1], units))


def refuses(x: Tensor) -> str | None:
    """Why Triton cannot run a call on a `probe`, or on the weights of a population that fits; None if it can."""
    if x.ndim == 3 and x.shape[-1] > MOST_UNITS:
        return f"agents have {x.shape[-1]} hidden units, and a program holds up to {MOST_UNITS}"
    return triton.refuses(x)
