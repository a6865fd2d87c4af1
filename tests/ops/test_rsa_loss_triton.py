"""The Triton kernels of the similarity losses under the interpreter: kinds of targets, strips, batches, and mutants.

A launch of a program takes the interpreter tenths of a second, so that there are few images, and room for few tiles.
"""

import pytest
import torch

import neurokernels as nk
from neurokernels._core import backends
from neurokernels.ops.rsa import loss_triton
from tests import definitions


def noise(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def similar(v, n=None):
    return definitions.similarity(v - v.mean(-2, keepdim=True), "cosine")


def run(function, x, *args, **options):
    x = x.detach().requires_grad_()
    value = function(x, *args, **options)
    return value.detach().double(), torch.autograd.grad(value.sum(), x)[0].double()


def errors(x, *args, **options):
    """Relative errors of value and gradient against the definition in float64."""
    with nk.backend("triton"), backends.record() as ran:
        found = run(nk.rsa_loss, x, *args, **options)
    assert ran == [("rsa_loss", "triton")]
    args = [a.double() for a in args]
    options = {k: v.double() if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    exact = run(definitions.rsa_loss, x.double(), *args, **options)
    return [((a - b).abs().max() / b.abs().max()).item() for a, b in zip(found, exact, strict=True)]


@pytest.fixture
def narrow(monkeypatch):
    """Strips of one tile."""
    monkeypatch.setattr(loss_triton, "ROOM", 1)


def test_square_and_strips(narrow):
    """Three tiles, one strip for each; a unit beyond a block; rows of the target in the middle of longer ones."""
    x, t = noise(130, 33), similar(noise(130, 9, seed=1))
    t = torch.full((130, 140), torch.nan).index_copy_(1, torch.arange(3, 133), t)[:, 3:133]
    assert max(errors(x, t)) < 2e-5


def test_condensed_distances_batched():
    x, t = noise(2, 70, 5), 1 - similar(noise(2, 70, 9, seed=1))
    i, j = torch.triu_indices(70, 70, 1)
    assert max(errors(x, t[:, i, j], distances=True)) < 2e-5


def test_responses_in_float64(narrow):
    assert max(errors(noise(40, 3, dtype=torch.float64), responses=noise(40, 17, seed=1, dtype=torch.float64))) < 1e-12


def test_what_is_below_the_diagonal_is_not_read():
    x, t = noise(20, 6), similar(noise(20, 9, seed=1))
    assert max(errors(x, t.triu(1) + torch.full((20, 20), torch.nan).tril())) < 2e-5


def test_duplicates_and_fast():
    """An image twice, in both: similarities of 1, whose derivative is 1 / eps."""
    x, v = noise(20, 6), noise(20, 9, seed=1)
    x[7], v[11] = x[3], v[2]
    value, gradient = run(nk.rsa_loss, x, responses=v)
    with nk.backend("triton"):
        for accuracy in ("high", "fast"):
            found = run(nk.rsa_loss, x, responses=v, accuracy=accuracy)
            assert found[1].isfinite().all()
            torch.testing.assert_close(found[0], value, rtol=1e-3, atol=0)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("form", ["pearson", "cka", "cka_debiased"])
def test_sums_over_pairs(form):
    """No kernel of ours: a few products, in the dtype of the features."""
    assert max(errors(noise(30, 5), responses=noise(30, 4, seed=1), form=form)) < 2e-5


def test_the_order_of_sums_does_not_vary():
    x, v = noise(70, 9), noise(70, 5, seed=1)
    with nk.backend("triton"):
        one, two = (run(nk.rsa_loss, x, responses=v) for _ in range(2))
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])


@pytest.mark.parametrize("mutant", ["no second half", "no addition"])
def test_mutants(mutant, monkeypatch, narrow):
    """Without the transposed tiles, or with strips that overwrite each other, the gradient is another one."""
    kernel = loss_triton.gradient_kernel

    class Broken:
        def __getitem__(self, grid):
            def launch(**arguments):
                if mutant == "no addition":
                    arguments["ADD"] = False
                else:
                    arguments["f"] = arguments["f"].clone()
                    arguments["f"][:, : 64 * arguments["tiles"]] = 0
                kernel[grid](**arguments)

            return launch

    monkeypatch.setattr(loss_triton, "gradient_kernel", Broken())
    assert errors(noise(70, 5), similar(noise(70, 9, seed=1)))[1] > 1e-2
