"""CuPy's eigensolver, which hands batches to cuSOLVER's Jacobi method: a peer on GPUs."""

from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from neurokernels.bench import Absent, Row


@cache
def _stream(cupy: Any, address: int, device: int) -> Any:
    return cupy.cuda.ExternalStream(address, device)


def cupy_eigh() -> Row | Absent:
    """The row, on torch's stream and without copies; or why there is none."""
    try:
        cupy = import_module("cupy")
        available = torch.cuda.is_available() and cupy.cuda.is_available()
    except Exception as error:  # of its own kinds where a driver is missing
        return Absent("cupy", f"it cannot be imported: {type(error).__name__}: {error}", package="cupy-cuda13x")
    if not available:
        return Absent("cupy", "it has no GPU here", package="cupy-cuda13x")

    def run(a: Tensor) -> tuple[Tensor, Tensor]:
        stream = torch.cuda.current_stream(a.device)
        with cupy.cuda.Device(a.get_device()), _stream(cupy, stream.cuda_stream, a.get_device()):
            values, vectors = cupy.linalg.eigh(cupy.from_dlpack(a.detach()))
            return torch.from_dlpack(values), torch.from_dlpack(vectors)

    return Row("cupy", run, package="cupy-cuda13x", captures=False)
