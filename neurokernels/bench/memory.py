"""Bytes: what autograd keeps, what an op has to move, and what a device has left."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import psutil  # type: ignore[import-untyped]
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def storage_bytes(tensors: Iterable[Any]) -> int:
    """Bytes of the storages behind tensors, each storage once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if isinstance(t, Tensor)}
    return sum(storages.values())


def saved_bytes(call: Callable[[], Any]) -> int:
    """Bytes that autograd keeps for the backward pass of a call: every storage that it saves, once, inputs included."""
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = call()  # while its graph lives, no storage is freed and none is counted under another's address
    total = storage_bytes(saved)
    del kept
    return total


@dataclass(frozen=True)
class LeafCall:
    """A call of a leaf op, to be made again below autograd.

    Attributes:
        op: The op.
        arguments: Its arguments.
        nbytes: Bytes of its arguments and results: what it has to read and write.
    """

    op: Callable[..., Any]
    arguments: tuple[Any, ...]
    nbytes: int

    def __call__(self) -> Any:
        """Runs it again."""
        return self.op(*self.arguments)


def leaf_calls(call: Callable[[], Any], namespace: str = "neurokernels") -> list[LeafCall]:
    """The leaf ops of a namespace that run in a call, backward pass included, in order."""
    made: list[LeafCall] = []

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            if func.namespace == namespace:
                made.append(LeafCall(func, args, storage_bytes(tree_leaves((args, out)))))
            return out

    with Record():
        call()
    return made


def available(device: torch.device | str = "cpu") -> int:
    """Bytes of memory that are free on a device."""
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available
