"""Evolution: the same bits everywhere, what is severed stays severed, selection, controls, and going on."""

import math

import pytest
import torch

import neurokernels as nk
from neurokernels._core import backends
from neurokernels.ops.evolution import fixed, reference
from neurokernels.ops.evolution.leaves import offspring_fwd

ev = nk.evolution
MAZES = ev.mazes(12, size=3, seed=2)


def evolve(agents, generations, backend="cpu", mazes=MAZES, **options):
    options = {"steps": 12, "mode": "exact", "severance": 0.05, "seed": 3} | options
    with nk.backend(backend), backends.record() as ran:
        out = ev.evolve(agents, mazes, generations=generations, **options)
    assert ran == [("maze_rollout", backend), ("offspring", backend)] * generations
    return out


def same(a, b):
    return torch.equal(a.weights, b.weights) and torch.equal(a.mask, b.mask) and a.generation == b.generation


def offspring(backend, agents, parents, *, seed=5, mutation=0.1, severance=0.1, limit=4.0, generation=7):
    with nk.backend(backend), backends.record() as ran:
        made = offspring_fwd(
            agents.weights, agents.mask, torch.tensor(parents), generation, seed, mutation, severance, limit, backend
        )
    assert ran == [("offspring", backend)]
    return made


@pytest.mark.parametrize("backend", ["cpu", "triton", "cuda"])
@pytest.mark.parametrize("hidden", [1, 3, 20])
def test_offspring_is_the_references(backend, hidden):
    """Bit for bit: weights of children, masks, and the parents as they were."""
    agents = ev.Population.random(9, hidden=hidden, density=0.6, gain=3.0)
    for options in ({}, {"severance": 0.0}, {"severance": 1.0}, {"seed": 2**63 - 1}, {"mutation": 2.0}, {"limit": 0.3}):
        ours, theirs = (offspring(b, agents, [4, 8, 0], **options) for b in (backend, "reference"))
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])
        assert torch.equal(ours[0][:3], agents.weights[[4, 8, 0]])
        assert torch.equal(ours[1][:3], agents.mask[[4, 8, 0]])


def test_offspring_is_what_is_promised():
    """Mutations are normal, parents equally likely, severance as often as asked, limits kept."""
    agents = ev.Population.random(2000, hidden=4, density=0.5)
    weights, mask = offspring("cpu", agents, list(range(10)), mutation=0.3, severance=0.2)
    family = reference.lineage(torch.arange(10), 2000, 7, 5)
    assert torch.equal(family[:10], torch.arange(10))
    counts = family[10:].bincount(minlength=10)
    assert counts.sum() == 1990
    assert (counts - 199).abs().max() < 60
    assert (mask <= agents.mask[family]).all()
    assert mask[10:].sum() / agents.mask[family][10:].sum() == pytest.approx(0.8, abs=0.01)
    assert not weights[~mask].any()
    change = (weights - agents.weights[family])[10:][mask[10:]].double()
    assert change.std().item() == pytest.approx(0.3, rel=0.02)
    assert change.mean().abs() < 0.01
    narrow, _ = offspring("cpu", agents, list(range(10)), mutation=0.3, limit=0.25)
    assert narrow[10:].abs().max() == 0.25


@pytest.mark.parametrize("backend", ["reference", "triton", "cuda"])
def test_generations_are_the_same_on_every_backend(backend):
    small = {"mazes": MAZES[:4], "steps": 5} if backend == "triton" else {}
    agents = ev.Population.random(5 if backend == "triton" else 30, hidden=5, seed=1)
    ours = evolve(agents, 2 if backend == "triton" else 6, backend, **small)
    theirs = evolve(agents, 2 if backend == "triton" else 6, "cpu", **small)
    assert same(ours.population, theirs.population)
    for a, b in zip(ours.history, theirs.history, strict=True):
        assert torch.equal(a.fitness, b.fitness)


@pytest.mark.parametrize("mode", ["float", "exact"])
def test_generations_are_the_same_on_any_number_of_threads(mode):
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            agents = ev.Population.random(40, density=0.8)
            found.append(evolve(agents, 5, mode=mode, noise=0.1, l1=1e-3))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert same(other.population, found[0].population)
        assert all(torch.equal(a.fitness, b.fitness) for a, b in zip(other.history, found[0].history, strict=True))


def test_going_on(tmp_path):
    """A run of seven generations, and one that was saved after three: the same to the last bit."""
    agents = ev.Population.random(20, hidden=6)
    options = {"noise": 0.1, "l1": 1e-3}
    whole = evolve(agents, 7, **options)
    evolve(agents, 3, **options).population.save(tmp_path / "three")
    rest = evolve(ev.Population.load(tmp_path / "three"), 4, **options)
    assert same(rest.population, whole.population)
    assert [g.number for g in rest.history] == [3, 4, 5, 6]
    for a, b in zip(rest.history, whole.history[3:], strict=True):
        assert torch.equal(a.fitness, b.fitness)
    forgetful = ev.Population.load(tmp_path / "three")  # one that begins to count anew
    forgetful = ev.Population(forgetful.weights, forgetful.mask, forgetful.network)
    assert not same(evolve(forgetful, 4, **options).population, whole.population)


def check_severed(populations, elite):
    """Every connection of a generation was one of its parent, and what is severed has no weight."""
    for before, (number, after) in zip([None, *populations], enumerate(populations), strict=False):
        assert not after.weights[~after.mask].any()
        if before is not None:
            parents = before.mask[elite[number - 1]]
            assert (after.mask <= parents.any(0)).all(), "a connection that no parent had"
            for child in after.mask:
                assert (child <= parents).all(1).any(), "a child of no parent"


def test_severed_connections_never_return():
    seen, elite = [], []

    def keep(generation, population):
        seen.append(population)
        elite.append(generation.fitness.sort(descending=True, stable=True).indices[:2])

    agents = ev.Population.random(20, hidden=5, density=0.7)
    out = evolve(agents, 12, severance=0.1, elite=0.1, callback=keep)
    check_severed([*seen, out.population], elite)
    kept = [float(p.kept.mean()) for p in seen]
    assert kept[-1] < 0.75 * kept[0]
    revived = ev.Population(out.population.weights, torch.ones_like(out.population.mask), out.population.network)
    with pytest.raises(AssertionError, match="no parent"):
        check_severed([*seen, revived], elite)
    assert evolve(ev.Population.random(20, hidden=5), 3, severance=0.0).population.mask.all()


def test_selection():
    """The elite comes first, from best to worst, unchanged; equal ones in the order of their numbers."""
    agents, seen = ev.Population.random(25, hidden=5, seed=6), []
    out = evolve(agents, 8, elite=0.2, callback=lambda generation, population: seen.append((generation, population)))
    generation, last = seen[-1]
    order = sorted(range(25), key=lambda i: (-float(generation.fitness[i]), i))
    assert torch.equal(out.population.weights[:5], last.weights[order[:5]])
    assert torch.equal(out.population.mask[:5], last.mask[order[:5]])
    best = [float(g.fitness.max()) for g, _ in seen]
    assert best == sorted(best)  # an elite that stays cannot get worse
    assert len(out.history) == 8
    assert out.population.generation == 8
    goals = nk.maze_rollout(last, MAZES, steps=12, mode="exact").goals
    assert torch.equal(generation.goals, goals.double().mean(1))
    assert torch.equal(generation.edges, last.edges)


def test_it_learns():
    """Better than the first generation and than chance, in both modes; without selection it is not."""
    mazes, agents = ev.mazes(16, size=3, seed=5), ev.Population.random(60, hidden=8, seed=2)
    for mode in ("float", "exact"):
        options = {"mazes": mazes, "steps": 40, "severance": 0.01, "mode": mode}
        history = evolve(agents, 25, **options).history
        assert history[-1].goals.max() > history[0].goals.max() + 1
        drift = evolve(agents, 25, **options | {"elite": 1.0}).history  # all are elite: nobody has children
        assert drift[-1].goals.max() == drift[0].goals.max()


def test_l1():
    agents = ev.Population.random(10, density=0.5)
    plain, goals = ev.fitness(agents, MAZES, steps=5)
    assert torch.equal(plain, goals)
    found, goals = ev.fitness(agents, MAZES, steps=5, l1=0.25)
    torch.testing.assert_close(found, goals - 0.25 * agents.weights.abs().double().sum(1), rtol=0, atol=1e-5)
    assert evolve(agents, 6, l1=1.0).population.weights[0].abs().sum() < agents.weights.abs().sum(1).mean()


def test_noise():
    """The fitness is that of the silenced network; the population keeps all of its connections."""
    agents = ev.Population.random(10)
    out = evolve(agents, 1, noise=0.5, severance=0.0, steps=30)
    heard = agents.silenced(0.5, seed=3)
    assert torch.equal(out.history[0].goals, ev.fitness(heard, MAZES, steps=30, mode="exact")[1])
    assert out.population.mask.all()
    assert out.history[0].edges.tolist() == [620] * 10


def test_the_default_limit_lets_every_population_run_in_exact_mode():
    agents = ev.Population.random(10, hidden=3)
    wild = evolve(agents, 4, mutation=5.0, mode="float")
    assert wild.population.weights.abs().max() == fixed.LIMIT
    nk.maze_rollout(wild.population, MAZES, steps=2, mode="exact")


AGENTS = ev.Population.random(3, hidden=2)


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"population": AGENTS.weights}, TypeError, "evolve: population must be a nk.evolution.Population"),
        ({"train_mazes": None}, TypeError, "mazes must be nk.evolution.Mazes, got NoneType"),
        ({"generations": -1}, ValueError, "evolve: generations must be an integer >= 0"),
        ({"generations": 2**33}, ValueError, "evolve: generations must be such that"),
        ({"severance": -0.1}, ValueError, r"evolve: severance must be in \[0, 1\], got -0.1"),
        ({"severance": math.nan}, ValueError, "evolve: severance"),
        ({"noise": 1.5}, ValueError, r"evolve: noise must be in \[0, 1\], got 1.5"),
        ({"mutation": -1}, ValueError, "evolve: mutation"),
        ({"elite": 2}, ValueError, "evolve: elite"),
        ({"limit": -1}, ValueError, "evolve: limit"),
        ({"l1": "a"}, TypeError, "evolve: l1 must be a number"),
        ({"seed": 2**63}, ValueError, "evolve: seed"),
        ({"mode": "int"}, ValueError, "mode must be one of float, exact"),
        ({"steps": -1}, ValueError, "steps must be"),
    ],
)
def test_errors(changes, error, said):
    with pytest.raises(error, match=said):
        ev.evolve(**{"population": AGENTS, "train_mazes": MAZES, "generations": 1} | changes)
    assert len(ev.evolve(AGENTS, MAZES, generations=0).history) == 0
