"""`bootstrap_rdms`: comparators under resampled conditions and resampled RDMs, every resample of them exact."""

from typing import Any

import torch
from torch import Tensor

from neurokernels._core import backends, checks
from neurokernels._core.arrays import accepts_arrays
from neurokernels.ops.rsa.compare import check_two, similarities
from neurokernels.ops.rsa.inference_leaves import METHODS, bootstrap_fwd

RESAMPLES = ("patterns", "rdms", "both")
#: Counts of patterns up to which every sum of the kernels is exact in the integers that they use.
_MOST = 1 << 15


@accepts_arrays
def bootstrap_rdms(
    a: Tensor,
    b: Tensor,
    *,
    n: int = 1000,
    method: str = "pearson",
    resample: str = "patterns",
    counts: Tensor | None = None,
    rdm_counts: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """`compare_rdms` for resampled conditions, exactly and all resamples at once; without derivatives.

    A resample that draws condition i ``m_i`` times weighs pair (i, j) by ``m_i m_j``: pairs of a condition with itself
    are left out, as in rsatoolbox (Nili et al. 2014; Schuett et al. 2023), with whose results under the same draws
    these agree. A 95 % interval of every comparison::

        samples = nk.bootstrap_rdms(models, subjects)
        low, high = torch.nanquantile(samples, torch.tensor([0.025, 0.975]), dim=-3)

    Args:
        a: RDMs ``[..., A, pairs]`` as for `compare_rdms`: the models.
        b: RDMs ``[..., B, pairs]`` of the same conditions: the data, of subjects or of sessions, say.
        n: How many resamples; that of counts, if they are given.
        method: One of the eight of `compare_rdms`.
        resample: ``"patterns"``: conditions, for conclusions about others of their kind; ``"rdms"``: the RDMs
            of b, for conclusions about other subjects; ``"both"``.
        counts: How often every condition is drawn ``[n, N]``: integers >= 0. They are drawn if it is None, N of N with
            replacement.
        rdm_counts: How often every RDM of b is drawn ``[n, B]``; rows must sum to B.
        generator: Draws what is not given; the default one of its device if None. Its device need not be that of a.

    Returns:
        ``[..., n, A, B]``, float32, or float64 if a or b is. Where RDMs are resampled, the last dimension has the drawn
        ones in the order that they have in b, each as often as it was drawn: its mean is the resample's. NaN where a
        resample has nothing to compare, for instance fewer than 3 different conditions.

    Raises:
        TypeError: a or b is not floating point, or counts are not integers.
        ValueError: A shape or a value is wrong.
        BackendError: The backend that was asked for cannot run this call.
    """
    op = "bootstrap_rdms"
    a, b, items = check_two(op, a, b)
    checks.choice(op, "method", method, METHODS)
    checks.choice(op, "resample", resample, RESAMPLES)
    n = checks.count(op, "n", n)
    if items > _MOST:
        checks.value_error(op, "a", f"of at most {_MOST} conditions: counts of pairs would not be exact", items)
    if generator is not None and not isinstance(generator, torch.Generator):
        checks.type_error(op, "generator", "a torch.Generator or None", type(generator).__name__)
    for name, given, wanted in (("counts", counts, "patterns"), ("rdm_counts", rdm_counts, "rdms")):
        if given is not None and resample not in (wanted, "both"):
            checks.value_error(op, name, f"None unless resample is {wanted!r} or 'both'", f"one for {resample!r}")
    size = b.shape[-2]
    if counts is not None:
        counts, n = _checked(op, "counts", counts, items, a.device), len(counts)
    if rdm_counts is not None:
        if counts is not None and len(rdm_counts) != n:
            checks.value_error(op, "rdm_counts", f"of {n} resamples as counts are", f"{len(rdm_counts)}")
        rdm_counts, n = _checked(op, "rdm_counts", rdm_counts, size, a.device), len(rdm_counts)
        if not bool((rdm_counts.sum(-1) == size).all()):
            checks.value_error(op, "rdm_counts", f"of rows that sum to the number of RDMs of b, {size}", "other sums")
    with torch.no_grad():
        a, b = a.detach(), b.detach()
        if resample == "rdms":
            samples = similarities(a, b, method).unsqueeze(-3)
            samples = samples.expand(*a.shape[:-2], n, *samples.shape[-2:])
        else:
            counts = drawn(n, items, generator).to(a.device) if counts is None else counts
            samples = bootstrap_fwd(a, b, counts, method, _backend())
        if resample == "patterns":
            return samples
        rdm_counts = drawn(n, size, generator).to(a.device) if rdm_counts is None else rdm_counts
        places = torch.arange(size, device=a.device).repeat(n).repeat_interleave(rdm_counts.flatten())
        return samples.gather(-1, places.view(n, 1, size).expand(samples.shape))


def _backend() -> str:
    return backends.INHERIT if torch.compiler.is_compiling() else backends.requested()


def drawn(n: int, items: int, generator: torch.Generator | None) -> Tensor:
    """How often each of some items is drawn ``[n, items]``, as many draws as items in every row."""
    device = "cpu" if generator is None else generator.device
    draws = torch.randint(max(items, 1), (n, items), generator=generator, device=device)
    return torch.zeros_like(draws).scatter_add_(-1, draws, torch.ones_like(draws))


def _checked(op: str, name: str, counts: Any, items: int, device: torch.device) -> Tensor:
    """Counts as int64 on the device of the RDMs."""
    if not isinstance(counts, Tensor):
        checks.type_error(op, name, "a tensor or an array of integers", type(counts).__name__)
    if counts.is_floating_point() or counts.is_complex() or counts.dtype == torch.bool:
        checks.type_error(op, name, "of integers", f"{counts.dtype}; convert it with .long()")
    if counts.ndim != 2 or counts.shape[-1] != items:
        what = f"[n, {items}], a count for each"
        checks.value_error(op, name, what, f"shape {tuple(counts.shape)}")
    if counts.numel() and int(counts.min()) < 0:
        checks.value_error(op, name, ">= 0", int(counts.min()))
    if counts.numel() and int(counts.sum(-1).max()) > _MOST:
        checks.value_error(op, name, f"of rows that sum to at most {_MOST}", int(counts.sum(-1).max()))
    return counts.to(device, torch.int64)
