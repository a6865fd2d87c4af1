"""The gates of `bench_rollout` tell right walks from wrong ones, and what it races walks as the library does."""

import pytest
import torch

import neurokernels as nk
from benchmarks import bench_rollout as bench


@pytest.fixture(scope="module")
def task():
    """Agents of whom some reach goals."""
    agents = nk.evolution.Population.random(30, hidden=20, gain=3.0, seed=2)
    return bench.Task(agents, nk.evolution.mazes(4, size=3), 60)


def test_wrong_walks_fail(task):
    for mode in ("float", "exact"):
        goals = task.run(mode)
        assert goals.any()
        assert task.gate(mode, goals) is None
        few = goals.clone()
        few[0, 0] += 1  # one walk of 120
        assert (task.gate(mode, few) is None) == (mode == "float")
        assert "walks differ from the reference" in task.gate(mode, goals + 1)
        assert "walks differ from the reference" in task.gate(mode, goals.roll(1, 0))
    idle = bench.Task(task.population[:1], task.mazes, 2)
    assert "nothing is compared" in idle.gate("exact", idle.run("exact"))


def test_the_loop_walks_as_the_library_does(task):
    few = bench.Task(task.population[:6], task.mazes, task.steps)
    with nk.backend("reference"):
        due = few.run("float")
    assert due.any()
    assert torch.equal(bench._loop(few), due)


def test_evotorch_walks_as_the_library_does(task):
    pytest.importorskip("evotorch", reason="EvoTorch needs Ray: it is raced where it is installed")
    row = bench._evotorch(task)
    assert row.gate(row.call()) is None
