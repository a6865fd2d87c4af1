"""`torch.compile` takes an op as one graph, for one shape or for all of them, with the numbers of eager mode."""

import pytest
import torch

from tests.contract.harness import close, evaluate, forced, run, same, traced_alike


@pytest.fixture(autouse=True)
def _forgets():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(op, **how):
    return torch.compile(op.call, fullgraph=True, **how)


def test_gradients(op, sample):
    """Samples take turns, since tracing takes seconds: a graph of one shape, a graph of every shape."""
    (dynamic if op.samples.index(sample) % 2 else static)(op, sample)


def static(op, sample):
    """Traced on one backend, it is served by every other: backends are looked up when the graph runs."""
    function = compiled(op, backend="aot_eager", dynamic=False)
    with forced(op, "reference", backward=1):
        evaluate(function, sample.tensors(), **sample.options)
    for backend in op.backends if sample is op.samples[0] else (op.usual,):
        with forced(op, backend, backward=1), torch.compiler.set_stance("fail_on_recompile"):
            got = evaluate(function, sample.tensors(), **sample.options)
        same(got, run(op, sample, backend))


def dynamic(op, sample):
    """One graph serves every shape; from 30 on, since sizes of 0 and 1, of residuals too, have graphs of their own."""
    function = compiled(op, backend="aot_eager", dynamic=True)
    shorter, longer = (sample.tensors(shape=tuple(n + more for n in sample.shape)) for more in (30, 47))
    with forced(op, op.usual, backward=1):
        evaluate(function, shorter, **sample.options)
        with torch.compiler.set_stance("fail_on_recompile"):
            got = evaluate(function, longer, **sample.options)
    same(got, run(op, sample, op.usual, longer))


def test_inductor(op):
    """With neighbours to fuse with."""
    sample = op.samples[1]

    def model(**arguments):
        first = next(iter(arguments))
        return tuple(2 * o for o in op.call(**arguments | {first: arguments[first].tanh()}))

    function = torch.compile(model, fullgraph=True, dynamic=True)
    with forced(op, op.usual, backward=1):
        got = evaluate(function, sample.tensors(torch.float32), **sample.options)
    with forced(op, op.usual, backward=1):
        expected = evaluate(model, sample.tensors(torch.float32), **sample.options)
    close(got, expected)


def test_inference(op):
    for sample in op.samples[:2]:
        function = compiled(op, backend="aot_eager")
        with torch.no_grad(), forced(op, op.usual):
            got = function(**sample.tensors(), **sample.options)
            expected = op.call(**sample.tensors(), **sample.options)
        traced_alike(op, got, expected)
