"""`common/multiversion.h` and `common/parallel.h`, compiled as the core is and called from a fresh process."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from neurokernels._core import native

ROOT = Path(__file__).parents[2]
CXX = os.environ.get("CXX") or "g++"
GCC = "clang" not in subprocess.run([CXX, "--version"], capture_output=True, text=True).stdout

PRELUDE = """
import ctypes, os, sys
import torch
torch.set_num_threads(2)
torch.ones(1 << 20).add_(1)  # torch's threads are there now
library = ctypes.CDLL(sys.argv[1])
def tasks(): return len(os.listdir("/proc/self/task"))
def cover(size, grain, threads):
    counts = (ctypes.c_int * max(size, 1))()
    pieces = library.cover(counts, ctypes.c_int64(size), ctypes.c_int64(grain), threads)
    return pieces, list(counts)[:size]
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    built = tmp_path_factory.mktemp("headers") / "headers.so"
    flags = ("-O3", "-std=c++17", "-fPIC", "-shared", "-fopenmp", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror")
    subprocess.run([CXX, *flags, "-I", ROOT / "csrc", ROOT / "tests/packaging/headers.cpp", "-o", built], check=True)
    return built


def runs(library: Path, code: str) -> list[str]:
    words = [sys.executable, "-c", PRELUDE + code, str(library)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_every_task_runs_once_whatever_the_partition(library):
    code = """
for size in (0, 1, 2, 3, 63, 64, 1000):
    for grain in (0, 1, 7, 64, 5000):
        for threads in (1, 2, 3, 8):
            pieces, counts = cover(size, grain, threads)
            assert counts == [1] * size, (size, grain, threads, counts)
            assert pieces == min(threads, max(size // max(grain, 1), 1), size), (size, grain, threads, pieces)
print("done")
"""
    assert runs(library, code) == ["done"]


def test_an_exception_leaves_the_parallel_region(library):
    assert runs(library, "print(library.throws(1), library.throws(2), library.throws(4))") == ["1"] * 3


def test_a_region_inside_a_region_stays_on_its_thread(library):
    assert runs(library, "print(library.nested())") == ["1"]


@pytest.mark.skipif(
    not Path("/proc/self/task").exists(), reason="NO /proc HERE: that one pool is shared was NOT tested"
)
def test_torch_and_the_core_share_one_pool_of_threads(library):
    code = """
before = tasks()
assert cover(1000, 1, 2)[0] == 2
torch.ones(1 << 20).add_(1)
print(tasks() - before)
print(len({line.split()[-1] for line in open("/proc/self/maps") if "libgomp" in line or "libomp" in line}))
"""
    assert runs(library, code) == ["0", "1"]


def test_one_thread_enters_no_openmp_so_a_forked_child_may_run_it(library):
    code = """
assert cover(1000, 1, 2)[0] == 2
from neurokernels._core import native
print(native.threads(), flush=True)
if os.fork() == 0:
    print(native.threads(), cover(1000, 1, native.threads())[0], flush=True)
    os._exit(0)
os.wait()
"""
    assert runs(library, code) == ["2", "1", "1"]


@pytest.mark.skipif(
    not (GCC and platform.machine() == "x86_64" and platform.libc_ver()[0] == "glibc" and shutil.which("nm")),
    reason="NOT GCC ON x86-64 LINUX: that kernels are compiled for three instruction sets was NOT tested",
)
def test_a_template_instance_is_compiled_for_three_instruction_sets(library):
    symbols = subprocess.run(["nm", "-C", library], capture_output=True, text=True, check=True).stdout
    for clone in ("default", "arch_x86_64_v3", "arch_x86_64_v4"):
        assert f"scale<float>(float*, long) [clone .{clone}]" in symbols
    code = "v = (ctypes.c_float * 9)(*range(9)); library.halve(v, ctypes.c_int64(9)); print(*v)"
    assert runs(library, code) == [str(i / 2) for i in range(9)]
    flags = Path("/proc/cpuinfo").read_text()
    assert native.isa() == next(
        (isa for isa, flag in (("x86-64-v4", " avx512vl "), ("x86-64-v3", " avx2 ")) if flag in flags), "default"
    )
