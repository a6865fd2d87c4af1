"""Leaf ops: a schema, a kernel for CPU and CUDA tensors, and a fake. They know nothing of autograd.

Autograd lives outside, in `torch.autograd.Function` classes (see `neurokernels.ops.lif.autograd`): the cheapest route
on which compile, export, vmap and checkpointing all work, measured in microseconds on tiny tensors.
"""

from collections.abc import Callable
from typing import Any

import torch

_library = torch.library.Library("neurokernels", "FRAGMENT")


def leaf(schema: str, kernel: Callable[..., Any], fake: Callable[..., Any]) -> Callable[..., Any]:
    """Registers a leaf op and returns its overload.

    Args:
        schema: The schema without the namespace, for example ``"cube_fwd(Tensor x, float a) -> Tensor"``.
        kernel: Called with real tensors on every device; looks the backend up.
        fake: Called with fake tensors; allocates outputs exactly as the kernel does.
    """
    name = schema[: schema.index("(")]
    _library.define(schema)
    for key in ("CPU", "CUDA"):
        _library.impl(name, kernel, key)
    torch.library.register_fake(f"neurokernels::{name}", fake, lib=_library)
    return getattr(torch.ops.neurokernels, name).default
