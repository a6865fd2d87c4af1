"""Strides, offsets and broadcasts change nothing, in inputs as in the gradients that come back."""

import torch

from tests.contract.harness import Result, evaluate, few, forced, identical, leaves, run, same

ONE_IF_SLOW = True


def transposed(tensor):
    """Laid out with its dimensions in the opposite order."""
    backwards = tuple(reversed(range(tensor.ndim)))
    return tensor.permute(backwards).contiguous().permute(backwards)


def swapped(tensor):
    """Laid out with its first two dimensions swapped: a batch before time."""
    return tensor.transpose(0, 1).contiguous().transpose(0, 1) if tensor.ndim > 1 else tensor


def strided(tensor):
    """Every other element of every row."""
    wide = (
        torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1]), torch.nan, dtype=tensor.dtype) if tensor.ndim else tensor
    )
    return wide[..., ::2].copy_(tensor) if tensor.ndim else tensor


def padded(tensor):
    """Rows in the middle of longer ones, in the middle of more of them."""
    wide = torch.full([n + 3 for n in tensor.shape], torch.nan, dtype=tensor.dtype)
    return wide[tuple(slice(1, n + 1) for n in tensor.shape)].copy_(tensor)


def offset(tensor):
    """Somewhere in a storage, at an address that is a multiple of nothing but the element."""
    storage = torch.full((tensor.numel() + 5,), torch.nan, dtype=tensor.dtype)
    return storage[3 : 3 + tensor.numel()].view(tensor.shape).copy_(tensor)


LAYOUTS = (padded, swapped, transposed, strided, offset)


def test_inputs(op, sample, backend):
    for dtype in few(op, backend, (torch.bfloat16, torch.float32)):
        expected = run(op, sample, backend, sample.tensors(dtype))
        for layout in few(op, backend, LAYOUTS, 3):
            tensors = {name: layout(t) for name, t in sample.tensors(dtype).items()}
            same(run(op, sample, backend, tensors), expected)


def test_expanded_inputs(op, sample, backend):
    """A dimension of stride zero, one after the other, in every argument."""
    for name, tensor in sample.tensors(torch.float32).items():
        for d in few(op, backend, range(tensor.ndim)):
            tensors = sample.tensors(torch.float32)
            tensors[name] = tensor.narrow(d, 0, 1).expand(tensor.shape)
            dense = tensors | {name: tensors[name].contiguous()}
            same(run(op, sample, backend, tensors), run(op, sample, backend, dense))


def test_incoming_gradients(op, sample, backend):
    """What comes back may be strided, or one number for all as from ``sum()``."""

    def pulled(change):
        given = leaves(sample.tensors(torch.float32))
        with forced(op, backend, backward=1):
            outputs = op.call(**given, **sample.options)
            ones = [torch.linspace(-1, 1, o.numel(), dtype=o.dtype).view(o.shape) for o in outputs]
            gradients = torch.autograd.grad(outputs, list(given.values()), [change(o) for o in ones])
        return Result(tuple(o.detach() for o in outputs), dict(zip(given, gradients, strict=True)))

    expected = pulled(torch.clone)
    for layout in few(op, backend, LAYOUTS):
        same(pulled(layout), expected)
    same(pulled(lambda g: g.new_tensor(0.5).expand(g.shape)), pulled(lambda g: torch.full_like(g, 0.5)))


def test_gradients_of_views(op, sample, backend):
    """Leaves are elsewhere: what is handed in are their expanded, transposed and sliced views."""
    first = next(iter(sample.tensors()))

    def through_views(**arguments):
        value = arguments[first]
        wide = torch.cat([value, value], -1)[..., : value.shape[-1]]
        return op.call(**arguments | {first: wide.transpose(0, -1).contiguous().transpose(0, -1)}, **sample.options)

    with forced(op, backend, backward=1):
        got = evaluate(through_views, sample.tensors(torch.float32))
    same(got, run(op, sample, backend, sample.tensors(torch.float32)))


def test_output_strides_follow_the_fake(op, sample, backend):
    """A compiler plans with the strides that it was told."""
    for layout in few(op, backend, LAYOUTS, 2):
        tensors = {name: layout(t) for name, t in sample.tensors(torch.float32).items()}
        with forced(op, backend):
            real = op.public(**tensors, **sample.options)
        with torch._subclasses.fake_tensor.FakeTensorMode(allow_non_fake_inputs=True) as mode:
            fake = op.public(**{k: mode.from_tensor(t) for k, t in tensors.items()}, **sample.options)
        assert [o.stride() for o in real] == [o.stride() for o in fake]
        identical(real[0], real[0].contiguous(), "output")
