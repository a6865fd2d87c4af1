"""Runs an op the way a promise wants it, on the backend that the test is about."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

import neurokernels as nk
from neurokernels._core import accuracy, backends
from tests.contract.registry import Op, Sample, Tensors
from tests.leaves import Leaves

T = TypeVar("T")


class Result(NamedTuple):
    """Outputs, and the gradients of a random projection of them by argument."""

    outputs: tuple[Tensor, ...]
    gradients: Tensors


def few(op: Op, backend: str, cases: Iterable[T], count: int = 1) -> list[T]:
    """All of them, or the first ones for a backend that is interpreted."""
    return list(cases)[: count if backend in op.slow else None]


@contextmanager
def forced(op: Op, backend: str, forward: int = 1, backward: int = 0, tangent: int = 0) -> Iterator[None]:
    """Forces a backend; asserts that it alone ran, and at least the kernels of so many passes."""
    with nk.backend(backend), backends.record() as ran:
        yield
    due = forward + backward * op.backward_kernels + tangent * op.tangent_kernels
    assert len(ran) >= due, f"{len(ran)} kernels ran where {due} are due"
    assert set(ran) == {(op.name, backend)}


def leaves(tensors: Tensors) -> Tensors:
    """The same values and strides as tensors that collect gradients."""
    return {name: tensor.detach().requires_grad_() for name, tensor in tensors.items()}


def cotangents(outputs: tuple[Tensor, ...]) -> list[Tensor]:
    """A direction for every output, without pattern but not random: the same one in every dtype, and under vmap."""
    return [
        (12.9898 * torch.arange(1.0, o.numel() + 1, dtype=torch.float64).sqrt())
        .sin()
        .view(o.shape)
        .to(o.device, o.dtype)
        for o in outputs
    ]


def evaluate(function: Callable[..., tuple[Tensor, ...]], tensors: Tensors, **options: Any) -> Result:
    """Outputs and gradients of a function of these tensors."""
    given = leaves(tensors)
    outputs = function(**given, **options)
    reached = [
        (o, c) for o, c in zip(outputs, cotangents(outputs), strict=True) if o.requires_grad
    ]  # not by T = 0 steps
    torch.autograd.backward(*zip(*reached, strict=True)) if reached else None
    gradients = {name: torch.zeros_like(t) if t.grad is None else t.grad for name, t in given.items()}
    return Result(tuple(o.detach() for o in outputs), gradients)


def run(op: Op, sample: Sample, backend: str, tensors: Tensors | None = None) -> Result:
    """`evaluate` of the op itself, forward and backward on a forced backend."""
    with forced(op, backend, backward=1):
        return evaluate(op.call, sample.tensors() if tensors is None else tensors, **sample.options)


def truth(op: Op, sample: Sample, tensors: Tensors | None = None) -> Result:
    """`evaluate` of the definition."""
    return evaluate(op.definition, sample.tensors() if tensors is None else tensors, **sample.options)


def same(got: Result, expected: Result) -> None:
    """Asserts equality bit for bit (NaN equals NaN)."""
    for a, b in zip(got.outputs, expected.outputs, strict=True):
        identical(a, b, "output")
    assert got.gradients.keys() == expected.gradients.keys()
    for name, gradient in got.gradients.items():
        identical(gradient, expected.gradients[name], f"gradient of {name}")


def identical(got: Tensor, expected: Tensor, name: str) -> None:
    """Asserts that two tensors are the same bits, but for the signs of zeros and NaNs."""
    torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True, msg=lambda m: f"{name}: {m}")


def close(got: Result, expected: Result, ulps: float = 64) -> None:
    """Asserts equality but for the order of additions."""
    for a, b in zip(got.outputs, expected.outputs, strict=True):
        assert a.dtype == b.dtype
        accuracy.check(a, b, b, ulps=ulps, name="output")
    for name, gradient in got.gradients.items():
        assert gradient.dtype == expected.gradients[name].dtype
        accuracy.check(
            gradient, expected.gradients[name], expected.gradients[name], ulps=ulps, name=f"gradient of {name}"
        )


def traced_alike(op: Op, got: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    """Asserts that a traced call, made for gradients that nobody asked for, gave what one without them gives.

    The same bits; but LAPACK finds eigenvalues by one algorithm with vectors and by another one without.
    """
    for a, b in zip(got, expected, strict=True):
        accuracy.check(a, b, b, ulps=64 if op.leans else 0, name="output")


def leaf_calls(op: Op, sample: Sample, backend: str) -> list[tuple[Any, tuple[Any, ...], Any]]:
    """What reaches the leaf ops without a gradient, forward, backward and in forward mode.

    Overload, arguments and outputs, once for all calls that differ in tensors alone.
    """
    tensors = sample.tensors()
    with Leaves() as recorded, forced(op, backend, 2, backward=1):
        op.call(**tensors, **sample.options)
        evaluate(op.call, tensors, **sample.options)
        names = list(tensors)

        def function(*values: Tensor) -> tuple[Tensor, ...]:
            return op.call(**dict(zip(names, values, strict=True)), **sample.options)

        values = tuple(tensors.values())
        torch.func.jvp(function, values, tuple(torch.ones_like(v) for v in values))
    alike = {str((call[0], [a for a in call[1] if not isinstance(a, Tensor)])): call for call in recorded.calls}
    return list(alike.values())
