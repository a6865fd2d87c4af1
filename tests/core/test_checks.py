"""Checks say op, argument, expected, got and the fix, with the exception that is due."""

import math

import numpy as np
import pytest
import torch

from neurokernels._core import checks


@pytest.mark.parametrize("dtype", checks.FLOATS)
def test_floating(dtype):
    checks.floating("op", "x", torch.zeros(2, dtype=dtype))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            torch.zeros(2, dtype=torch.int64),
            "op: x must be float32, bfloat16, float16 or float64, got torch.int64; convert",
        ),
        (torch.zeros(2, dtype=torch.bool), "got torch.bool"),
        (torch.zeros(2, dtype=torch.float8_e4m3fn), "got torch.float8_e4m3fn"),
        ([1.0], "op: x must be a tensor or a NumPy or CuPy array, got list"),
        (None, "got NoneType"),
        (1.0, "got float"),
    ],
)
def test_not_floating(value, message):
    with pytest.raises(TypeError) as caught:
        checks.floating("op", "x", value)
    assert message in str(caught.value)


def test_same_device():
    checks.same_device("op", "v0", torch.zeros(1), torch.device("cpu"))
    with pytest.raises(
        ValueError, match=r"op: v0 must be on cpu as x is, got a tensor on meta; move it with .to\('cpu'\)"
    ):
        checks.same_device("op", "v0", torch.zeros(1, device="meta"), torch.device("cpu"))


@pytest.mark.parametrize(
    "value", [0.5, 1, 0, np.float32(0.5), np.float64(0.25), np.int64(1), np.array(0.75), torch.tensor(0.5)]
)
def test_numbers(value):
    got = checks.number("op", "decay", value, 0.0, 1.0)
    assert type(got) is float
    assert got == float(value)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (1.5, ValueError, "op: decay must be in [0, 1], got 1.5"),
        (-1, ValueError, "op: decay must be in [0, 1], got -1"),
        (math.nan, ValueError, "op: decay must be in [0, 1], got nan"),
        (math.inf, ValueError, "got inf"),
        ("x", TypeError, "op: decay must be a number or a tensor, got str"),
        (None, TypeError, "got NoneType"),
        ([0.5], TypeError, "got list"),
        (0.5j, TypeError, "got complex"),
        (np.ones(2), TypeError, "got ndarray"),
    ],
)
def test_not_numbers(value, error, message):
    with pytest.raises(error) as caught:
        checks.number("op", "decay", value, 0.0, 1.0)
    assert message in str(caught.value)


def test_unbounded_numbers():
    for value in (math.inf, -math.inf, 1e300):
        assert checks.number("op", "floor", value) == value
    with pytest.raises(ValueError, match="op: floor must be a number, got nan"):
        checks.number("op", "floor", math.nan)


@pytest.mark.parametrize("value", [0, 3, np.int32(2), np.uint8(7), torch.tensor(4)])
def test_counts(value):
    got = checks.count("op", "refractory", value)
    assert type(got) is int
    assert got == int(value)


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (-1, ValueError),
        (1.0, ValueError),
        (math.nan, ValueError),
        (True, TypeError),
        ("2", TypeError),
        (None, TypeError),
    ],
)
def test_not_counts(value, error):
    with pytest.raises(error, match="op: refractory must be an integer >= 0, got"):
        checks.count("op", "refractory", value)


def test_choice():
    assert checks.choice("op", "reset", "zero", ("zero", "none")) == "zero"
    for wrong in ("Zero", "", None, 0):
        with pytest.raises(ValueError, match="op: reset must be one of zero, none, got"):
            checks.choice("op", "reset", wrong, ("zero", "none"))


def test_axis():
    assert [checks.axis("op", "dim", d, 3) for d in (-3, -1, 0, 2)] == [0, 2, 0, 2]
    for wrong in (3, -4):
        with pytest.raises(ValueError, match=r"op: dim must be in \[-3, 2\], got"):
            checks.axis("op", "dim", wrong, 3)
    for wrong in (1.0, True, None, "0"):
        with pytest.raises(TypeError, match="op: dim must be an integer, got"):
            checks.axis("op", "dim", wrong, 3)
