"""Runs every CUDA kernel of a part, forward and backward, on small shapes in all dtypes: what a sanitizer watches.

    compute-sanitizer --tool memcheck python tools/proof/kernels.py lif

Says which kernels ran, and whether the sources have others. Results are checked by `tests/gpu`, not here.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

if "--rehearse" in sys.argv:
    os.environ.setdefault("TRITON_INTERPRET", "1")

import torch

import neurokernels as nk
from neurokernels._core import cuda


@contextmanager
def watched() -> Iterator[set[tuple[str, str]]]:
    """The sources and names of the kernels that are launched within the block."""
    launched, launch = set(), cuda.launch

    def noted(source: str, kernel: str, *rest: object, **options: object) -> None:
        launched.add((source, kernel))
        launch(source, kernel, *rest, **options)  # type: ignore[arg-type]

    cuda.launch = noted  # type: ignore[assignment]
    try:
        yield launched
    finally:
        cuda.launch = launch


def samples(part: str, rehearse: bool) -> None:
    """The samples of the contract in every dtype, and one of them in widths around those of warps and tiles."""
    from tests.gpu.cases import cases

    for case in cases():
        if case.part != part or case.backend != "cuda":
            continue
        for dtype in case.op.dtypes[: 1 if rehearse else None]:
            case.run(case.tensors(dtype))
        if case.sample is case.op.samples[1]:
            for width in case.op.odd[: 1 if rehearse else None]:
                shape = (3, 2, width)
                if case.sample.takes(shape):
                    case.run(case.sample.tensors(torch.float32, shape=shape))


def residuals(rehearse: bool) -> None:
    """LIF with everything that it can keep for the backward pass, in tiles and lane by lane."""
    from tests.gpu.test_exchange_gpu import DTYPES, OPTIONS, there
    from tests.ops.agreement import made, on

    for options in OPTIONS.values():
        for dtype in DTYPES[: 1 if rehearse else None]:
            for neurons in ((8,),) if rehearse else ((64,), (33,), (3, 40)):
                on("cuda", there(made(20 if rehearse else 40, *neurons, dtype=dtype, **options)))


def mazes(rehearse: bool) -> None:
    """Rollouts in both modes by networks of each size of kernel, and children."""
    from neurokernels._core import tuned
    from tests.gpu.cases import DEVICE

    sizes = (3,) if rehearse else (3, 8, 9, 20, 32, 33, 64, (5, 3))
    with nk.backend("cuda"):
        for hidden in sizes:
            agents = nk.evolution.Population.random(3, hidden=hidden, density=0.6, gain=3.0, seed=7).to(DEVICE)
            made = nk.evolution.mazes(5 if rehearse else 40, size=3).to(DEVICE)
            for few, cost in ((0, 0), (0, 10**6), (10**6, 0)):
                config = {"backend": "cuda", "few": few, "list_cost": cost}
                with tuned.forced("maze_rollout", config):
                    for mode in ("exact", "float"):
                        nk.maze_rollout(agents, made, steps=5, mode=mode, keep_state=True)
            nk.evolution.evolve(agents, made, generations=1, steps=3, severance=0.1)


def written(source: str) -> set[str]:
    """The kernels in the fatbin of a source, if it was built and there is a tool that lists them."""
    try:
        import sass

        text = sass.dumped(cuda.SHIPPED / f"{source}.fatbin", "--dump-resource-usage")
    except (ImportError, OSError, subprocess.SubprocessError):
        return set()
    return set(re.findall(r"Function (\w+):", text))


def main(part: str, rehearse: bool) -> None:
    """Runs the kernels of a part."""
    if rehearse:
        from tests import emulator

        emulator.install()
    with watched() as launched:
        samples(part, rehearse)
        if part == "lif":
            residuals(rehearse)
        if part == "evolution":
            mazes(rehearse)
        if not rehearse:
            torch.cuda.synchronize()
    if not launched:
        sys.exit(f"{part}: no CUDA kernel ran")
    print(f"{part}: {len(launched)} CUDA kernels ran: {', '.join(sorted(name for _, name in launched))}")
    for source in sorted({source for source, _ in launched}):
        idle = written(source) - {name for _, name in launched}
        if idle:
            print(f"{part}: {source}.cu has {len(idle)} more: {', '.join(sorted(idle))}")


if __name__ == "__main__":
    main(sys.argv[-1], "--rehearse" in sys.argv)
