"""What makes the host wait for a GPU, and so cannot be captured in a CUDA graph; seen without a GPU, too."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

#: torch's ops that read a result back, or whose output is as large as the data say; in leaf ops, a profiler sees them.
_WAIT = {
    "_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "_unique2", "unique_dim",
    "repeat_interleave", "_linalg_eigh", "_linalg_svd", "linalg_eig", "linalg_cholesky", "linalg_inv",
}  # fmt: skip

#: Samples that do, by the names of op and sample, and why.
_EIGH, _SVD = "torch.linalg.eigh does", "torch.linalg.svd does"
WAITS = {
    ("dcca", "loss dual"): _EIGH,
    ("dcca", "loss top"): _SVD,
    ("dcca", "correlations"): _SVD,
    ("dcca", "correlations dual"): _EIGH,
    ("dcca", "correlations narrow"): _SVD,
    ("whiten", "tall"): _EIGH,
    ("whiten", "wide"): _EIGH,
    ("whiten", "components"): _EIGH,
    ("whiten", "wide components"): _SVD,
}


@contextmanager
def nothing_waits(what: object = "") -> Iterator[None]:
    """Fails where an op of torch's ran for which a GPU would have to be waited."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        yield
    found = {event.key.removeprefix("aten::") for event in seen.key_averages()} & _WAIT
    assert not found, f"{what}: {', '.join(sorted(found))}: the host waits for the GPU"
