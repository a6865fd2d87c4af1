"""Whether Triton can run a call, and how it is launched."""

import os
from functools import cache
from importlib.util import find_spec

from torch import Tensor


@cache
def _installed() -> bool:
    return find_spec("triton") is not None


def interpreted() -> bool:
    """Whether Triton runs its kernels in Python, on CPU tensors (``TRITON_INTERPRET=1``)."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def refuses(x: Tensor) -> str | None:
    """Why Triton cannot run a call on this tensor, or None. Imports nothing."""
    if not _installed():
        return "triton is not installed (pip install neurokernels[gpu])"
    if x.device.type == "cpu":
        if not interpreted():
            return "it serves cuda tensors; on the CPU only Triton's interpreter does (TRITON_INTERPRET=1), for tests"
    elif x.device.type != "cuda":
        return f"it serves cuda tensors and this one is on {x.device.type}"
    return None
