"""Which views the CUDA kernels of the room are for. Imports nothing of CuPy."""

from torch import Tensor

from neurokernels._core import cuda, tuned

#: The widest views that a block holds.
SMALL = 32


def refuses(x: Tensor) -> str | None:
    """Why CUDA cannot run a call on this view, or None."""
    return cuda.refuses(x)


def yields(x: Tensor) -> str | None:
    """Why ``auto`` passes over CUDA for the wider one of two views ``[..., N, D]``, by the committed table; or None."""
    if x.ndim < 2:
        return None
    n, d = x.shape[-2:]
    if d > SMALL:
        return f"Triton has kernels for views of more than {SMALL} units"
    config = tuned.choice("dcca", x, d)
    if config["backend"] != "cuda" or n > config["samples"]:
        return f"Triton is thought faster for {n} samples of {d} units"
    return None
