"""Rollouts and offspring on CUDA, emulated: each kernel by name, both ways of a small network, orders, and mutants."""

import re

import pytest
import torch

import neurokernels as nk
from neurokernels._core import backends, tuned
from tests import emulator
from tests.emulator import EmulatedDriver, switched_on
from tests.ops.test_rollout import check_steps, same

ev = nk.evolution

MATRICES, LISTS = {"backend": "cuda", "few": 0, "list_cost": 0}, {"backend": "cuda", "few": 0, "list_cost": 10**6}
KERNELS = {1: "_8", 8: "_8", 9: "_16", 20: "_24", 32: "_32", 33: "", (5, 3): ""}


def population(hidden, agents=3, **options):
    return ev.Population.random(agents, hidden=hidden, seed=7, **{"gain": 3.0, "density": 0.6} | options)


def run(agents, mazes, config=MATRICES, driver=None, **options):
    """What the kernels of a driver return, and the names of those."""
    driver = driver or EmulatedDriver()
    with switched_on(driver), tuned.forced("maze_rollout", config), nk.backend("cuda"), backends.record() as ran:
        out = nk.maze_rollout(agents, mazes, keep_state=True, **options)
    assert ran == [("maze_rollout", "cuda")]
    (kernel,) = driver.launched
    return out, kernel


def due(agents, mazes, **options):
    with nk.backend("reference"):
        return nk.maze_rollout(agents, mazes, keep_state=True, **options)


@pytest.mark.parametrize("hidden", KERNELS)
def test_every_kernel(hidden):
    """Exact mode, as matrices and as lists: the same bits."""
    mazes, agents = ev.mazes(5, size=(2, 2), facing=2), population(hidden)
    expected = due(agents, mazes, steps=12, mode="exact")
    for config in (MATRICES, LISTS):
        found, kernel = run(agents, mazes, config, steps=12, mode="exact")
        assert kernel == f"rollout_exact{KERNELS[hidden]}"
        assert same(found, expected)


@pytest.mark.parametrize("config", [MATRICES, LISTS], ids=["matrices", "lists"])
@pytest.mark.parametrize("hidden", KERNELS)
def test_every_kernel_in_floats(hidden, config):
    with tuned.forced("maze_rollout", config), switched_on(EmulatedDriver()) as driver:
        check_steps("cuda", population(hidden, 4, gain=2.0), ev.mazes(20, size=3), 3)
    assert set(driver.launched) == {f"rollout_float{KERNELS[hidden]}"}


@pytest.mark.parametrize("config", [MATRICES, LISTS, MATRICES | {"few": 10**6}], ids=["matrices", "lists", "few"])
@pytest.mark.parametrize("count", [1, 16, 17, 33, 129])
def test_warps_and_blocks(count, config):
    """Part of a warp, several warps, several blocks of an agent; a state taken and left, and forgotten."""
    mazes, agents = ev.mazes(count, size=3, first=5), population(6, 2)
    for forget in (False, True):
        first, _ = run(agents, mazes, config, steps=9, mode="exact", forget=forget)
        then, _ = run(agents, mazes, config, steps=5, mode="exact", forget=forget, state=first.state)
        whole = due(agents, mazes, steps=14, mode="exact", forget=forget)
        assert torch.equal(first.goals + then.goals, whole.goals)
        assert all(torch.equal(a, b) for a, b in zip(then.state, whole.state, strict=True))


@pytest.mark.parametrize("mode", ["exact", "float"])
@pytest.mark.parametrize("config", [MATRICES, LISTS], ids=["matrices", "lists"])
def test_orders(mode, config):
    """Whose turn it is changes no bit."""
    mazes, agents = ev.mazes(40, size=3), population((20, 3) if config is LISTS else 20, 2)
    drivers = [EmulatedDriver("forward"), EmulatedDriver("reverse"), *(EmulatedDriver("random", s) for s in range(3))]
    found = [run(agents, mazes, config, driver, steps=6, mode=mode)[0] for driver in drivers]
    assert all(same(other, found[0]) for other in found[1:])


def test_large_mazes():
    """Walls that stay in global memory."""
    mazes, agents = ev.mazes(3, size=(30, 40)), population(4)
    for config in (MATRICES, LISTS):
        assert same(run(agents, mazes, config, steps=40, mode="exact")[0], due(agents, mazes, steps=40, mode="exact"))


@pytest.mark.parametrize("hidden", [20, (12, 9)])
def test_a_walk_is_that_of_its_agent_and_its_maze(hidden):
    """Not of whether the state is wanted, when all units have to work, nor of what walks beside it."""
    agents, mazes = population(hidden, 6, density=0.15), ev.mazes(20, size=2)
    for mode in ("float", "exact"):
        with nk.backend("cuda"):
            whole = nk.maze_rollout(agents, mazes, steps=60, mode=mode, keep_state=True)
            assert torch.equal(nk.maze_rollout(agents, mazes, steps=60, mode=mode).goals, whole.goals)
            alone = nk.maze_rollout(agents[2:3], mazes[7], steps=60, mode=mode, keep_state=True)
        assert torch.equal(alone.state.hidden[0, 0], whole.state.hidden[2, 7])
        assert whole.goals.any()


def test_what_auto_does():
    """The committed table decides; no row of it is for Triton yet."""
    agents, mazes = population(5), ev.mazes(2, size=2)
    probe = agents.weights.new_empty((0, agents.network.edges, 5))
    row = next(row for row in backends.rows("maze_rollout") if row.name == "cuda")
    assert row.yields(probe) is None
    with tuned.forced("maze_rollout", {"backend": "triton"}):
        assert row.yields(probe) == "Triton is thought faster for 5 hidden units"
        assert row.yields(agents.weights) is None
    assert run(agents, mazes, steps=1)[1] == "rollout_float_8"


# Mutants -------------------------------------------------------------------------------------------------------------


class Mutant(EmulatedDriver):
    """Some kernels of a source in which a line is wrong."""

    def __init__(self, folder, right, wrong, kernels):
        super().__init__(folder=folder)
        self.stem = f"rollout_{re.sub(r'[^a-z0-9]', '', wrong.lower()) or 'without'}"
        code = (emulator.ROOT / "csrc/cuda/rollout.cu").read_text()
        for header in ("dense", "list", "walk"):
            text = (emulator.ROOT / f"csrc/cuda/rollout_{header}.cuh").read_text().replace("#pragma once", "")
            line = f'#include "cuda/rollout_{header}.cuh"\n'
            code = code.replace(line, text, 1).replace(line, "")
        assert code.count(right) == 1
        others = re.compile(rf"^NK_KERNEL\w*\((?!({'|'.join(kernels)}),)rollout.*\n", re.MULTILINE)
        (folder / f"{self.stem}.cu").write_text(others.sub("", code.replace(right, wrong)))

    def function(self, source, kernel, device):
        return super().function(self.stem, kernel, device)


def test_exact_mode_sees_a_wrong_table(tmp_path):
    mazes, agents = ev.mazes(40, size=3), population(6)
    mutant = Mutant(tmp_path, "(size & 511)", "(size & 255)", ["rollout_exact_8"])
    found = run(agents, mazes, MATRICES, mutant, steps=20, mode="exact")[0]
    assert not same(found, due(agents, mazes, steps=20, mode="exact"))


def test_orders_see_a_missing_barrier(tmp_path):
    mazes, agents = ev.mazes(40, size=3), population((6, 3))
    right = "if (lane() == 0) lists.counts[warp] = __popc(kept);\n    __syncthreads();"
    mutant = Mutant(tmp_path, right, right.partition("\n")[0], ["rollout_exact"])
    found = run(agents, mazes, LISTS, mutant, steps=20, mode="exact")[0]
    assert not same(found, due(agents, mazes, steps=20, mode="exact"))


def test_floats_see_one_product_for_three(tmp_path):
    """TF32 alone, without what is left over of a unit: further off than rounding."""
    right = "device::multiply_add(low, rest, tile.high);"
    mutant = Mutant(tmp_path, right, ";", ["rollout_float_24"])
    with tuned.forced("maze_rollout", MATRICES), switched_on(mutant), pytest.raises(AssertionError, match="close"):
        check_steps("cuda", population(20, 4, gain=2.0), ev.mazes(20, size=3), 3)
