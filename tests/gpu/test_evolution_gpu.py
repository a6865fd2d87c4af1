"""Rollouts and offspring on a GPU: exact mode and children are the bits of the CPU, float mode within rounding."""

import pytest
import torch

import neurokernels as nk
from neurokernels._core import backends
from tests.gpu import coverage

ev = nk.evolution
GPU = coverage.of("maze_rollout")
NETWORKS = {
    "default": {}, "sparse": {"density": 0.2}, "small": {"hidden": 3}, "layers": {"hidden": (30, 34)},
    "wide": {"hidden": 64}, "feedforward": {"hidden": 9, "recurrent": False}, "sign": {"activation": "sign"},
}  # fmt: skip


def run(backend, *arguments, **options):
    with nk.backend(backend), backends.record() as ran:
        out = nk.maze_rollout(*arguments, keep_state=True, **options)
    assert ran == [("maze_rollout", backend)]
    return out


@pytest.mark.parametrize("mazes", [1, 16, 33, 150])
@pytest.mark.parametrize("name", NETWORKS)
def test_exact_is_the_bits_of_the_cpu(name, mazes):
    agents, some = ev.Population.random(40, gain=2.0, seed=1, **NETWORKS[name]), ev.mazes(mazes, size=3, seed=2)
    due = run("cpu", agents, some, steps=100, mode="exact")
    for backend in (*GPU, "reference"):
        found = run(backend, agents.to("cuda"), some.to("cuda"), steps=100, mode="exact")
        assert torch.equal(found.goals.cpu(), due.goals)
        assert all(torch.equal(a.cpu(), b) for a, b in zip(found.state, due.state, strict=True))


@pytest.mark.parametrize("backend", GPU)
@pytest.mark.parametrize("name", NETWORKS)
def test_float_step_by_step(name, backend):
    agents, some = ev.Population.random(40, gain=2.0, seed=1, **NETWORKS[name]), ev.mazes(70, size=3, seed=2)
    state, moved, decided = run("cpu", agents, some, steps=0).state, agents.to("cuda"), 0
    last = agents.network.matrices(agents.weights)[-1].double()
    for _ in range(20):
        due = run("cpu", agents, some, steps=1, state=state)
        before = ev.MazeState(*(part.cuda() for part in state))
        found = run(backend, moved, some.to("cuda"), steps=1, state=before)
        assert torch.equal(found.goals.cpu(), due.goals)
        torch.testing.assert_close(found.state.hidden.cpu(), due.state.hidden, rtol=0, atol=4e-6)
        best = (due.state.hidden[..., -last.shape[-1] :].double() @ last.mT).topk(2, -1).values
        clear = best[..., 0] - best[..., 1] > 1e-4
        for a, b in zip(found.state[:3], due.state[:3], strict=True):
            assert torch.equal(a.cpu()[clear], b[clear])
        decided, state = decided + int(clear.sum()), due.state
    assert decided > 0.7 * 20 * 40 * 70


@pytest.mark.parametrize("backend", GPU)
@pytest.mark.parametrize("mode", ["exact", "float"])
def test_an_episode_is_the_same_at_every_run(mode, backend):
    agents, some = ev.Population.random(200, seed=1).to("cuda"), ev.mazes(64).to("cuda")
    found = [run(backend, agents, some, steps=200, mode=mode) for _ in range(3)]
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other.state, found[0].state, strict=True))


@pytest.mark.parametrize("backend", GPU)
def test_evolution_is_the_bits_of_the_cpu(backend):
    agents, some = ev.Population.random(50, density=0.7, gain=2.0, seed=4), ev.mazes(9, size=3)
    options = {"generations": 8, "severance": 0.1, "noise": 0.05, "seed": 5, "steps": 40, "mode": "exact"}
    with nk.backend("cpu"):
        due = ev.evolve(agents, some, **options)
    with nk.backend(backend), backends.record() as ran:
        found = ev.evolve(agents.to("cuda"), some.to("cuda"), **options)
    assert set(ran) == {("maze_rollout", backend), ("offspring", backend)}
    assert torch.equal(found.population.weights.cpu(), due.population.weights)
    assert torch.equal(found.population.mask.cpu(), due.population.mask)
    assert [g.fitness.tolist() for g in found.history] == [g.fitness.tolist() for g in due.history]
