"""Sizes of 0 and 1 in every dimension, fewer and more dimensions, and sizes that no vector or block divides."""

import pytest
import torch

import neurokernels as nk
from neurokernels._core import accuracy
from tests.contract.harness import close, few, run, same, truth

ONE_IF_SLOW = True


def compare(op, sample, backend, shape):
    tensors = sample.tensors(shape=shape)
    if not sample.takes(shape):
        with pytest.raises(ValueError, match=f"^({'|'.join(op.speakers) or op.name + ': '})"), nk.backend(backend):
            op.call(**tensors, **sample.options)
        return
    got, expected = run(op, sample, backend, tensors), truth(op, sample, tensors)
    for a, b in zip(got.outputs, expected.outputs, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
    for name, gradient in got.gradients.items():
        assert gradient.shape == tensors[name].shape
    close(got, expected, ulps=op.small)


@pytest.mark.parametrize("size", [0, 1])
def test_in_every_dimension(op, sample, backend, size):
    shape = sample.shape
    for d in few(op, backend, range(len(shape)), 2):
        compare(op, sample, backend, (*shape[:d], size, *shape[d + 1 :]))
    compare(op, sample, backend, (size,) * len(shape))


def test_one_zero_and_one_one(op, sample, backend):
    for shape in few(op, backend, ((0, 1, 1), (1, 1, 0), (1, 0, 1)), 2):
        compare(op, sample, backend, shape)


@pytest.mark.parametrize("shape", [(4, 3), (33, 2), (3, 2, 1, 3), (2, 1, 2, 1, 3)], ids=str)
def test_number_of_dimensions(op, sample, backend, shape):
    """The last dimension stays the one of features."""
    if sample.options.get("time_dim") == -1:
        shape = shape[::-1]
    compare(op, sample, backend, shape)


def test_odd_sizes(op, backend):
    """Around the widths of vectors and blocks; rows one by one give what all of them give."""
    sample = op.samples[1]
    for width in few(op, backend, op.odd):
        compare(op, sample, backend, (3, 2, width))


def test_neurons_do_not_meet(op, backend):
    """A NaN stays where it is."""
    sample = op.samples[0]
    tensors = sample.tensors(torch.float32, shape=(4, 3, op.odd[0]))
    first = next(iter(tensors))
    expected = run(op, sample, backend, tensors)
    poisoned = tensors | {first: tensors[first].clone()}
    poisoned[first][1, 2, 1] = torch.nan
    got = run(op, sample, backend, poisoned)
    if op.mixes:
        clean = (torch.tensor([0, 2, 3]),)
    else:
        clean = (..., torch.ones(3, op.odd[0], dtype=torch.bool))
        clean[1][2, 1] = False
    for a, b in zip(got.outputs, expected.outputs, strict=True):
        assert torch.equal(a[clean], b[clean])
    assert any(o.isnan().any() for o in got.outputs)
    accuracy.check(got.gradients[first][clean], *[expected.gradients[first][clean]] * 2)


def test_repeat_is_the_same(op, sample, backend):
    tensors = sample.tensors(torch.float32)
    expected = run(op, sample, backend, tensors)
    for _ in few(op, backend, range(2)):
        same(run(op, sample, backend, tensors), expected)
