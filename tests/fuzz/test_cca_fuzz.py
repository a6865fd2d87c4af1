"""The DCCA objective and its gradients are those of the float64 truth whatever hypothesis draws."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import neurokernels as nk
from neurokernels._core import backends
from tests.fuzz.strategies import DTYPES, laid_out, seeds
from tests.ops import torture
from tests.poison import poisoned

plain_and_cpu = pytest.mark.parametrize("backend", ["reference", "cpu"])

#: Error of the value, and of gradients relative to the largest entry: rounding, times what regularisers allow.
BOUNDS = {
    torch.float64: (1e-10, 1e-7),
    torch.float32: (1e-5, 1e-3),
    torch.bfloat16: (1e-5, 1e-2),
    torch.float16: (1e-5, 2e-3),
}


def examples(count):
    """So many of them; in another profile so many times more."""
    return settings(max_examples=count * settings().max_examples // 100)


@pytest.fixture(autouse=True)
def _poisoned() -> Iterator[None]:
    with poisoned():
        yield


@st.composite
def views(draw: st.DrawFn, wide: int) -> tuple[Tensor, Tensor]:
    """Two views ``[..., N, D]``: noise, related, with dead or duplicated units, of few levels; at times far away."""
    batch = draw(st.sampled_from(((), (), (1,), (3,), (2, 2), (0,))))
    sizes = st.one_of(st.integers(1, 8), st.integers(1, wide))
    n, d1, d2 = draw(st.one_of(st.integers(2, 6), st.integers(2, 2 * wide))), draw(sizes), draw(sizes)
    generator = draw(seeds())
    x, y = (torch.randn((*batch, n, d), dtype=torch.float64, generator=generator) for d in (d1, d2))
    kind = draw(st.sampled_from(("noise", "related", "dead", "duplicated", "levels")))
    if kind == "related":
        y = y + x.mean(-1, keepdim=True) * 3
    elif kind == "dead":
        x, y = x.relu() * (torch.arange(d1) % 3 != 0), y.relu()
    elif kind == "duplicated":
        x = x[..., torch.arange(d1) % max(d1 - 1, 1)]
    elif kind == "levels":
        x, y = x.round().clamp(-1, 1), (y / 2).round()
    return x + draw(st.sampled_from((0.0, 0.0, 3.0))), y * draw(st.sampled_from((1.0, 0.1, 10.0)))


@st.composite
def cases(draw: st.DrawFn, wide: int) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Views laid out in any way, in one dtype, and options of `neurokernels.dcca_loss`."""
    x, y = draw(views(wide))
    dtype = draw(st.sampled_from(DTYPES))
    options: dict[str, Any] = {"reg": draw(st.sampled_from((1e-2, 0.3, (0.05, 1.0))))}
    options["objective"] = draw(st.sampled_from(("nuclear", "nuclear", "topk", "fro2")))
    if options["objective"] == "topk":
        options["k"] = min(x.shape[-1], y.shape[-1])  # of fewer, a tie may be split
    return draw(laid_out(x.to(dtype))), draw(laid_out(y.to(dtype))), options


def near(got: Tensor, exact: Tensor, bound: float, name: str) -> None:
    """Asserts a relative error, beside what rounding leaves of a zero."""
    assert got.shape == exact.shape
    gap = (got.detach().double() - exact).abs().amax() if exact.numel() else 0.0
    assert gap <= bound * (exact.abs().amax() if exact.numel() else 0) + bound * 1e-2, f"{name}: {gap}"


def ambiguous(x: Tensor, y: Tensor, reg: tuple[float, float]) -> bool:
    """Whether the truth has a correlation so small that its direction is rounding: its share has no right value.

    That is so of the largest, too: of views without a correlation the truth has one of 1e-17, and a direction for it.
    """
    s = torture.spectrum(x, y, reg)
    return bool(((s > 1e-12 * s[:1]) & (s < 1e-4)).any())


def check(backend: str, x: Tensor, y: Tensor, options: dict[str, Any]) -> None:
    a, b = (v.detach().requires_grad_() for v in (x, y))
    with nk.backend(backend), backends.record() as ran:
        loss = nk.dcca_loss(a, b, **options)
        dx, dy = torch.autograd.grad(loss.sum(), (a, b))
    assert ran == [("dcca", backend)] * 2
    assert (loss.dtype, dx.dtype, dy.dtype) == (torch.promote_types(x.dtype, torch.float32), x.dtype, y.dtype)
    reg = options["reg"] if isinstance(options["reg"], tuple) else (options["reg"],) * 2
    value_bound, bound = BOUNDS[x.dtype]
    for i in range(x.shape[:-2].numel()):
        one, other, u, v = (t.cpu().reshape(-1, *t.shape[-2:])[i] for t in (x, y, dx, dy))
        exact = torture.truth(one, other, reg, options["objective"], options.get("k", 0))
        near(-loss.cpu().reshape(-1)[i], exact.value, value_bound, "value")
        if options["objective"] == "fro2" or not ambiguous(one, other, reg):
            near(-u, exact.dx, bound, "gradient of x")
            near(-v, exact.dy, bound, "gradient of y")


@plain_and_cpu
@examples(150)
@given(case=cases(20))
def test_dcca_loss(backend, case):
    check(backend, *case)


@examples(40)
@given(case=cases(100))
def test_wide_dcca_loss(case):
    check("cpu", *case)


@plain_and_cpu
@examples(80)
@given(case=cases(20))
def test_canonical_correlations(backend, case):
    """Values are those of the truth; their sum has the gradient of the loss."""
    x, y, options = case
    reg = options["reg"] if isinstance(options["reg"], tuple) else (options["reg"],) * 2
    with nk.backend(backend), backends.record() as ran:
        found = nk.canonical_correlations(x, y, reg=options["reg"])
    assert ran == [("dcca", backend)]
    assert found.shape == (*x.shape[:-2], min(x.shape[-1], y.shape[-1]))
    assert (found.diff(dim=-1) <= 0).all()
    for i, s in enumerate(found.reshape(-1, found.shape[-1])):
        one, other = (t.reshape(-1, *t.shape[-2:])[i] for t in (x, y))
        exact = torch.zeros(len(s), dtype=torch.float64)
        values = torture.spectrum(one, other, reg)[: len(s)]
        exact[: len(values)] = values
        near(s, exact, 1e-9 if x.dtype == torch.float64 else 1e-6, "correlations")
