"""Cholesky factors and their inverses of many small matrices on the C++ core, of every instruction set."""

import pytest
import torch
from torch import Tensor

from neurokernels._core import native

LEVELS = dict(enumerate(("x86-64-v4", "x86-64-v3", "baseline")))
LEVELS = {name: level for level, name in LEVELS.items() if level in native.core().eigh_levels}
levels = pytest.mark.parametrize("level", LEVELS)


def cholesky(
    a: Tensor,
    ridge: float = 0.0,
    *,
    threads: int = 1,
    level: str | None = None,
    wanted: tuple[bool, bool] = (True, True),
) -> tuple[Tensor, Tensor]:
    """Factor and inverse of ``[count, n, n]`` of any strides."""
    out = tuple(a.new_empty(a.shape if want else (0, 0, 0)) for want in wanted)
    addresses = [t.data_ptr() if want else 0 for t, want in zip(out, wanted, strict=True)]
    kind, code = int(a.dtype == torch.float64), -1 if level is None else LEVELS[level]
    native.core().cholesky(kind, *a.shape[:2], a.data_ptr(), *a.stride(), ridge, *addresses, threads, code)
    return out[0], out[1]


def same(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> bool:
    """Bit by bit, signs of zeros included; NaN is equal to itself."""
    return all(
        a.shape == b.shape and torch.equal(*(t.contiguous().view(-1).view(torch.uint8) for t in (a, b)))
        for a, b in zip(first, second, strict=True)
    )


def positive(n: int, count: int, dtype: torch.dtype) -> Tensor:
    g = torch.Generator().manual_seed(n)
    a = torch.randn(count, n, n + 4, dtype=torch.float64, generator=g)
    return (a @ a.mT + torch.eye(n)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@levels
def test_cholesky(level, dtype):
    """float64 within, so that float32 is the exact factor, rounded once."""
    for n in (1, 2, 3, 7, 8, 9, 16, 33, 64):
        a = positive(n, 11, dtype)
        for ridge in (0.0, 0.5):
            factor, inverse = cholesky(a, ridge, level=level)
            exact = torch.linalg.cholesky(a.double() + ridge * torch.eye(n))
            close = {"rtol": torch.finfo(dtype).eps * (1 if dtype == torch.float32 else 200 * n), "atol": 1e-13}
            torch.testing.assert_close(factor.double(), exact, **close)
            torch.testing.assert_close(inverse.double(), torch.linalg.inv(exact), **close)
            assert not factor.triu(1).any()
            assert not inverse.triu(1).any()
            assert same((factor,), (cholesky(a, ridge, level=level, wanted=(True, False))[0],))
            assert same((inverse,), (cholesky(a, ridge, level=level, wanted=(False, True))[1],))


@levels
def test_cholesky_of_anything_beside_it(level):
    """Neighbours, threads, strides and the upper triangle leave no trace, nor does a matrix without a factor."""
    a = positive(9, 40, torch.float64)
    expected = cholesky(a, level=level)
    for threads in (2, 5):
        assert same(cholesky(a, threads=threads, level=level), expected)
    assert same(cholesky(a[5:6], level=level), tuple(t[5:6] for t in expected))
    wide = torch.full((40, 12, 30), torch.nan, dtype=torch.float64)
    wide[:, 1:10, 2:20:2] = torch.where(torch.ones(9, 9).tril() > 0, a, torch.nan)
    assert same(cholesky(wide[:, 1:10, 2:20:2], level=level), expected)
    assert same(cholesky(a.mT.contiguous().mT, level=level), expected)
    a[3, 4, 4], a[8, 7, 2], a[12, 0, 0], a[17] = -1, torch.nan, torch.inf, torch.zeros(9, 9)
    found = cholesky(a, level=level)
    broken = torch.zeros(40, dtype=torch.bool).index_fill(0, torch.tensor([3, 8, 12, 17]), True)
    assert all(t[broken].tril().isnan().sum() == 4 * 45 or t[broken].isnan().all() for t in found)
    assert same(tuple(t[~broken] for t in found), tuple(t[~broken] for t in expected))
    assert cholesky(torch.empty(0, 5, 5), level=level)[0].shape == (0, 5, 5)
    assert cholesky(torch.empty(4, 0, 0), level=level)[0].shape == (4, 0, 0)


@levels
def test_cholesky_of_what_rounding_made_indefinite(level):
    """No pivot of C + ridge I is below the ridge: one that rounding takes there is put back."""
    x = torch.randn(3, 30, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 1e8
    x[..., 3], x[..., 5] = x[..., 0], x[..., 1]
    a = x.mT @ x
    a[:, 3, 3] -= 16  # as it might have been rounded
    factor, _ = cholesky(a, 1e-3, level=level)
    assert factor.isfinite().all()
    assert (factor.diagonal(dim1=-2, dim2=-1) >= 0.999e-3**0.5).all()
    torch.testing.assert_close(factor @ factor.mT, a, rtol=1e-12, atol=a.amax().item() * 1e-13)


def test_refusals():
    with pytest.raises(ValueError, match=r"^cholesky: n must be in \[0, 64\], got 65"):
        cholesky(torch.eye(65)[None])
