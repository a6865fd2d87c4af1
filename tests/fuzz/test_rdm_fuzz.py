"""Dissimilarities and their gradients are those of the float64 definition whatever hypothesis draws."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import neurokernels as nk
from neurokernels._core import accuracy, backends
from tests import definitions
from tests.fuzz.strategies import DTYPES, laid_out, seeds
from tests.poison import poisoned

METRICS = ("correlation", "cosine", "euclidean", "sqeuclidean", "crossnobis", "poisson")


@pytest.fixture(autouse=True)
def _poisoned() -> Iterator[None]:
    with poisoned():
        yield


@st.composite
def patterns(draw: st.DrawFn, metric: str) -> Tensor:
    """Noise, duplicates, clusters or levels, at times far away, in any layout."""
    batch = draw(st.sampled_from(((), (), (1,), (3,), (2, 2), (0,))))
    if metric == "crossnobis":
        batch = (*batch, draw(st.integers(2, 4)))
    n, d = draw(st.one_of(st.integers(2, 5), st.integers(2, 50))), draw(st.integers(3, 40))
    x = torch.randn((*batch, n, d), dtype=torch.float64, generator=draw(seeds()))
    kind = draw(st.sampled_from(("noise", "duplicated", "clustered", "levels")))
    if kind == "duplicated":
        x = x[..., torch.arange(n) % max(n - 1, 1), :]
    elif kind == "clustered":
        x = x[..., torch.arange(n) % 2, :] + x * draw(st.sampled_from((0.3, 0.1, 0.03)))
    elif kind == "levels":
        x = x.round()
        x[..., 0] += 0.5 * torch.arange(n)  # no pattern without variance, which is another test
        x[..., 1] += 1
    x = x.abs() if metric == "poisson" else x + draw(st.sampled_from((0.0, 0.0, 3.0)))
    return draw(laid_out(x.to(draw(st.sampled_from(DTYPES)))))


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("metric", METRICS)
@settings(max_examples=settings().max_examples // 4)
@given(data=st.data())
def test_rdm(backend, metric, data):
    check(backend, data.draw(patterns(metric)), metric, data.draw(st.booleans()))


def check(backend: str, x: Tensor, metric: str, condensed: bool) -> None:
    def evaluate(function, x):
        x = x.detach().requires_grad_()
        d = function(x, metric=metric, condensed=condensed)
        g = torch.linspace(-1, 2, d.numel(), dtype=torch.float64).cos().view(d.shape).to(d.device, d.dtype)
        return d.detach(), torch.autograd.grad(d, x, g)[0]

    with nk.backend(backend), backends.record() as ran:
        got = evaluate(nk.rdm, x)
    assert ran == [("rdm", backend)] * 2
    plain, exact = evaluate(definitions.rdm, x.cpu()), evaluate(definitions.rdm, x.cpu().double())
    floor = 2048 if x.dtype == torch.float64 else 32
    accuracy.check(got[0].cpu(), plain[0], exact[0], ulps=floor, name="value")
    accuracy.check(got[1].cpu(), plain[1], exact[1], factor=accuracy.BACKWARD, ulps=floor, name="gradient")
