"""NumPy and CuPy arrays in, the same kind out, with the numbers of tensors and on the same memory."""

import sys
from types import ModuleType

import numpy as np
import pytest
import torch

import neurokernels as nk
from tests.contract.harness import few, forced
from tests.leaves import Leaves

THIN = True


def numpy_arguments(op, sample, dtype=torch.float32, backend="auto"):
    """Arguments as arrays, and what tensors give on the same backend."""
    tensors = sample.tensors(dtype)
    with nk.backend(backend):
        expected = op.public(**tensors, **sample.options)
    return {name: t.numpy() for name, t in tensors.items()}, expected


def test_numpy(op, sample, backend):
    for dtype in few(op, backend, (torch.float32, torch.float64, torch.float16)):
        arrays, expected = numpy_arguments(op, sample, dtype, backend)
        copies = {name: a.copy() for name, a in arrays.items()}
        with forced(op, backend):
            got = op.public(**arrays, **sample.options)
        for a, b in zip(got, expected, strict=True):
            assert type(a) is np.ndarray
            np.testing.assert_array_equal(a, b.numpy(), strict=True)
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, copies[name], strict=True)


def test_numpy_layouts(op, sample, backend):
    """Read-only, backwards, in Fortran's order, every other element, a field of records, of the other byte order."""
    arrays, expected = numpy_arguments(op, sample, backend=backend)

    def field(array):
        records = np.zeros(array.shape, dtype=[("value", array.dtype), ("flag", "u1")])
        records["value"] = array
        return records["value"]

    changes = (
        lambda a: np.lib.stride_tricks.as_strided(a, writeable=False),
        lambda a: np.flip(np.flip(a).copy()),
        np.asfortranarray,
        lambda a: np.repeat(a, 2, axis=-1)[..., ::2] if a.ndim else a,
        field,
        lambda a: a.astype(a.dtype.newbyteorder()),
    )
    for change in few(op, backend, changes, 2):  # the others are copied before a kernel sees them
        with forced(op, backend):
            got = op.public(**{name: change(a) for name, a in arrays.items()}, **sample.options)
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_array_equal(a, b.numpy(), strict=True)


def test_first_argument_decides(op, backend):
    """Arrays beside a tensor are no tensors: an op whose first argument is a tensor takes tensors."""
    sample = op.samples[1]
    tensors = sample.tensors(torch.float32)
    first = next(iter(tensors))
    with forced(op, backend):
        mixed = op.public(**{n: t.numpy() if n == first else t for n, t in tensors.items()}, **sample.options)
        expected = op.public(**tensors, **sample.options)
    for a, b in zip(mixed, expected, strict=True):
        np.testing.assert_array_equal(a, b.numpy(), strict=True)


def test_without_a_copy(op, sample):
    """A kernel reads the array's memory, and the result is the kernel's."""
    arrays, _ = numpy_arguments(op, sample)
    first = next(iter(arrays))
    with Leaves() as recorded:
        got = op.public(**arrays, **sample.options)
    ((_, arguments, outputs),) = recorded.calls
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    assert arguments[0].data_ptr() == arrays[first].ctypes.data
    assert {a.ctypes.data for a in got} <= {o.data_ptr() for o in outputs}


def test_arrays_take_no_gradient(op):
    sample = op.samples[0]
    arrays, expected = numpy_arguments(op, sample)
    with torch.enable_grad():
        got = op.public(**arrays, **sample.options)
    np.testing.assert_array_equal(got[0], expected[0].numpy(), strict=True)


class Ndarray:
    """What an op sees of a CuPy array, on the CPU: its protocols, its module and nothing of NumPy."""

    __module__ = "cupy"

    def __init__(self, array):
        self.array, self.shape = array, array.shape
        self.__cuda_array_interface__ = array.__array_interface__

    def __dlpack__(self, **kwargs):
        return self.array.__dlpack__(**kwargs)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


@pytest.fixture
def cupy(monkeypatch):
    module = ModuleType("cupy")
    module.from_dlpack = lambda tensor: Ndarray(np.from_dlpack(tensor))
    monkeypatch.setitem(sys.modules, "cupy", module)


@pytest.mark.usefixtures("cupy")
def test_cupy(op, sample, backend):
    arrays, expected = numpy_arguments(op, sample, backend=backend)
    with forced(op, backend):
        got = op.public(**{name: Ndarray(a) if a.shape else a for name, a in arrays.items()}, **sample.options)
    for a, b in zip(got, expected, strict=True):
        assert type(a) is Ndarray
        np.testing.assert_array_equal(a.array, b.numpy(), strict=True)
