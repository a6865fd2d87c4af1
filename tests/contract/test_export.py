"""`torch.export` takes an op, and the program runs on the backend of the moment."""

import torch
from torch.export import Dim, export

from tests.contract.harness import forced, traced_alike


class Model(torch.nn.Module):
    def __init__(self, op, sample):
        super().__init__()
        self.op, self.sample = op, sample

    def forward(self, arguments):
        return self.op.call(**arguments, **self.sample.options)


def check(op, program, sample, backend, **made):
    tensors = sample.tensors(**made)
    with forced(op, backend):
        expected = op.call(**tensors, **sample.options)
    with forced(op, backend):
        got = program.module()(tensors)
    traced_alike(op, got, expected)


def test_export(op, sample):
    program = export(Model(op, sample), (sample.tensors(),), strict=False)
    for backend in op.backends if sample is op.samples[0] else (op.usual,):
        check(op, program, sample, backend)


def test_strict(op):
    """Through Dynamo, which test_compile.py asks of every sample."""
    for sample in op.samples[:2]:
        check(op, export(Model(op, sample), (sample.tensors(),), strict=True), sample, op.usual)


def test_dynamic_shapes(op):
    sample = op.samples[0]
    (name,) = sample.tensors()
    free = {name: dict.fromkeys(range(len(sample.shape)), Dim.AUTO)}
    program = export(Model(op, sample), (sample.tensors(),), dynamic_shapes={"arguments": free})
    check(op, program, sample, op.usual, shape=tuple(n + 17 for n in sample.shape))


def test_fakes(op, sample):
    """Traced with fakes, without a kernel: shapes, strides and dtypes are those of real outputs."""
    tensors = sample.tensors()
    real = op.public(**tensors, **sample.options)
    with torch._subclasses.fake_tensor.FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = op.public(**{k: mode.from_tensor(v) for k, v in tensors.items()}, **sample.options)
    for a, b in zip(fake, real, strict=True):
        assert (a.shape, a.stride(), a.dtype, a.device) == (b.shape, b.stride(), b.dtype, b.device)
