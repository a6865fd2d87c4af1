"""What the tests of this folder share: the samples of the contract on a GPU, by part, and how tensors get there.

In a rehearsal (``--rehearse``) they stay on the CPU, where Triton's interpreter and the emulation of CUDA run them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor

from neurokernels._core import accuracy
from tests.contract.entries import OPS
from tests.contract.harness import Result, identical, run, truth
from tests.contract.registry import Op, Sample, Tensors
from tests.gpu import coverage

T = TypeVar("T")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class Case:
    """A sample call of an op on one of its GPU backends."""

    part: str
    op: Op
    backend: str
    sample: Sample

    def __str__(self) -> str:
        return f"{self.op.name}-{self.backend}-{self.sample.name}"

    def tensors(self, dtype: torch.dtype = torch.float32, large: bool = False) -> Tensors:
        """The arguments, on the CPU; large ones are worth a GPU, but where kernels are interpreted."""
        shape = self.op.large if large and DEVICE == "cuda" else self.sample.shape
        turned = large and self.sample.options.get("time_dim") == -1 and shape != self.sample.shape
        return self.sample.tensors(dtype, shape=shape[::-1] if turned else shape)

    def run(self, tensors: Tensors) -> Result:
        """Forward and backward on the backend, from tensors of the CPU to results on the CPU."""
        return home(run(self.op, self.sample, self.backend, {name: placed(t) for name, t in tensors.items()}))

    def truth(self, tensors: Tensors) -> Result:
        """The definition, on the CPU, in the dtype of the tensors."""
        return truth(self.op, self.sample, tensors)

    def judge(self, got: Result, tensors: Tensors, name: str) -> None:
        """Asserts what the library promises: bits where it promises bits, elsewhere the accuracy rule."""
        reference = self.truth(tensors)
        decided = self.truth({n: t.double() for n, t in tensors.items()})
        alike = all(torch.equal(reference.outputs[i].double(), decided.outputs[i].double()) for i in self.op.exact[:1])
        # Where float64 decides otherwise about a spike, it is no truth for what follows from it.
        exact, floor = (decided, self.op.ulps) if alike else (reference, 64.0)
        for i, (a, b, e) in enumerate(zip(got.outputs, reference.outputs, exact.outputs, strict=True)):
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            if i in self.op.exact:
                identical(a, b, f"{name}: output {i}")
            else:
                accuracy.check(a, b, e, ulps=floor, name=f"{name}: output {i}")
        for given, gradient in got.gradients.items():
            assert gradient.dtype == tensors[given].dtype
            accuracy.check(
                gradient, reference.gradients[given], exact.gradients[given], factor=accuracy.BACKWARD,
                ulps=64 if gradient.dtype == torch.float64 else floor, name=f"{name}: gradient of {given}",
            )  # fmt: skip


def cases() -> Iterator[Case]:
    """Every sample of the contract on every GPU backend that the table of its op has."""
    for op in OPS:
        for backend in coverage.of(op.name):
            for sample in op.samples:
                yield Case(coverage.part(op.name), op, backend, sample)


def placed(tensor: Tensor) -> Tensor:
    """The same values, strides and offset on the GPU: `Tensor.to` would close gaps."""
    size = tensor.untyped_storage().nbytes() // tensor.element_size()
    flat = tensor.detach().as_strided((size,), (1,), 0)
    return flat.to(DEVICE).as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def home(result: Result) -> Result:
    """The same on the CPU."""
    return Result(
        tuple(o.cpu() for o in result.outputs), {name: gradient.cpu() for name, gradient in result.gradients.items()}
    )


def parametrised(given: list[T], name: str = "case") -> pytest.MarkDecorator:
    """A test for each of them."""
    return pytest.mark.parametrize(name, given, ids=str)


def some(config: pytest.Config, given: list[Any], count: int = 1) -> list[Any]:
    """All of them, or in a rehearsal the first ones."""
    return given[:count] if config.getoption("--rehearse", default=False) else given
