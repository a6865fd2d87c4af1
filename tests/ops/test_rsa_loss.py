"""`neurokernels.rsa_loss`: every form, metric, target and engine against its formula; golden values; bad input."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import squareform

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
