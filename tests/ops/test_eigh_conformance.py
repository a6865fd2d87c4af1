"""Eigensolvers on every kind of matrix: `nk.eigh` on each backend, and the compiled solver of each instruction set."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

import neurokernels as nk
from neurokernels._core import backends, native
from tests.ops.matrices import assert_conforms, of_values, symmetric, zoo

CODES = {torch.float32: 0, torch.float64: 1}
LEVELS = dict(enumerate(("x86-64-v4", "x86-64-v3", "baseline")))
LEVELS = {name: level for level, name in LEVELS.items() if level in native.core().eigh_levels}
SIZES = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 63, 64)
dtypes = pytest.mark.parametrize("dtype", CODES, ids=str)
levels = pytest.mark.parametrize("level", LEVELS)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The checks are many small calls to LAPACK, which two threads only slow down."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def compiled(a: Tensor, *, vectors: bool = True, threads: int = 1, level: str | None = None) -> tuple[Tensor, Tensor]:
    """The binding itself, on ``[count, n, n]`` of any strides."""
    count, n = a.shape[:2]
    values, columns = a.new_empty(count, n), a.new_empty((count, n, n) if vectors else 0)
    addresses = values.data_ptr(), columns.data_ptr() if vectors else 0
    chosen = -1 if level is None else LEVELS[level]
    native.core().eigh(CODES[a.dtype], count, n, a.data_ptr(), *a.stride(), *addresses, threads, chosen)
    return values, columns


def bits(*tensors: Tensor) -> list[Tensor]:
    """For comparisons that tell zeros of different signs apart, and find NaN equal to itself."""
    return [t.view(torch.int32 if t.dtype == torch.float32 else torch.int64) for t in tensors]


def same(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> bool:
    return all(map(torch.equal, bits(*first), bits(*second)))


@pytest.mark.parametrize("n", [*SIZES, 100, 128])
@dtypes
@levels
def test_compiled_solver_conforms(level, dtype, n):
    names, a = zoo(n, dtype)
    values, vectors = compiled(a, level=level)
    assert_conforms(names, a, values, vectors)
    assert same((values,), compiled(a, vectors=False, level=level)[:1])


@pytest.mark.parametrize("n", [1, 2, 5, 16, 33, 64, 70])
@dtypes
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_op_conforms(backend, dtype, n):
    names, a = zoo(n, dtype)
    with nk.backend(backend), backends.record() as ran:
        values, vectors = nk.eigh(a)
        alone = nk.eigvalsh(a)
    assert ran == [("eigh", backend)] * 2
    assert_conforms(names, a, values, vectors)
    assert_conforms(names, a, alone, vectors)


@dtypes
def test_op_is_the_compiled_solver(dtype):
    """Up to the limit, with any leading dimensions; half precision is computed in float32."""
    for n in (16, native.core().eigh_limit):
        a = zoo(n, dtype)[1][:36]
        values, vectors = compiled(a)
        with nk.backend("cpu"):
            assert same(nk.eigh(a), (values, vectors))
            assert same(nk.eigh(a.view(3, 1, 12, n, n)), (values.view(3, 1, 12, n), vectors.view(3, 1, 12, n, n)))
            assert same(nk.eigh(a.bfloat16()), compiled(a.bfloat16().float()))


@pytest.mark.parametrize("n", [2, 5])
@dtypes
def test_op_conforms_on_triton(dtype, n):
    names, a = zoo(n, dtype)
    keep = [i for i, name in enumerate(names) if not name.startswith(("entries", "graded", "geometric, both"))][::3]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with nk.backend("triton"), backends.record() as ran:
        values, vectors = nk.eigh(a[keep].to(device))
    assert ran == [("eigh", "triton")]
    assert_conforms([names[i] for i in keep], a[keep], values.cpu(), vectors.cpu())


# What must not matter ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 63])
@pytest.mark.parametrize("n", [3, 8, 17, 34])
@dtypes
@levels
def test_neighbours_leave_no_trace(level, dtype, n, count):
    """A matrix gives the same bits in any batch: lanes side by side converge after different numbers of sweeps."""
    a = torch.cat([zoo(n, dtype)[1], zoo(n, dtype)[1].flip(0)])
    values, vectors = compiled(a, level=level)
    chosen = torch.randperm(len(a), generator=torch.Generator().manual_seed(count))[:count]
    assert same(compiled(a[chosen], level=level), (values[chosen], vectors[chosen]))


@pytest.mark.parametrize("n", [3, 17, 40])
@dtypes
@levels
def test_threads_leave_no_trace(level, dtype, n):
    a = torch.cat([zoo(n, dtype)[1]] * 2)
    once = compiled(a, level=level)
    assert same(once, compiled(a, level=level))
    for threads in (2, 5):
        assert same(once, compiled(a, level=level, threads=threads))


@pytest.mark.parametrize("n", [3, 8, 17, 33])
@dtypes
@levels
def test_strides_and_the_upper_triangle_leave_no_trace(level, dtype, n):
    a = zoo(n, dtype)[1]
    expected = compiled(a, level=level)
    poisoned = a + torch.full_like(a, torch.nan).triu(1).nan_to_num(0, 0, 0).where(
        torch.ones(n, n).tril() > 0, torch.nan
    )
    wide = torch.full((len(a), n + 3, 2 * n), torch.nan, dtype=dtype)
    wide[:, 2 : n + 2, 1::2] = poisoned
    inner = torch.empty(n, n, len(a), dtype=dtype).permute(2, 0, 1)
    inner.copy_(poisoned)
    for seen in (poisoned, poisoned.mT.contiguous().mT, wide[:, 2 : n + 2, 1::2], inner):
        assert same(compiled(seen, level=level), expected)
    one = compiled(a[:1].expand(5, n, n), level=level)
    assert same(one, tuple(e[:1].expand_as(o).contiguous() for e, o in zip(expected, one, strict=True)))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("n", [1, 2, 9, 33])
@dtypes
@levels
def test_a_broken_matrix_spoils_only_itself(level, dtype, n, bad):
    a = zoo(n, dtype)[1]
    values, vectors = compiled(a, level=level)
    places = [(0, 0), (n - 1, 0), (n - 1, n - 1), (n // 2, n // 3)]
    broken = torch.arange(1, len(a), 5)
    spoilt = a.clone()
    for k, index in enumerate(broken.tolist()):
        spoilt[index][places[k % len(places)]] = bad
    found = compiled(spoilt, level=level)
    assert all(t[broken].isnan().all() for t in found)
    sound = torch.ones(len(a), dtype=torch.bool).index_fill(0, broken, False)
    assert same(tuple(t[sound] for t in found), (values[sound], vectors[sound]))


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_a_broken_matrix_spoils_only_itself_in_the_op(backend):
    a = zoo(6, torch.float32)[1]
    a[3, 4, 2] = torch.nan
    with nk.backend(backend):
        values, vectors = nk.eigh(a)
    assert values[3].isnan().all()
    assert vectors[3].isnan().all()
    sound = torch.arange(len(a)) != 3
    assert values[sound].isfinite().all()
    assert vectors[sound].isfinite().all()


@pytest.mark.parametrize("n", [1, 3, 5, 8, 15, 17, 24, 63])
@dtypes
@levels
def test_nothing_is_written_beside_the_outputs(level, dtype, n):
    """Rows are written a register at a time, over what follows them: never over what is not theirs."""
    for count in (1, 3, 17):
        a = torch.stack([symmetric(n, torch.Generator().manual_seed(k)) for k in range(count)]).to(dtype)
        guard, sizes = 32, (count * n, count * n * n)
        room = torch.full((sum(sizes) + 3 * guard,), -77.0, dtype=dtype)
        values, vectors = room[guard:][: sizes[0]], room[2 * guard + sizes[0] :][: sizes[1]]
        native.core().eigh(
            CODES[dtype], count, n, a.data_ptr(), *a.stride(), values.data_ptr(), vectors.data_ptr(), 1, LEVELS[level]
        )
        beside = torch.cat([room[:guard], room[guard + sizes[0] :][:guard], room[-guard:]])
        assert (beside == -77).all()
        assert same((values.view(count, n), vectors.view(count, n, n)), compiled(a, level=level))


# The ends of what is possible ----------------------------------------------------------------------------------------


@dtypes
@levels
def test_nothing_to_do(level, dtype):
    for shape in ((0, 5, 5), (4, 0, 0), (0, 0, 0)):
        values, vectors = compiled(torch.empty(shape, dtype=dtype), level=level)
        assert values.shape == shape[:2]
        assert vectors.shape == shape


@dtypes
@levels
def test_subnormal_matrices(level, dtype):
    """Entries that have only a few bits left: the values are right to the last of them."""
    info = torch.finfo(dtype)
    step = info.smallest_normal * info.eps
    small = (torch.randint(-900, 900, (5, 7, 7), generator=torch.Generator().manual_seed(0)) * 1.0).double()
    small = small.tril() + small.tril(-1).mT
    values, vectors = compiled(small.to(dtype) * step, level=level)
    assert ((values.double() / step - torch.linalg.eigvalsh(small)).abs() <= 1).all()
    scaled, same_vectors = compiled(small.to(dtype), level=level)
    assert scaled.isfinite().all()
    assert (vectors - same_vectors).abs().max() < 1e-3


@dtypes
@levels
def test_scales_change_no_digit(level, dtype):
    """Matrices are scaled by powers of two, so those that differ by one have the same vectors."""
    a = symmetric(11, torch.Generator().manual_seed(1)).to(dtype)[None]
    values, vectors = compiled(a, level=level)
    for power in (-90, -3, 1, 64, 120):
        assert same(compiled(a * 2.0**power, level=level), (values * 2.0**power, vectors))


def test_the_largest_numbers():
    """Values that do not fit are infinite, as the arithmetic says; what does fit is right."""
    top = torch.finfo(torch.float32).max
    values, _ = compiled(torch.full((1, 3, 3), top / 4))
    assert values[0, 2].item() == pytest.approx(0.75 * top)
    assert compiled(torch.full((1, 8, 8), top))[0][0, 7] == torch.inf


@given(
    hnp.arrays(
        "float32",
        st.integers(1, 6).map(lambda n: (1, n, n)),
        elements=st.floats(width=32) | st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-20, 3e38, 1e-45]),
    )
)
def test_any_matrix_gives_an_answer(array):
    """It ends, with NaN throughout where something in the triangle is not finite, and a right answer elsewhere."""
    a = torch.from_numpy(array)
    values, vectors = compiled(a)
    if not a.tril().isfinite().all():
        assert values.isnan().all()
        assert vectors.isnan().all()
        return
    if values.isfinite().all() and a.abs().max() > 1e-30:
        assert_conforms(["drawn"], a.tril() + a.tril(-1).mT, values, vectors)
    assert vectors.isfinite().all()
    assert not values.isnan().any()


def test_refusals():
    a = torch.eye(native.core().eigh_limit + 1)[None]
    with pytest.raises(ValueError, match=r"^eigh: n must be in \[0, \d+\], got \d+"):
        compiled(a)
    with pytest.raises(ValueError, match="^eigh: .* lacks instruction set level 9"):
        native.core().eigh(0, 1, 1, a.data_ptr(), 1, 1, 1, a.data_ptr(), a.data_ptr(), 1, 9)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@dtypes
def test_a_lonely_matrix_that_lapack_gives_up(dtype, backend, monkeypatch):
    """Divide and conquer does so on covariances of dead units, in some builds: here on each with a row of zeros."""
    solve = torch.linalg.eigh

    def stubborn(a: Tensor) -> tuple[Tensor, Tensor]:
        if (a.tril() == 0).all(-1).any() or a.dtype == torch.float32:
            if len(a) % 2:
                raise torch.linalg.LinAlgError("the algorithm failed to converge")
            return a[..., 0] * torch.nan, a * torch.nan
        return solve(a)

    names, a = zoo(100, dtype)
    chosen = [names.index(name) for name in ("dead units", "rank one", "random")]
    for shape in ((1, 100, 100), (3, 1, 100, 100)):
        given_ones = a[chosen[: shape[0]]].view(shape)
        with monkeypatch.context() as patch, nk.backend(backend), backends.record() as ran:
            patch.setattr(torch.linalg, "eigh", stubborn)
            values, vectors = nk.eigh(given_ones)
        assert ran == [("eigh", backend)]
        assert values.shape == shape[:-1]
        flat = given_ones.flatten(0, -3), values.flatten(0, -2), vectors.flatten(0, -3)
        assert_conforms([names[c] for c in chosen[: shape[0]]], *flat)


def test_the_best_instruction_set_is_the_default():
    a = zoo(16, torch.float32)[1]
    assert same(compiled(a), compiled(a, level=next(iter(LEVELS))))


# Mutants: what a broken solver would return must fail the assertion that right ones pass -----------------------------


def almost_diagonal(a: Tensor) -> tuple[Tensor, Tensor]:
    """One sweep too few: the last rotation, by an angle whose square is still negligible, is missing."""
    values, vectors = torch.linalg.eigh(a)
    angle = 1e-3 if a.dtype == torch.float32 else 1e-7
    turned = vectors.clone()
    turned[..., 0], turned[..., 1] = (
        vectors[..., 0] + angle * vectors[..., 1],
        vectors[..., 1] - angle * vectors[..., 0],
    )
    return values, turned / turned.norm(dim=-2, keepdim=True)


def without_back_transform(a: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors of the tridiagonal matrix instead of the matrix that was reduced to it."""
    values, vectors = torch.linalg.eigh(a)
    u = torch.ones(a.shape[-1], 1, dtype=a.dtype)
    return values, vectors - u @ (u.mT @ vectors) * (2 / a.shape[-1])


def drifted(a: Tensor) -> tuple[Tensor, Tensor]:
    """Rotations whose squares of sine and cosine do not sum to one."""
    values, vectors = torch.linalg.eigh(a)
    return values, vectors * (1 + 100 * torch.finfo(a.dtype).eps)


def unsorted(a: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs that belong together, in another order."""
    values, vectors = torch.linalg.eigh(a)
    return values.flip(-1), vectors.flip(-1)


def values_of_the_upper_triangle(a: Tensor) -> tuple[Tensor, Tensor]:
    upper = a.mT.triu() + a.mT.triu(1).mT
    return torch.linalg.eigh(upper + torch.diag_embed(torch.full(a.shape[:-1], 1e-3, dtype=a.dtype)))


def unscaled(a: Tensor) -> tuple[Tensor, Tensor]:
    """Squares that underflow: a tiny matrix looks diagonal."""
    return a.diagonal(dim1=-2, dim2=-1).sort(-1).values, torch.eye(a.shape[-1], dtype=a.dtype).expand_as(a)


MUTANTS = (almost_diagonal, without_back_transform, drifted, unsorted, values_of_the_upper_triangle, unscaled)


@pytest.mark.parametrize("mutant", MUTANTS)
@dtypes
def test_mutants_fail(mutant, dtype):
    g = torch.Generator().manual_seed(0)
    a = torch.stack([symmetric(12, g), of_values(torch.arange(12.0).double(), g) * 1e-25]).to(dtype)
    assert_conforms(["one", "two"], a, *torch.linalg.eigh(a))
    with pytest.raises(AssertionError):
        assert_conforms(["one", "two"], a, *mutant(a))
