"""The samples themselves: a test that compares zeros with zeros would hold for any kernel."""

import torch

from neurokernels._core import backends
from tests.contract.harness import truth


def test_backends_are_the_tables(op):
    table = {row.name for row in backends.rows(op.name)}
    assert set(op.backends) <= table
    assert table - {"cuda"} <= set(op.backends)  # where its kernels are not emulated here, tests/gpu has them


def test_samples_show_something(op, sample):
    result = truth(op, sample)
    for output in result.outputs:
        assert output.isfinite().all()
        assert output.unique().numel() > 1
    for name, gradient in result.gradients.items():
        assert gradient.isfinite().all(), name
        assert gradient.abs().max() > 1e-3, name


def test_float32_and_float64_decide_alike(op, sample):
    """Otherwise a float64 result would be no truth for a float32 one."""
    exact = truth(op, sample, {k: v.float().double() for k, v in sample.tensors().items()})
    rounded = truth(op, sample, sample.tensors(torch.float32))
    for a, b in zip(rounded.outputs, exact.outputs, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-4)
