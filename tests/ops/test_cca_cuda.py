"""The CUDA kernels of canonical correlation, emulated: the torture list, layouts, types, orders, and mutants."""

import pytest
import torch

import neurokernels as nk
from neurokernels._core import backends
from neurokernels.ops.cca import cuda, reference
from neurokernels.ops.cca.leaves import OBJECTIVES, dcca_fwd
from tests import emulator
from tests.emulator import EmulatedDriver, switched_on
from tests.ops import torture
from tests.ops.test_cca_triton import BOUNDS, USUAL, related


def run(x, y, reg=1e-4, driver=None, **options):
    """The objective and its gradients, and the kernels that made them."""
    x, y = x.detach().requires_grad_(), y.detach().requires_grad_()
    driver = driver or EmulatedDriver()
    with switched_on(driver), nk.backend("cuda"), backends.record() as ran:
        loss = nk.dcca_loss(x, y, reg=reg, **options)
        dx, dy = torch.autograd.grad(loss.sum(), (x, y))
    assert ran == [("dcca", "cuda")] * 2
    return (-loss.detach(), -dx, -dy), driver.launched


def check(x, y, reg=(1e-4, 1e-4), bounds=USUAL, ours=True, driver=None, **options):
    """Value and gradients are those of the singular values in float64, by one launch forward and one backward."""
    found, launched = run(x, y, reg, driver, **options)
    assert launched == (["dcca_forward", "dcca_backward"] if ours else [])
    errors = torture.errors(found, torture.truth(x, y, reg, **options))
    assert all(e <= bound for e, bound in zip(errors, bounds, strict=True)), errors
    return found


def is_ours(x, y):
    return len(x) > max(x.shape[1], y.shape[1])


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", torture.CASES)
def test_torture(name, objective):
    case = torture.CASES[name]
    x, y = case.inputs()
    k = {"k": max(1, min(x.shape[1], y.shape[1]) // 2)} if objective == "topk" else {}
    check(x, y, case.reg, BOUNDS.get(name, USUAL), is_ours(x, y), objective=objective, **k)


@pytest.mark.parametrize("name", [name for name, case in torture.CASES.items() if case.shape[0] > max(case.shape[1:])])
def test_torture_in_float64(name):
    """Where nothing but the views' own condition is left of an error."""
    case = torture.CASES[name]
    bounds = {"condition 1e6": (1e-11, 1e-9), "identical views": (1e-12, 1e-9), "duplicated unit": (1e-12, 1e-8)}
    x, y = case.inputs(dtype=torch.float64)
    for options in ({}, {"objective": "topk", "k": min(x.shape[1], y.shape[1])}):  # the same, by singular values
        found = check(x, y, case.reg, bounds.get(name, (1e-12, 1e-11)), **options)
        assert {t.dtype for t in found} == {torch.float64}


@pytest.mark.parametrize("options", [{}, {"objective": "fro2"}, {"objective": "topk", "k": 9}], ids=str)
def test_dead_units_have_no_gradient_at_all(options):
    x, y = torture.CASES["three dead units"].inputs()
    (_, dx, _), _ = run(x, y, **options)
    assert torch.equal(dx.abs().sum(0) == 0, (x == 0).all(0))
    assert int((x == 0).all(0).sum()) == 3


def test_views_without_variance():
    for options in ({}, {"objective": "fro2"}, {"objective": "topk", "k": 2}):
        found, _ = run(torch.zeros(9, 4), torch.full((9, 3), 1e30), **options)
        assert not any(t.any() for t in found)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3])
def test_rounding_is_no_correlation(scale):
    """Duplicated units in both views: in what is left of their variance M is rounding alone."""
    x, y = related(60, 9, d2=8, dtype=torch.float64)
    x, y = x * scale, y * scale
    x[:, 5], x[:, 8], y[:, 7] = x[:, 1], x[:, 1], y[:, 0]
    found, _ = run(x, y)
    exact = torture.truth(x, y, (1e-4, 1e-4))
    assert torture.error(found[0], exact.value) < 1e-9
    alone = [0, 2, 3, 4, 6, 7]
    assert torture.error(found[1][:, alone], exact.dx[:, alone]) < 1e-7


def test_correlations_near_zero():
    """Those down to 1e-6 are as much correlations as any: the steps run twice."""
    q = torch.linalg.qr(torch.randn(30, 13, dtype=torch.float64)).Q
    q = torch.linalg.qr(q - q.mean(0)).Q * 29**0.5
    c = torch.logspace(0, -6, 6, dtype=torch.float64) / 2
    x, y = q[:, :6], q[:, :6] * c + q[:, 6:12] * (1 - c**2).sqrt()
    check(x, y, bounds=(1e-12, 1e-6))


@pytest.mark.parametrize(
    ("n", "d1", "d2"),
    [(5, 1, 1), (34, 8, 9), (34, 16, 17), (60, 24, 25), (70, 32, 3), (40, 31, 32), (127, 10, 10), (300, 2, 12)],
    ids=str,
)
def test_shapes(n, d1, d2):
    """Every number of tiles; one load of samples and several; one slab of rows and several."""
    x, y = related(n, d1, d2=d2)
    check(x, y, bounds=(1e-6, 1e-5))
    check(x, y, bounds=(1e-6, 1e-5), objective="topk", k=min(d1, d2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision(dtype):
    """Computes in float64; the gradient is rounded once."""
    value, dx, dy = check(*related(40, 5, dtype=dtype), bounds=(1e-6, torch.finfo(dtype).eps))
    assert (value.dtype, dx.dtype, dy.dtype) == (torch.float32, dtype, dtype)


def test_batches_and_strides():
    x, y = related(2, 2, 20, 5)
    found, _ = run(x, y)
    assert [t.shape for t in found] == [(2, 2), x.shape, y.shape]
    for item in ((0, 1), (1, 0)):
        for one, batched in zip(run(x[item], y[item])[0], found, strict=True):
            assert torch.equal(one, batched[item])
    spaced = torch.full((2, 2, 41, 16), torch.nan)[..., 1::2, 1::3]
    spaced.copy_(x)
    again, _ = run(spaced, y.transpose(0, 1).mT.contiguous().mT.transpose(0, 1))
    assert all(torch.equal(a, b) for a, b in zip(again, found, strict=True))
    assert [t.shape for t in run(x[:0], y[:0])[0]] == [(0, 2), (0, 2, 20, 5), (0, 2, 20, 7)]


@pytest.mark.parametrize("options", [{}, {"objective": "fro2"}, {"objective": "topk", "k": 2}], ids=str)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_spoils_itself(bad, options):
    for view in (0, 1):
        views = related(3, 20, 3, d2=4)
        expected, _ = run(*views, **options)
        views[view][1, 5, 2] = bad
        for ours, theirs in zip(run(*views, **options)[0], expected, strict=True):
            assert ours[1].isnan().all()
            assert torch.equal(ours[::2], theirs[::2])


def test_equal_correlations():
    """A tie is broken by order, so that the k largest are always k."""
    q = torch.linalg.qr(torch.randn(40, 12, dtype=torch.float64)).Q
    q = torch.linalg.qr(q - q.mean(0)).Q.contiguous()
    x, y = q[:, :6].contiguous(), (q[:, :6] + q[:, 6:]).contiguous()  # each unit correlates with its own by 1 / sqrt(2)
    with nk.backend("cuda"):
        for k in range(1, 7):
            value, weights, _ = dcca_fwd(x, y, 1e-9, 1e-9, "topk", k, "high", True, "cuda")
            assert value == pytest.approx(k / 2**0.5, rel=1e-6)
            assert torch.linalg.matrix_rank(weights[:6, 6:]) == k


def test_an_offset_costs_no_digits():
    x, y = related(40, 5)
    check(x + 1e4, y - 1e4)


@pytest.mark.parametrize("d", [10, 20])
def test_orders(d):
    """Whose turn it is changes no bit."""
    x, y = related(45, d, d2=d - 3)
    drivers = [EmulatedDriver("forward"), EmulatedDriver("reverse"), *(EmulatedDriver("random", s) for s in range(3))]
    found = [(*run(x, y, driver=driver)[0], *run(x, y, driver=driver, objective="topk", k=4)[0]) for driver in drivers]
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, found[0], strict=True))


@pytest.mark.parametrize("options", [{}, {"objective": "fro2"}, {"objective": "topk", "k": 2}], ids=str)
@pytest.mark.parametrize(("n", "d"), [(6, 6), (40, 33)])
def test_few_samples_and_wide_views(n, d, options):
    """Are the reference's."""
    x, y = related(n, d)
    found = check(x, y, (1e-2, 1e-3), ours=False, **options)
    with nk.backend("reference"):
        assert torch.equal(found[0], -nk.dcca_loss(x, y, reg=(1e-2, 1e-3), **options))


def test_what_auto_does():
    """The wider view is asked: past the widest one of a block, or with many samples, auto goes on to Triton."""
    row = next(row for row in backends.rows("dcca") if row.name == "cuda")
    assert row.yields(torch.empty(128, 32)) is None
    assert row.yields(torch.empty(128, 33)) == "Triton has kernels for views of more than 32 units"
    assert row.yields(torch.empty(513, 10)) == "Triton is thought faster for 513 samples of 10 units"
    assert row.yields(torch.empty(0)) is None
    x, y = related(40, 3, d2=33)
    with nk.backend("auto"), backends.record() as ran:
        nk.dcca_loss(x, y)
    assert ran == [("dcca", "cpu")]
    assert "cuda: could run; auto passes it over: Triton has kernels" in nk.explain("dcca", y)


def test_the_reference_is_not_what_runs(monkeypatch):
    monkeypatch.setattr(reference, "dcca", None)
    monkeypatch.setattr(reference, "dcca_backward", None)
    check(*related(40, 5))


# Mutants -------------------------------------------------------------------------------------------------------------


class Mutant(EmulatedDriver):
    """The source with a line that is wrong, its header written into it."""

    def __init__(self, folder, right, wrong):
        super().__init__(folder=folder)
        self.stem = f"cca_{folder.name}"
        code, header = ((emulator.ROOT / "csrc/cuda" / name).read_text() for name in ("cca.cu", "cca.cuh"))
        code = code.replace('#include "cuda/cca.cuh"\n', header.replace("#pragma once", ""))
        assert code.count(right) == 1
        (folder / f"{self.stem}.cu").write_text(code.replace(right, wrong))

    def function(self, source, kernel, device):
        return super().function(self.stem, kernel, device)


def test_rounding_that_counts_is_seen(tmp_path):
    right = "x * x <= 0x1p-96 * noise ? 0 : x"
    mutant, case = Mutant(tmp_path, right, "x + 1e-7 * (x * x <= 0x1p-96 * noise)"), torture.CASES["duplicated unit"]
    with pytest.raises(AssertionError):
        check(*case.inputs(), case.reg, driver=mutant)


def test_steps_that_stop_early_are_seen(monkeypatch):
    """A step that does nothing in place of one in the middle."""
    steps = [list(step) for step in cuda._steps()]
    steps[1] = [1, 0, 0]
    monkeypatch.setattr(cuda, "_steps", lambda: cuda._Steps(*((cuda._Double * 3)(*step) for step in steps)))
    with pytest.raises(AssertionError):
        test_correlations_near_zero()


def test_orders_see_a_missing_barrier(tmp_path):
    right = "      square.multiply(before, b, turn(now + 1));\n      __syncthreads();\n"
    mutant = Mutant(tmp_path, right, right.replace("      __syncthreads();\n", ""))
    with pytest.raises(AssertionError):
        check(*torture.CASES["ordinary"].inputs(), driver=mutant)


@pytest.mark.parametrize(
    "mutant",
    [
        lambda value, weights, mean: (value, weights * 39 / 40, mean),
        lambda value, weights, mean: (value, weights.flip(0, 1), mean),
        lambda value, weights, mean: (value * 39 / 40, weights, mean),
    ],
    ids=["n", "views", "value"],
)
def test_mutants_of_the_gradient(mutant, monkeypatch):
    x, y = related(40, 5, d2=5)
    forward = cuda.dcca
    monkeypatch.setattr(cuda, "dcca", lambda *arguments: mutant(*forward(*arguments)))
    with pytest.raises(AssertionError):
        check(x, y)
