"""`neurokernels.rsa_loss`: every form, metric, target and engine against its formula; golden values; bad input."""

import math

import numpy as np
import pytest
import torch

import neurokernels as nk
from neurokernels._core import accuracy, backends
from neurokernels.ops.rsa import loss_closed, loss_cpu
from tests import definitions

BACKENDS = ("reference", "cpu")
PAIRED = ("li2019", "pearson", "cosine", "mse")
ALIGNED = ("cka", "cka_debiased")
UNIT = ("cosine", "correlation")


def noise(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def related(n=11, d=5, m=4, batch=(), dtype=torch.float64):
    """Activations, and responses that share something with them."""
    x = noise(*batch, n, d, seed=1)
    v = noise(*batch, n, m, seed=2) / 2
    v[..., : min(m, d)] += x[..., : min(m, d)]
    return (x + 0.3).to(dtype), (v + 0.2).to(dtype)


def both(backend, x, *args, **options):
    """Value and gradients by x and weights of the op on a forced backend, and of the definition."""
    results = []
    for function in (nk.rsa_loss, definitions.rsa_loss):
        layers = [z.detach().requires_grad_() for z in (x if isinstance(x, tuple) else (x,))]
        given = dict(options)
        wanted = list(layers)
        if options.get("weights") is not None:
            given["weights"] = options["weights"].detach().requires_grad_()
            wanted.append(given["weights"])
        with nk.backend(backend), backends.record() as ran:
            value = function(tuple(layers) if len(layers) > 1 else layers[0], *args, **given)
        assert ran == ([("rsa_loss", backend)] if function is nk.rsa_loss else [])
        results.append((value.detach(), *torch.autograd.grad(value.sum(), wanted)))
    return results


def agree(found, rtol=1e-11):
    ours, exact = found
    for a, b in zip(ours, exact, strict=True):
        scale = b.abs().max().clamp(min=1e-300)
        assert a.shape == b.shape
        assert ((a - b).abs().max() <= rtol * scale + 1e-14).item(), (a, b)


@pytest.fixture(params=["matrices", "grams", "small tiles"])
def engine(request, monkeypatch):
    """Sends what follows to N x N matrices, to closed forms, and to those by tiles of four images."""
    monkeypatch.setattr(loss_closed, "prefers_matrices", lambda *_: request.param == "matrices")
    monkeypatch.setattr(loss_closed, "prefers_matrices_of_views", lambda *_: request.param == "matrices")
    if request.param == "small tiles":
        monkeypatch.setattr(loss_closed, "TILE", 4)
        monkeypatch.setattr(loss_cpu, "TILE", 4)
    return request.param


METRICS = [(form, metric) for form in PAIRED for metric in UNIT]
METRICS += [(form, metric) for form in PAIRED[1:] for metric in ("linear", "sqeuclidean", "mahalanobis", "crossnobis")]
METRICS += [(form, metric) for form in ALIGNED for metric in ("linear", *UNIT)]


@pytest.mark.parametrize(("form", "metric"), METRICS)
def test_every_form_and_metric(form, metric, engine):
    """Responses and dense targets, square and condensed, few responses and many, batched."""
    for batch, m in (((), 4), ((2,), 30)):
        x, v = related(m=m, batch=batch)
        options = {"form": form, "metric": metric}
        if metric == "mahalanobis":
            root = noise(5, 5, seed=3)
            options["precision"] = root @ root.mT + torch.eye(5)
        if metric == "crossnobis":
            x = x[..., None, :, :] + 0.3 * noise(*batch, 3, 11, 5, seed=4)
        agree(both("cpu", x, responses=v, **options))
        own = "sqeuclidean" if metric in ("mahalanobis", "crossnobis") else metric
        t = definitions.similarity(v, own)
        lower = t.triu() + noise(*t.shape, seed=5).tril(-1)  # which nobody reads
        agree(both("cpu", x, lower, **options))
        if form != "cka":
            i, j = torch.triu_indices(11, 11, 1)
            agree(both("cpu", x, t[..., i, j], **options))
        if metric in UNIT and form in PAIRED:
            agree(both("cpu", x, 1 - t, distances=True, **options))
            agree(both("cpu", x, responses=v, distances=True, **options))


# Layers, scans and options --------------------------------------------------------------------------------------------


def test_several_layers(engine):
    """Of different widths, weighted, each minus its mean; one of them of no weight at all."""
    x, v = related()
    layers = (x, noise(11, 8, seed=6), noise(11, 3, seed=7))
    means = tuple(0.3 * noise(z.shape[-1], seed=8) for z in layers)
    for weights in (None, noise(3, seed=9), torch.tensor([0.0, 1.0, -2000.0], dtype=torch.float64)):
        for options in ({}, {"metric": "correlation", "form": "pearson"}, {"metric": "sqeuclidean", "form": "mse"}):
            mean = None if options.get("metric") == "sqeuclidean" else means
            agree(both("cpu", layers, responses=v, weights=weights, mean=mean, **options), 1e-10)
    agree(both("cpu", layers, responses=v, weights=noise(3, seed=9), form="cka", metric="linear"))


def test_layers_of_arrays():
    x, v = (t.numpy() for t in related())
    value = nk.rsa_loss((x, 2 * x[:, :3]), responses=v)
    assert type(value) is np.ndarray
    assert value == nk.rsa_loss((torch.tensor(x), torch.tensor(2 * x[:, :3])), responses=torch.tensor(v)).numpy()


def test_scans():
    """Similarities of scans are averaged; not those of all neurons together."""
    x, v = related(m=9)
    scans = (v[:, :4], 5 * v[:, 4:])
    for metric in (*UNIT, "sqeuclidean"):
        found = both("cpu", x, responses=scans, form="mse", metric=metric)
        agree(found)
        assert (found[0][0] - nk.rsa_loss(x, responses=torch.cat(scans, -1), form="mse", metric=metric)).abs() > 1e-4


@pytest.mark.parametrize("form", PAIRED)
@pytest.mark.parametrize("metric", ["cosine", "sqeuclidean"])
def test_disjoint_pairs(backend, form, metric):
    """(0, 1), (2, 3) and so on, of every kind of target."""
    if form == "li2019" and metric == "sqeuclidean":
        return
    x, v = related(n=12, batch=(2,))
    options = {"form": form, "metric": metric, "pairs": "disjoint"}
    t = definitions.similarity(v, metric)
    i, j = torch.triu_indices(12, 12, 1)
    agree(both(backend, x, responses=v, **options))
    agree(both(backend, x, t, **options))
    agree(both(backend, x, t[:, i, j], **options))
    if metric == "cosine":
        agree(both(backend, x, 1 - t, distances=True, **options))
    assert not torch.allclose(nk.rsa_loss(x, t, **options), nk.rsa_loss(x, t, **options | {"pairs": "all"}))


def test_scales():
    x, v = related()
    assert nk.rsa_loss(x, responses=v, scale="paper") == nk.rsa_loss(x, responses=v) / 4
    agree(both("cpu", x, responses=v, scale="paper"))


def test_responses_that_are_centred_already(backend):
    """Over more images than these."""
    x, v = related()
    agree(both(backend, x, responses=v, centre=False))
    assert nk.rsa_loss(x, responses=v, centre=False) != nk.rsa_loss(x, responses=v)


# Golden values --------------------------------------------------------------------------------------------------------


def test_li2019_by_loops(backend):
    """The loss of Li et al. 2019 as its formulas say, a pair at a time."""
    x, v = (t.numpy() for t in related())
    mean, eps, total = 0.1 * np.arange(5), 1e-5, 0.0
    v = v - v.mean(0)

    def odds(s):
        return math.log(1 + s + eps) - math.log(1 - s + eps)

    def cosine(a, b):
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    for i in range(11):
        for j in range(i + 1, 11):
            total += (odds(cosine(x[i] - mean, x[j] - mean)) - odds(cosine(v[i], v[j]))) ** 2
    with nk.backend(backend):
        value = nk.rsa_loss(torch.tensor(x), responses=torch.tensor(v), mean=torch.tensor(mean))
    assert value.item() == pytest.approx(total / 55, rel=1e-12)


@pytest.mark.parametrize("metric", ["correlation", "euclidean", "mahalanobis"])
def test_rsatoolbox(backend, metric):
    """Pearson and cosine of dissimilarity matrices as rsatoolbox makes and compares them."""
    rsatoolbox = pytest.importorskip("rsatoolbox")
    x, v = related()
    precision = torch.eye(5, dtype=torch.float64) + 0.1
    options = {"metric": {"euclidean": "sqeuclidean"}.get(metric, metric), "distances": metric == "correlation"}
    noise_of_x = {"noise": precision.numpy()} if metric == "mahalanobis" else {}
    options |= {"precision": precision} if metric == "mahalanobis" else {}
    data = [rsatoolbox.data.Dataset(t.numpy()) for t in (x, v)]
    first = rsatoolbox.rdm.calc_rdm(data[0], method=metric, **noise_of_x)
    second = rsatoolbox.rdm.calc_rdm(data[1], method="correlation" if metric == "correlation" else "euclidean")
    for form, compare in (("pearson", "corr"), ("cosine", "cosine")):
        expected = rsatoolbox.rdm.compare(first, second, method=compare).item()
        with nk.backend(backend):
            for given in ({"responses": v}, {"target": torch.tensor(second.get_vectors()[0])}):
                assert nk.rsa_loss(x, form=form, **options, **given).item() == pytest.approx(1 - expected, abs=1e-10)


# Duplicates, dead patterns, NaN ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_duplicates_never_reach_arctanh(backend, dtype):
    """Images that are alike or opposite, in the network, in the brain, and in both: finite, and the same everywhere."""
    x, v = related(n=20, d=9, dtype=dtype)
    x[3], x[5], v[4], v[5], v[7] = x[2], -x[1], v[0], v[1], -v[6]
    x = x.requires_grad_()
    for eps in (1e-5, 1e-8, 1e-12):
        with nk.backend(backend):
            value = nk.rsa_loss(x, responses=v, eps=eps, centre=False)
        (gradient,) = torch.autograd.grad(value, x)
        assert value.isfinite()
        assert gradient.isfinite().all()


def test_derivatives_of_a_thousand_duplicates_are_finite():
    x = noise(1, 6, dtype=torch.float32).expand(1200, 6).clone().requires_grad_()
    value = nk.rsa_loss(x, torch.eye(1200))
    assert value.isfinite()
    assert torch.autograd.grad(value, x)[0].isfinite().all()


@pytest.mark.parametrize("form", [*PAIRED, *ALIGNED])
def test_dead_patterns_and_nan(backend, form):
    """A pattern without variance has no direction: its item is NaN, alone, as in rsatoolbox. One with a NaN too."""
    x, v = related(batch=(4,), dtype=torch.float32)
    x[1, 2], x[2, 3, 1] = 0, torch.nan
    x = x.requires_grad_()
    with nk.backend(backend):
        value = nk.rsa_loss(x, responses=v, form=form, metric="cosine")
    assert value.isnan().tolist() == [False, True, True, False]
    (gradient,) = torch.autograd.grad(value.nansum(), x)
    assert gradient[[0, 3]].isfinite().all()
    assert gradient[[1, 2]].isnan().any((1, 2)).all()


def test_a_constant_layer(backend):
    """After its mean over units: nothing is left of it, whatever the rounding."""
    x = torch.full((6, 7), 1.1).requires_grad_()
    with nk.backend(backend):
        assert nk.rsa_loss(x, torch.eye(6), metric="correlation").isnan()


def test_two_images(backend):
    x, v = related(n=2)
    agree(both(backend, x, responses=v, centre=False))
    with nk.backend(backend):
        assert nk.rsa_loss(x, responses=v, form="pearson").isnan()


# Accuracy -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [*PAIRED, *ALIGNED])
@pytest.mark.parametrize("metric", ["cosine", "linear"])
def test_float32(form, metric, engine):
    """To the accuracy rule, of patterns that are far from centred: similarities of 0.9 and more."""
    if form == "li2019" and metric == "linear":
        return
    x, v = related(n=150, d=20, m=12, dtype=torch.float32)
    x = x + 2
    options = {"form": form, "metric": metric, "responses": v}
    ours, theirs = both("cpu", x, **options)
    exact = both("reference", x.double(), **options | {"responses": v.double()})[1]
    for a, b, c in zip(ours, theirs, exact, strict=True):
        assert a.dtype == torch.float32
        accuracy.check(a, b, c, factor=4, ulps=256)


def test_log(monkeypatch):
    """The core's logarithm against libm, by pairs whose other side is nothing: A(s) from its definition."""
    for dtype, tolerance in ((torch.float32, 3e-6), (torch.float64, 3e-14)):
        angle = torch.linspace(1e-3, math.pi - 1e-3, 400, dtype=torch.float64)
        for a in angle[::40]:
            x = torch.stack([torch.stack([torch.ones_like(a), 0 * a]), torch.stack([a.cos(), a.sin()])]).to(dtype)
            value = nk.rsa_loss(x, torch.zeros(2, 2, dtype=dtype), eps=0.01)
            s = (x[0] @ x[1] / x[1].norm()).double()
            assert value.item() == pytest.approx(math.log((1.01 + s) / (1.01 - s)) ** 2, rel=tolerance, abs=tolerance)


# Mutants --------------------------------------------------------------------------------------------------------------

BROKEN = {
    "the other sign": lambda f, df: -df,
    "half of it": lambda f, df: df / 2,
    "an image without": lambda f, df: df.index_fill(1, torch.tensor([3]), 0),
}


@pytest.mark.parametrize("mutant", BROKEN)
def test_mutants(mutant, monkeypatch):
    x, v = related()
    gradients = loss_cpu._gradients
    monkeypatch.setattr(
        loss_cpu, "_gradients", lambda rows, df, *rest: gradients(rows, BROKEN[mutant](rows.f, df).contiguous(), *rest)
    )
    for form in ("li2019", "pearson"):
        with pytest.raises(AssertionError):
            agree(both("cpu", x, responses=v, form=form))
