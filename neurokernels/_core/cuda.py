"""Whether the kernels of ``csrc/cuda`` can run a call, how they are loaded, and launched. Imports nothing of CuPy.

A source is one module: the fatbin that nvcc made of it when neurokernels was installed, or else the cubin that NVRTC
makes of it at first use, kept in the user's cache folder. A kernel takes one struct, filled with `ctypes` on this side.
"""

import ctypes
import hashlib
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from neurokernels._core.files import user_folder, write_whole
from neurokernels._core.triton import on_device

SHIPPED = Path(__file__).parents[1] / "_cuda"

#: What both compilers are told. A fused multiply-add is where the source says fma, and nowhere else: spikes and the
#: emulation are then the same bits.
OPTIONS = ("-std=c++17", "-fmad=false")

#: The first compute capability with asynchronous copies.
LEAST = (8, 0)

#: Beyond so many bytes of dynamic shared memory a kernel has to ask for them.
_FREE_SHARED = 48 << 10

Size = Sequence[int]


class Driver(Protocol):
    """What loads and launches kernels: CuPy on a GPU, and in tests an emulation on the CPU."""

    #: The type of device whose tensors it takes.
    device: str

    def refuses(self, x: Tensor) -> str | None:
        """Why it cannot run a kernel on a tensor of that type of device, or None."""

    def function(self, source: str, kernel: str, device: int) -> Any:
        """The kernel of a source, loaded on a device."""

    def launch(
        self, function: Any, grid: Size, block: Size, shared: int, like: Tensor, arguments: ctypes.Structure
    ) -> None:
        """Starts it on torch's current stream of the device of ``like``, with so many bytes of shared memory."""


class CupyDriver:
    """Kernels through the driver functions of CuPy, on torch's context and streams."""

    device = "cuda"

    def refuses(self, x: Tensor) -> str | None:
        """Whether CuPy is there, the GPU is new enough, and there is code for it or something to compile it with."""
        return _refused(x.get_device()) if _installed() else "cupy is not installed (pip install neurokernels[gpu])"

    def function(self, source: str, kernel: str, device: int) -> int:
        """The address of a kernel; its module stays loaded."""
        return _driver().moduleGetFunction(_module(source, device), kernel)

    def launch(
        self, function: int, grid: Size, block: Size, shared: int, like: Tensor, arguments: ctypes.Structure
    ) -> None:
        """One launch, within torch's device: a thread of the user's may not have its context yet."""
        _runtime().setDevice(like.get_device())
        _allow(function, shared)
        parameters = (ctypes.c_void_p * 1)(ctypes.addressof(arguments))
        stream = torch.cuda.current_stream(like.device).cuda_stream
        _driver().launchKernel(function, *grid, *block, shared, stream, ctypes.addressof(parameters), 0)


_driver_in_use: Driver = CupyDriver()


def use(driver: Driver) -> Driver:
    """Takes another driver from now on, and returns the one that was in use."""
    global _driver_in_use
    before, _driver_in_use = _driver_in_use, driver
    _function.cache_clear()
    return before


def refuses(x: Tensor) -> str | None:
    """Why no CUDA kernel can run on this tensor, or None. Imports nothing unless it is on a GPU."""
    if x.device.type != _driver_in_use.device:
        return f"it serves cuda tensors and this one is on {x.device.type}"
    return _driver_in_use.refuses(x)


@cache
def _function(source: str, kernel: str, device: int) -> Any:
    return _driver_in_use.function(source, kernel, device)


def launch(
    source: str, kernel: str, grid: Size, block: Size, arguments: ctypes.Structure, like: Tensor, shared: int = 0
) -> None:
    """Runs a kernel of ``csrc/cuda`` on a tensor's device and torch's current stream; nothing if the grid is empty.

    Args:
        source: The name of the source, without its suffix.
        kernel: The name of the kernel in it.
        grid: Blocks, three numbers.
        block: Threads of a block, three numbers.
        arguments: The struct that the kernel takes. See `pointer` for the tensors in it.
        like: A tensor on the device that runs it.
        shared: Bytes of dynamic shared memory of a block.
    """
    if 0 in grid:
        return
    with on_device(like):
        function = _function(source, kernel, like.get_device())
        _driver_in_use.launch(function, grid, block, shared, like, arguments)


def pointer(tensor: Tensor | None) -> int | None:
    """The address of a tensor's first element as a struct's pointer takes it; None for None and for no elements."""
    return None if tensor is None or tensor.numel() == 0 else tensor.data_ptr()


# CuPy. What it finds out once is remembered: a launch has to cost little. ---------------------------------------------


@cache
def _installed() -> bool:
    return find_spec("cupy") is not None


@cache
def _driver() -> Any:
    return import_module("cupy_backends.cuda.api.driver")


@cache
def _runtime() -> Any:
    return import_module("cupy_backends.cuda.api.runtime")


@cache
def _nvrtc() -> Any:
    return import_module("cupy_backends.cuda.libs.nvrtc")


@cache
def _refused(device: int) -> str | None:
    capability = torch.cuda.get_device_capability(device)
    if capability < LEAST:
        return f"its compute capability is {capability[0]}.{capability[1]}, and the kernels need {LEAST[0]}.{LEAST[1]}"
    try:
        _driver()
        if not any(SHIPPED.glob("*.fatbin")):
            _nvrtc().getVersion()
    except (ImportError, RuntimeError, OSError) as error:
        return f"cupy does not load, or finds no NVRTC to compile the kernels with: {error}"
    return None


_allowed: dict[int, int] = {}


def _allow(function: int, shared: int) -> None:
    """Lets a kernel have so much shared memory, and never less than it was let have before."""
    if shared > _allowed.get(function, _FREE_SHARED):
        driver = _driver()
        driver.funcSetAttribute(function, driver.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, shared)
        _allowed[function] = shared


@cache
def _module(source: str, device: int) -> int:
    """A loaded module; several threads may load it at once, to no harm."""
    binary = SHIPPED / f"{source}.fatbin"
    code = binary.read_bytes() if binary.exists() else compiled(source, torch.cuda.get_device_capability(device))
    _runtime().setDevice(device)
    return _driver().moduleLoadData(code)


def made_of(source: str, capability: tuple[int, int]) -> str:
    """A digest of all that NVRTC makes a cubin of: its own version, options, the source and all headers."""
    folder = SHIPPED / "csrc"
    seen = hashlib.sha256(repr((_nvrtc().getVersion(), OPTIONS, capability)).encode())
    for file in sorted([*folder.glob("*/*.h"), *folder.glob("*/*.cuh"), folder / "cuda" / f"{source}.cu"]):
        seen.update(file.read_bytes())
    return seen.hexdigest()[:32]


def compiled(source: str, capability: tuple[int, int]) -> bytes:
    """The cubin of a source for a compute capability, by NVRTC, or out of the user's cache folder.

    Raises:
        RuntimeError: It does not compile; the message has what NVRTC says.
    """
    nvrtc, folder = _nvrtc(), SHIPPED / "csrc"
    options = (*OPTIONS, f"-arch=sm_{capability[0]}{capability[1]}", f"-I{folder}")
    code = (folder / "cuda" / f"{source}.cu").read_text()
    path = user_folder() / "cuda" / f"{source}-{made_of(source, capability)}.cubin"
    if path.exists():
        return path.read_bytes()
    program = nvrtc.createProgram(code, f"{source}.cu", (), ())
    try:
        nvrtc.compileProgram(program, options)
        cubin: bytes = (
            nvrtc.getCUBIN(program) + b"\0"
        )  # CuPy 14 drops the last byte, which tools miss; one more is no harm
    except nvrtc.NVRTCError as error:
        raise RuntimeError(f"NVRTC does not compile {source}.cu ({error}): {nvrtc.getProgramLog(program)}") from None
    finally:
        nvrtc.destroyProgram(program)
    with suppress(OSError):  # a cache that cannot be written costs time only
        write_whole({path: cubin})
    return cubin
