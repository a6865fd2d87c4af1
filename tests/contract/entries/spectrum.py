"""`neurokernels.eigh`, `neurokernels.eigvalsh` and `neurokernels.covariance_spectrum`."""

import math
from typing import Any

import torch
from torch import Tensor

import neurokernels as nk
from tests import definitions
from tests.contract.registry import Bad, Op, Sample, Tensors


def _matrices(shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> Tensors:
    """Symmetric matrices as wide as the last dimension, of eigenvalues that are a good deal apart."""
    *batch, _, d = shape

    def noise(*size: int) -> Tensor:
        return torch.randn(*batch, *size, dtype=torch.float64, generator=generator)

    q = torch.linalg.qr(noise(d, d)).Q
    values = torch.arange(d, dtype=torch.float64) - d / 3 + noise(d).tanh() / 4
    return {"a": definitions.symmetric((q * (values / 2)[..., None, :]) @ q.mT).to(dtype)}


def _either(a: Any, vectors: bool = True, **rest: Any) -> tuple[Any, ...]:
    return nk.eigh(a=a, **rest) if vectors else (nk.eigvalsh(a=a, **rest),)


def _without_signs(values: Tensor, vectors: Tensor | None = None) -> tuple[Tensor, ...]:
    """Values and the squares of vectors: an eigenvector has no sign."""
    return (values,) if vectors is None else (values, vectors.square())


def _definition(a: Tensor, vectors: bool = True) -> tuple[Tensor, ...]:
    return _without_signs(*definitions.eigh(a)[: 1 + vectors])


EIGH = Op(
    backends=("reference", "cpu", "triton", "cuda"),
    slow=("triton", "cuda"),
    name="eigh",
    call=lambda a, **options: _without_signs(*_either(a, **options)),
    direct=_either,
    definition=_definition,
    samples=(
        Sample("batch", _matrices, shape=(2, 4, 4), smooth=(0, 1)),
        Sample("one", _matrices, shape=(3, 3), smooth=(0, 1)),
        Sample("values", _matrices, {"vectors": False}, (2, 1, 3, 3), smooth=(0,)),
    ),
    leaves=frozenset({"eigh_fwd"}),
    bad=(
        Bad("rank", {"a": torch.ones(3)}, ValueError, ("a must be [..., D, D]", "(3,)")),
        Bad("not square", {"a": torch.ones(2, 3, 4)}, ValueError, ("a must be [..., D, D]", "square", "(2, 3, 4)")),
        Bad("no array", {"a": [[1.0]]}, TypeError, ("a must be a tensor", "list")),
        Bad("integers", {"a": torch.ones(3, 3, dtype=torch.int64)}, TypeError, ("a", "int64", ".float()")),
        Bad("complex", {"a": torch.ones(3, 3, dtype=torch.complex64)}, TypeError, ("a", "complex64")),
        Bad(
            "values, not square",
            {"a": torch.ones(3, 4), "vectors": False},
            ValueError,
            ("eigvalsh: a must be [..., D, D]", "(3, 4)"),
        ),
        Bad(
            "values of integers",
            {"a": torch.ones(3, 3, dtype=torch.int32), "vectors": False},
            TypeError,
            ("eigvalsh: a must be float32", "int32"),
        ),
    ),
    speakers=("eigh: ", "eigvalsh: "),
    free=definitions.symmetric,  # the op reads one triangle, and has a gradient of both
    large=(300, 16, 16),
    odd=(9, 7, 8, 17, 31, 33, 65, 100),
    huge=(2**45, 8, 8),
    ulps=16,
    refuses_second_order=False,
    mixes=True,
    backward_kernels=0,
    tangent_kernels=0,
    leans=True,
)


def _samples(shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> Tensors:
    """Units of different variance: eigenvalues are apart."""
    x = torch.randn(shape, dtype=torch.float64, generator=generator)
    return {"x": (x * torch.linspace(0.5, 2, shape[-1], dtype=torch.float64) + 0.5).to(dtype)}


SPECTRUM = Op(
    backends=("reference", "cpu", "triton", "cuda"),
    slow=("triton", "cuda"),
    name="spectrum",
    call=lambda x, **options: (nk.covariance_spectrum(x=x, **options),),
    definition=lambda x, solver="", **options: (definitions.covariance_spectrum(x, **options),),
    samples=(
        Sample("tall", _samples, shape=(2, 7, 4), smooth=(0,), least=(2, 0)),
        Sample("wide", _samples, {"correction": 0.5}, (2, 4, 6), smooth=(0,), least=(1, 0)),
        Sample("top", _samples, {"k": 2, "correction": 0, "solver": "exact"}, (9, 5), smooth=(0,), least=(2, 2)),
    ),
    leaves=frozenset({"spectrum_fwd", "spectrum_bwd", "spectrum_jvp"}),
    bad=(
        Bad("rank", {"x": torch.ones(3)}, ValueError, ("x must be [..., N, D]", "at least 2 dimensions", "(3,)")),
        Bad("no array", {"x": [[1.0]]}, TypeError, ("x must be a tensor", "list")),
        Bad("integers", {"x": torch.ones(5, 3, dtype=torch.int64)}, TypeError, ("x", "int64", ".float()")),
        Bad("complex", {"x": torch.ones(5, 3, dtype=torch.complex64)}, TypeError, ("x", "complex64")),
        Bad("one sample", {"x": torch.ones(1, 3)}, ValueError, ("x", "more than correction=1 samples", "N = 1")),
        Bad("no samples", {"x": torch.ones(0, 3), "correction": 0}, ValueError, ("correction=0", "N = 0")),
        Bad("correction below 0", {"correction": -1}, ValueError, ("correction", "[0, inf]", "-1")),
        Bad("correction nan", {"correction": math.nan}, ValueError, ("correction", "nan")),
        Bad("correction text", {"correction": "one"}, TypeError, ("correction", "number", "str")),
        Bad("k above", {"k": 5}, ValueError, ("k must be at most min(N, D) = 4", "5")),
        Bad("k below 0", {"k": -1}, ValueError, ("k must be an integer >= 0", "-1")),
        Bad("k fraction", {"k": 1.5}, ValueError, ("k", "integer", "1.5")),
        Bad("k text", {"k": "all"}, TypeError, ("k", "integer", "all")),
        Bad("solver", {"solver": "fast"}, ValueError, ("solver", "auto, exact, warm", "fast")),
        Bad("warm without a state", {"solver": "warm"}, TypeError, ("state", "SpectrumState", "NoneType")),
        Bad("warm batch", {"state": nk.nn.SpectrumState()}, ValueError, ("x must be [N, D]", "warm", "(2, 7, 4)")),
        Bad("state", {"state": "last"}, TypeError, ("state", "SpectrumState", "str")),
    ),
    speakers=("covariance_spectrum: ",),
    large=(3, 300, 48),
    ulps=16,
    mixes=True,
    leans=True,
)
