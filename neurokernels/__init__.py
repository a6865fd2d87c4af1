"""Fused kernels for neural networks with ideas from neuroscience. Every public name is loaded when it is first used."""

from importlib import import_module
from typing import Any

from neurokernels._version import __version__

#: Where each public name lives. Module names stand for themselves.
_HOME = {
    "lif": "ops.lif",
    "leaky_integrate": "ops.lif",
    "LIFOutput": "ops.lif",
    "LIFState": "ops.lif",
    "barlow_twins_loss": "ops.cca",
    "canonical_correlations": "ops.cca",
    "dcca_loss": "ops.cca",
    "vicreg_loss": "ops.cca",
    "whiten": "ops.cca",
    "maze_rollout": "ops.evolution",
    "rdm": "ops.rsa",
    "cka": "ops.rsa",
    "rsa_loss": "ops.rsa",
    "bootstrap_rdms": "ops.rsa",
    "compare_rdms": "ops.rsa",
    "searchlight_rsa": "ops.rsa",
    "searchlight_spheres": "ops.rsa",
    "covariance": "ops.spectrum",
    "covariance_spectrum": "ops.spectrum",
    "eigh": "ops.spectrum",
    "eigvalsh": "ops.spectrum",
    "power_law_exponent": "ops.spectrum",
    "spectral_loss": "ops.spectrum",
    "backend": "_core.backends",
    "set_backend": "_core.backends",
    "explain": "_core.backends",
    "BackendError": "_core.backends",
    "show_config": "info",
}
_MODULES = ("data", "encoders", "evolution", "nn", "surrogate")

__all__ = ["__version__", *_HOME, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(f"neurokernels.{_HOME[name]}"), name)
    elif name in _MODULES:
        value = import_module(f"neurokernels.{name}")
    else:
        raise AttributeError(f"module 'neurokernels' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
