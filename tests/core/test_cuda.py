"""The route of CUDA kernels: emulated launches that see mistakes, NVRTC, the cache, and what refuses a call."""

import ctypes
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from neurokernels._core import cuda
from tests import emulator
from tests.emulator import EmulatedDriver, Trouble, switched_on

FOLDER = Path(emulator.__file__).parent
ROOT = Path(__file__).parents[2]


class Vector(ctypes.Structure):
    _fields_ = (("x", ctypes.c_void_p), ("y", ctypes.c_void_p), ("n", ctypes.c_int), ("mistake", ctypes.c_int))


class Short(ctypes.Structure):
    _fields_ = (("n", ctypes.c_int),)


def run(kernel, x, y, blocks, threads, shared=0, mistake=0, order="forward", seed=0):
    driver = EmulatedDriver(order, seed, FOLDER)
    arguments = Vector(cuda.pointer(x), cuda.pointer(y), x.numel(), mistake)
    with switched_on(driver):
        cuda.launch("probe", kernel, (blocks, 1, 1), (threads, 1, 1), arguments, x, shared)
    assert driver.launched == [kernel]
    return y


@pytest.mark.parametrize("order", emulator.ORDERS)
class TestEmulator:
    def test_warps_and_barriers(self, order):
        x = torch.randn(700, dtype=torch.float64).float()
        y = run("block_sums", x, torch.empty(3), 3, 256, shared=32, order=order)
        torch.testing.assert_close(y, torch.stack([part.sum() for part in x.split(256)]))

    def test_a_missing_barrier_is_seen(self, order):
        x = torch.ones(256)
        y = run("block_sums", x, torch.empty(1), 1, 256, shared=32, mistake=2, order=order)
        assert order == "reverse" or y.item() != 256  # in reverse the first warp happens to come last

    @pytest.mark.parametrize("n", [128, 256, 512, 128 * 7])
    def test_asynchronous_copies(self, order, n):
        x = torch.randn(n)
        assert torch.equal(run("staged", x, torch.empty(n), 1, 32, shared=1536, order=order), 2 * x)

    def test_a_missing_wait_is_seen(self, order):
        x = torch.randn(512)
        assert run("staged", x, torch.empty(512), 1, 32, shared=1536, mistake=1, order=order)[:128].isnan().all()

    def test_counting_barrier(self, order):
        y = run("divergent", torch.empty(1), torch.empty(64), 1, 64, order=order)
        assert torch.equal(y, torch.full((64,), 22.0))


@pytest.mark.parametrize(
    ("kernel", "mistake", "words"),
    [
        ("divergent", 1, "wait for each other for ever"),
        ("divergent", 2, "wait for each other for ever"),
        ("divergent", 3, "lanes of a warp name the masks ffffffff and fffffffe"),
        ("block_sums", 1, "shared memory is overrun by a byte at 8 of 8"),
    ],
)
def test_undefined_behaviour_is_an_error(kernel, mistake, words):
    with pytest.raises(Trouble, match=words):
        run(kernel, torch.ones(64), torch.empty(64), 1, 64, shared=8, mistake=mistake)


def test_launches_that_a_gpu_refuses():
    with pytest.raises(Trouble, match="at most 32 threads"):
        run("staged", torch.ones(128), torch.empty(128), 1, 64)
    with (
        switched_on(EmulatedDriver(folder=FOLDER)),
        pytest.raises(Trouble, match="a struct of 24 bytes and was given 4"),
    ):
        cuda.launch("probe", "staged", (1, 1, 1), (32, 1, 1), Short(), torch.ones(1))


def test_an_empty_grid_launches_nothing():
    with switched_on(driver := EmulatedDriver(folder=FOLDER)):
        cuda.launch("probe", "staged", (0, 1, 1), (32, 1, 1), Vector(), torch.ones(1))
    assert not driver.launched


# Without an emulation ------------------------------------------------------------------------------------------------


def test_cpu_tensors_are_refused_and_nothing_is_imported():
    modules, before = set(sys.modules), cuda.use(cuda.CupyDriver())
    try:
        assert cuda.refuses(torch.ones(1)) == "it serves cuda tensors and this one is on cpu"
    finally:
        cuda.use(before)
    assert not {name for name in set(sys.modules) - modules if "cupy" in name}


def test_what_a_gpu_needs(monkeypatch):
    def refused(capability=(9, 0), installed=True, error=None):
        def load():
            if error:
                raise error
            return SimpleNamespace(getVersion=lambda: (13, 0))

        cuda._refused.cache_clear()
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(cuda, "_installed", lambda: installed)
        monkeypatch.setattr(cuda, "_driver", load)
        monkeypatch.setattr(cuda, "_nvrtc", load)
        return cuda.CupyDriver().refuses(torch.ones(1))

    assert refused() is None
    assert refused((8, 0)) is None
    assert "compute capability is 7.5, and the kernels need 8.0" in refused((7, 5))
    assert "pip install neurokernels[gpu]" in refused(installed=False)
    assert "no libcuda" in refused(error=RuntimeError("no libcuda"))
    cuda._refused.cache_clear()


@pytest.fixture
def compiler(monkeypatch, tmp_path):
    """A stand-in for NVRTC that counts, and a cache folder of its own."""
    log = []

    class Error(RuntimeError):
        pass

    def compile_(program, options):
        log.append(options)
        if "nonsense" in program:
            raise Error("NVRTC_ERROR_COMPILATION")

    fake = SimpleNamespace(
        getVersion=lambda: (13, 0), createProgram=lambda code, name, *_: code, compileProgram=compile_,
        getCUBIN=lambda program: b"\x7fELF", getProgramLog=lambda program: "what is nonsense?",
        destroyProgram=lambda program: None, NVRTCError=Error,
    )  # fmt: skip
    monkeypatch.setattr(cuda, "_nvrtc", lambda: fake)
    monkeypatch.setattr(cuda, "SHIPPED", tmp_path / "_cuda")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "_cuda/csrc/cuda").mkdir(parents=True)
    (tmp_path / "_cuda/csrc/cuda/one.cu").write_text("right")
    return log, tmp_path


def test_both_compilers_are_told_the_same():
    """setup.py is read before anything of the package can be."""
    (flags,) = re.findall(r"-fatbin -O3 (.*) {GENCODE}", (ROOT / "setup.py").read_text())
    assert tuple(flags.split()) == cuda.OPTIONS


def test_compiled_once_and_kept(compiler):
    log, folder = compiler
    assert cuda.compiled("one", (9, 0)) == cuda.compiled("one", (9, 0)) == b"\x7fELF\0"
    assert log == [("-std=c++17", "-fmad=false", "-arch=sm_90", f"-I{folder / '_cuda/csrc'}")]
    cuda.compiled("one", (8, 6))
    (folder / "_cuda/csrc/cuda/shared.cuh").write_text("a header that it may include")
    cuda.compiled("one", (9, 0))
    assert len(log) == 3


def test_what_does_not_compile_is_said(compiler):
    _, folder = compiler
    (folder / "_cuda/csrc/cuda/one.cu").write_text("nonsense")
    with pytest.raises(RuntimeError, match=r"does not compile one.cu .*what is nonsense\?"):
        cuda.compiled("one", (9, 0))
    assert not list((folder / "cache").rglob("*.cubin"))


def test_a_cache_that_cannot_be_written(compiler):
    log, folder = compiler
    (folder / "cache").write_text("a file")
    assert cuda.compiled("one", (9, 0)) == cuda.compiled("one", (9, 0)) == b"\x7fELF\0"
    assert len(log) == 2


THROUGH_CUPY = """
import sys
from types import SimpleNamespace
import torch
from neurokernels._core import cuda
from tests.core.test_cuda import Vector

cuda._runtime = lambda: SimpleNamespace(setDevice=lambda device: print("device", device))
torch.cuda.current_stream = lambda device: SimpleNamespace(cuda_stream=77)
torch.cuda.get_device_capability = lambda device: (9, 0)
cuda.compiled = lambda source, capability: b"\\x7fELF of " + source.encode()
driver = cuda.CupyDriver()
assert cuda.use(driver) is not driver
x, y = torch.arange(256.0), torch.empty(256)
function = driver.function("staged", "staged", 0)
for shared in (50000, 60000, 2000, 50000, 60000):
    driver.launch(function, (1, 1, 1), (32, 1, 1), shared, x, Vector(cuda.pointer(x), cuda.pointer(y), 256, 0))
assert torch.equal(y, 2 * x)
try:
    driver.function("staged", "missing", 0)
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="CuPy looks for libcuda.so.1 on Linux")
def test_what_cupy_hands_to_the_driver(tmp_path):
    """CuPy itself, over a driver that is a fake: what arrives there, and that the kernel then does its work."""
    made = tmp_path / "libcuda.so.1"
    source = Path(__file__).with_name("fake_driver.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-Wall", "-Werror", "-o", made, source, "-ldl"], check=True)
    emulator.library(FOLDER / "probe.cu")
    environment = os.environ | {
        "LD_LIBRARY_PATH": str(tmp_path), "FAKE_LIBRARY": str(emulator.BUILT / "probe.so"), "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    run = [sys.executable, "-c", THROUGH_CUPY]
    done = subprocess.run(run, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    launches = [f"launch 1 1 1, 32 1 1, {shared}, stream 77, extra 0" for shared in (50000, 60000, 2000, 50000, 60000)]
    said = sorted(line for line in done.stdout.splitlines() if not line.startswith("device"))
    assert said == sorted(
        [*launches, "load ELF ", "function staged", "attribute 8 50000", "attribute 8 60000"]
        + ["function missing", "CUDADriverError FAKE_ERROR: of the fake driver"]
    )
    assert done.stdout.count("device 0") == 1
