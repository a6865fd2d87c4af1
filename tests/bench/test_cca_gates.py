"""The gates of `bench_cca` tell right rows from wrong ones, and its contenders compute what they are said to."""

import pytest
import torch

import neurokernels as nk
from benchmarks import cca_contenders as contenders
from benchmarks.cca_truth import Close, relative

REG = 1e-3


@pytest.fixture
def views():
    draw = torch.Generator().manual_seed(3)
    x = torch.randn(200, 7, dtype=torch.float64, generator=draw)
    y = x @ torch.randn(7, 5, dtype=torch.float64, generator=draw) + torch.randn(200, 5, generator=draw).double()
    return x.requires_grad_(), y.requires_grad_()


def test_every_contender_computes_its_objective(views):
    nuclear = nk.dcca_loss(*views, reg=REG), nk.dcca_loss(*views, reg=REG, objective="fro2")
    due = [(value, *torch.autograd.grad(value, views)) for value in nuclear]
    found = {
        "naive": (contenders.trained(contenders.naive)(*views, REG), due[0]),
        "eigh_svd": (contenders.trained(contenders.eigh_svd)(*views, REG), due[0]),
        "closed_form": (contenders.closed_form(*(v.detach() for v in views), REG, steps=14), due[0]),
        "squares": (contenders.trained(contenders.squares)(*views, REG), due[1]),
    }
    assert relative(due[0][0], due[1][0]) > 0.1  # or it would not matter which is meant
    for name, (results, exact) in found.items():
        for result, right in zip(results, exact, strict=True):
            assert relative(result, right) < 1e-9, name


def test_cca_zoo_computes_the_sum_of_squares(views):
    try:
        loss = contenders.cca_zoo()
    except ImportError:
        pytest.fail("cca-zoo is not installed: make test installs it")
    value = loss(*views, REG)
    assert relative(value, nk.dcca_loss(*views, reg=REG, objective="fro2")) < 1e-9


def test_a_wrong_loss_fails(views):
    gate = Close(contenders.eigh_svd, REG, *views).within(1e-6, 1e-6)
    value, dx, dy = contenders.trained(contenders.eigh_svd)(*views, REG)
    assert gate((value, dx, dy)) is None
    mutants = {
        "sign": (-value, -dx, -dy),
        "value": (value * (1 + 1e-5), dx, dy),
        "gradient of one view": (value, dx, torch.zeros_like(dy)),
        "one entry": (value, dx, dy + 1e-4 * dy.abs().max() * torch.eye(200, 5)),
        "NaN": (value, dx * torch.nan, dy),
        "the other objective": contenders.trained(contenders.squares)(*views, REG),
    }
    assert [name for name, results in mutants.items() if gate(results) is None] == []


def test_whitening_and_the_redundancy_losses_are_ours(views):
    x, y = views
    for method, plain in (("zca", contenders.whitened), ("cholesky", contenders.decorrelated)):
        assert relative(plain(x, 1e-5), nk.whiten(x, method=method, eps=1e-5)) < 1e-9, method
    y = x.detach().flip(1) + 0.1 * y.detach()[:, :1]
    assert relative(contenders.vicreg(x, y), nk.vicreg_loss(x, y)) < 1e-9
    assert relative(contenders.barlow_twins(x, y), nk.barlow_twins_loss(x, y)) < 1e-9
