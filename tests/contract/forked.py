"""``python -m tests.contract.forked BACKEND``: every op in a process with threads, in a forked child, and again."""

import os
import signal
import sys
from typing import Any

import numpy as np
import torch

from tests.contract.entries import OPS
from tests.contract.harness import cotangents, forced, leaves


def main(backend: str) -> None:
    torch.set_num_threads(2)
    cases: list[Any] = []
    for op in OPS:
        for sample in op.samples[:3] if backend == op.usual else op.samples[1:2]:
            # Threads for a kernel, which sees time and neurons; none for what torch does with the neurons alone.
            shape = op.large if op.mixes else (op.large[0], 16, 1024)
            given = leaves(sample.tensors(torch.float32, shape=shape))
            directions = cotangents(op.call(**given, **sample.options))
            cases.append((op, sample, given, directions))

    def results(alone: bool = False) -> list[tuple[bool, np.ndarray]]:
        """Of every case, those last that are left to one thread of torch's if this process has not got the others."""
        found = []
        for op, sample, given, directions in sorted(cases, key=lambda case: case[0].leans):
            if alone and (backend != "cpu" or op.leans):
                torch.set_num_threads(1)  # our core has to know by itself, torch cannot
            with forced(op, backend, backward=1):
                outputs = op.call(**given, **sample.options)
                gradients = torch.autograd.grad(outputs, list(given.values()), directions)
            found += [(op.leans, t.detach().numpy()) for t in (*outputs, *gradients)]
        return found

    expected = results()

    def again(who: str) -> None:
        for (leans, a), (_, b) in zip(results(alone=who == "child"), expected, strict=True):
            if leans and who == "child":  # on another number of torch's threads: see test_determinism.py
                np.testing.assert_allclose(a, b, rtol=0, atol=512 * np.finfo(a.dtype).eps * np.abs(b).max(initial=0))
            else:
                np.testing.assert_array_equal(a, b)
        print(who, flush=True)

    child = os.fork()
    if child == 0:
        signal.alarm(120)  # a child that hangs is ended, and its status says so
        again("child")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status == 0, f"the child ended with status {status}"
    again("parent")


if __name__ == "__main__":
    main(sys.argv[1])
