"""The fuzz grid on GPU backends: what `tests/fuzz` draws there, with fixed seeds, and checked as it is checked there.

Hypothesis draws and does not shrink: every example may compile a kernel.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import hypothesis
import torch
from hypothesis import strategies as st
from torch import Tensor

import neurokernels as nk
from neurokernels._core import accuracy, backends, covariance_reference
from tests import definitions
from tests.fuzz import (
    strategies,
    test_cca_fuzz,
    test_rdm_fuzz,
    test_rollout_fuzz,
    test_spectrum_fuzz,
    test_whitening_fuzz,
)
from tests.gpu import coverage
from tests.gpu.cases import DEVICE, parametrised, placed
from tests.ops import agreement, test_leaky

LITTLE = DEVICE == "cpu"  # a rehearsal


def lif(backend: str, case: agreement.Case) -> None:
    """Bits of spikes and states, gradients by the rule: on the GPU as everywhere."""

    def there(value: Any) -> Any:
        return placed(value) if isinstance(value, Tensor) else value

    moved = replace(
        case, x=placed(case.x), parameters={name: there(value) for name, value in case.parameters.items()},
        v0=there(case.v0), countdown=there(case.countdown),
    )  # fmt: skip
    found = agreement.on(backend, moved)
    back = agreement.Outcome(
        found.spikes.cpu(), found.membrane.cpu(), None if found.countdown is None else found.countdown.cpu(),
        {name: gradient.cpu() for name, gradient in found.gradients.items()},
    )  # fmt: skip
    agreement.agrees(back, case, 16.0)


def leaky(backend: str, drawn: tuple[dict[str, Tensor], float | None]) -> None:
    test_leaky.check(backend, *drawn, ulps=16.0, place=placed)


def covariance(backend: str, drawn: tuple[Tensor, dict[str, Any]]) -> None:
    x, correction = drawn[0], drawn[1]["correction"]

    def evaluate(function: Callable[..., Tensor], x: Tensor) -> tuple[Tensor, ...]:
        x = x.detach().requires_grad_()
        c = function(x, correction=correction)
        g = torch.linspace(-1, 2, c.numel(), dtype=torch.float64).cos().view(c.shape).to(c.device, c.dtype)
        return c.detach().cpu(), torch.autograd.grad(c, x, g)[0].cpu()

    with nk.backend(backend), backends.record() as ran:
        found = evaluate(nk.covariance, placed(x))
    assert ran == [("covariance", backend)] * 2
    plain, exact = (evaluate(covariance_reference.definition, v) for v in (x, x.double()))
    accuracy.check(found[0], plain[0], exact[0], ulps=64, name="covariance")
    accuracy.check(found[1], plain[1], exact[1], factor=accuracy.BACKWARD, ulps=64, name="gradient")


def spectrum(backend: str, drawn: tuple[Tensor, dict[str, Any]]) -> None:
    test_spectrum_fuzz.check_spectrum(backend, placed(drawn[0]), drawn[1])


def eigh(backend: str, a: Tensor) -> None:
    test_spectrum_fuzz.check_eigh(backend, placed(a))


def dcca(backend: str, drawn: tuple[Tensor, Tensor, dict[str, Any]]) -> None:
    test_cca_fuzz.check(backend, placed(drawn[0]), placed(drawn[1]), drawn[2])


def whiten(backend: str, drawn: tuple[Tensor, dict[str, Any]]) -> None:
    test_whitening_fuzz.check(backend, placed(drawn[0]), drawn[1])


def rdm(backend: str, drawn: tuple[Tensor, str, bool]) -> None:
    test_rdm_fuzz.check(backend, placed(drawn[0]), *drawn[1:])


@st.composite
def dissimilarities(draw: st.DrawFn) -> tuple[Tensor, str, bool]:
    """Arguments of `neurokernels.rdm` with any metric."""
    metric = draw(st.sampled_from(test_rdm_fuzz.METRICS))
    return draw(test_rdm_fuzz.patterns(metric)), metric, draw(st.booleans())


@st.composite
def similarities(draw: st.DrawFn, wide: int) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Activations, responses and options of `neurokernels.rsa_loss`, none so alike that digits cancel."""
    batch, n, d = draw(st.sampled_from(((), (), (3,), (2, 2)))), draw(st.integers(4, wide)), draw(st.integers(3, wide))
    generator = draw(strategies.seeds())
    x, v = (torch.randn(*batch, n, m, dtype=torch.float64, generator=generator) for m in (d, draw(st.integers(3, 9))))
    form = draw(st.sampled_from(("li2019", "pearson", "cosine", "mse", "cka")))
    options: dict[str, Any] = {"form": form} | ({"eps": 0.1} if form == "li2019" else {})
    if form != "cka":
        options["metric"] = draw(st.sampled_from(("cosine", "correlation")))
    dtype = draw(st.sampled_from(strategies.DTYPES))
    return draw(strategies.laid_out(x.to(dtype))), v.to(torch.promote_types(dtype, torch.float32)), options


def rsa_loss(backend: str, drawn: tuple[Tensor, Tensor, dict[str, Any]]) -> None:
    x, v, options = drawn

    def evaluate(function: Callable[..., Tensor], x: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        x = x.detach().requires_grad_()
        loss = function(x, responses=v, **options)
        return loss.detach().cpu(), torch.autograd.grad(loss.sum(), x)[0].cpu()

    with nk.backend(backend), backends.record() as ran:
        found = evaluate(nk.rsa_loss, placed(x), placed(v))
    assert set(ran) == {("rsa_loss", backend)}
    plain, exact = evaluate(definitions.rsa_loss, x, v), evaluate(definitions.rsa_loss, x.double(), v.double())
    accuracy.check(found[0], plain[0], exact[0], ulps=256, name="loss")
    accuracy.check(found[1], plain[1], exact[1], factor=accuracy.BACKWARD, ulps=256, name="gradient")


def rollout(backend: str, drawn: tuple[Any, ...]) -> None:
    agents, made, steps, forget = drawn
    found = test_rollout_fuzz.check(backend, agents.to(DEVICE), made.to(DEVICE), steps, forget)
    expected = test_rollout_fuzz.check("reference", agents, made, steps, forget)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours.cpu(), theirs)


def offspring(backend: str, drawn: tuple[Any, ...]) -> None:
    """Children are drawn by a counter-based generator: the same bits everywhere."""
    agents, seed, severance, mutation = drawn
    options = {"generations": 2, "severance": severance, "noise": mutation, "seed": seed, "steps": 3, "mode": "exact"}
    mazes, found = nk.evolution.mazes(2, size=2), []
    for name, device in (("reference", "cpu"), (backend, DEVICE)):
        with nk.backend(name), backends.record() as ran:
            evolved = nk.evolution.evolve(agents.to(device), mazes.to(device), **options).population
        assert ("offspring", name) in ran
        assert {ran_on for _, ran_on in ran} == {name}
        found.append((evolved.weights.cpu(), evolved.mask.cpu()))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def _rollouts(agents: int, width: int, mazes: int, side: int, steps: int) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.tuples(
        test_rollout_fuzz.populations(agents, width), test_rollout_fuzz.mazes(mazes, side), st.integers(0, steps),
        st.booleans(),
    )  # fmt: skip


_CHILDREN = st.tuples(
    test_rollout_fuzz.populations(3, 8), st.integers(0, 2**31), st.sampled_from((0.0, 0.2)),
    st.sampled_from((0.0, 0.05, 1.0)),
)  # fmt: skip

#: Of every op what is drawn, what checks it, and how many examples each of how many tests takes on a GPU.
GRID: dict[str, tuple[st.SearchStrategy[Any], Callable[[str, Any], None], int, int]] = {
    "lif": (strategies.cases(5, 4) if LITTLE else strategies.cases(), lif, 6, 10),
    "leaky_integrate": (strategies.leaky(5, 4) if LITTLE else strategies.leaky(), leaky, 5, 3),
    "covariance": (test_spectrum_fuzz.samples(5 if LITTLE else 150), covariance, 4, 4),
    "spectrum": (test_spectrum_fuzz.samples(5 if LITTLE else 40), spectrum, 4, 4),
    "eigh": (test_spectrum_fuzz.matrices(5 if LITTLE else 65), eigh, 4, 4),
    "dcca": (test_cca_fuzz.cases(4 if LITTLE else 40), dcca, 4, 5),
    "whiten": (test_whitening_fuzz.calls(5 if LITTLE else 40), whiten, 4, 4),
    "rdm": (dissimilarities(), rdm, 4, 6),
    "rsa_loss": (similarities(5 if LITTLE else 70), rsa_loss, 4, 5),
    "maze_rollout": (_rollouts(2, 12, 6, 2, 6) if LITTLE else _rollouts(5, 64, 70, 4, 30), rollout, 5, 4),
    "offspring": (_CHILDREN, offspring, 4, 2),
}


@dataclass(frozen=True)
class Draw:
    """Some examples for one op and backend."""

    part: str
    op: str
    backend: str
    seed: int

    def __str__(self) -> str:
        return f"{self.op}-{self.backend}-{self.seed}"


DRAWS = [
    Draw(coverage.part(op), op, backend, seed)
    for op, (*_, tests) in GRID.items()
    for backend in coverage.of(op)
    for seed in range(tests)
]


@parametrised(DRAWS)
def test_fuzz(case: Draw) -> None:
    drawn, check, count, _ = GRID[case.op]

    @hypothesis.seed(case.seed)
    @hypothesis.settings(
        max_examples=2 if LITTLE else count,  # the first that a strategy draws is its simplest, in which little happens
        database=None, deadline=None, derandomize=False, phases=[hypothesis.Phase.generate],
        report_multiple_bugs=False, suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    @hypothesis.given(drawn)
    def run(example: Any) -> None:
        check(case.backend, example)

    run()
