"""Exact rollouts and offspring are the reference's bit for bit, whatever hypothesis draws."""

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import neurokernels as nk
from neurokernels._core import backends, native
from neurokernels.ops.evolution import cpu, cuda, fixed, reference
from neurokernels.ops.evolution.network import SENSORS

ev = nk.evolution


def examples(count):
    """So many of them; in another profile so many times more."""
    return settings(max_examples=count * settings().max_examples // 100)


@st.composite
def populations(draw: st.DrawFn, agents: int = 5, width: int = 24) -> Any:
    """Agents of any network, some of them without a single connection."""
    hidden = tuple(draw(st.lists(st.integers(1, width), min_size=1, max_size=3)))
    return ev.Population.random(
        draw(st.integers(1, agents)),
        hidden=hidden,
        density=draw(st.sampled_from((0.0, 0.05, 0.3, 0.9, 1.0))),
        seed=draw(st.integers(0, 2**63 - 1)),
        gain=draw(st.sampled_from((0.3, 1.0, 4.0, 50.0))),
        sensors=tuple(draw(st.sets(st.sampled_from(list(SENSORS)), min_size=1))),
        recurrent=draw(st.booleans()),
        activation=draw(st.sampled_from(("tanh", "tanh", "sign"))),
    )


@st.composite
def mazes(draw: st.DrawFn, most: int = 70, side: int = 4) -> Any:
    """Perfect mazes and ones with holes, from any cell to any other, facing any way."""
    height, width = draw(st.sampled_from([(h, w) for h in range(1, side + 1) for w in range(1, side + 1) if h * w > 1]))
    count, seed = draw(st.integers(1, most)), draw(st.integers(0, 2**31))
    made = ev.mazes(count, size=(height, width), seed=seed)
    walls, cells, generator = made.walls.clone(), height * width, torch.Generator().manual_seed(seed)
    if draw(st.booleans()):
        gone = torch.rand(count, height, width, generator=generator) < 0.3
        gone[..., -1] = False
        walls[gone] &= ~2
        walls[..., 1:][gone[..., :-1]] &= 255 - 8
    start = torch.randint(0, cells, (count,), generator=generator)
    goal = (start + torch.randint(1, cells, (count,), generator=generator)) % cells
    return ev.Mazes(walls, start=start, goal=goal, facing=torch.randint(0, 4, (count,), generator=generator))


def check(backend, agents, made, steps, forget):
    with nk.backend(backend), backends.record() as ran:
        first = nk.maze_rollout(agents, made, steps=steps, mode="exact", forget=forget, keep_state=True)
        then = nk.maze_rollout(agents, made, steps=3, mode="exact", forget=forget, state=first.state, keep_state=True)
        short = nk.maze_rollout(agents, made, steps=steps, mode="exact", forget=forget)
    assert ran == [("maze_rollout", backend)] * 3
    assert torch.equal(short.goals, first.goals)
    return first.goals, *first.state, then.goals, *then.state


@examples(100)
@given(populations(), mazes(), st.integers(0, 30), st.booleans(), st.integers(1, 4))
def test_exact(agents, made, steps, forget, threads):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        ours = check("cpu", agents, made, steps, forget)
    finally:
        torch.set_num_threads(before)
    theirs = check("reference", agents, made, steps, forget)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    weights, places = fixed.quantised(agents.weights), torch.stack([made.start, made.goal, made.facing])
    for level in native.core().rollout_levels:
        again = cpu.rollout(weights, agents.mask, made.walls, places, [], agents.network, steps, forget, True, level)
        assert all(torch.equal(a, b) for a, b in zip(again, theirs, strict=False))


@examples(4)
@given(populations(2, 12), mazes(6, 2), st.integers(0, 6), st.booleans())
def test_exact_interpreted(agents, made, steps, forget):
    ours, theirs = (check(backend, agents, made, steps, forget) for backend in ("triton", "reference"))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@examples(12)
@given(populations(3, 40), mazes(40, 3), st.integers(0, 6), st.booleans())
def test_exact_emulated(agents, made, steps, forget):
    ours, theirs = (check(backend, agents, made, steps, forget) for backend in ("cuda", "reference"))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@examples(60)
@given(
    populations(9, 12), st.data(), st.sampled_from((0.0, 1e-3, 0.2, 1.0)), st.sampled_from((0.0, 0.01, 3.0)),
    st.integers(0, 2**32 - 1), st.sampled_from((0.0, 0.5, 127 / 32)),
)  # fmt: skip
def test_offspring(agents, data, severance, mutation, generation, limit):
    parents = torch.tensor(data.draw(st.lists(st.integers(0, len(agents) - 1), min_size=1, max_size=len(agents))))
    arguments = (agents.weights, agents.mask, parents, generation, data.draw(st.integers(0, 2**63 - 1)))
    theirs = reference.offspring(*arguments, mutation, severance, limit)
    for module in (cpu, cuda):
        ours = module.offspring(*arguments, mutation, severance, limit)
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])
