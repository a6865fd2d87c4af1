"""The leaf ops of inference on RDMs: features of comparators, Kendall's tau, resamples, searchlights."""

import math
from typing import Any

from torch import Tensor

from neurokernels._core import backends, native, triton
from neurokernels._core.covariance import compute_dtype, full_precision
from neurokernels._core.library import leaf

#: Comparators that are inner products of features, and differentiable.
SMOOTH = ("pearson", "cosine", "whitened_cosine", "whitened_pearson")
#: Those of ranks: inner products too, but constant between jumps.
RANKS = ("spearman", "rho_a")
#: Those that count pairs of pairs.
TAUS = ("kendall", "tau_a")
METHODS = ("pearson", "cosine", "spearman", "kendall", "rho_a", "tau_a", "whitened_cosine", "whitened_pearson")
METRICS = ("correlation", "cosine", "euclidean", "sqeuclidean", "poisson", "crossnobis")

for _op in ("compare_rdms", "bootstrap_rdms"):
    backends.register(
        _op,
        backends.Backend("cpu", ("cpu",), lambda x: native.reason(), "neurokernels.ops.rsa.inference_cpu"),
        backends.Backend("reference", (), lambda x: None, "neurokernels.ops.rsa.inference_reference"),
    )
backends.register(
    "searchlight_rsa",
    backends.Backend("cpu", ("cpu",), lambda x: native.reason(), "neurokernels.ops.rsa.inference_cpu"),
    backends.Backend("triton", (), triton.refuses, "neurokernels.ops.rsa.inference_triton"),
    backends.Backend("reference", (), lambda x: None, "neurokernels.ops.rsa.searchlight_reference"),
)


def conditions(pairs: int) -> int:
    """N of N (N - 1) / 2 pairs, or 0 where there is none."""
    n = (1 + math.isqrt(1 + 8 * pairs)) // 2
    return n if n * (n - 1) // 2 == pairs and n > 1 else 0


def width(method: str, pairs: int) -> int:
    """How many features an RDM of so many pairs has: a whitened one has those of the diagonal, too."""
    return pairs + (conditions(pairs) if method.startswith("whitened") else 0)


def _kernel(op: str, name: str) -> Any:
    def run(*arguments: Any) -> Any:
        *given, backend = arguments
        with full_precision(given[0]):
            return getattr(backends.select(op, backend, given[0]).kernels(), name)(*given)

    return run


def allocate_features(x: Tensor, method: str) -> tuple[Tensor, Tensor]:
    """The empty features and norms of RDMs."""
    *batch, pairs = x.shape
    return (
        x.new_empty((*batch, width(method, pairs)), dtype=compute_dtype(x)),
        x.new_empty(batch, dtype=compute_dtype(x)),
    )


def allocate_similarities(a: Tensor, b: Tensor, *middle: int) -> Tensor:
    """The empty similarities ``[..., *middle, A, B]``."""
    return a.new_empty((*a.shape[:-2], *middle, a.shape[-2], b.shape[-2]), dtype=compute_dtype(a))


#: RDMs ``[..., R, pairs]`` to features of unit norm, whose inner products are the comparator, and the norms
#: ``[..., R]`` that they had. One of `SMOOTH` or `RANKS`; rho_a divides by the norm of ranks without ties.
rdm_features = leaf(
    "rdm_features(Tensor x, str method, str backend) -> (Tensor, Tensor)",
    _kernel("compare_rdms", "features"),
    lambda x, method, backend: allocate_features(x, method),
)

#: Kendall's tau between ``a[..., A, pairs]`` and ``b[..., B, pairs]``; one of `TAUS`.
rdm_concordance = leaf(
    "rdm_concordance(Tensor a, Tensor b, str method, str backend) -> Tensor",
    _kernel("compare_rdms", "concordance"),
    lambda a, b, method, backend: allocate_similarities(a, b),
)

#: Any method between all RDMs under every row of how often each pattern was drawn, ``counts[n, N]``, to
#: ``[..., n, A, B]``.
bootstrap_fwd = leaf(
    "bootstrap_fwd(Tensor a, Tensor b, Tensor counts, str method, str backend) -> Tensor",
    _kernel("bootstrap_rdms", "bootstrap"),
    lambda a, b, counts, method, backend: allocate_similarities(a, b, counts.shape[0]),
)

#: Data ``[..., N, V]`` (crossnobis: ``[..., folds, N, V]``), the channels of every centre one after the other
#: ``indices[K]`` with their ends ``offsets[C + 1]``, and models ``[M, pairs]``, to ``[..., C, M]``.
searchlight_fwd = leaf(
    "searchlight_fwd(Tensor data, Tensor indices, Tensor offsets, Tensor models, str metric, str method, str backend) "
    "-> Tensor",
    _kernel("searchlight_rsa", "searchlight"),
    lambda data, indices, offsets, models, metric, method, backend: data.new_empty(
        (*data.shape[: -3 if metric == "crossnobis" else -2], offsets.shape[0] - 1, models.shape[0]),
        dtype=compute_dtype(data),
    ),
)
