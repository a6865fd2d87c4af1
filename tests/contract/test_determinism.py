"""The same numbers every time, with any number of threads, in every thread, and in a forked process."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import neurokernels as nk
from neurokernels._core import backends
from tests.contract.harness import close, evaluate, run, same

THIN = True  # threads are those of our core
ROOT = Path(__file__).parents[2]
BLAS = 512  # units in the last place


def big(op, sample, backend):
    """Enough for more than one thread; an interpreter has one anyway, and little time."""
    shape = sample.shape if backend in ("triton", "cuda") else op.large
    return sample.tensors(torch.float32, shape=shape[::-1] if sample.options.get("time_dim") == -1 else shape)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_threads_and_repeats(op, sample, backend, threads):
    """Three threads, of which one may get less, for our core alone: the others' threads are torch's, or none."""
    tensors = big(op, sample, backend)
    threads(1)
    expected = run(op, sample, backend, tensors)
    for count in (2, 3, 1) if backend == op.usual else (2, 1):
        threads(count)
        got = run(op, sample, backend, tensors)
        # torch's own products may add in another order on other threads: some BLAS do. Ours do not.
        close(got, expected, ulps=BLAS) if op.leans else same(got, expected)
        if count > 1:
            same(run(op, sample, backend, tensors), got)
    same(got, expected)


def test_two_python_threads(op, threads):
    """Each with a backend of its own, at the same time; `backend` is a matter of one thread."""
    threads(2)
    sample, rounds = op.samples[1], 6
    names = [b for b in op.backends if b not in op.slow]  # an interpreter patches a module while it runs: one at a time
    tensors = {b: big(op, sample, b) for b in names}
    expected = {b: run(op, sample, b, tensors[b]) for b in names}
    barrier, errors = threading.Barrier(len(names)), []

    def work(name):
        try:
            with nk.backend(name):
                for _ in range(rounds):
                    barrier.wait(60)
                    same(evaluate(op.call, tensors[name], **sample.options), expected[name])
        except BaseException as error:
            barrier.abort()
            errors.append(error)

    with backends.record() as ran:
        workers = [threading.Thread(target=work, args=(name,)) for name in names]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(120)
    assert errors == []
    assert sorted(ran) == sorted([(op.name, name) for name in names] * ((1 + op.backward_kernels) * rounds))


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_fork(backend):
    """A child forked from a process that has used threads runs every op; an OpenMP region there would hang.

    On backends of the CPU: no context of CUDA outlives a fork, and what stands for a GPU here has no threads.
    """
    done = subprocess.run(
        [sys.executable, "-m", "tests.contract.forked", backend], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["child", "parent"]
