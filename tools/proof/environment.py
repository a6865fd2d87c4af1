"""The environment report: versions, tools, the GPU as torch and the driver see it, and which routes to it work."""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = (
    "torch", "triton", "cupy-cuda13x", "numpy", "scipy", "pytest", "hypothesis", "ninja", "pybind11", "matplotlib",
    "rich", "psutil", "spikingjelly", "snntorch",
)  # fmt: skip
TOOLS = {"nvcc": "--version", "compute-sanitizer": "--version", "cuobjdump": "--version", "g++": "--version"}
PEERS = ("spikingjelly.activation_based.functional", "snntorch")
SMI = (
    "name,driver_version,vbios_version,memory.total,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,power.limit,"
    "ecc.mode.current,mig.mode.current,temperature.gpu"
)


def _said(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{type(error).__name__}: {error}"
    return (done.stdout.strip() or done.stderr.strip()).strip()


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _gpus() -> list[dict[str, Any]]:
    found = []
    for i in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(i)
        names = ("name", "major", "minor", "total_memory", "multi_processor_count", "L2_cache_size")
        names += ("shared_memory_per_block_optin", "regs_per_multiprocessor", "max_threads_per_multi_processor")
        found.append({name: getattr(gpu, name, None) for name in names})
    return found


def lif_runs(backend: str, device: str) -> str:
    """One LIF layer on a backend, against the definition: whether that route to the GPU works at all."""
    import neurokernels as nk

    x = torch.randn(20, 300, generator=torch.Generator().manual_seed(0)).to(device)
    with nk.backend(backend):
        found = nk.lif(x, decay=0.9).spikes
    with nk.backend("reference"):
        expected = nk.lif(x, decay=0.9).spikes
    if not torch.equal(found, expected):
        raise AssertionError(f"spikes of {backend} differ from the definition")
    return "runs"


def _tried(call: Callable[[], Any]) -> dict[str, Any]:
    try:
        return {"ok": True, "said": call()}
    except Exception as error:  # whatever it is, the others are still of interest
        return {"ok": False, "said": f"{type(error).__name__}: {str(error)[:500]}"}


def _selected() -> str:
    """Which implementation SpikingJelly takes on this GPU: its Triton kernels, if it is to be a fair race."""
    package = import_module("spikingjelly._ops.lif")
    return str(package._selection._select(torch.cuda.current_device()).name)


def report(rehearse: bool) -> dict[str, Any]:
    """Everything, with ``ok`` false for what does not work."""
    from neurokernels import info
    from neurokernels.bench import machine

    device = "cpu" if rehearse else "cuda"
    if rehearse:
        from tests import emulator

        emulator.install()
    routes = {name: _tried(lambda name=name: lif_runs(name, device)) for name in ("triton", "cuda")}
    peers = {name: _tried(lambda name=name: import_module(name) and "imports") for name in PEERS}
    if peers[PEERS[0]]["ok"] and not rehearse:
        peers["spikingjelly takes"] = _tried(_selected)
    return {
        "machine": machine.describe().__dict__,
        "stamp": machine.stamp().__dict__,
        "python": platform.python_version(),
        "torch": {"cuda": torch.version.cuda, "arches": torch.cuda.get_arch_list() if not rehearse else []},
        "packages": {name: _installed(name) for name in PACKAGES},
        "tools": {
            name: (_said(name, flag).splitlines() or [""])[-1] if shutil.which(name) else None
            for name, flag in TOOLS.items()
        },
        "gpus": _gpus(),
        "driver": _said("nvidia-smi", f"--query-gpu={SMI}", "--format=csv") if shutil.which("nvidia-smi") else None,
        "cores": os.cpu_count(),
        "routes": routes,
        "peers": peers,
        "neurokernels": info.describe().splitlines(),
    }


def main(path: Path, rehearse: bool) -> None:
    """Writes and prints the report; exits with 1 where a backend that can be had does not work."""
    found = report(rehearse)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1, default=str) + "\n")
    print(json.dumps(found, indent=1, default=str))
    broken = {name: route["said"] for name, route in found["routes"].items() if not route["ok"]}
    if broken:
        sys.exit("; ".join(f"{name} does not run: {said}" for name, said in broken.items()))


if __name__ == "__main__":
    if "--rehearse" in sys.argv:
        os.environ.setdefault("TRITON_INTERPRET", "1")
    main(Path(sys.argv[-1]), "--rehearse" in sys.argv)
