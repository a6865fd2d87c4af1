"""Which eigenproblems the CUDA solver takes. Imports nothing of CuPy."""

from torch import Tensor

from neurokernels._core import cuda, triton, tuned

#: The largest matrix whose columns fit the registers of one block.
LARGEST = 128


def fits(size: int) -> bool:
    """Whether a matrix of this size fits a block."""
    return size <= LARGEST


def refuses(a: Tensor) -> str | None:
    """Why the solver cannot run on these matrices ``[..., D, D]``, or None."""
    if a.ndim and not fits(a.shape[-1]):
        return f"D = {a.shape[-1]}, and a block holds matrices up to D = {LARGEST}; torch.linalg is next"
    return cuda.refuses(a)


def yields(a: Tensor) -> str | None:
    """Why ``auto`` leaves matrices to Triton, or None."""
    if tuned.choice("eigh", a, a.shape[-1] if a.ndim else 0)["backend"] == "cuda":
        return None
    return f"Triton's solver is faster at D = {a.shape[-1]}"


def spectrum_yields(x: Tensor) -> str | None:
    """Why ``auto`` leaves spectra to Triton where that is, or None."""
    return None if triton.refuses(x) else "Triton's covariance centres x as it is loaded, and reads it once"
