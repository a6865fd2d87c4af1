"""The leaf ops of the room: eigensolver, exact and warm spectrum, and the one backward that all spectra share."""

from typing import Any

import torch
from torch import Tensor

from neurokernels._core import backends, cuda, native, triton
from neurokernels._core.covariance import full_precision
from neurokernels._core.library import leaf
from neurokernels.ops.spectrum import cuda_limits, triton_limits

for _op, _on_cuda, _yields, _refuses in (
    ("eigh", cuda_limits.refuses, cuda_limits.yields, triton_limits.refuses),
    ("spectrum", cuda.refuses, cuda_limits.spectrum_yields, triton.refuses),
):
    backends.register(
        _op,
        backends.Backend("cpu", ("cpu",), lambda x: native.reason(), "neurokernels.ops.spectrum.cpu"),
        backends.Backend("cuda", (), _on_cuda, "neurokernels.ops.spectrum.cuda", _yields),
        backends.Backend("triton", (), _refuses, "neurokernels.ops.spectrum.triton"),
        backends.Backend("reference", (), lambda x: None, "neurokernels.ops.spectrum.reference"),
    )


#: Sweeps after which a Jacobi solver of a GPU gives up. Six to nine are needed, up to twenty for matrices graded over
#: many decades.
SWEEPS = 30


def compute_dtype(x: Tensor) -> torch.dtype:
    """Half precision computes in and returns float32."""
    return torch.promote_types(x.dtype, torch.float32)


def _kernel(op: str, name: str) -> Any:
    def run(x: Tensor, *arguments: Any) -> Any:
        *given, backend = arguments
        with full_precision(x):
            return getattr(backends.select(op, backend, x).kernels(), name)(x, *given)

    return run


def _eigh_fake(a: Tensor, vectors: bool, backend: str) -> tuple[Tensor, Tensor]:
    return (
        a.new_empty(a.shape[:-1], dtype=compute_dtype(a)),
        a.new_empty(a.shape if vectors else (0,), dtype=compute_dtype(a)),
    )


def _spectrum_fake(x: Tensor, k: int, correction: float, factors: bool, backend: str) -> tuple[Tensor, ...]:
    new, (*batch, n, d) = lambda *s: x.new_empty(s, dtype=compute_dtype(x)), x.shape
    left, right = (new(*batch, n, k), new(*batch, d, k)) if factors else (new(0), new(0))
    return new(*batch, k), new(*batch), left, right, new(*batch, d)


def _warm_fake(x: Tensor, basis: Tensor, notes: Tensor, k: int, *rest: Any) -> tuple[Tensor, ...]:
    new, (n, d) = lambda *s: x.new_empty(s, dtype=compute_dtype(x)), x.shape
    return new(k), new(), new(n, k), new(d, k), new(d), new(*basis.shape), new(6)


#: The lower triangle of ``a`` to ascending values and the vectors in columns (``[0]`` unless asked for).
eigh_fwd = leaf(
    "eigh_fwd(Tensor a, bool vectors, str backend) -> (Tensor, Tensor)", _kernel("eigh", "eigh"), _eigh_fake
)

#: ``[..., N, D]`` to the top k values (descending), the trace, two factors ``[N, k]`` and ``[D, k]`` (``[0]`` unless
#: asked for) and the mean. The derivative of the i-th value is 2 / (N - c) times the outer product of the i-th columns.
spectrum_fwd = leaf(
    "spectrum_fwd(Tensor x, SymInt k, float correction, bool factors, str backend) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _kernel("spectrum", "spectrum"),
    _spectrum_fake,
)

#: ``[N, D]``, an orthonormal basis ``[D, m]`` and the last call's notes to the same, the new basis, and new notes:
#: see `subspace.warm`.
spectrum_warm = leaf(
    "spectrum_warm(Tensor x, Tensor basis, Tensor notes, SymInt k, float correction, float tolerance, int steps, "
    "str backend) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _kernel("spectrum", "warm"),
    _warm_fake,
)

#: The gradient of x from those of the values and of the trace.
spectrum_bwd = leaf(
    "spectrum_bwd(Tensor x, Tensor g, Tensor g_trace, Tensor left, Tensor right, Tensor mean, float correction, "
    "str backend) -> Tensor",
    _kernel("spectrum", "spectrum_backward"),
    lambda x, *rest: torch.empty_like(x, memory_format=torch.contiguous_format),
)

#: The tangents of values and trace.
spectrum_jvp = leaf(
    "spectrum_jvp(Tensor dx, Tensor x, Tensor left, Tensor right, Tensor mean, float correction, str backend) "
    "-> (Tensor, Tensor)",
    _kernel("spectrum", "spectrum_tangent"),
    lambda dx, x, left, *rest: (left.new_empty(*x.shape[:-2], left.shape[-1]), left.new_empty(x.shape[:-2])),
)
