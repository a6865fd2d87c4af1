"""The accuracy rule: what it lets pass, what it does not, and what it says."""

import math

import pytest
import torch

from neurokernels._core import accuracy

EPS = torch.finfo(torch.float32).eps
EXACT = torch.tensor([1.0, -2.0, 4.0, 0.0], dtype=torch.float64)


def off(by, at=0, dtype=torch.float32):
    """The exact values, one of them wrong by a part of the largest."""
    value = EXACT.clone()
    value[at] += by * 4
    return value.to(dtype)


def test_error_is_relative_to_the_largest():
    assert accuracy.error(off(0.01, dtype=torch.float64), EXACT) == (pytest.approx(0.01), (0,))
    assert accuracy.error(off(-0.5, 3), EXACT) == (pytest.approx(0.5), (3,))
    assert accuracy.error(EXACT.view(2, 2) + torch.tensor([[0, 0.4], [0, 0]]), EXACT.view(2, 2))[1] == (0, 1)


def test_what_passes():
    accuracy.check(EXACT.float(), EXACT.float(), EXACT)
    accuracy.check(off(3 * EPS), EXACT.float(), EXACT)  # four units in the last place are always allowed
    accuracy.check(off(1.9e-3), off(1e-3, 2), EXACT)
    accuracy.check(off(2.9e-3), off(1e-3, 2), EXACT, factor=accuracy.BACKWARD)
    accuracy.check(off(30 * EPS), EXACT.float(), EXACT, ulps=32)


def test_what_does_not():
    for value, reference, how in (
        (off(5 * EPS), EXACT.float(), {}),
        (off(2.1e-3), off(1e-3, 2), {}),
        (off(3.1e-3), off(1e-3, 2), {"factor": accuracy.BACKWARD}),
        (-EXACT.float(), EXACT.float(), {}),
        (torch.zeros(4), EXACT.float(), {}),
    ):
        with pytest.raises(AssertionError):
            accuracy.check(value, reference, EXACT, **how)


def test_the_message_names_the_worst_index_and_both_errors():
    with pytest.raises(AssertionError) as caught:
        accuracy.check(off(0.1, 1), off(0.01, 2), EXACT, name="gradient of decay")
    text = str(caught.value)
    for word in ("gradient of decay", "0.1 at (1,)", "0.02 is allowed", "float32: 0.01", "-1.6", "-2.0"):
        assert word in text, text


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_not_finite(value):
    """NaN and infinity must be where they belong, and nowhere else."""
    broken = EXACT.clone()
    broken[1] = value
    accuracy.check(broken, broken, broken)
    assert accuracy.error(broken, EXACT) == (math.inf, (1,))
    assert accuracy.error(EXACT, broken) == (math.inf, (1,))
    assert accuracy.error(-broken, broken)[0] == (2.0 if math.isnan(value) else math.inf)
    with pytest.raises(AssertionError):
        accuracy.check(broken, EXACT, EXACT)


def test_shapes():
    with pytest.raises(AssertionError, match=r"shape \(4,\) where \(2, 2\) is due"):
        accuracy.check(EXACT, EXACT, EXACT.view(2, 2))
    empty = torch.zeros(0, 3)
    accuracy.check(empty, empty, empty)
    assert accuracy.error(empty, empty) == (0.0, ())
    accuracy.check(torch.tensor(1.0), torch.tensor(1.0), torch.tensor(1.0))
    with pytest.raises(AssertionError):
        accuracy.check(torch.tensor(1.1), torch.tensor(1.0), torch.tensor(1.0))


def test_zeros():
    accuracy.check(torch.zeros(3), torch.zeros(3), torch.zeros(3))
    with pytest.raises(AssertionError):
        accuracy.check(torch.full((3,), 1e-30), torch.zeros(3), torch.zeros(3))
