"""What the contract suite knows of an op. The promise files know nothing else: one entry, and all hold for an op.

An entry lives in ``entries/<family>.py`` and is listed in `OPS` at the end of ``entries/__init__.py``.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Sample:
    """One way to call an op.

    Attributes:
        name: For the test's id.
        make: ``(shape, dtype, generator)`` to the tensor arguments by name. The first one has the given shape; all are
            differentiable and all vary under vmap.
        options: The other arguments.
        shape: Of the first argument, small.
        smooth: Positions of outputs whose gradient is a true derivative, for gradcheck by finite differences.
        least: Least sizes of the last dimensions of the first argument; smaller ones are refused with a ValueError.
    """

    name: str
    make: Callable[[tuple[int, ...], torch.dtype, torch.Generator], Tensors]
    options: dict[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] = (5, 3, 4)
    smooth: tuple[int, ...] = ()
    least: tuple[int, ...] = ()

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether the first argument may have this shape."""
        return all(n >= low for n, low in zip(reversed(shape), reversed(self.least), strict=False))

    def tensors(
        self, dtype: torch.dtype = torch.float64, shape: tuple[int, ...] | None = None, seed: int = 0
    ) -> Tensors:
        """Fresh tensor arguments, the same ones for the same seed."""
        return self.make(self.shape if shape is None else shape, dtype, torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Bad:
    """A call that has to be refused: changes to the arguments of the first sample, and what the error says."""

    name: str
    changes: dict[str, Any]
    error: type[Exception]
    words: tuple[str, ...]


@dataclass(frozen=True)
class Op:
    """One public op.

    Attributes:
        name: As in the backend table.
        call: The public function, returning a tuple of its floating point outputs.
        definition: The same in plain PyTorch, differentiated by autograd.
        samples: At least two: one with every option at its default, then one with everything differentiable.
        leaves: The leaf ops that forward, backward and forward mode must reach between them.
        bad: Calls that must be refused.
        dtypes: What the first argument may be.
        exact: Positions of outputs that are the definition's bit for bit, whatever the backend.
        large: A shape that is worth more than one thread.
        refuses_second_order: Whether second derivatives are refused instead of computed.
        direct: The public function where ``call`` makes something comparable of its outputs, else ``call``.
        free: Makes an argument of any tensor of the first one's shape, differentiably, for finite differences.
        speakers: How messages start, if not with the name: several where an op has several names.
        huge: A shape of the first argument for which there is no memory.
        odd: Widths around those of vectors and blocks; the first one is for slow backends too.
        ulps: Floor of the accuracy rule in units in the last place.
        small: The same for sizes at which some problems are hardly posed, against the definition in float64.
        backends: Those that are tested on a machine without a GPU.
        mixes: Whether features meet: only the items of a leading dimension are then independent of each other.
        backward_kernels: How many kernels a backward pass runs; 0 if it is a composite of torch's ops.
        tangent_kernels: How many kernels a tangent takes besides the forward pass.
        leans: Whether kernels use torch's own products, whose threads are not there in a forked child.
        slow: Those of them that are interpreted and are run with the first two samples only.
        peers: Whether all tensors are alike, so that the widest dtype among them is the one of all.
        usual: The one for tests of what does not depend on the kernels.
    """

    name: str
    call: Callable[..., tuple[Tensor, ...]]
    definition: Callable[..., tuple[Tensor, ...]]
    samples: tuple[Sample, ...]
    leaves: frozenset[str]
    bad: tuple[Bad, ...]
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
    exact: tuple[int, ...] = ()
    large: tuple[int, ...] = (20, 64, 512)
    refuses_second_order: bool = True
    backends: tuple[str, ...] = ("reference", "cpu", "triton")
    usual: str = "cpu"
    slow: tuple[str, ...] = ("triton",)
    mixes: bool = False
    peers: bool = False
    backward_kernels: int = 1
    tangent_kernels: int = 1
    leans: bool = False
    direct: Callable[..., tuple[Tensor, ...]] | None = None
    free: Callable[[Tensor], Tensor] = lambda first: first
    speakers: tuple[str, ...] = ()
    huge: tuple[int, ...] = (16, 2**24, 2**24)
    odd: tuple[int, ...] = (33, 7, 8, 9, 31, 65, 130)
    ulps: float = 4
    small: float = 256

    @property
    def public(self) -> Callable[..., tuple[Tensor, ...]]:
        """The public function itself."""
        return self.direct or self.call
