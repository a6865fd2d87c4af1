"""Whatever hypothesis draws, every backend computes what the definition does: see `tests.ops.agreement`."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import neurokernels as nk
from tests.fuzz.strategies import cases, extreme, leaky
from tests.ops import test_leaky
from tests.ops.agreement import check, forward_agrees, identical, on
from tests.poison import poisoned

# Gradients through many steps with wide surrogates and no decay grow, and so do their errors, in every backend alike.
ULPS = 16.0


def examples(count):
    """So many of them; in another profile so many times more."""
    return settings(max_examples=count * settings().max_examples // 100)


@pytest.fixture(autouse=True)
def _poisoned() -> Iterator[None]:
    with poisoned():
        yield


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@examples(150)
@given(case=cases())
def test_lif(backend, case):
    check(backend, case, ULPS)


@pytest.mark.parametrize("backend", ["triton"])
@examples(15)
@given(case=cases(steps=5, wide=4))
def test_lif_interpreted(backend, case):
    check(backend, case, ULPS)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@examples(80)
@given(drawn=leaky())
def test_leaky_integrate(backend, drawn):
    test_leaky.check(backend, *drawn, ulps=ULPS)


@pytest.mark.parametrize("backend", ["triton"])
@examples(10)
@given(drawn=leaky(steps=5, wide=4))
def test_leaky_integrate_interpreted(backend, drawn):
    test_leaky.check(backend, *drawn, ulps=ULPS)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@examples(50)
@given(case=cases().flatmap(extreme))
def test_extreme_values(backend, case):
    """Infinities, NaN, subnormal numbers: forward, every bit is the definition's; backward, nothing hangs or raises."""
    forward_agrees(on(backend, case), case)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@examples(40)
@given(case=cases(), data=st.data())
def test_pieces(backend, case, data):
    """Any way of cutting time gives the same bits."""
    steps = case.x.shape[0]
    cuts = sorted(data.draw(st.lists(st.integers(0, steps), max_size=3)))
    state = None if case.v0 is None else nk.LIFState(case.v0, case.countdown)
    with nk.backend(backend), torch.no_grad():
        whole = nk.lif(case.x, **case.parameters, **case.options, v0=state)
        trains = []
        for low, high in zip([0, *cuts], [*cuts, steps], strict=True):
            out = nk.lif(case.x[low:high], **case.parameters, **case.options, v0=state)
            state = out.state
            trains.append(out.spikes)
    identical(torch.cat(trains), whole.spikes, "spikes")
    identical(state.membrane, whole.membrane, "membrane")
    identical(state.countdown, whole.state.countdown, "countdown")


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@examples(40)
@given(case=cases(), data=st.data())
def test_time_dim(backend, case, data):
    """Time may be anywhere."""
    d = data.draw(st.integers(-case.x.ndim, case.x.ndim - 1))
    state = None if case.v0 is None else nk.LIFState(case.v0, case.countdown)
    with nk.backend(backend), torch.no_grad():
        expected = nk.lif(case.x, **case.parameters, **case.options, v0=state)
        moved = nk.lif(case.x.movedim(0, d), **case.parameters, **case.options, v0=state, time_dim=d)
    identical(moved.spikes.movedim(d, 0), expected.spikes, "spikes")
    identical(moved.membrane, expected.membrane, "membrane")
