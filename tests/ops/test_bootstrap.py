"""`bootstrap_rdms`: resamples pair by pair, rsatoolbox under the same draws, subjects, and bad input."""

import numpy as np
import pytest
import torch

import neurokernels as nk
from neurokernels._core import accuracy, backends
from neurokernels.ops.rsa import bootstrap as module
from neurokernels.ops.rsa import inference_reference
from tests.ops import rsa_truth as truth

BACKENDS = ("reference", "cpu")
N = 6


def sampled(backend, a, b, **options):
    """`bootstrap_rdms` on a forced backend, which alone ran."""
    with nk.backend(backend), backends.record() as ran:
        out = nk.bootstrap_rdms(a, b, **options)
    assert {name for _, name in ran} <= {backend}
    return out


def exactly(got, expected, atol=1e-12):
    torch.testing.assert_close(got, expected, rtol=0, atol=atol, equal_nan=True)


#: Draws that are usual, all different, of one condition more than half of the time, and as often as the closed form of
#: whitening has a coefficient of 0 (twice as often as all others and one less) or less.
COUNTS = torch.tensor(
    [[1, 0, 2, 1, 1, 1], [1] * 6, [0, 1, 0, 1, 3, 1], [1, 1, 4, 0, 1, 1], [0, 6, 1, 0, 1, 1], [2, 2, 0, 0, 0, 2]]
)


@pytest.mark.parametrize("method", truth.METHODS)
def test_golden(backend, method):
    a, b = truth.rdms(3, N, ties=5), truth.rdms(2, N, seed=1, ties=4)
    got = sampled(backend, a, b, counts=COUNTS, method=method)
    assert got.shape == (len(COUNTS), 3, 2)
    for k, count in enumerate(COUNTS.numpy()):
        exactly(got[k], truth.every(a, b, lambda x, y: truth.resampled(x, y, N, count, method)))  # noqa: B023


@pytest.mark.parametrize("method", truth.METHODS)
@pytest.mark.parametrize("conditions", [5, 20])
def test_rsatoolbox(backend, method, conditions):
    from rsatoolbox.rdm import RDMs, compare

    a, b = truth.rdms(3, conditions, ties=50), truth.rdms(4, conditions, seed=1, ties=50)
    counts = truth.counts(11, conditions, seed=3)  # more than the lanes of a register, and not a multiple of them
    counts = counts[(counts > 0).sum(-1) > 2]
    got = sampled(backend, a, b, counts=counts, method=method)
    sets = [RDMs(v.numpy()) for v in (a, b)]
    for k, count in enumerate(counts):
        who = np.repeat(np.arange(conditions), count.numpy())
        theirs = compare(*(s.subsample_pattern("index", who) for s in sets), truth.RSATOOLBOX[method])
        exactly(got[k], torch.tensor(theirs), 1e-10)


@pytest.mark.parametrize("method", truth.METHODS)
def test_everything_once_is_the_comparison(backend, method):
    a, b = truth.rdms(2, 9, ties=9), truth.rdms(3, 9, seed=1)
    once = torch.ones(1, 9, dtype=torch.int64)
    with nk.backend(backend):
        exactly(nk.bootstrap_rdms(a, b, counts=once, method=method)[0], nk.compare_rdms(a, b, method=method), 1e-14)


@pytest.mark.parametrize("method", truth.METHODS)
def test_batches_layouts_and_types(backend, method):
    a, b, counts = truth.rdms(6, N, ties=9).view(2, 3, -1), truth.rdms(2, N, seed=1), truth.counts(5, N, seed=1)
    each = torch.stack([sampled(backend, x, b, counts=counts, method=method) for x in a])
    got = sampled(backend, a.mT.contiguous().mT, b, counts=counts.mT.contiguous().mT.int(), method=method)
    exactly(got, each, 1e-15)
    single, reference, exact = (
        sampled(which, *(v.float().to(dtype) for v in (a, b)), counts=counts[:1], method=method)
        for which, dtype in ((backend, torch.float32), ("reference", torch.float32), ("reference", torch.float64))
    )
    accuracy.check(single, reference, exact)
    assert sampled(backend, a.half(), b.bfloat16(), counts=counts, method=method).dtype == torch.float32
    as_array = sampled(backend, a.numpy(), b.numpy(), counts=counts.numpy(), method=method)
    exactly(torch.tensor(as_array), each, 1e-15)


@pytest.mark.parametrize("method", truth.METHODS)
def test_float32_is_as_good_as_its_comparison(backend, method):
    """A large common distance, as measured RDMs have, does not cost the digits of what is above it."""
    a, b = truth.rdms(4, 30) / 8 + 1, truth.rdms(4, 30, seed=1) / 8 + 1
    counts = truth.counts(20, 30)
    exact = sampled(backend, a.float().double(), b.float().double(), counts=counts, method=method)
    got = sampled(backend, a.float(), b.float(), counts=counts, method=method)
    exactly(got.double(), exact, 3e-6)


@pytest.mark.parametrize("method", truth.METHODS)
def test_sizes(backend, method):
    a, b = truth.rdms(1, 3), truth.rdms(2, 3, seed=1)
    for n in (0, 1, 9):
        assert sampled(backend, a, b, n=n, method=method).shape == (n, 1, 2)
    assert sampled(backend, a[:0], b, n=3, method=method).shape == (3, 0, 2)
    assert sampled(backend, a.expand(0, 1, 3), b, n=3, method=method).shape == (0, 3, 1, 2)


@pytest.mark.parametrize("method", truth.METHODS)
def test_nothing_to_compare_is_nan(backend, method):
    """One condition has no pair with itself; two of them have one pair, and no variance."""
    a, b = truth.rdms(2, N), truth.rdms(2, N, seed=1)
    counts = torch.tensor([[0, 6, 0, 0, 0, 0], [0, 0, 3, 0, 0, 3], [1, 1, 1, 1, 1, 1], [0] * 6])
    got = sampled(backend, a, b, counts=counts, method=method)
    assert got[[0, 3]].isnan().all()
    assert got[2].isfinite().all()
    if method in ("pearson", "spearman", "kendall"):
        assert got[1].isnan().all()
    a[1] = 0
    gone = sampled(backend, a, b, counts=COUNTS, method=method)[:, 1]
    assert (gone == 0).all() if method in ("rho_a", "tau_a") else gone.isnan().all()


@pytest.mark.parametrize("method", truth.METHODS)
def test_a_nan_stays_where_it_is(backend, method):
    a, b = truth.rdms(3, N), truth.rdms(3, N, seed=1)
    clean = sampled(backend, a, b, counts=COUNTS, method=method)
    a[1, 4] = b[2, 3] = torch.nan
    got = sampled(backend, a, b, counts=COUNTS, method=method)
    exactly(got[:, [0, 2], :2], clean[:, [0, 2], :2], 1e-15)
    assert got[:, 1].isnan().all()
    assert got[:, :, 2].isnan().all()


def test_draws_repeat_and_are_draws(backend):
    a, b = truth.rdms(2, N), truth.rdms(3, N, seed=1)
    first, again, other = (
        sampled(backend, a, b, n=50, resample="both", generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2)
    )
    exactly(first, again, 0)
    assert not torch.equal(first.nan_to_num(), other.nan_to_num())
    counts = module.drawn(4000, N, torch.Generator().manual_seed(0))
    assert (counts.sum(-1) == N).all()
    assert (counts.double().mean(0) - 1).abs().max() < 0.06
    assert abs(float(counts.double().var()) - (1 - 1 / N)) < 0.05
    torch.manual_seed(5)
    default = sampled(backend, a, b, n=5)
    torch.manual_seed(5)
    exactly(sampled(backend, a, b, n=5), default, 0)


def test_resampled_subjects(backend):
    a, b = truth.rdms(2, N), truth.rdms(3, N, seed=1)
    who = torch.tensor([[1, 1, 1], [0, 3, 0], [2, 0, 1]])
    order = [[0, 1, 2], [1, 1, 1], [0, 0, 2]]
    plain = sampled(backend, a, b, counts=COUNTS[:3])
    once = sampled(backend, a, b, counts=torch.ones(1, N, dtype=torch.int64))[0]
    both = sampled(backend, a, b, counts=COUNTS[:3], rdm_counts=who, resample="both")
    rdms = sampled(backend, a, b, rdm_counts=who, resample="rdms")
    for k in range(3):
        exactly(both[k], plain[k][:, order[k]], 1e-14)
        exactly(rdms[k], once[:, order[k]], 1e-14)


def test_an_interval_covers(backend):
    """The interval of the docstring, for RDMs whose correlation is 0: about 95 in 100 contain it."""
    generator = torch.Generator().manual_seed(4)
    x, y = (torch.randn(60, 12, 10, dtype=torch.float64, generator=generator) for _ in range(2))
    a, b = (torch.stack([torch.pdist(item) for item in v])[:, None] for v in (x, y))
    samples = sampled(backend, a, b, n=400, generator=generator)
    low, high = torch.nanquantile(samples, torch.tensor([0.025, 0.975], dtype=torch.float64), dim=-3)
    assert 0.75 < float(((low < 0) & (high > 0)).double().mean()) <= 1


@pytest.mark.parametrize("method", ["spearman", "kendall", "pearson"])
def test_threads_and_budgets(monkeypatch, method):
    a, b, counts = truth.rdms(5, 12, ties=9), truth.rdms(3, 12, seed=1), truth.counts(37, 12)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(sampled("cpu", a, b, counts=counts, method=method))
    finally:
        torch.set_num_threads(before)
    exactly(found[1], found[0], 0 if method != "pearson" else 1e-15)
    exactly(found[2], found[0], 0 if method != "pearson" else 1e-15)
    monkeypatch.setattr(inference_reference, "BLOCK", 700)
    exactly(sampled("reference", a, b, counts=counts, method=method), found[0], 1e-14)


def test_no_gradient_and_one_graph(backend):
    a, b = truth.rdms(2, N).requires_grad_(), truth.rdms(3, N, seed=1)
    assert not sampled(backend, a, b, counts=COUNTS).requires_grad
    torch.library.opcheck(
        torch.ops.neurokernels.bootstrap_fwd, (a.detach(), b, COUNTS, "spearman", backend),
        test_utils=("test_schema", "test_faketensor"),
    )  # fmt: skip


A = torch.rand(2, 6)
WHOLE = torch.ones(3, 4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"a": torch.ones(2, 7), "b": torch.ones(2, 7)}, ValueError, ("N (N - 1) / 2", "7 pairs")),
        ({"b": torch.ones(2, 10)}, ValueError, ("b must be of the 6 pairs of a", "10 pairs")),
        ({"method": "corr"}, ValueError, ("method must be one of pearson", "'corr'")),
        ({"resample": "subjects"}, ValueError, ("patterns, rdms, both", "'subjects'")),
        ({"n": -1}, ValueError, ("n must be an integer >= 0", "-1")),
        ({"n": 2.0}, ValueError, ("n must be an integer", "2.0")),
        ({"generator": 3}, TypeError, ("generator", "torch.Generator", "int")),
        ({"counts": WHOLE.float()}, TypeError, ("counts must be of integers", "float32", ".long()")),
        ({"counts": [[1, 1, 1, 1]]}, TypeError, ("counts", "list")),
        ({"counts": WHOLE[:, :3]}, ValueError, ("counts must be [n, 4]", "(3, 3)")),
        ({"counts": WHOLE[0]}, ValueError, ("counts must be [n, 4]", "(4,)")),
        ({"counts": -WHOLE}, ValueError, ("counts must be >= 0", "-1")),
        ({"counts": WHOLE * 20000}, ValueError, ("sum to at most 32768", "80000")),
        ({"counts": WHOLE, "resample": "rdms"}, ValueError, ("counts must be None unless", "'rdms'")),
        ({"rdm_counts": WHOLE}, ValueError, ("rdm_counts must be None unless resample is 'rdms'",)),
        ({"rdm_counts": WHOLE[:, :2] * 2, "resample": "rdms"}, ValueError, ("rdm_counts", "sum to the number", "2")),
        (
            {"counts": WHOLE, "rdm_counts": WHOLE[:2, :2], "resample": "both"}, ValueError,
            ("rdm_counts must be of 3 resamples", "2"),
        ),
    ],
    ids=lambda v: None,
)  # fmt: skip
def test_bad_input(changes, error, words):
    given = {"a": A, "b": A} | changes
    with pytest.raises(error) as caught:
        nk.bootstrap_rdms(given.pop("a"), given.pop("b"), **given)
    assert str(caught.value).startswith("bootstrap_rdms: ")
    for word in words:
        assert word in str(caught.value)


def test_forced_backends_run_or_raise():
    with nk.backend("triton"), pytest.raises(nk.BackendError, match="has no such kernel; it has cpu, reference"):
        nk.bootstrap_rdms(A, A)


MUTANTS = {
    "ranks of values once": (
        "spearman", "weighted_ranks",
        lambda true: lambda x, w: true(x, torch.ones_like(w)),
    ),
    "a condition's pairs with itself": (
        "whitened_cosine", "_diagonal", lambda true: lambda r, m, s: true(r, m, s + 2 * m[:, None, :])
    ),
    "no cross term": ("whitened_pearson", "_diagonal", lambda true: lambda r, m, s: true(r, m, s) * 0),
    "mean of all pairs": ("pearson", "_cross", lambda true: lambda w, a, b: true(torch.ones_like(w), a, b)),
    "signs once": ("kendall", "_quadratic", lambda true: lambda p, s, w: true((p > 0).to(p.dtype), s, w)),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants(monkeypatch, name):
    method, piece, change = MUTANTS[name]
    test_golden("reference", method)
    monkeypatch.setattr(inference_reference, piece, change(getattr(inference_reference, piece)))
    with pytest.raises(AssertionError):
        test_golden("reference", method)
