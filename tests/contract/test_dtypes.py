"""Every dtype that is promised, to the accuracy that is promised: `neurokernels._core.accuracy`."""

from functools import reduce

import torch

from neurokernels._core import accuracy
from tests.contract.harness import few, identical, run, truth

ONE_IF_SLOW = True


def test_dtypes(op, sample, backend):
    for dtype in few(op, backend, op.dtypes, 3):
        tensors = sample.tensors(dtype)
        got, reference = run(op, sample, backend, tensors), truth(op, sample, tensors)
        # Where low precision rounds the input, the truth is that of the rounded input.
        exact = truth(op, sample, {name: t.double() for name, t in tensors.items()})
        for i, (a, b, e) in enumerate(zip(got.outputs, reference.outputs, exact.outputs, strict=True)):
            assert a.dtype == b.dtype
            if i in op.exact:
                identical(a, b, f"{dtype}: output {i}")
            else:
                accuracy.check(a, b, e, ulps=op.ulps, name=f"{dtype}: output {i}")
        for name, gradient in got.gradients.items():
            assert gradient.dtype == tensors[name].dtype
            accuracy.check(
                gradient,
                reference.gradients[name],
                exact.gradients[name],
                factor=accuracy.BACKWARD,
                ulps=64 if dtype == torch.float64 else op.ulps,  # nothing is more exact than float64
                name=f"{dtype}: gradient of {name}",
            )


def test_parameters_of_another_dtype(op, backend):
    """Parameters in half or double precision beside any input: gradients come back in their own dtype."""
    for sample in op.samples[1:2] if backend in op.slow else op.samples:
        for other in few(op, backend, (torch.bfloat16, torch.float64)):
            tensors = sample.tensors(torch.float32)
            first, *rest = tensors
            changed = {n: t.to(other) if n in rest and n != "v0" else t for n, t in tensors.items()}
            wide = reduce(torch.promote_types, (t.dtype for t in changed.values())) if op.peers else torch.float32
            rounded = {n: t.to(wide) for n, t in changed.items()}
            got, expected = run(op, sample, backend, changed), run(op, sample, backend, rounded)
            for a, b in zip(got.outputs, expected.outputs, strict=True):
                identical(a, b, "output")
            for name, gradient in got.gradients.items():
                assert gradient.dtype == changed[name].dtype
                identical(gradient, expected.gradients[name].to(gradient.dtype), name)
