"""What reaches the leaf ops."""

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Leaves(TorchDispatchMode):
    """Collects the calls of leaf ops, with their arguments and outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.namespace == "neurokernels":
            detached = tuple(a.detach() if isinstance(a, Tensor) else a for a in args)
            self.calls.append((func, detached, out))
        return out
