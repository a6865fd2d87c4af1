"""Dissimilarity matrices: the papers' formulas as loops, rsatoolbox and SciPy; gradients; broken variants."""

import math

import numpy as np
import pytest
import torch

import neurokernels as nk
from neurokernels._core import accuracy, backends
from tests import definitions

METRICS = ("correlation", "cosine", "euclidean", "sqeuclidean", "crossnobis", "poisson")
PLAIN = ("reference", "cpu")


def made(metric, *shape, dtype=torch.float64, folds=3, seed=0):
    """Rates for poisson, patterns about a mean for the others; crossnobis gets folds."""
    generator = torch.Generator().manual_seed(seed + sum(shape))
    if metric == "crossnobis":
        shape = (*shape[:-2], folds, *shape[-2:])
    x = torch.randn(shape, dtype=torch.float64, generator=generator)
    x = x.abs() * 3 if metric == "poisson" else x * torch.linspace(0.5, 2, shape[-1], dtype=torch.float64) + 0.5
    return x.to(dtype)


def run(backend, x, function=nk.rdm, **options):
    """Dissimilarities, and the gradient of a projection of them that is not symmetric; on the backend asked for."""
    x = x.detach().requires_grad_()
    with nk.backend(backend), backends.record() as ran:
        d = function(x, **options)
        g = (12.9898 * torch.arange(1.0, d.numel() + 1, dtype=torch.float64)).sin().view(d.shape).to(d.dtype)
        (dx,) = torch.autograd.grad(d, x, g)
    if function is nk.rdm:
        assert ran == [("rdm", backend)] * 2
    return d.detach(), dx


# The formulas -------------------------------------------------------------------------------------------------------


def loops(metric, x):
    """The definition of one pair after the other, as it is published; for crossnobis fold by fold."""
    n, d = x.shape[-2:]
    found = []
    for i in range(n):
        for j in range(i + 1, n):
            a, b = x[..., i, :], x[..., j, :]
            if metric == "correlation":
                value = 1 - np.corrcoef(a, b)[0, 1]
            elif metric == "cosine":
                value = 1 - sum(a * b) / math.sqrt(sum(a * a) * sum(b * b))
            elif metric == "euclidean":
                value = math.sqrt(sum((a - b) ** 2))
            elif metric == "sqeuclidean":
                value = sum((a - b) ** 2) / d
            elif metric == "poisson":
                p, q = (a + 0.1) / 1.1, (b + 0.1) / 1.1
                value = sum(p * np.log(p / q) + q * np.log(q / p)) / d
            else:
                parts = []
                for fold in range(len(x)):
                    rest = [f for f in range(len(x)) if f != fold]
                    train = sum(a[f] - b[f] for f in rest) / len(rest)
                    parts.append(sum(train * (a[fold] - b[fold])) / d)
                value = sum(parts) / len(parts)
            found.append(value)
    return np.array(found)


@pytest.mark.parametrize("metric", METRICS)
def test_formulas(metric, backend):
    x = made(metric, 6, 5)
    with nk.backend(backend):
        got = nk.rdm(x, metric=metric)
    np.testing.assert_allclose(got, loops(metric, x.numpy()), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("metric", METRICS)
def test_mutants_of_the_formulas(metric):
    """A wrong sign, divisor, mean or fold is told from the right one by the test above."""
    x = made(metric, 6, 5)
    wrong = {
        "correlation": lambda: nk.rdm(x, metric="cosine"),
        "cosine": lambda: nk.rdm(x),
        "euclidean": lambda: nk.rdm(x, metric="sqeuclidean").sqrt(),
        "sqeuclidean": lambda: nk.rdm(x, metric="euclidean").square(),
        "crossnobis": lambda: nk.rdm(x.mean(0), metric="sqeuclidean"),  # not crossvalidated
        "poisson": lambda: nk.rdm(x + 0.01, metric="poisson"),
    }
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(wrong[metric](), loops(metric, x.numpy()), rtol=1e-12, atol=1e-14)


def test_scipy():
    distance = pytest.importorskip("scipy.spatial.distance")
    x = made("cosine", 30, 17)
    for metric, scale in (("correlation", 1), ("cosine", 1), ("euclidean", 1), ("sqeuclidean", 17)):
        expected = distance.pdist(x.numpy(), metric)
        np.testing.assert_allclose(nk.rdm(x, metric=metric) * scale, expected, rtol=1e-10, atol=1e-12)
        square = nk.rdm(x, metric=metric, condensed=False) * scale
        np.testing.assert_allclose(square, distance.squareform(expected), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("backend", PLAIN)
def test_rsatoolbox(backend):
    rdm = pytest.importorskip("rsatoolbox.rdm")
    data = pytest.importorskip("rsatoolbox.data")
    x, rates, many = made("cosine", 23, 11), made("poisson", 23, 11), made("crossnobis", 23, 11, folds=4)
    root = made("cosine", 11, 11)
    precision = root @ root.mT + torch.eye(11)
    labels = {"condition": list(range(23)) * 4, "fold": [f for f in range(4) for _ in range(23)]}
    table = data.Dataset(many.flatten(0, 1).numpy(), obs_descriptors=labels)

    def theirs(patterns, method, **options):
        return rdm.calc_rdm(data.Dataset(patterns.numpy()), method=method, **options).dissimilarities[0]

    def crossed(**options):
        found = rdm.calc_rdm(table, method="crossnobis", descriptor="condition", cv_descriptor="fold", **options)
        return found.dissimilarities[0]

    pairs = [
        ("correlation", x, {}, theirs(x, "correlation")),
        ("sqeuclidean", x, {}, theirs(x, "euclidean")),
        ("mahalanobis", x, {"precision": precision}, theirs(x, "mahalanobis", noise=precision.numpy())),
        ("mahalanobis", x, {}, theirs(x, "mahalanobis")),
        ("poisson", rates, {}, theirs(rates, "poisson")),
        ("crossnobis", many, {}, crossed()),
        ("crossnobis", many, {"precision": precision}, crossed(noise=precision.numpy())),
    ]
    with nk.backend(backend):
        for metric, given, options, expected in pairs:
            got = nk.rdm(given, metric=metric, **options)
            np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-10 * np.abs(expected).max(), err_msg=metric)


# Accuracy -----------------------------------------------------------------------------------------------------------

SHAPES = [(2, 2), (3, 60, 33), (17, 300), (210, 40)]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_agreement(metric, dtype):
    """The accuracy rule over tiles and remainders, condensed and square."""
    for shape in SHAPES:
        x = made(metric, *shape, dtype=dtype)
        if shape == (2, 2) and metric == "correlation":
            continue  # of two channels, correlations are 1 or -1 and gradients rounding
        for condensed in (True, False):
            got = run("cpu", x, metric=metric, condensed=condensed)
            plain = run("cpu", x, definitions.rdm, metric=metric, condensed=condensed)
            exact = run("cpu", x.double(), definitions.rdm, metric=metric, condensed=condensed)
            assert (got[0].dtype, got[1].dtype) == (plain[0].dtype, dtype)
            floor = 64 if dtype == torch.float64 else 8
            for name, a, b, e, factor in zip(("value", "gradient"), got, plain, exact, (2, 3), strict=True):
                accuracy.check(a, b, e, factor=factor, ulps=floor, name=f"{metric} {shape} {name}")
            if not condensed:
                assert torch.equal(got[0], got[0].mT)
                assert not got[0].diagonal(dim1=-2, dim2=-1).any()


@pytest.mark.parametrize("metric", ["correlation", "euclidean"])
def test_triton(metric):
    """More than one tile, several blocks of channels, in float32: of three TF32 products each on a GPU."""
    x = made(metric, 35, 70, dtype=torch.float32)
    x[7], x[9] = x[2], x[3] + 1e-3 * x[4]
    got = run("triton", x, metric=metric, condensed=metric == "correlation")
    exact = run("reference", x.double(), metric=metric, condensed=metric == "correlation")
    for a, e in zip(got, exact, strict=True):
        assert accuracy.error(a, e)[0] < 2e-6
    d = got[0] if metric == "euclidean" else None
    assert d is None or d[2, 7] == 0


@pytest.mark.parametrize("metric", ["correlation", "cosine", "euclidean", "sqeuclidean", "poisson"])
def test_close_pairs(metric):
    """Distances relative to themselves, where the difference of two patterns is down to a millionth of them."""
    x = made(metric, 40, 130, dtype=torch.float32)
    for i, step in enumerate((1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)):
        x[20 + i] = x[i] * (1 + step * torch.linspace(-1, 1, 130).sin())
    got, dx = run("cpu", x, metric=metric)
    exact, edx = run("cpu", x.double(), definitions.rdm, metric=metric)
    assert ((got - exact).abs() / exact).max() < 4e-6
    assert accuracy.error(dx, edx)[0] < 4e-6
    patterns = x / x.norm(dim=-1, keepdim=True) if metric == "cosine" else x
    gram = patterns @ patterns.mT  # a mutant: the same by products alone
    squares = gram.diagonal()[:, None] + gram.diagonal() - 2 * gram
    i, j = torch.triu_indices(40, 40, 1)
    naive = {"cosine": squares / 2, "sqeuclidean": squares / 130, "euclidean": squares.clamp(min=0).sqrt()}.get(metric)
    assert naive is None or ((naive[i, j] - exact).abs() / exact).max() > 1e-3


@pytest.mark.parametrize("metric", ["correlation", "cosine", "euclidean", "sqeuclidean"])
def test_offset(metric):
    """A pattern that all share costs no digits."""
    x = made(metric, 30, 50, dtype=torch.float32)
    x += 300 * torch.linspace(-1, 1, 50).cos()
    got, exact = run("cpu", x, metric=metric), run("cpu", x.double(), definitions.rdm, metric=metric)
    for a, e in zip(got, exact, strict=True):
        assert accuracy.error(a, e)[0] < 2e-6


# Degenerate patterns ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
def test_equal_patterns(metric, backend):
    """Exactly 0 apart, wherever they stand, and without a share in each other's gradient."""
    n = 20 if backend == "triton" else 230
    x = made(metric, n, 12, dtype=torch.float32)
    x[..., n - 1, :], x[..., 3, :] = x[..., 0, :], x[..., 2, :]
    d, dx = run(backend, x, metric=metric, condensed=False)
    if metric != "crossnobis" or backend != "triton":
        assert d[0, n - 1] == d[2, 3] == 0
    assert dx.isfinite().all()
    assert (d != 0).sum() >= n * (n - 1) - 4 or metric == "crossnobis"


@pytest.mark.parametrize("metric", ["correlation", "cosine"])
def test_no_variance(metric, backend):
    """NaN, as in rsatoolbox, though a mean of 0.1 is not 0.1: rounding must not become a direction."""
    x = made(metric, 9, 7, dtype=torch.float32)
    x[4] = 0.1 if metric == "correlation" else 0
    with nk.backend(backend):
        d = nk.rdm(x, metric=metric, condensed=False)
    spoilt = torch.zeros(9, 9, dtype=torch.bool)
    spoilt[4], spoilt[:, 4], spoilt[4, 4] = True, True, False
    assert torch.equal(d.isnan(), spoilt)
    assert d[~spoilt].isfinite().all()


@pytest.mark.parametrize("metric", METRICS)
def test_not_finite(metric, backend):
    """A NaN or an infinity spoils the pairs of its pattern, and nothing else."""
    x = made(metric, 9, 7, dtype=torch.float32)
    expected = nk.rdm(x, metric=metric, condensed=False)
    x[..., 4, 2], x[..., 6, 1] = torch.nan, torch.inf
    with nk.backend(backend):
        d = nk.rdm(x, metric=metric, condensed=False)
    clean = [0, 1, 2, 3, 5, 7, 8]
    torch.testing.assert_close(d[clean][:, clean], expected[clean][:, clean], rtol=1e-5, atol=1e-6)
    spoilt = d[4, clean]
    assert spoilt.isnan().all()
    assert not d[6, clean].isfinite().any()


def test_negative_rates():
    """The logarithm of a negative rate is NaN, as in rsatoolbox; of counts of 0 it is finite."""
    x = made("poisson", 5, 4)
    x[1], x[3, 0] = 0, -1
    d = nk.rdm(x, metric="poisson", condensed=False)
    assert d[1, [0, 2, 4]].isfinite().all()
    assert d[3, [0, 1, 2, 4]].isnan().all()


# Folds, memory, compilation -----------------------------------------------------------------------------------------


def test_folds(backend):
    """Labels, indices and a dimension of folds are three ways to say the same."""
    x = made("crossnobis", 2, 4, 5)  # [2, 3, 4, 5]
    flat = x.flatten(-3, -2)
    order = torch.tensor([5, 0, 9, 1, 6, 10, 2, 3, 7, 11, 4, 8])
    labels = (order // 4 * 10).tolist()
    shuffled = flat[:, order]
    place = torch.empty(12, dtype=torch.int64)
    place[order] = torch.arange(12)
    with nk.backend(backend):
        expected = nk.rdm(x, metric="crossnobis")
        assert torch.equal(nk.rdm(shuffled, metric="crossnobis", folds=place.view(3, 4)), expected)
        assert torch.equal(nk.rdm(flat, metric="crossnobis", folds=[7] * 4 + [8] * 4 + [9] * 4), expected)
        rows = [torch.tensor([o for o in order.tolist() if o // 4 == f]) for f in range(3)]
        regrouped = torch.stack([flat[:, r] for r in rows], 1)
        got = nk.rdm(shuffled, metric="crossnobis", folds=labels)
        assert torch.equal(got, nk.rdm(regrouped, metric="crossnobis"))
    array = nk.rdm(flat.numpy(), metric="crossnobis", folds=np.arange(12).reshape(3, 4))
    np.testing.assert_array_equal(array, nk.rdm(x, metric="crossnobis").numpy())


REFUSED = [
    ({"metric": "crossnobis"}, (4, 3), r"x must be \[..., folds, N, D\] with at least 3 dimensions"),
    ({"metric": "crossnobis"}, (1, 4, 3), "at least 2 folds: they are multiplied, got 1"),
    ({"metric": "crossnobis", "folds": [0, 0, 0, 0]}, (4, 3), "at least 2 folds"),
    ({"metric": "crossnobis", "folds": [[0, 1], [2, 2]]}, (4, 3), "4 indices without 3"),
    ({"metric": "crossnobis", "folds": [[0, 1], [2]]}, (3, 3), r"of one size.*folds of \[2, 1\] observations"),
    ({"metric": "poisson"}, (4, 0), "at least 1 channel, got D = 0"),
    ({"metric": "euclidean"}, (0, 4), "at least 2 conditions.*N = 0"),
]


@pytest.mark.parametrize(("options", "shape", "words"), REFUSED)
def test_refusals(options, shape, words):
    with pytest.raises(ValueError, match=f"^rdm: .*{words}"):
        nk.rdm(torch.ones(shape), **options)


@pytest.mark.parametrize("metric", ["correlation", "euclidean"])
def test_saved_for_backward(metric):
    """X itself; and the distances that are returned anyway, where the root's derivative wants them."""
    x, kept = made(metric, 50, 20, dtype=torch.float32).requires_grad_(), {}

    def keep(tensor):
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        d = nk.rdm(x, metric=metric)
    kept.pop(x.data_ptr())
    assert kept == ({d.data_ptr(): d.nbytes} if metric == "euclidean" else {})


@pytest.mark.parametrize("backend", PLAIN)
@pytest.mark.parametrize("metric", ["cosine", "sqeuclidean", "poisson"])
def test_derivatives(metric, backend):
    """Those that the contract leaves out, in both modes, against finite differences."""
    x = made(metric, 2, 5, 4).requires_grad_()
    with nk.backend(backend):
        assert torch.autograd.gradcheck(lambda v: nk.rdm(v, metric=metric), x, fast_mode=True, check_forward_ad=True)
