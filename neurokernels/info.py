"""What is installed, what it was built with, and what runs here: ``python -m neurokernels.info``."""

import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

import torch

from neurokernels._core import backends, native
from neurokernels._version import __version__

# CuPy has one distribution per CUDA version.
_OPTIONAL = {"numpy": ["numpy"], "triton": ["triton"], "cupy": ["cupy-cuda12x", "cupy-cuda13x", "cupy-cuda11x", "cupy"]}


def _version(names: Iterable[str]) -> str:
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            pass
    return "absent"


def _core() -> str:
    if not native.available():
        return f"absent: {native.reason()}"
    core = native.core()
    team = f"OpenMP, {native.threads()} thread{'s' * (native.threads() > 1)}" if core.has_openmp else "no OpenMP"
    return f"{core.compiler}, {core.isa}, {team}"


def _gpus() -> str:
    found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return "; ".join(f"{g.name} (sm_{g.major}{g.minor}, {g.total_memory / 2**30:.0f} GiB)" for g in found) or "none"


def _table() -> list[str]:
    lines = []
    for op, reasons in backends.table().items():
        lines.append(op)
        lines += [f"  {name:<10} {'runs' if why is None else f'absent: {why}'}" for name, why in reasons.items()]
    return lines


def describe() -> str:
    """Versions, compiler, instruction set, threads, GPUs and the op x backend table, as text of a few lines.

    Optional packages are looked up in their metadata and not imported.
    """
    packages = ", ".join(f"{name} {_version(names)}" for name, names in _OPTIONAL.items())
    rows = {
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "packages": f"torch {torch.__version__}, {packages}",
        "cpu core": _core(),
        "cuda code": f"absent: {why}" if (why := native.build_reason("cuda")) else "compiled at installation",
        "GPUs": _gpus(),
        "backend": backends.requested(),
        "settings": ", ".join(f"{k}={v}" for k, v in sorted(os.environ.items()) if k.startswith("NEUROKERNELS_"))
        or "no NEUROKERNELS_ variable is set",
    }
    return "\n".join([f"neurokernels {__version__}", *(f"  {k:<10} {v}" for k, v in rows.items()), *_table()])


def show_config() -> None:
    """Print `describe`: the first thing to look at, and to paste into a report, when a backend does not run."""
    print(describe())


if __name__ == "__main__":
    show_config()
