"""What a benchmark ran on: hardware from public sources, versions, the commit. Never a host name."""

import os
import platform
import re
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import torch

from neurokernels._version import __version__
from neurokernels.bench.results import Machine, Stamp

# What sets one CPU apart from another for kernels, by the flags of /proc/cpuinfo; of one family the widest counts.
_FAMILIES = (
    {"avx512f": "avx512", "avx2": "avx2", "sve": "sve", "asimd": "neon"},
    {"amx_tile": "amx"},
)

# Environment variables that make a difference: ours, and torch's switch for huge pages.
# What changes times; not where data lie, which is nobody's business.
_SETTINGS = ("NEUROKERNELS_BACKEND", "NEUROKERNELS_NATIVE", "THP_MEM_ALLOC_ENABLE")


def describe() -> Machine:
    """The machine this process runs on."""
    cpu, flags = _cpu()
    isa = [next(family[f] for f in family if f in flags) for family in _FAMILIES if flags & family.keys()]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return Machine(
        slug=slug(cpu, cores, isa, gpu),
        cpu=cpu,
        isa=isa,
        cores=cores,
        ram_gib=round(psutil.virtual_memory().total / 2**30, 1),
        gpu=gpu,
        system=f"{platform.system()} {platform.machine()}",
    )


def slug(cpu: str, cores: int, isa: Iterable[str], gpu: str | None = None) -> str:
    """A folder name for a machine, the same whenever the hardware is the same: ``intel-xeon-2c-avx512-amx``."""
    cpu = re.sub(r"\((r|tm)\)|@.*|\b\d+-core\b|\bcpu\b|\bprocessor\b", " ", cpu.lower())
    words = f"{gpu or ''} {cpu} {cores}c {' '.join(isa)}".lower()
    return re.sub(r"[^a-z0-9]+", "-", words).strip("-")


def stamp(packages: Iterable[str] = ()) -> Stamp:
    """Now, the commit, and the versions of what benchmarks depend on and of further packages that are installed."""
    versions = {"python": platform.python_version(), "neurokernels": __version__, "torch": torch.__version__}
    for package in ("numpy", "triton", *packages):
        found = version_of(package)
        if found:
            versions[package] = found
    settings = {name: os.environ[name] for name in sorted(os.environ) if name.startswith(_SETTINGS)}
    return Stamp(datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), commit(), versions, settings)


def version_of(package: str) -> str | None:
    """The installed version of a package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def commit(folder: Path = Path(__file__).parent) -> str:
    """The commit of the source tree, with a plus sign where files differ from it; ``unknown`` outside of git."""
    head = _git(folder, "rev-parse", "--short", "HEAD")
    return f"{head}{'+' if _git(folder, 'status', '--porcelain') else ''}" if head else "unknown"


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _cpu() -> tuple[str, set[str]]:
    """The CPU's name and flags; the name alone where there is no /proc/cpuinfo."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine(), set()
    found: dict[str, str] = dict(re.findall(r"^(model name|flags|Features)\s*:\s*(.*)$", text, re.MULTILINE))
    flags = set((found.get("flags") or found.get("Features") or "").split())
    return found.get("model name") or platform.processor() or platform.machine(), flags
