"""`torch.func`: vmap, grad, vjp, jvp, jacobians, and their compositions, against loops and against the definition."""

import pytest
import torch
from torch.autograd import forward_ad

from tests.contract.harness import cotangents, forced, leaves, truth

THIN = True

SIZE = 3


def agree(got, expected):
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


def positional(op, sample, function=None):
    names = list(sample.tensors())
    return lambda *values: (function or op.call)(**dict(zip(names, values, strict=True)), **sample.options)


def total(op, sample, function=None):
    """A scalar of all outputs."""
    outputs_of = positional(op, sample, function)

    def loss(*values):
        outputs = outputs_of(*values)
        return sum((o * c).sum() for o, c in zip(outputs, cotangents(outputs), strict=True))

    return loss


def mapped(sample, which, dim):
    """Arguments of which those named have a mapped dimension, its place in each, and the arguments of every slice."""
    slices = [sample.tensors(seed=i) for i in range(SIZE)]
    names = list(slices[0])
    dims = tuple((dim if dim >= 0 else slices[0][n].ndim) if n in which else None for n in names)
    values = [
        slices[0][n] if d is None else torch.stack([s[n] for s in slices], d) for n, d in zip(names, dims, strict=True)
    ]
    each = [tuple(s[n] if n in which else slices[0][n] for n in names) for s in slices]
    return values, dims, each


def subsets(sample):
    """Every argument alone, and all of them."""
    names = tuple(sample.tensors())
    return [(n,) for n in names] + ([names] if len(names) > 1 else [])


@pytest.mark.parametrize("dim", [0, -1])
def test_vmap(op, sample, backend, dim):
    function = positional(op, sample)
    for which in subsets(sample) if dim == 0 else subsets(sample)[-1:]:
        values, dims, each = mapped(sample, which, dim)
        with forced(op, backend):
            got = torch.vmap(function, dims)(*values)
        with forced(op, backend, SIZE):
            expected = [torch.stack(o) for o in zip(*(function(*one) for one in each), strict=True)]
        agree(got, expected)


def test_vmap_of_grad(op, sample, backend):
    """Gradients per sample, of every argument, whichever of them are mapped."""
    function = torch.func.grad(total(op, sample), tuple(range(len(sample.tensors()))))
    for which in subsets(sample):
        values, dims, each = mapped(sample, which, 0)
        with forced(op, backend, backward=1):
            got = torch.vmap(function, dims)(*values)
        with forced(op, backend, SIZE, SIZE):
            expected = [torch.stack(o) for o in zip(*(function(*one) for one in each), strict=True)]
        agree(got, expected)


def test_grad_through_vmap(op, sample, backend):
    """Plain autograd of a mapped call."""
    names = tuple(sample.tensors())
    values, dims, each = mapped(sample, names, 0)
    leaf = [v.requires_grad_() for v in values]

    def gradients(outputs, inputs):
        return torch.autograd.grad(sum((o * o.cos()).sum() for o in outputs), inputs)

    with forced(op, backend, backward=1):
        got = gradients(torch.vmap(positional(op, sample), dims)(*leaf), leaf)
    with forced(op, backend, SIZE, SIZE):
        one_by_one = [[v.detach().requires_grad_() for v in one] for one in each]
        expected = [gradients(positional(op, sample)(*one), one) for one in one_by_one]
    agree(got, [torch.stack(g) for g in zip(*expected, strict=True)])


def test_nested_vmap(op, backend):
    sample = op.samples[0]
    values = [torch.stack([torch.stack([v, 2 * v]), torch.stack([-v, 0.5 * v])]) for v in sample.tensors().values()]
    function = positional(op, sample)
    with forced(op, backend):
        got = torch.vmap(torch.vmap(function))(*values)
    expected = [function(*(v[i, j] for v in values)) for i in range(2) for j in range(2)]
    agree([g.flatten(0, 1) for g in got], [torch.stack(o) for o in zip(*expected, strict=True)])


def test_func_grad(op, sample, backend):
    every = tuple(range(len(sample.tensors())))
    with forced(op, backend, backward=1):
        got = torch.func.grad(total(op, sample), every)(*sample.tensors().values())
    agree(got, truth(op, sample).gradients.values())


def directions(tensors):
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(t.shape, dtype=t.dtype, generator=generator) for t in tensors]


def derivative(op, sample, values, tangents):
    """The tangents of the definition: forward mode from two backward passes through plain PyTorch."""
    function = positional(op, sample, op.definition)
    return torch.autograd.functional.jvp(function, tuple(values), tuple(tangents))[1]


def test_jvp(op, sample, backend):
    values = list(sample.tensors().values())
    tangents = directions(values)
    with forced(op, backend, tangent=1):
        outputs, got = torch.func.jvp(positional(op, sample), tuple(values), tuple(tangents))
    agree(outputs, truth(op, sample).outputs)
    agree(got, derivative(op, sample, values, tangents))


def test_forward_ad(op, sample, backend):
    """Each argument alone: the others have no tangent, which is not the same code as a tangent of zeros."""
    names = list(sample.tensors())
    for chosen in names:
        tensors = sample.tensors()
        tangent = directions([tensors[chosen]])[0]
        zeros = [tangent if n == chosen else torch.zeros_like(tensors[n]) for n in names]
        with forced(op, backend, tangent=1), forward_ad.dual_level():
            dual = tensors | {chosen: forward_ad.make_dual(tensors[chosen], tangent)}
            duals = [forward_ad.unpack_dual(o).tangent for o in op.call(**dual, **sample.options)]
            got = [t.clone() for t in duals]
        agree(got, derivative(op, sample, tensors.values(), zeros))


def test_vmap_of_jvp(op, sample, backend):
    values = list(sample.tensors().values())
    many = [torch.stack(directions([v, v])) for v in values]
    function = positional(op, sample)
    with forced(op, backend, tangent=1):
        got = torch.vmap(lambda *t: torch.func.jvp(function, tuple(values), t)[1])(*many)
    for i in range(2):
        agree([g[i] for g in got], derivative(op, sample, values, [m[i] for m in many]))


def test_jacobians(op, backend):
    """Forward mode and reverse mode give one matrix."""
    sample = op.samples[-1]
    small = sample.tensors(shape=(3, 2, 2))
    first = next(iter(small))

    def function(value):
        return op.call(**small | {first: value}, **sample.options)

    with forced(op, backend, tangent=1):
        forward = torch.func.jacfwd(function)(small[first])
        reverse = torch.func.jacrev(function)(small[first])
    agree(forward, reverse)
    assert all(j.abs().max() > 0 for j in forward)


def test_second_order_transforms(op, backend):
    sample = op.samples[-1]
    loss, every = total(op, sample), tuple(range(len(sample.tensors())))
    values = sample.tensors().values()
    if not op.refuses_second_order:
        expected = torch.func.hessian(total(op, sample, op.definition))(*values)
        agree([torch.func.hessian(loss)(*values)], [expected])
        return
    with pytest.raises(RuntimeError, match=f"{op.name}: second-order derivatives"), forced(op, backend, backward=1):
        torch.func.grad(lambda *v: torch.func.grad(loss, every)(*v)[0].sum())(*values)
    gradient, tangents = (lambda *v: torch.func.grad(loss, every)(*v)[0]), tuple(directions(values))
    with pytest.raises(RuntimeError, match=f"{op.name}: second-order derivatives"), forced(op, backend, backward=1):
        torch.func.jvp(gradient, tuple(values), tangents)


def test_vjp(op, sample, backend):
    with forced(op, backend, backward=1):
        outputs, pull = torch.func.vjp(positional(op, sample), *sample.tensors().values())
        got = pull(tuple(cotangents(outputs)))
    agree(got, truth(op, sample).gradients.values())


def test_leaves_need_no_grad_inside(op, backend):
    """A transform of one argument while another one requires grad outside."""
    sample = op.samples[-1]
    tensors = leaves(sample.tensors())
    names = list(tensors)

    def loss(first):
        return total(op, sample)(first, *(tensors[n] for n in names[1:]))

    with forced(op, backend, backward=1):
        inner = torch.func.grad(loss)(tensors[names[0]].detach())
    agree([inner.detach()], [truth(op, sample).gradients[names[0]]])
