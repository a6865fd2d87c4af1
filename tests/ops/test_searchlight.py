"""`searchlight_rsa`: RDMs by SciPy's definitions, rsatoolbox, forms of neighbourhoods, spheres, bad input."""

import contextlib
import io

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist

import neurokernels as nk
from neurokernels._core import accuracy, backends
from neurokernels.ops.rsa import searchlight_reference
from neurokernels.ops.rsa.inference_leaves import METRICS
from tests.ops import rsa_truth as truth

BACKENDS = ("reference", "cpu")
N, V = 6, 40


def lit(backend, data, centres, models, **options):
    """`searchlight_rsa` on a forced backend, which alone ran."""
    with nk.backend(backend), backends.record() as ran:
        out = nk.searchlight_rsa(data, centres, models, **options)
    assert ran == [("searchlight_rsa", backend)]
    return out


def exactly(got, expected, atol=1e-12):
    torch.testing.assert_close(got, expected, rtol=0, atol=atol, equal_nan=True)


def patterns(metric, *batch, seed=0, conditions=N):
    """Responses far from zero; of crossnobis three folds, of poisson rates."""
    shape = (*batch, 3, conditions, V) if metric == "crossnobis" else (*batch, conditions, V)
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return x.exp() if metric == "poisson" else x + 3


def neighbours(*sizes, seed=0):
    """Channels of neighbourhoods of these sizes; of 2, correlations are 1 or -1 and only rounding ranks them."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randperm(V, generator=generator)[:size] for size in sizes]


def rdm(x, metric):
    """An RDM by definition, of NumPy patterns."""
    if metric == "poisson":
        x = (x + 0.1) / 1.1
        d = [((p - q) * (np.log(p) - np.log(q))).mean() for i, p in enumerate(x) for q in x[i + 1 :]]
    elif metric == "crossnobis":
        folds, n, _ = x.shape
        d = []
        for i in range(n):
            for j in range(i + 1, n):
                apart = x[:, i] - x[:, j]
                one = [(np.delete(apart, f, 0).mean(0) * apart[f]).mean() for f in range(folds)]
                d.append(np.mean(one))
    else:
        d = pdist(x, metric) / (x.shape[-1] if metric == "sqeuclidean" else 1)
    return np.array(d)


def expected(data, centres, models, metric, method):
    v = truth.covariance(N)
    found = [rdm(data[..., c].numpy(), metric) for c in centres]
    return torch.tensor([[truth.similarity(d, m, method, v) for m in models.numpy()] for d in found])


CASES = [
    *((metric, "pearson") for metric in METRICS),
    *(("correlation", method) for method in truth.METHODS[1:]),
    ("crossnobis", "whitened_cosine"),
]


@pytest.mark.parametrize(("metric", "method"), CASES)
def test_golden(backend, metric, method):
    data, centres, models = patterns(metric), neighbours(7, 12, 3, 7), truth.rdms(3, N, ties=6)
    got = lit(backend, data, centres, models, metric=metric, method=method)
    exactly(got, expected(data, centres, models, metric, method))


@pytest.mark.parametrize(
    ("metric", "method"), [("correlation", "pearson"), ("crossnobis", "whitened_pearson"), ("poisson", "spearman")]
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_triton(metric, method, dtype):
    data, centres, models = patterns(metric, 2), neighbours(19, 3), truth.rdms(2, N)
    exact = lit("reference", data, centres, models, metric=metric, method=method)
    got = lit("triton", data.to(dtype), centres, models, metric=metric, method=method)
    accuracy.check(got, lit("reference", data.to(dtype), centres, models, metric=metric, method=method), exact, ulps=64)


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean", "cosine"])
def test_triton_metrics(metric):
    data, centres, models = patterns(metric), neighbours(5), truth.rdms(1, N)
    exactly(lit("triton", data, centres, models, metric=metric, method="cosine"),
            lit("reference", data, centres, models, metric=metric, method="cosine"))  # fmt: skip


def test_triton_leaves_large_rdms_to_products(monkeypatch):
    from neurokernels.ops.rsa import inference_triton

    data, centres, models = patterns("cosine"), neighbours(5), truth.rdms(1, N)
    expected = lit("triton", data, centres, models)
    monkeypatch.setattr(inference_triton, "_MOST", {torch.float64: N - 1})
    exactly(lit("triton", data, centres, models), expected)


@pytest.mark.parametrize("method", truth.METHODS)
@pytest.mark.parametrize("metric", ["correlation", "sqeuclidean", "poisson"])
def test_rsatoolbox(backend, metric, method):
    from rsatoolbox.rdm import RDMs, compare
    from rsatoolbox.util.searchlight import get_searchlight_RDMs

    data, centres, models = patterns(metric), neighbours(8, 8, 13), truth.rdms(3, N, seed=2)
    name = {"sqeuclidean": "euclidean"}.get(metric, metric)
    theirs = get_searchlight_RDMs(
        data.numpy(), np.arange(3), [c.numpy() for c in centres], np.arange(N), method=name, verbose=False
    )
    theirs = compare(theirs, RDMs(models.numpy()), truth.RSATOOLBOX[method])
    exactly(lit(backend, data, centres, models, metric=metric, method=method), torch.tensor(theirs), 1e-10)


def test_many_conditions(backend):
    """More conditions than a register or a line of a cache holds, and not a multiple of either."""
    data, centres, models = patterns("correlation", conditions=37), neighbours(30, 9), truth.rdms(2, 37)
    for metric in ("correlation", "euclidean"):
        found = torch.tensor(np.array([pdist(data[:, c].numpy(), metric) for c in centres]))
        for method in ("pearson", "kendall", "whitened_cosine"):
            got = lit(backend, data, centres, models, metric=metric, method=method)
            exactly(got, nk.compare_rdms(found, models, method=method))


def test_forms_of_neighbourhoods(backend):
    data, centres, models = patterns("correlation"), neighbours(7, 3, 5), truth.rdms(2, N)
    expected = lit(backend, data, centres, models)
    padded = torch.full((3, 9), -1)
    for row, c in zip(padded, centres, strict=True):
        row[torch.randperm(9)[: len(c)].sort().values] = c
    offsets = torch.tensor([0, 7, 10, 15])
    for given in (
        list(centres),
        [c.numpy() for c in centres],
        [c.tolist() for c in centres],
        padded.int(),
        (torch.cat(centres), offsets),
        nk.searchlight_spheres(torch.ones(1, 1, 1))._replace(indices=torch.cat(centres), offsets=offsets.int()),
    ):
        exactly(lit(backend, data, given, models), expected, 1e-15)
    as_array = lit(backend, data.numpy(), padded.numpy(), models.numpy())
    assert isinstance(as_array, np.ndarray)
    exactly(torch.tensor(as_array), expected, 1e-15)


def test_batches_layouts_and_types(backend):
    centres, models = neighbours(7, 3, 5), truth.rdms(2, N)
    for metric in ("correlation", "crossnobis", "poisson"):
        data = patterns(metric, 2, 2)
        each = torch.stack([lit(backend, x, centres, models, metric=metric) for x in data.flatten(0, 1)])
        got = lit(backend, data.mT.contiguous().mT, centres, models.mT.contiguous().mT, metric=metric)
        exactly(got, each.view(2, 2, 3, 2), 1e-14)
        single, reference = (lit(b, data.float(), centres, models, metric=metric) for b in (backend, "reference"))
        exact = lit(backend, data.float().double(), centres, models, metric=metric)
        accuracy.check(single, reference, exact, ulps=64)
        assert lit(backend, data.half(), centres, models.float(), metric=metric).dtype == torch.float32
        assert lit(backend, data.expand(0, *data.shape), centres, models, metric=metric).shape == (0, 2, 2, 3, 2)
        assert lit(backend, data, [], models, metric=metric).shape == (2, 2, 0, 2)
        assert lit(backend, data, centres, models[:0], metric=metric).shape == (2, 2, 3, 0)


def test_a_large_common_response_costs_no_digits(backend):
    data, centres, models = patterns("sqeuclidean"), neighbours(9), truth.rdms(2, N)
    shifted = (data + 1e4 * torch.rand(V, dtype=torch.float64)).float()
    exact = expected(shifted.double(), centres, models, "sqeuclidean", "pearson")
    exactly(lit(backend, shifted, centres, models, metric="sqeuclidean").double(), exact, 1e-5)


def test_nothing_to_compare_is_nan(backend):
    data, models = patterns("correlation"), truth.rdms(2, N)
    data[:, 5] = 1.5
    data[2, 6:9] = 0.1
    single, constant, fine = lit(backend, data, [[3], [6, 7, 8], [1, 2, 3]], models)
    assert single.isnan().all()  # the correlation of one channel
    assert constant.isnan().all()  # a pattern without variance
    assert fine.isfinite().all()
    equal = lit(backend, data, [[5, 5, 5]], models, metric="euclidean")
    assert equal.isnan().all()  # an RDM of zeros
    data[1, 10] = torch.nan
    nan, clean = lit(backend, data, [[10, 11, 12], [1, 2, 3]], models, metric="sqeuclidean")
    assert nan.isnan().all()
    assert clean.isfinite().all()
    models[1] = 0.5
    assert lit(backend, data, [[1, 2, 3]], models).isnan().tolist() == [[False, True]]


def test_duplicates_are_at_zero(backend):
    """Equal patterns: rounding may not take the root of a negative number."""
    data, models = patterns("euclidean"), truth.rdms(2, N)
    data[3] = data[1]
    for metric in ("euclidean", "sqeuclidean", "correlation"):
        got = lit(backend, data, neighbours(9), models, metric=metric)
        exactly(got, expected(data, neighbours(9), models, metric, "pearson"))


@pytest.mark.parametrize("method", ["pearson", "kendall"])
def test_threads_and_parts(monkeypatch, method):
    data, centres, models = patterns("correlation", 2), neighbours(*range(3, 40)), truth.rdms(2, N)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(lit("cpu", data, centres, models, method=method))
    finally:
        torch.set_num_threads(before)
    exactly(found[1], found[0], 0)
    exactly(found[2], found[0], 0)
    monkeypatch.setattr(searchlight_reference, "BLOCK", 1)
    exactly(lit("reference", data, centres, models, method=method), found[0])


def test_no_gradient_and_a_fake(backend):
    data, models = patterns("correlation").requires_grad_(), truth.rdms(2, N).requires_grad_()
    assert not lit(backend, data, neighbours(3), models).requires_grad
    given = (data.detach(), torch.tensor([1, 2, 3]), torch.tensor([0, 3]), models.detach(), "correlation", "pearson")
    checked = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.neurokernels.searchlight_fwd, (*given, backend), test_utils=checked)


# Spheres ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("threshold", "inside"), [(0.9, False), (0.5, False), (0.0, True)])
@pytest.mark.parametrize("radius", [1.5, 2.0, 3.0])
def test_spheres(radius, threshold, inside):
    from rsatoolbox.util.searchlight import get_volume_searchlight

    mask = torch.rand(6, 5, 7) > 0.1
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        centres, lists = get_volume_searchlight(mask.numpy().astype(float), radius, threshold, inside)
    spheres = nk.searchlight_spheres(mask, radius=radius, threshold=threshold, inside=inside)
    assert spheres.centres.tolist() == centres.tolist()
    ours = [spheres.indices[a:b] for a, b in zip(spheres.offsets[:-1], spheres.offsets[1:], strict=True)]
    assert [sorted(s.tolist()) for s in ours] == [sorted(map(int, s)) for s in lists]
    as_arrays = nk.searchlight_spheres(mask.numpy(), radius=radius, threshold=threshold, inside=inside)
    assert all(isinstance(v, np.ndarray) for v in as_arrays)
    assert (as_arrays.indices == spheres.indices.numpy()).all()


def test_spheres_of_masked_data():
    mask = torch.rand(6, 5, 4) > 0.2
    volume = torch.randn(N, mask.numel(), dtype=torch.float64)
    models = truth.rdms(2, N)
    whole = nk.searchlight_spheres(mask, radius=2, inside=True)
    masked = nk.searchlight_spheres(mask, radius=2, inside=True, columns="mask")
    expected = nk.searchlight_rsa(volume, whole, models, metric="cosine")
    exactly(nk.searchlight_rsa(volume[:, mask.flatten()], masked, models, metric="cosine"), expected, 1e-15)
    nothing = nk.searchlight_spheres(torch.zeros(2, 3, 4))
    assert nothing.centres.shape == nothing.indices.shape == (0,)
    assert nk.searchlight_rsa(volume, nothing, models).shape == (0, 2)


# Bad input ----------------------------------------------------------------------------------------------------------

GIVEN = {"data": torch.rand(4, 9), "centres": [[0, 1, 2]], "models": torch.rand(2, 6)}


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"data": torch.rand(9)}, ValueError, ("data must be [..., conditions, channels]", "(9,)")),
        ({"data": torch.ones(4, 9, dtype=torch.int32)}, TypeError, ("data", "int32", ".float()")),
        ({"metric": "crossnobis"}, ValueError, ("[..., folds, conditions, channels]", "(4, 9)")),
        ({"metric": "crossnobis", "data": torch.rand(1, 4, 9)}, ValueError, ("at least 2 folds", "1")),
        ({"metric": "mahalanobis"}, ValueError, ("metric", "whiten the channels", "sqeuclidean")),
        ({"metric": "l1"}, ValueError, ("metric must be one of correlation", "'l1'")),
        ({"method": "corr"}, ValueError, ("method must be one of pearson", "'corr'")),
        ({"models": torch.rand(6)}, ValueError, ("models must be [M, pairs]", "(6,)")),
        ({"models": torch.rand(2, 7)}, ValueError, ("N (N - 1) / 2", "7 pairs")),
        ({"models": torch.rand(2, 10)}, ValueError, ("the 6 pairs of 4 conditions", "10 pairs")),
        ({"models": [1.0]}, TypeError, ("models", "list")),
        ({"centres": [[0, 9]]}, ValueError, ("channels from 0 to 8", "9")),
        ({"centres": [[0, -1]]}, ValueError, ("channels from 0 to 8", "-1")),
        ({"centres": [[0], []]}, (ValueError, TypeError), ("centres",)),
        ({"centres": torch.tensor([[0, -1], [-1, -1]])}, ValueError, ("at least 1 channel", "centre 1")),
        ({"centres": torch.tensor([[0, -2]])}, ValueError, ("-1 for none", "-2")),
        ({"centres": torch.tensor([0, 2])}, ValueError, ("[C, size]", "(2,)")),
        ({"centres": torch.rand(2, 2)}, TypeError, ("of integers", "float32")),
        ({"centres": (torch.arange(3), torch.tensor([0, 2]))}, ValueError, ("offsets [C + 1] from 0 to K",)),
        ({"centres": (torch.arange(3), torch.tensor([0, 3, 2, 3]))}, ValueError, ("at least 1 channel",)),
        ({"centres": "all"}, TypeError, ("Spheres", "str")),
        ({"centres": [[[0, 1]]]}, ValueError, ("one-dimensional", "(1, 2)")),
    ],
    ids=lambda v: None,
)
def test_bad_input(changes, error, words):
    given = GIVEN | changes
    with pytest.raises(error) as caught:
        nk.searchlight_rsa(given.pop("data"), given.pop("centres"), given.pop("models"), **given)
    assert str(caught.value).startswith("searchlight_rsa: ")
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("mask", "options", "error", "words"),
    [
        (torch.ones(3, 3), {}, ValueError, ("mask must be a volume [X, Y, Z]", "(3, 3)")),
        ([1], {}, TypeError, ("mask", "list")),
        (torch.ones(2, 2, 2), {"radius": -1}, ValueError, ("radius", "-1")),
        (torch.ones(2, 2, 2), {"threshold": 1.5}, ValueError, ("threshold", "1.5")),
        (torch.ones(2, 2, 2), {"columns": "mask", "threshold": 0.5}, ValueError, ("inside must be True", "False")),
        (torch.ones(2, 2, 2), {"columns": "all"}, ValueError, ("volume, mask", "'all'")),
    ],
)
def test_bad_masks(mask, options, error, words):
    with pytest.raises(error) as caught:
        nk.searchlight_spheres(mask, **options)
    assert str(caught.value).startswith("searchlight_spheres: ")
    for word in words:
        assert word in str(caught.value)


# Mutants ------------------------------------------------------------------------------------------------------------

MUTANTS = {
    "no prior": ("poisson", "rates", lambda true: lambda x: x),
    "neighbours of the next centre": ("correlation", "gathered", lambda true: lambda d, i, *r: true(d, i.roll(1), *r)),
    "a metric for another": ("euclidean", "rdm", lambda true: lambda x, metric: true(x, "sqeuclidean")),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants(monkeypatch, name):
    metric, piece, change = MUTANTS[name]
    test_golden("reference", metric, "pearson")
    monkeypatch.setattr(searchlight_reference, piece, change(getattr(searchlight_reference, piece)))
    with pytest.raises(AssertionError):
        test_golden("reference", metric, "pearson")
