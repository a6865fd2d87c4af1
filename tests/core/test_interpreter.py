"""Triton's interpreter in a hurry (tests/interpreter.py) computes and checks what it did."""

import pytest
import torch
import triton
import triton.language as tl


@triton.jit
def twice(x):
    return x + x


@triton.jit
def kernel(x_ptr, y_ptr, N: tl.constexpr):
    at = tl.arange(0, N)
    tl.store(y_ptr + at, twice(tl.load(x_ptr + at)))


def doubled(x):
    y = torch.empty_like(x)
    kernel[(1,)](x, y, N=x.numel())
    return y


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.int64, torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("size", [4, 8])
def test_functions_that_are_called_are_interpreted(dtype, size):
    """Whichever types and shapes came before, and again after a kernel has ended and everything was put back."""
    x = torch.arange(size).to(dtype)
    for _ in range(2):
        assert torch.equal(doubled(x), 2 * x)
    assert isinstance(tl.range, type)


def test_overflow_is_seen():
    for dtype in (torch.int32, torch.int16):
        most = torch.iinfo(dtype).max
        assert doubled(torch.full((4,), most // 2, dtype=dtype)).tolist() == [most - 1] * 4
        with pytest.raises(Exception, match="overflow detected for operation add"):
            doubled(torch.full((4,), most // 2 + 1, dtype=dtype))
