"""CUDA kernels on the CPU: csrc/cuda compiled by a C++ compiler with ``emulated.h``, behind the driver's interface.

Once `install` was called, and within `switched_on`, the backend ``cuda`` serves CPU tensors, as ``triton`` does under
its interpreter.
"""

import ctypes
import fcntl
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from neurokernels._core import cuda

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
BUILT = ROOT / "build" / "emulator"
INCLUDED = ROOT / "csrc"
FLAGS = (
    "-std=c++17", "-O2", "-g1", "-fPIC", "-shared", "-ffp-contract=off", "-fno-strict-aliasing", "-DNK_EMULATED",
    "-Wall", "-Wextra", "-Wno-unknown-pragmas", f"-I{HERE}",
)  # fmt: skip
CPU = Path("/proc/cpuinfo")
if CPU.exists() and " fma " in CPU.read_text():
    FLAGS = (*FLAGS, "-mfma")  # a fused multiply-add is then an instruction, and still only where the source says fma
ORDERS = ("forward", "reverse", "random")


@cache
def library(source: Path) -> ctypes.CDLL:
    """A source, compiled unless nothing has changed since; one process compiles, the others wait."""
    BUILT.mkdir(parents=True, exist_ok=True)
    made = BUILT / f"{source.stem}.so"
    headers = [*INCLUDED.glob("common/*.h"), *INCLUDED.glob("cuda/*.cuh"), HERE / "emulated.h"]
    with open(BUILT / f"{source.stem}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        newest = max(file.stat().st_mtime_ns for file in [source, *headers])
        if not made.exists() or made.stat().st_mtime_ns < newest:
            fresh = made.with_suffix(f".{os.getpid()}")
            command = [
                os.environ.get("CXX") or "g++",
                *FLAGS,
                f"-I{INCLUDED}",
                "-x",
                "c++",
                str(source),
                "-o",
                str(fresh),
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            os.replace(fresh, made)
    loaded = ctypes.CDLL(str(made))
    loaded.nk_emulate.restype = ctypes.c_char_p
    return loaded


class Trouble(AssertionError):
    """A kernel did what CUDA leaves undefined."""


class EmulatedDriver:
    """See `neurokernels._core.cuda.Driver`. Threads take turns in an order, and at random ones with a seed."""

    device = "cpu"

    def __init__(self, order: str = "forward", seed: int = 0, folder: Path = ROOT / "csrc" / "cuda") -> None:
        self.order, self.seed, self.folder = ORDERS.index(order), seed, folder
        self.launched: list[str] = []
        self._one_at_a_time = threading.Lock()

    def refuses(self, x: Tensor) -> str | None:
        return None

    def function(self, source: str, kernel: str, device: int) -> Any:
        return library(self.folder / f"{source}.cu"), kernel

    def launch(self, function, grid, block, shared, like, arguments) -> None:
        loaded, kernel = function
        size = ctypes.c_uint.in_dll(loaded, f"{kernel}_size").value
        most = ctypes.c_uint.in_dll(loaded, f"{kernel}_threads").value
        threads = block[0] * block[1] * block[2]
        if ctypes.sizeof(arguments) != size:
            raise Trouble(f"{kernel} takes a struct of {size} bytes and was given {ctypes.sizeof(arguments)}")
        if not 0 < threads <= most or shared > 227 << 10 or max(grid[1:]) > 65535 or grid[0] >= 1 << 31:
            raise Trouble(f"{kernel} cannot be launched: {grid=}, {block=} (at most {most} threads), {shared=}")
        with self._one_at_a_time:
            self.launched.append(kernel)
            three = ctypes.c_uint * 3
            said = loaded.nk_emulate(
                getattr(loaded, kernel), ctypes.byref(arguments), three(*grid), three(*block), ctypes.c_uint(shared),
                self.order, ctypes.c_uint(self.seed),
            )  # fmt: skip
        if said:
            raise Trouble(f"{kernel}: {said.decode()}")


def install() -> None:
    """Without a GPU, the backend ``cuda`` serves CPU tensors in this process."""
    cuda.use(EmulatedDriver())


@contextmanager
def switched_on(driver: EmulatedDriver) -> Iterator[EmulatedDriver]:
    """CUDA kernels run on this driver within the block."""
    before = cuda.use(driver)
    try:
        yield driver
    finally:
        cuda.use(before)
