"""What is refused, with which exception and which words, and that nothing is left behind by it."""

import pytest
import torch

import neurokernels as nk
from neurokernels._core import backends, cuda
from tests.contract.harness import forced, leaves, run, same
from tests.emulator import switched_on


def test_refusal(op, bad):
    sample = op.samples[0]
    tensors = sample.tensors()
    copies = {name: t.clone() for name, t in tensors.items()}
    expected = run(op, sample, op.usual)
    with pytest.raises(bad.error) as caught:
        op.call(**(tensors | sample.options | bad.changes))
    assert type(caught.value) is bad.error  # not one that happens to be derived from it
    text = str(caught.value)
    assert text.startswith(op.speakers or f"{op.name}: "), text
    assert [word for word in bad.words if word not in text] == [], text
    assert "\n" not in text
    for name, tensor in tensors.items():
        assert torch.equal(tensor, copies[name])
    same(run(op, sample, op.usual), expected)


def test_unknown_argument(op):
    sample = op.samples[0]
    with pytest.raises(TypeError, match="colour"):
        op.call(**sample.tensors(), **sample.options, colour="red")


def test_forced_backend_that_cannot_run(op):
    """It raises with the reason, which is the one of `explain`; no other backend steps in."""
    sample = op.samples[0]
    with switched_on(cuda.CupyDriver()):  # which takes no tensors of the CPU; the emulation does
        refused = {row.name: row.why_not(torch.empty(0)) for row in backends.rows(op.name)}
        refused["cuda"] = refused.get("cuda", "no such kernel")
        assert any(refused.values())
        for name, reason in refused.items():
            if reason is None:
                continue
            message = f"^{op.name}: backend '{name}' was asked for and"
            with nk.backend(name), backends.record() as ran, pytest.raises(nk.BackendError, match=message) as caught:
                op.call(**sample.tensors(), **sample.options)
            assert reason in str(caught.value)
            assert ran == []


def test_unknown_backend(op):
    with pytest.raises(ValueError, match="auto, reference, cpu, triton, cuda, got 'gpu'"), nk.backend("gpu"):
        raise AssertionError("never entered")


def test_memory_that_cannot_be_had(op, backend):
    """The error is torch's, the inputs are untouched, and the next call works."""
    sample = op.samples[0]
    tensors = leaves(sample.tensors(torch.float32))
    first = next(iter(tensors))
    huge = tensors[first].detach()[:1, :1, :1].expand(op.huge)
    with pytest.raises(RuntimeError, match="memory|allocate|too large"), nk.backend(backend):
        op.call(**tensors | {first: huge}, **sample.options)
    with forced(op, backend, backward=1):
        outputs = op.call(**tensors, **sample.options)
        torch.autograd.grad(sum(o.sum() for o in outputs), list(tensors.values()))
    assert torch.equal(tensors[first], sample.tensors(torch.float32)[first])
