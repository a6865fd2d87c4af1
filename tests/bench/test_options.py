"""``pytest --benchmark`` and ``--backend``, run as users do, on a small tree with the repository's own conftest."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from neurokernels.bench import load

ROOT = Path(__file__).parents[2]

TOY = """
import torch
from neurokernels.bench import Absent, Row, faster

def bench_right(race):
    rows = [Row("cpu", lambda x: 2 * x, ours=True), Row("peer", lambda x: 3 * x), Absent("gone", "no such thing")]
    gate = lambda y: None if (y == 2).all() else "not two"
    goals = [faster("cpu", "peer", 2), faster("cpu", "cpu", 1)]
    race("right", rows, op="toy", inputs=(torch.ones(4),), gate=gate, goals=goals)

def bench_followed(follow):
    follow("run", op="toy", device="cpu", threads=1, params={}, axis="step", at=[1.0, 2.0],
           curves={"error": [0.5, 0.25]}, bounds={"error": 0.3})

def bench_wrong(race):
    rows = [Row("cpu", lambda x: 4 * x, ours=True)]
    race("wrong", rows, op="toy", inputs=(torch.ones(4),), gate=lambda y: "not four")
"""
TESTS = """
import pytest

@pytest.mark.parametrize("backend", ["reference", "cpu", "triton"])
def test_each(backend): pass

def test_all(): pass
"""


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "tests").mkdir()
    for name in ("conftest.py", "pyproject.toml", "benchmarks/conftest.py", "benchmarks/where.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "benchmarks" / "bench_toy.py").write_text(TOY)
    (tmp_path / "tests" / "test_toy.py").write_text(TESTS)
    return tmp_path


def _pytest(folder, *arguments):
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_benchmarks_run_when_they_are_asked_for(tree):
    done = _pytest(tree, "--benchmark")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed, 2 passed" in done.stdout
    assert "AssertionError: cpu: FAIL: not four" in done.stdout
    assert "right: missed: cpu against peer: times as fast (at least 2, was not measured)" in done.stdout
    assert "right: met: cpu against cpu: times as fast (at least 1, measured 1)" in done.stdout
    assert "run: missed: largest error (at most 0.3, measured 0.5)" in done.stdout
    (path,) = (tree / "benchmarks" / "results").glob("*/toy.json")
    assert [trace.curves for trace in load(path).traces] == [{"error": [0.5, 0.25]}]
    groups = {group.name: group for group in load(path).groups}
    assert [row.status for row in groups["right"].rows] == ["ok", "FAIL", "absent"]
    assert [row.status for row in groups["wrong"].rows] == ["FAIL"]


def test_results_go_where_they_are_sent(tree):
    done = _pytest(tree, "--benchmark", "--benchmark-results=elsewhere", "-k", "right")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [p.name for p in (tree / "elsewhere").glob("*/*")] == ["toy.json"]
    assert not (tree / "benchmarks" / "results").exists()


def test_tests_of_one_backend_can_be_chosen_and_benchmarks_are_not_among_them(tree):
    listed = _pytest(tree, "--collect-only", "tests", "benchmarks", "--backend", "cpu", "--backend=reference").stdout
    assert "bench_" not in listed
    assert [line.split("::")[1] for line in listed.splitlines() if "::" in line] == [
        "test_each[reference]",
        "test_each[cpu]",
        "test_all",
    ]
    assert "1 deselected" in listed
    refused = _pytest(tree, "--backend", "tpu")
    assert refused.returncode == 4
    assert "invalid choice: 'tpu'" in refused.stderr


def test_the_benchmarks_are_among_them():
    listed = _pytest(ROOT, "--benchmark", "--collect-only").stdout
    for name in ("forward_backward[100x64x512-float32-atan]", "forward[32x64x65536-bfloat16]", "call_overhead"):
        assert f"benchmarks/bench_lif.py::bench_{name}" in listed
    for name in ("eigh[vectors-256-8-float32]", "covariance[1500x2000-forward]", "regulariser_tax[784-2000-10]"):
        assert f"benchmarks/bench_spectrum.py::bench_{name}" in listed
