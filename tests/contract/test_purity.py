"""Every element of every output is written, and no element of any input."""

import gc
import math

import pytest
import torch

from tests.contract.entries import OPS
from tests.contract.harness import cotangents, few, forced, identical, leaf_calls, leaves
from tests.poison import Filled

ONE_IF_SLOW = True


def test_poison_works():
    """Otherwise every test of this folder would be weaker than it says."""
    assert torch.empty(3).isnan().all()
    assert (torch.empty_like(torch.zeros(3, dtype=torch.int32)) == 2**31 - 1).all()
    with Filled(0xC1):
        assert torch.zeros(2).new_empty(3, dtype=torch.uint8).tolist() == [0xC1] * 3


def test_every_element_is_written(op, sample, backend):
    """Of the outputs of leaf ops, residuals among them: whatever the memory held before, the result is the same."""
    for overload, arguments, _ in leaf_calls(op, sample, backend):
        results = []
        for byte in (0x00, 0xFF):
            with Filled(byte), forced(op, backend):
                out = overload(*arguments)
            results.append(out if isinstance(out, tuple) else (out,))
        for i, outputs in enumerate(zip(*results, strict=True)):
            identical(outputs[1], outputs[0], f"{overload}: output {i}")
            if outputs[0].is_floating_point():
                assert not outputs[0].isnan().any()


def test_inputs_are_unchanged(op, sample, backend):
    given = leaves(sample.tensors(torch.float32))
    copies = {name: t.detach().clone() for name, t in given.items()}
    with forced(op, backend, backward=1):
        outputs = op.call(**given, **sample.options)
        directions = cotangents(outputs)
        kept = [d.clone() for d in directions]
        torch.autograd.grad(outputs, list(given.values()), directions)
    for name, tensor in given.items():
        identical(tensor.detach(), copies[name], name)
        assert tensor._version == 0, f"{name} was written to"
    for direction, copy in zip(directions, kept, strict=True):
        identical(direction, copy, "incoming gradient")
        assert direction._version == 0


def test_outputs_are_nobody_elses(op, sample, backend):
    """No output shares memory with an input or with another output: writing to one of them changes nothing else."""
    given = sample.tensors(torch.float32)
    with forced(op, backend):
        outputs = op.public(**given, **sample.options)
    storages = [t.untyped_storage().data_ptr() for t in (*given.values(), *outputs)]
    assert len(set(storages)) == len(storages)


def test_second_backward(op, sample, backend):
    """A graph that is kept gives the same gradients again; one that is not kept says that it is gone."""
    given = leaves(sample.tensors(torch.float32))
    with forced(op, backend, backward=2):
        outputs = op.call(**given, **sample.options)
        directions = cotangents(outputs)
        first = torch.autograd.grad(outputs, list(given.values()), directions, retain_graph=True)
        second = torch.autograd.grad(outputs, list(given.values()), directions, retain_graph=True)
    for a, b in zip(first, second, strict=True):
        identical(b, a, "gradient")


def test_changed_inputs_are_noticed(op, backend):
    """What the backward pass needs and somebody wrote to in between is an error, not a wrong gradient."""
    for sample in few(op, backend, op.samples):
        given = leaves(sample.tensors(torch.float32))
        expected = op.call(**given, **sample.options)
        gradients = torch.autograd.grad(expected, list(given.values()), cotangents(expected))
        for name in given:
            with forced(op, backend):
                outputs = op.call(**given, **sample.options)
            with torch.no_grad():
                given[name].mul_(1.25)
            try:
                got = torch.autograd.grad(outputs, list(given.values()), cotangents(outputs))
            except RuntimeError as error:
                if "modified by an inplace operation" not in str(error):
                    raise
            else:
                for a, b in zip(got, gradients, strict=True):
                    torch.testing.assert_close(a, b)
            with torch.no_grad():
                given[name].copy_(sample.tensors(torch.float32)[name])


def test_memory_is_given_back(op, backend):
    """No call keeps a tensor alive: neither with a graph that was used nor with one that was not."""
    sample = op.samples[1]

    def work(backward):
        given = leaves(sample.tensors(torch.float32))
        with forced(op, backend):
            outputs = op.call(**given, **sample.options)
        if backward:
            torch.autograd.grad(outputs, list(given.values()), cotangents(outputs))

    work(True)
    gc.disable()
    gc.freeze()  # what is there already is counted no more: looking at all of it takes longer than the test
    try:
        for _ in few(op, backend, range(5)):
            work(True)
            work(False)
        kept = [type(o) for o in gc.get_objects() if issubclass(type(o), torch.Tensor)]
        assert kept == []
    finally:
        gc.unfreeze()
        gc.enable()


def test_a_tensor_that_is_kept_is_seen(monkeypatch):
    """Mutant of the test above."""
    kept, honest = [], cotangents
    monkeypatch.setitem(globals(), "cotangents", lambda outputs: honest(kept.append(outputs) or outputs))
    with pytest.raises(AssertionError):
        test_memory_is_given_back(OPS[0], OPS[0].usual)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_not_finite_gradients_pass(op, backend, value):
    """A gradient that is not finite is handed on, not cleaned up, and does not hang or raise."""
    sample = op.samples[0]
    given = leaves(sample.tensors(torch.float32))
    with forced(op, backend, backward=1):
        outputs = op.call(**given, **sample.options)
        gradients = torch.autograd.grad(outputs, list(given.values()), [torch.full_like(o, value) for o in outputs])
    assert not gradients[0].isfinite().all()
