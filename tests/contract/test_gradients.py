"""Gradients in float64: those of the definition, and of finite differences where an output is a smooth function."""

import pytest
import torch

from tests.contract.harness import close, evaluate, few, forced, leaves, run, truth

ONE_IF_SLOW = True  # gradients of their first sample are held to the definition in test_transforms.py


def test_gradients_are_the_definitions(op, sample, backend):
    close(run(op, sample, backend), truth(op, sample))


def test_each_argument_alone(op, sample, backend):
    """What is not asked for may change what is saved, never what is returned."""
    expected = truth(op, sample).gradients
    for name in few(op, backend, expected, 2):
        tensors = sample.tensors()
        chosen = tensors.pop(name)
        with forced(op, backend, backward=1):
            got = evaluate(op.call, {name: chosen}, **tensors, **sample.options).gradients[name]
        torch.testing.assert_close(got, expected[name], rtol=1e-12, atol=1e-12)


def test_outputs_alone(op, sample, backend):
    """A loss may use any one of the outputs."""
    for i in range(len(op.definition(**sample.tensors(), **sample.options))):

        def alone(function, i=i):
            return lambda **arguments: function(**arguments)[i : i + 1]

        with forced(op, backend, backward=1):
            got = evaluate(alone(op.call), sample.tensors(), **sample.options)
        close(got, evaluate(alone(op.definition), sample.tensors(), **sample.options))


@pytest.mark.parametrize("forward_mode", [False, True])
def test_finite_differences(op, smooth, backend, forward_mode):
    tensors = leaves(smooth.tensors())

    def outputs_of(first, *rest):
        outputs = op.call(**dict(zip(tensors, (op.free(first), *rest), strict=True)), **smooth.options)
        return tuple(outputs[i] for i in smooth.smooth)

    with forced(op, backend, backward=1):
        assert torch.autograd.gradcheck(
            outputs_of,
            tuple(tensors.values()),
            fast_mode=True,
            check_forward_ad=forward_mode,
            check_backward_ad=not forward_mode,
        )


def test_second_order(op, sample, backend):
    given = leaves(sample.tensors())
    first = next(iter(given))
    with forced(op, backend, backward=1):
        outputs = op.call(**given, **sample.options)
        (gradient,) = torch.autograd.grad(sum(o.square().sum() for o in outputs), given[first], create_graph=True)
    if not op.refuses_second_order:
        assert torch.autograd.gradgradcheck(
            lambda x: op.call(**given | {first: op.free(x)}, **sample.options), (given[first],)
        )
        return
    with pytest.raises(RuntimeError, match=f"{op.name}: second-order derivatives"):
        gradient.sum().backward()


def test_nothing_requires_grad(op, sample, backend):
    with forced(op, backend):
        outputs = op.call(**sample.tensors(), **sample.options)
    assert not any(o.requires_grad for o in outputs)
    with forced(op, backend), torch.no_grad():
        outputs = op.call(**leaves(sample.tensors()), **sample.options)
    assert not any(o.requires_grad for o in outputs)
    with forced(op, backend), torch.inference_mode():
        outputs = op.call(**sample.tensors(), **sample.options)
    for got, expected in zip(outputs, truth(op, sample).outputs, strict=True):
        torch.testing.assert_close(got.clone(), expected, rtol=1e-12, atol=1e-12)
