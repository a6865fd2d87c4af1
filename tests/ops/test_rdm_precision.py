"""A precision: mahalanobis and crossnobis of whitened patterns, with derivatives of patterns and precision."""

import pytest
import torch

import neurokernels as nk
from neurokernels._core import accuracy
from tests import definitions


def made(*shape, dtype=torch.float64, batch=()):
    generator = torch.Generator().manual_seed(sum(shape))
    x = torch.randn(shape, dtype=torch.float64, generator=generator) + 0.5
    root = torch.randn(*batch, shape[-1], shape[-1], dtype=torch.float64, generator=generator)
    return x.to(dtype), (root @ root.mT / shape[-1] + torch.eye(shape[-1])).to(dtype)


CASES = [("mahalanobis", (2, 7, 5), ()), ("mahalanobis", (2, 7, 5), (2,)), ("crossnobis", (2, 3, 6, 4), (1,))]


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize(("metric", "shape", "batch"), CASES)
def test_definition(metric, shape, batch, backend):
    """By differences and the quadratic form itself, and autograd of that."""
    x, p = (t.requires_grad_() for t in made(*shape, batch=batch))
    with nk.backend(backend):
        got = nk.rdm(x, metric=metric, precision=p)
        g = torch.randn_like(got)
        mine = torch.autograd.grad(got, (x, p), g)
    i, j = torch.triu_indices(shape[-2], shape[-2], 1)
    whole = (p + p.mT) / 2
    if metric == "crossnobis":
        s, t = x, (x.sum(-3, keepdim=True) - x) / (x.shape[-3] - 1)
        ds, dt = s[..., i, :] - s[..., j, :], t[..., i, :] - t[..., j, :]
        expected = ((dt @ whole.unsqueeze(-3)) * ds).sum(-1).mean(-2) / shape[-1]
    else:
        d = x[..., i, :] - x[..., j, :]
        expected = ((d @ whole) * d).sum(-1) / shape[-1]
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-13)
    for a, b in zip(mine, torch.autograd.grad(expected, (x, p), g), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)
    assert torch.equal(mine[1], mine[1].mT)


@pytest.mark.parametrize("metric", ["mahalanobis", "crossnobis"])
def test_derivatives(metric):
    x, p = (t.requires_grad_() for t in made(3, 5, 4))
    call = lambda x, p: nk.rdm(x, metric=metric, precision=p)
    assert torch.autograd.gradcheck(call, (x, p), fast_mode=True, check_forward_ad=True)
    (dx,) = torch.autograd.grad(call(x, p).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="rdm: second-order derivatives"):
        dx.sum().backward()


def test_transforms():
    xs, ps = zip(*(made(2, 6, 4 + 0 * i) for i in range(3)), strict=True)
    x, p = torch.stack([v + i for i, v in enumerate(xs)]), torch.stack([v * (1 + i) for i, v in enumerate(ps)])
    call = lambda x, p: nk.rdm(x, metric="mahalanobis", precision=p)
    for dims, pick in (
        ((0, 0), lambda i: (x[i], p[i])),
        ((None, 0), lambda i: (x[0], p[i])),
        ((0, None), lambda i: (x[i], p[0])),
    ):
        given = [v if d == 0 else v[0] for v, d in zip((x, p), dims, strict=True)]
        got = torch.vmap(call, dims)(*given)
        torch.testing.assert_close(got, torch.stack([call(*pick(i)) for i in range(3)]), rtol=1e-12, atol=1e-13)
    each = torch.vmap(torch.func.grad(lambda x, p: call(x, p).square().sum(), (0, 1)))(x, p)
    for i in range(3):
        one = torch.func.grad(lambda x, p: call(x, p).square().sum(), (0, 1))(x[i], p[i])
        for a, b in zip(each, one, strict=True):
            torch.testing.assert_close(a[i], b, rtol=1e-11, atol=1e-12)


def test_compiled_and_under_autocast():
    x, p = (t.requires_grad_() for t in made(2, 7, 5, dtype=torch.float32))

    def call(x, p):
        d = nk.rdm(x, metric="mahalanobis", precision=p)
        return d, *torch.autograd.grad(d.square().sum(), (x, p))

    expected = call(x, p)
    compiled = torch.compile(
        lambda x, p: nk.rdm(x, metric="mahalanobis", precision=p), backend="aot_eager", fullgraph=True
    )
    d = compiled(x, p)
    with torch.autocast("cpu", torch.bfloat16):
        cast = call(x, p)
    for a, b, c in zip(expected, (d, *torch.autograd.grad(d.square().sum(), (x, p))), cast, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


def test_accuracy():
    """An offset of all patterns costs no digits; the matrix of the definition loses four."""
    x, p = made(20, 30, dtype=torch.float32)
    x = x + 1000
    got, exact = (nk.rdm(v, metric="mahalanobis", precision=w) for v, w in ((x, p), (x.double(), p.double())))
    assert accuracy.error(got, exact)[0] < 2e-6
    assert accuracy.error(definitions.rdm(x, metric="mahalanobis", precision=p), exact)[0] > 1e-5


def test_types_and_arrays():
    x, p = made(6, 4, dtype=torch.float32)
    got = nk.rdm(x.numpy(), metric="mahalanobis", precision=p.numpy())
    assert torch.equal(torch.from_numpy(got), nk.rdm(x, metric="mahalanobis", precision=p))
    half = p.bfloat16().requires_grad_()
    d = nk.rdm(x, metric="mahalanobis", precision=half)
    assert torch.equal(d, nk.rdm(x, metric="mahalanobis", precision=half.float()))
    assert torch.autograd.grad(d.sum(), half)[0].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("precision", "words"),
    [
        (torch.zeros(4, 4), "positive definite.*no Cholesky factor"),
        (torch.eye(4) * torch.tensor([1.0, 1, -1e-3, 1]), "positive definite"),
        (torch.full((4, 4), torch.nan), "positive definite"),
        (torch.eye(3), r"\[..., D, D\] with D = 4.*shape \(3, 3\)"),
        (torch.ones(4), r"\[..., D, D\]"),
        (torch.eye(4).expand(3, 4, 4), "leading dimensions of x"),
    ],
)
def test_refusals(precision, words):
    with pytest.raises(ValueError, match=f"^rdm: precision must be .*{words}"):
        nk.rdm(torch.ones(2, 5, 4), metric="mahalanobis", precision=precision)
