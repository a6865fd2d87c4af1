"""Arrays in, the same kind out; what an op does with them is in the contract tests."""

from typing import NamedTuple

import numpy as np
import pytest
import torch

from neurokernels._core.arrays import accepts_arrays, kind, to_array, to_tensor


class Pair(NamedTuple):
    first: object
    second: object


@accepts_arrays
def double(x, *more, scale=2, pair=None):
    """An op."""
    assert isinstance(x, torch.Tensor)
    assert pair is None or all(isinstance(p, torch.Tensor) for p in pair)
    return Pair(x * scale, (x, None, "text", *more))


def test_kinds():
    assert kind(np.ones(2)) == "numpy"
    assert [kind(v) for v in (torch.ones(2), 1.0, [1.0], None, np.float32(1), np.array(1.0), "x")] == [None] * 7


def test_zero_copy_in_and_out():
    array = np.arange(6.0).reshape(2, 3)
    assert to_tensor(array).data_ptr() == array.ctypes.data
    assert to_tensor(array.T).data_ptr() == array.ctypes.data
    tensor = torch.ones(3)
    assert to_array(tensor, "numpy").ctypes.data == tensor.data_ptr()


def test_copies_where_the_layout_needs_it():
    array = np.arange(6.0).reshape(2, 3)
    frozen = array.copy()
    frozen.flags.writeable = False
    for value in (array[::-1], array[:, ::-1], frozen, array.astype(">f8")):
        got = to_tensor(value)
        assert torch.equal(got, torch.tensor(np.ascontiguousarray(value, dtype=np.float64)))
        got.zero_()  # a copy: the array does not change
    np.testing.assert_array_equal(array, np.arange(6.0).reshape(2, 3))
    assert frozen[1, 2] == 5


def test_structures():
    out = double(np.ones(3), np.zeros(2), scale=3)
    assert type(out) is Pair
    assert isinstance(out.first, np.ndarray)
    assert out.first.tolist() == [3, 3, 3]
    assert type(out.second) is tuple
    assert out.second[1:3] == (None, "text")
    assert isinstance(out.second[3], np.ndarray)
    double(np.ones(3), pair=(np.ones(2), np.ones(2)))
    double(np.ones(3), pair=Pair(np.ones(2), np.ones(2)))


def test_tensors_pass_through():
    x = torch.ones(3, requires_grad=True)
    out = double(x)
    assert out.first.requires_grad
    assert out.second[0] is x
    assert double.__name__ == "double"
    assert double.__doc__ == "An op."


def test_no_gradient_for_arrays():
    weight = torch.ones(3, requires_grad=True)
    out = double(np.ones(3), scale=weight)
    assert isinstance(out.first, np.ndarray)
    assert torch.is_grad_enabled()


def test_dtypes_that_torch_does_not_have():
    with pytest.raises(TypeError):
        double(np.array(["a", "b"]))
    with pytest.raises(TypeError):
        double(np.ones(2, dtype=object))
