"""Rollouts: exact mode bit for bit against plain Python, float mode step by step, the rules, and wrong rules."""

import pytest
import torch

import neurokernels as nk
from neurokernels._core import backends, native
from neurokernels.ops.evolution import fixed, reference
from neurokernels.ops.evolution.cpu import rollout as on_core
from neurokernels.ops.evolution.network import Network
from tests.ops.walker import MUTANTS, knots, walk

ev = nk.evolution

BACKENDS = ("reference", "cpu", "triton", "cuda")

#: One network of each kind. Weights are large, so that units saturate and outputs tie in exact mode.
NETWORKS = {
    "default": {},
    "sparse": {"density": 0.2},
    "small": {"hidden": 3, "gain": 3.0},
    "layers": {"hidden": (6, 4), "density": 0.7},
    "feedforward": {"hidden": 9, "recurrent": False},
    "few sensors": {"hidden": 5, "sensors": ("front", "motor")},
    "sign": {"hidden": 7, "activation": "sign"},
    "relu": {"hidden": 7, "activation": "relu", "gain": 0.8},
}
EXACT = [name for name in NETWORKS if name != "relu"]


def population(name, agents=4, seed=0):
    return ev.Population.random(agents, seed=seed, **{"gain": 2.0} | NETWORKS[name])


def run(backend, *arguments, **options):
    with nk.backend(backend), backends.record() as ran:
        out = nk.maze_rollout(*arguments, **options)
    assert ran == [("maze_rollout", backend)]
    return out


def same(a, b):
    return torch.equal(a.goals, b.goals) and all(torch.equal(x, y) for x, y in zip(a.state, b.state, strict=True))


# Exact mode ----------------------------------------------------------------------------------------------------------


def mismatches(backend, agents, mazes, steps, forget=False, mutant=None):
    """The walks whose goals or final state differ from those of plain Python."""
    out = run(backend, agents, mazes, steps=steps, mode="exact", forget=forget, keep_state=True)
    found = []
    for p in range(len(agents)):
        for m in range(len(mazes)):
            state = out.state
            ours = (
                int(out.goals[p, m]), int(state.position[p, m]), int(state.heading[p, m]), int(state.motor[p, m]),
                state.hidden[p, m].int().tolist(),
            )  # fmt: skip
            if ours != walk(agents, p, mazes, m, steps, forget=forget, mutant=mutant):
                found.append((p, m))
    return found


@pytest.mark.parametrize("name", EXACT)
def test_exact(backend, name):
    """Short walks in tiny mazes, where agents meet the goal by chance."""
    few = backend == "triton"
    mazes = ev.mazes(5 if few else 19, size=(2, 2), facing=2)
    assert mismatches(backend, population(name), mazes, 7 if few else 14) == []


@pytest.mark.parametrize("backend", ["reference", "cpu", "cuda"])
def test_exact_for_long(backend):
    mazes, agents = ev.mazes(3, size=4), population("sparse", 3, seed=1)
    assert mismatches(backend, agents, mazes, 150) == []
    assert mismatches(backend, agents, ev.mazes(4, size=2), 60, forget=True) == []


HAND_MADE = {"straight": lambda: straight(), "silent": lambda: silent(), "follower": lambda: wall_follower()}


@pytest.mark.parametrize("name", HAND_MADE)
def test_exact_step_by_step(backend, name):
    for steps in range(5):
        assert mismatches(backend, HAND_MADE[name](), ev.mazes(3, size=(1, 3)), steps) == []


@pytest.mark.parametrize("mutant", MUTANTS)
def test_wrong_rules_are_seen(mutant):
    """Each wrong rule differs in one walk or another of those that the two tests above compare."""
    mazes = ev.mazes(19, size=(2, 2), facing=2)
    seen = [mismatches("cpu", population(name), mazes, 14, mutant=mutant) for name in ("sparse", "small", "sign")]
    for make in HAND_MADE.values():
        seen += [mismatches("cpu", make(), ev.mazes(3, size=(1, 3)), steps, mutant=mutant) for steps in range(5)]
    assert sum(map(len, seen)) > 0


def test_the_table():
    """The committed integers are tanh, rounded; what is between them is within 0.7 of it."""
    assert list(fixed.KNOTS) == knots()
    total = torch.arange(-40000, 40001)
    error = fixed.integer_tanh(total) - 127 * torch.tanh(total.double() / 4064)
    assert error.abs().max() < 0.7
    assert 512 * (len(fixed.KNOTS) - 1) - 1 == fixed.LAST
    assert fixed.MOST_SOURCES * 127 * 127 < 2**24


@pytest.mark.parametrize("name", EXACT)
def test_instruction_sets(name):
    """In exact mode they are the same bits, with fused multiply-adds and without, with 4, 8 and 16 lanes."""
    agents, mazes = population(name, 6), ev.mazes(41, size=3)
    weights, places = fixed.quantised(agents.weights), torch.stack([mazes.start, mazes.goal, mazes.facing])
    levels = native.core().rollout_levels
    assert 2 in levels
    found = [
        on_core(weights, agents.mask, mazes.walls, places, [], agents.network, 40, False, True, level)
        for level in levels
    ]
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, found[0], strict=True))
    with pytest.raises(ValueError, match="rollout: this processor or build lacks instruction set level 3"):
        on_core(weights, agents.mask, mazes.walls, places, [], agents.network, 40, False, True, 3)


@pytest.mark.parametrize("mode", ["float", "exact"])
def test_threads_and_company(mode):
    """A walk is that of its agent and its maze, whatever runs beside it: bit for bit, in both modes."""
    agents, mazes, before = population("default", 7), ev.mazes(150, size=4), torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            found.append(run("cpu", agents, mazes, steps=60, mode=mode, keep_state=True))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert same(other, found[0])
    for m in (0, 63, 64, 100, 149):
        alone = run("cpu", agents[3:5], mazes[m], steps=60, mode=mode, keep_state=True)
        assert torch.equal(alone.goals, found[0].goals[3:5, m : m + 1])
        assert torch.equal(alone.state.hidden, found[0].state.hidden[3:5, m : m + 1])
    without = run("cpu", agents, mazes, steps=60, mode=mode)  # units that no output reads are left out
    assert without.state is None
    assert torch.equal(without.goals, found[0].goals)


def test_units_that_are_left_out_change_no_bit():
    """The core adds up units in pairs that share rows: the order of a sum may not depend on whether both are needed."""
    start, mazes = ev.Population.random(60, density=0.8, gain=2.0, seed=3), ev.mazes(40, size=3)
    source, _ = start.network.ends()
    mask = start.mask & ~((source >= 8) & (source % 3 == 0))  # nobody reads every third hidden unit
    agents = ev.evolve(
        ev.Population(start.weights * mask, mask, start.network), mazes, generations=8, steps=60
    ).population
    for mode in ("float", "exact"):
        whole = run("cpu", agents, mazes, steps=2000, mode=mode, keep_state=True)
        assert torch.equal(run("cpu", agents, mazes, steps=2000, mode=mode).goals, whole.goals)
        assert whole.goals.any(1).sum() > 30


# Float mode ----------------------------------------------------------------------------------------------------------


def check_steps(backend, agents, mazes, steps, given=None):
    """Each step from the reference's state before it: hidden units within rounding, commands alike unless nearly tied.

    ``given`` are the agents that the backend is handed, for mutants.
    """
    state = run("reference", agents, mazes, steps=0, keep_state=True).state
    decided = 0
    for _ in range(steps):
        ours = run(backend, given or agents, mazes, steps=1, state=state, keep_state=True)
        theirs = run("reference", agents, mazes, steps=1, state=state, keep_state=True)
        torch.testing.assert_close(ours.state.hidden, theirs.state.hidden, rtol=0, atol=4e-6)
        assert torch.equal(ours.goals, theirs.goals)
        last = agents.network.matrices(agents.weights)[-1].double()
        top = last.shape[-1]
        best = (theirs.state.hidden[..., -top:].double() @ last.mT).topk(2, -1).values
        clear = best[..., 0] - best[..., 1] > 1e-4
        for a, b in zip(ours.state[:3], theirs.state[:3], strict=True):
            assert torch.equal(a[clear], b[clear])
        decided += int(clear.sum())
        state = theirs.state
    assert decided > 0.7 * steps * len(agents) * len(mazes)


@pytest.mark.parametrize("backend", ["cpu", "triton", "cuda"])
@pytest.mark.parametrize("name", NETWORKS)
def test_float_step_by_step(backend, name):
    check_steps(backend, population(name, 3), ev.mazes(20, size=3), 30 if backend == "cpu" else 3)


def test_float_steps_see_a_small_change():
    agents = population("default", 3)
    moved = ev.Population(agents.weights * (1 + 1e-4), agents.mask, agents.network)
    with pytest.raises(AssertionError):
        check_steps("cpu", agents, ev.mazes(20, size=3), 5, given=moved)


def test_float_instruction_sets():
    """Within rounding of each other after one step from the same state."""
    agents, mazes = population("default", 6), ev.mazes(41, size=3)
    state = list(run("reference", agents, mazes, steps=9, keep_state=True).state)
    places = torch.stack([mazes.start, mazes.goal, mazes.facing])
    for level in native.core().rollout_levels:
        goals, *after = on_core(
            agents.weights, agents.mask, mazes.walls, places, state, agents.network, 1, False, True, level
        )
        expected = reference.rollout(
            agents.weights, agents.mask, mazes.walls, places, state, agents.network, 1, False, True
        )
        assert torch.equal(goals, expected[0])
        torch.testing.assert_close(after[3], expected[4], rtol=0, atol=4e-6)


def test_tanh():
    """Within a few units in the last place over its range, and one at both ends: a unit that reads a bias."""
    network = Network((1,), ("bias",), True)
    mask, mazes = torch.ones(1, network.edges, dtype=torch.bool), ev.mazes(1, size=2)
    bias = torch.cat([torch.linspace(-12, 12, 400), torch.logspace(-6, 1, 100), -torch.logspace(-6, 1, 100)])
    weights = torch.zeros(len(bias), network.edges)
    weights[:, 0] = bias
    many = ev.Population(weights, mask.expand(len(bias), -1), network)
    for backend in ("cpu", "triton", "cuda"):
        some = many[::60] if backend == "triton" else many
        found = run(backend, some, mazes, steps=1, keep_state=True).state.hidden.flatten().double()
        exact = some.weights[:, 0].double().tanh()
        assert ((found - exact) / exact.abs().clamp(min=1e-30)).abs().max() < 6e-7
        assert found.abs().max() <= 1


@pytest.mark.filterwarnings("ignore:.*encountered in matmul:RuntimeWarning")  # the interpreter's
def test_infinities_propagate():
    """A relu unit that grows without bound becomes infinite on every backend, and NaN decides for no turn."""
    network = Network((2,), ("bias",), True, "relu")
    row = torch.tensor([[1.0, 60.0, 1.0, 1.0, 1.0, 60.0, 1.0, 1.0, 30.0, -30.0, 1.0, 1.0]])
    agents = ev.Population(row, row != 0, network)  # a severed connection is 0 times infinity to a dense product
    for backend in BACKENDS:
        state = run(backend, agents, ev.mazes(3, size=2), steps=30, keep_state=True).state
        assert state.hidden.isinf().all()
        assert (state.motor == 0).all()  # left is inf - inf


# The rules ------------------------------------------------------------------------------------------------------------


def wall_follower(*, severed=()):
    """Keeps its right hand on the wall: units for "right is free and I have not just turned" and "a wall in front"."""
    network = Network((2,), recurrent=False, activation="tanh")
    row = torch.zeros(1, network.edges)
    into, out = network.matrices(row)
    names = {name: i for i, name in enumerate(network.units)}
    into[0, 0, names["bias"]], into[0, 0, names["wall right"]], into[0, 0, names["turned right"]] = 1.75, -3.5, -3.5
    into[0, 1, names["bias"]], into[0, 1, names["wall in front"]] = -1.75, 3.5
    out[0, 2, 0], out[0, 1, 1] = 3.5, 1.75
    mask = row != 0
    mask[:, list(severed)] = False
    return ev.Population(row, mask, network)


@pytest.mark.parametrize("mode", ["float", "exact"])
def test_the_solution_reaches_the_goal(backend, mode):
    """In perfect mazes a hand on the wall leads everywhere: each passage is walked at most twice."""
    size, n, steps = (2, 4, 25) if backend == "triton" else (6, 40, 250)
    mazes = ev.mazes(n, size=size, seed=5)
    assert (run(backend, wall_follower(), mazes, steps=steps, mode=mode).goals >= 1).all()
    if backend != "triton":  # without its second unit it stays in front of the first wall
        lame = wall_follower(severed=[8 + 1, 8 + 3])
        assert (run(backend, lame, mazes, steps=steps, mode=mode).goals == 0).any()


def straight():
    """Goes forward whatever happens."""
    network = Network((1,), ("bias",), recurrent=False)
    weights = torch.tensor([[2.0, 1.0, 0.0, 0.0]])
    return ev.Population(weights, torch.ones_like(weights, dtype=torch.bool), network)


@pytest.mark.parametrize("mode", ["float", "exact"])
def test_the_reward_is_delayed_and_counted_once(backend, mode):
    """Two steps to the goal of a corridor of three; in the third the agent senses it, is rewarded, and is back."""
    corridor = ev.mazes(1, size=(1, 3))
    seen = []
    for steps in range(8):
        out = run(backend, straight(), corridor, steps=steps, mode=mode, keep_state=True)
        seen.append((int(out.goals), int(out.state.position), int(out.state.heading)))
    assert seen == [(0, 0, 1), (0, 1, 1), (0, 2, 1), (1, 0, 1), (1, 1, 1), (1, 2, 1), (2, 0, 1), (2, 1, 1)]


def test_a_return_keeps_the_memory_unless_it_is_to_be_forgotten(backend):
    corridor, agent = ev.mazes(1, size=(1, 2)), straight()
    for forget, motor in ((False, 0), (True, 3)):
        state = run(backend, agent, corridor, steps=2, forget=forget, keep_state=True).state
        assert int(state.motor) == motor
        assert (float(state.hidden) == 0) == forget
        assert int(state.position) == 0


def silent():
    """No connection at all: three outputs of zero."""
    return ev.Population(straight().weights, torch.zeros(1, 4, dtype=torch.bool), straight().network)


def test_equal_outputs_give_the_first(backend):
    for mode in ("float", "exact"):
        state = run(backend, silent(), ev.mazes(1, size=(1, 3)), steps=1, mode=mode, keep_state=True).state
        assert (int(state.position), int(state.motor)) == (1, 0)


@pytest.mark.parametrize("mode", ["float", "exact"])
def test_an_episode_in_parts(backend, mode):
    agents, mazes = population("layers"), ev.mazes(9, size=2)
    whole = run(backend, agents, mazes, steps=7, mode=mode, keep_state=True)
    first = run(backend, agents, mazes, steps=4, mode=mode, keep_state=True)
    rest = run(backend, agents, mazes, steps=3, mode=mode, state=first.state, keep_state=True)
    assert torch.equal(first.goals + rest.goals, whole.goals)
    assert all(torch.equal(a, b) for a, b in zip(rest.state, whole.state, strict=True))


def test_trace():
    agents, mazes = population("sparse"), ev.mazes(9, size=2)
    with nk.backend("cpu"):
        seen = ev.trace(agents, mazes, steps=12, mode="exact")
        whole = nk.maze_rollout(agents, mazes, steps=12, mode="exact", keep_state=True)
    assert torch.equal(seen.goals.sum(0), whole.goals.long())
    assert torch.equal(seen.position[-1], whole.state.position)
    assert torch.equal(seen.hidden[-1], whole.state.hidden)
    assert torch.equal(seen.position[0], mazes.start.expand(4, 9))
    assert seen.heading.shape == seen.motor.shape == (13, 4, 9)
    assert torch.equal(seen.goals.bool(), seen.position[:-1] == mazes.goal)
    assert ev.trace(agents, mazes, steps=0).goals.shape == (0, 4, 9)


def test_layouts(backend):
    """Weights, masks and walls that are transposed, spaced or broadcast."""
    agents, mazes = population("sparse", 4), ev.mazes(6, size=3)
    expected = run(backend, agents, mazes, steps=5, mode="exact", keep_state=True)
    weights, mask = (t.T.contiguous().T for t in (agents.weights, agents.mask))
    walls = mazes.walls.repeat_interleave(2, 2)[..., ::2].permute(2, 0, 1).contiguous().permute(1, 2, 0)
    other = run(
        backend, ev.Population(weights, mask, agents.network), ev.Mazes(walls), steps=5, mode="exact", keep_state=True
    )
    assert same(other, expected)
    one = ev.Population(agents.weights[1].expand(3, -1), agents.mask[1].expand(3, -1), agents.network)
    assert torch.equal(run(backend, one, mazes, steps=5, mode="exact").goals, expected.goals[1].expand(3, -1))


def test_autocast_is_none_of_its_business(backend):
    agents, mazes = population("default", 3), ev.mazes(5, size=3)
    for mode in ("float", "exact"):
        expected = run(backend, agents, mazes, steps=4, mode=mode, keep_state=True)
        with torch.autocast("cpu", torch.bfloat16):
            assert same(run(backend, agents, mazes, steps=4, mode=mode, keep_state=True), expected)


def test_inputs_are_not_changed(backend):
    agents, mazes = population("sparse", 3), ev.mazes(5, size=3)
    state = run(backend, agents, mazes, steps=3, keep_state=True).state
    before = [t.clone() for t in (agents.weights, agents.mask, mazes.walls, *state)]
    run(backend, agents, mazes, steps=4, state=state, keep_state=True)
    assert all(
        torch.equal(a, b) for a, b in zip(before, (agents.weights, agents.mask, mazes.walls, *state), strict=True)
    )


def test_wide_networks():
    """Exact mode up to as many sources as float32 holds the sum of; Triton up to its registers, and auto goes on."""
    wide = ev.Population.random(2, hidden=1100, density=0.01)
    with pytest.raises(ValueError, match="of at most 1040 connections into a unit for mode='exact', got 1108"):
        nk.maze_rollout(wide, ev.mazes(2), mode="exact")
    assert run("cpu", wide, ev.mazes(2), steps=3).goals.shape == (2, 2)
    network = Network((1000,))  # and weights of the largest magnitude: sums near 2**24
    full = ev.Population(torch.full((1, network.edges), 3.96), torch.ones(1, network.edges, dtype=torch.bool), network)
    corridor = ev.mazes(3, size=(1, 3))
    assert same(*(run(b, full, corridor, steps=4, mode="exact", keep_state=True) for b in ("cpu", "reference")))
    many = ev.Population.random(2, hidden=(40, 40))
    with nk.backend("triton"), pytest.raises(nk.BackendError, match="agents have 80 hidden units.* up to 64"):
        nk.maze_rollout(many, corridor)
    larger = ev.Population.random(2, hidden=200)
    with nk.backend("cuda"), pytest.raises(nk.BackendError, match="200 hidden units and up to 42200 connections"):
        nk.maze_rollout(larger, corridor)


def test_the_leaf():
    """What torch asks of an op: its schema and its fake are true."""
    agents, mazes = population("layers", 2), ev.mazes(3, size=2)
    places = torch.stack([mazes.start, mazes.goal, mazes.facing])
    state = list(nk.maze_rollout(agents, mazes, steps=1, keep_state=True).state)
    for weights in (agents.weights, fixed.quantised(agents.weights)):
        for given, keep in (([], False), (state, True)):
            arguments = (agents.mask, mazes.walls, places, given, agents.network.text(), 3, False, keep, "cpu")
            torch.library.opcheck(torch.ops.neurokernels.maze_rollout_fwd.default, (weights, *arguments))
    arguments = (agents.weights, agents.mask, torch.tensor([1]), 4, 5, 0.1, 0.2, 4.0, "cpu")
    torch.library.opcheck(torch.ops.neurokernels.offspring_fwd.default, arguments)


AGENTS, MAZES = population("small", 2), ev.mazes(3, size=2)
STATE = nk.maze_rollout(AGENTS, MAZES, steps=0, keep_state=True).state


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"population": AGENTS.weights}, TypeError, "population must be a nk.evolution.Population, got Tensor"),
        ({"mazes": MAZES.walls}, TypeError, "mazes must be nk.evolution.Mazes, got Tensor"),
        ({"mazes": MAZES[3:]}, ValueError, "mazes must be at least one maze, got none"),
        ({"mode": "double"}, ValueError, "mode must be one of float, exact, got 'double'"),
        ({"steps": -1}, ValueError, "steps must be an integer >= 0, got -1"),
        ({"steps": 2.5}, ValueError, "steps must be an integer"),
        ({"steps": 2**31}, ValueError, "steps must be at most 2147483647"),
        ({"forget": 1}, TypeError, "forget must be True or False, got int"),
        ({"state": (1, 2)}, TypeError, "state must be a MazeState or None, got tuple"),
        ({"state": STATE, "mazes": MAZES[:2]}, ValueError, r"state.position must be \(2, 2\) torch.int32 on cpu"),
        ({"state": STATE._replace(motor=STATE.motor.long())}, ValueError, "state.motor must be .* got .*int64"),
        ({"state": STATE._replace(position=STATE.position - 1)}, ValueError, r"state.position must be in \[0, 3\]"),
        ({"state": STATE._replace(heading=STATE.heading + 3)}, ValueError, r"state.heading must be in \[0, 3\]"),
        ({"state": STATE._replace(hidden=STATE.hidden[..., 1:])}, ValueError, "state.hidden must be"),
        (
            {"population": ev.Population(4 + 0 * AGENTS.weights, AGENTS.mask, AGENTS.network), "mode": "exact"},
            ValueError,
            r"population must be of weights in \[-3.96875, 3.96875\] for mode='exact'; weights.clamp_.* of magnitude 4",
        ),
        (
            {"population": population("relu"), "mode": "exact"},
            ValueError,
            "mode must be float for relu, which int8 cannot hold, got 'exact'",
        ),
    ],
)  # fmt: skip
def test_errors(changes, error, said):
    with pytest.raises(error, match=f"maze_rollout: {said}"):
        nk.maze_rollout(**{"population": AGENTS, "mazes": MAZES, "steps": 1} | changes)
