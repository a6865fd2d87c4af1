"""The wide kernels of canonical correlation on the CPU: where digits end, threads, batches, the joint covariance."""

import pytest
import torch

import neurokernels as nk
from neurokernels._core import backends, covariance_cpu
from neurokernels.ops.cca import cpu, reference
from tests.ops import torture
from tests.ops.test_cca import evaluate, held

REG = (1e-4, 1e-4)


def of_correlations(s, n, g):
    """Views with these canonical correlations, but for the regulariser, behind a random rotation each."""
    d = len(s)
    q = torch.randn(n, 2 * d, dtype=torch.float64, generator=g)
    q = torch.linalg.qr(q - q.mean(0)).Q * (n - 1) ** 0.5
    a, b = (torch.linalg.qr(torch.randn(d, d, dtype=torch.float64, generator=g)).Q for _ in range(2))
    return q[:, :d] @ a, (q[:, :d] * s + q[:, d:] * (1 - s * s).sqrt()) @ b


def resolved(x, y, precision="high", reg=REG):
    """Whether the first attempt sufficed, without more digits."""
    return not cpu._wide(x, y, *reg, "nuclear", precision, False)[3].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("least", [0.5, 1e-2, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5])
def test_small_correlations(least, dtype):
    """Weight 1 in the gradient for every one of them, whether it was large or small, and whatever it takes."""
    s = torch.logspace(0, 1, 90, base=least, dtype=torch.float64) * 0.99
    x, y = (v.to(dtype) for v in of_correlations(s, 400, torch.Generator().manual_seed(3)))
    exact = torture.truth(x, y, REG)
    # Rounding of float32 turns directions by as much as it is beside the correlations that they belong to.
    bounds = (1e-11, 1e-8) if dtype == torch.float64 else (1e-6, 1e-5 + 3e-7 / least)
    held(evaluate("cpu", x, y, REG), exact, bounds)
    held(evaluate("cpu", x, y, REG, precision="fast"), exact, (1e-3, max(1e-2, bounds[1])))
    if least >= 3e-4:
        assert resolved(x, y)


def test_a_correlation_of_zero():
    """It is not taken for a small one: its direction is noise, and has no part in the gradient."""
    s = torch.linspace(0.9, 0.1, 90, dtype=torch.float64)
    s[70:] = 0
    x, y = of_correlations(s, 400, torch.Generator().manual_seed(3))
    held(evaluate("cpu", x, y, REG), torture.truth(x, y, REG), (1e-11, 1e-8))
    assert not resolved(x, y)
    with pytest.raises(AssertionError, match="gradient is off by"):  # what a shuffled sign of noise would do
        held(evaluate("cpu", x, y + 1e-7 * torch.randn_like(y), REG), torture.truth(x, y, REG), (1e-5, 1e-3))


@pytest.mark.parametrize("name", ["condition 1e6", "duplicated unit"])
def test_more_digits_where_they_are_needed(name):
    """In float32 these are not resolved, and not what float32 makes of them."""
    x, y = torture.CASES[name].inputs((400, 90, 90))
    reg = torture.CASES[name].reg
    assert not resolved(x, y, reg=reg)
    held(evaluate("cpu", x, y, reg), torture.truth(x, y, reg), (1e-6, 5e-4))


def test_items_of_a_batch_are_on_their_own():
    """One that has to be done again changes no bit of the others."""
    x, y = (torch.stack([v, 2 * v, v.flip(0)]) for v in torture.CASES["ordinary"].inputs((300, 80, 90)))
    expected = evaluate("cpu", x, y, REG)
    x[1, :, 3] = x[1, :, 4]
    assert not resolved(x[1], y[1])
    got = evaluate("cpu", x, y, REG)
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a[[0, 2]], b[[0, 2]])
        assert not torch.equal(a[1], b[1])
    one = tuple(g[1] for g in got)
    held(one, torture.truth(x[1], y[1], REG), (1e-6, 1e-5))


@pytest.mark.parametrize("shape", [(300, 80, 80), (900, 250, 130), (400, 70, 260)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_threads(shape, dtype):
    """Bit for bit the same with any number of threads, and in a batch."""
    views, before, found = torture.CASES["ordinary"].inputs(shape, dtype), torch.get_num_threads(), []
    x, y = (torch.stack([v, v.flip(0)]) for v in views)
    try:
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            one = cpu.dcca(x[0], y[0], *REG, "nuclear", 0, "high", True)
            found.append((*one, *cpu.dcca(x, y, *REG, "nuclear", 0, "high", True)))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, found[0], strict=True))
    assert all(torch.equal(both[0], one) for one, both in zip(found[0][:3], found[0][3:], strict=True))


@pytest.mark.parametrize("objective", ["nuclear", "fro2"])
def test_the_value_alone(objective):
    """Without weights it is the same value, and the input of a half precision is that of float32."""
    x, y = torture.CASES["ordinary"].inputs((300, 100, 80), torch.bfloat16)
    with nk.backend("cpu"), backends.record() as ran:
        alone = nk.dcca_loss(x, y, objective=objective)
        with_weights = nk.dcca_loss(x.requires_grad_(), y, objective=objective)
        wider = nk.dcca_loss(x.detach().float(), y.float(), objective=objective)
    assert ran == [("dcca", "cpu")] * 3
    assert torch.equal(alone, with_weights.detach())
    assert torch.equal(alone, wider)


@pytest.mark.parametrize("shape", [(40, 3, 5), (700, 100, 150), (1, 300, 200, 300), (3, 100, 250, 7), (2, 64, 16, 240)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_covariance_of_a_pair(shape, dtype):
    """Bit for bit that of both side by side, wherever the seam falls among the tiles."""
    *batch, n, d1, d2 = shape
    g = torch.Generator().manual_seed(1)
    x, y = (torch.randn((*batch, n, d), generator=g).add(3).to(dtype) for d in (d1, d2))
    both = torch.cat([x, y], -1)
    out, mean = covariance_cpu.covariance_pair(x, y, 1)
    with nk.backend("cpu"):
        assert torch.equal(out, nk.covariance(both))
    wide = torch.promote_types(dtype, torch.float32)
    assert torch.equal(covariance_cpu.centred_pair(x, y), covariance_cpu.centred(both, wide)[0])
    assert torch.equal(mean, covariance_cpu.centred(both, wide)[1])


def test_dual_weights_are_the_primal_ones():
    """At N just below and just above D the two forms of one problem meet."""
    x, y = torture.CASES["ordinary"].inputs((91, 90, 90), torch.float64)
    primal = reference.dcca(x, y, 0.1, 0.2, "nuclear", 0, "high", True)
    padded = [torch.nn.functional.pad(v, (0, 2)) for v in (x, y)]  # units without variance change nothing
    dual = reference.dcca(*padded, 0.1, 0.2, "nuclear", 0, "high", True)
    assert (primal[1].shape, dual[1].shape) == ((180, 180), (2, 91, 91))
    torch.testing.assert_close(dual[0], primal[0])
    one = torch.ones((), dtype=torch.float64)
    for a, b in zip(
        reference.dcca_backward(one, *padded, *dual[1:]), reference.dcca_backward(one, x, y, *primal[1:]), strict=True
    ):
        torch.testing.assert_close(a[:, :90], b, rtol=1e-8, atol=1e-12)
        assert torch.equal(a[:, 90:], torch.zeros(91, 2, dtype=torch.float64))
