"""The compiled core for small views: objectives, correlations, gradients, Cholesky factors at each instruction set."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import neurokernels as nk
from neurokernels._core import backends, native
from neurokernels._core.covariance import compute_dtype
from neurokernels._core.covariance_cpu import DTYPES, pair
from neurokernels.ops.cca import cpu_small, reference
from neurokernels.ops.cca.leaves import OBJECTIVES
from tests.ops import torture

LEVELS = dict(enumerate(("x86-64-v4", "x86-64-v3", "baseline")))
LEVELS = {name: level for level, name in LEVELS.items() if level in native.core().eigh_levels}
levels = pytest.mark.parametrize("level", LEVELS)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
objectives = pytest.mark.parametrize("objective", OBJECTIVES)

#: N, D1, D2: in one block of columns and in several, of one register and of several, square, tall and wide.
SHAPES = [
    (40, 1, 1), (40, 1, 10), (40, 5, 1), (3, 2, 2), (130, 8, 8), (90, 10, 10), (50, 7, 12), (70, 17, 16), (140, 31, 33),
    (100, 64, 20), (90, 24, 64), (150, 64, 64),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def code(level: str | None) -> int:
    return -1 if level is None else LEVELS[level]


def dcca(
    x: Tensor, y: Tensor, reg: Any = (1e-3, 1e-2), objective: str = "nuclear", k: int = 0, *, factors: bool = True,
    threads: int = 1, level: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Value, weights and mean of ``[..., N, D1]`` and ``[..., N, D2]``."""
    batch, d = x.shape[:-2], x.shape[-1] + y.shape[-1]
    shapes = batch, (*batch, d, d) if factors else (0,), (*batch, d)
    value, weights, mean = (x.new_empty(shape, dtype=compute_dtype(x)) for shape in shapes)
    *_held, views = pair(x, y)
    addresses = value.data_ptr(), weights.data_ptr() if factors else 0, mean.data_ptr()
    chosen = OBJECTIVES.index(objective)
    native.core().dcca_small(DTYPES[x.dtype], *views, *reg, chosen, k, *addresses, threads, code(level))
    return value, weights, mean


def gradient(
    g: Tensor, x: Tensor, y: Tensor, weights: Tensor, *, threads: int = 1, level: str | None = None
) -> tuple[Tensor, Tensor]:
    dx, dy = x.new_empty(x.shape), y.new_empty(y.shape)
    *_held, views = pair(x, y)
    addresses = g.data_ptr(), 1, weights.data_ptr(), dx.data_ptr(), dy.data_ptr()
    native.core().dcca_small_gradient(DTYPES[x.dtype], *views, *addresses, threads, code(level))
    return dx, dy


def correlations(
    x: Tensor, y: Tensor, reg: Any = (1e-3, 1e-2), *, factors: bool = True, threads: int = 1, level: str | None = None
) -> tuple[Tensor, ...]:
    (*batch, n, d1), d2 = x.shape, y.shape[-1]
    m = min(d1, d2)
    shapes = [(m,), (n, m), (d1, m), (n, m), (d2, m)][: 5 if factors else 1]
    out = tuple(x.new_empty((*batch, *shape), dtype=compute_dtype(x)) for shape in shapes)
    *_held, views = pair(x, y)
    addresses = [t.data_ptr() for t in out] + [0] * (5 - len(out))
    native.core().correlations_small(DTYPES[x.dtype], *views, *reg, *addresses, threads, code(level))
    return out


def everything(x: Tensor, y: Tensor, **options: Any) -> tuple[Tensor, ...]:
    """All that the core says of two views, for comparisons bit by bit."""
    found: list[Tensor] = []
    g = torch.linspace(0.5, 2, x.shape[:-2].numel(), dtype=compute_dtype(x)).view(x.shape[:-2])
    for objective in OBJECTIVES:
        out = dcca(x, y, objective=objective, k=min(2, x.shape[-1], y.shape[-1]), **options)
        found += [*out, *gradient(g, x, y, out[1], **options)]
    return *found, *correlations(x, y, **options)


def same(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> bool:
    """Bit by bit, signs of zeros included; NaN is equal to itself."""
    return all(
        a.shape == b.shape and torch.equal(*(t.contiguous().view(-1).view(torch.uint8) for t in (a, b)))
        for a, b in zip(first, second, strict=True)
    )


def made(n: int, d1: int, d2: int, *batch: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Related views, every item another pair."""
    g = torch.Generator().manual_seed(n + d1 + d2)
    items = [torture.related(n, d1, d2, g) for _ in range(torch.Size(batch).numel())]
    if not items:
        return torch.empty(*batch, n, d1, dtype=dtype), torch.empty(*batch, n, d2, dtype=dtype)
    return tuple(torch.stack(v).view(*batch, n, -1).to(dtype) for v in zip(*items, strict=True))  # type: ignore[return-value]


def assert_right(
    found: tuple[Tensor, ...], x: Tensor, y: Tensor, reg: Any, objective: str, k: int, bound: float
) -> None:
    """Value, dx and dy of one pair, against float64 singular values of the views themselves."""
    exact = torture.truth(x, y, reg, objective, k)
    value, slope = torture.errors((found[0], found[1], found[2]), exact)
    assert value <= bound
    assert slope <= bound


def evaluate(x: Tensor, y: Tensor, reg: Any, objective: str, k: int, level: str | None = None) -> tuple[Tensor, ...]:
    value, weights, _ = dcca(x, y, reg, objective, k, level=level)
    return value, *gradient(torch.ones_like(value), x, y, weights, level=level)


# What it computes ----------------------------------------------------------------------------------------------------


@objectives
@levels
def test_objectives(level, objective):
    for n, d1, d2 in SHAPES:
        x, y = made(n, d1, d2)
        k = max(1, min(d1, d2) // 2) if objective == "topk" else 0
        found = evaluate(x, y, (1e-3, 1e-2), objective, k, level)
        # N - 1 = D gives three correlations of nearly 1, and gradients that are what is left of large numbers.
        assert_right(found, x, y, (1e-3, 1e-2), objective, k, 1e-9 if n == 3 else 1e-11)
        value, weights, mean = dcca(x, y, (1e-3, 1e-2), objective, k, level=level)
        alone, nothing, again = dcca(x, y, (1e-3, 1e-2), objective, k, factors=False, level=level)
        assert abs(alone - value) <= 1e-13 * value
        assert nothing.numel() == 0
        assert torch.equal(weights, weights.mT)
        assert same((mean,), (again,))
        torch.testing.assert_close(mean, torch.cat([x, y], -1).mean(0), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("d", range(1, 65))
def test_every_size(d):
    x, y = made(2 * d + 8, d, 65 - d, 2)
    for i in range(2):
        assert_right(evaluate(x[i], y[i], (1e-2, 1e-2), "nuclear", 0), x[i], y[i], (1e-2, 1e-2), "nuclear", 0, 1e-10)


@dtypes
def test_dtypes(dtype):
    """Half precision computes in float32; the truth is that of the rounded views."""
    bound = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}[dtype]
    for n, d1, d2 in ((90, 10, 10), (300, 20, 13)):
        x, y = made(n, d1, d2, dtype=dtype)
        found = evaluate(x, y, (1e-2, 1e-2), "nuclear", 0)
        assert [t.dtype for t in found] == [compute_dtype(x), dtype, dtype]
        assert_right(found, x, y, (1e-2, 1e-2), "nuclear", 0, bound)
        exact = torture.truth(x, y, (1e-2, 1e-2))
        assert torture.error(found[0], exact.value) <= min(bound, 1e-6)


@pytest.mark.parametrize("name", [name for name, case in torture.CASES.items() if case.shape[0] > max(case.shape[1:])])
@objectives
def test_torture(objective, name):
    """In float64, where nothing but the views' own condition is left of an error."""
    case = torture.CASES[name]
    x, y = (v.contiguous() for v in case.inputs(dtype=torch.float64))
    k = 1 if objective == "topk" else 0
    bounds = {"duplicated unit": 1e-8, "condition 1e6": 1e6 * torch.finfo(torch.float64).eps, "identical views": 1e-9}
    assert_right(evaluate(x, y, case.reg, objective, k), x, y, case.reg, objective, k, bounds.get(name, 1e-12))


@levels
def test_correlations(level):
    """Values, and factors that are canonical directions and give each value's own derivative."""
    reg = (1e-3, 1e-2)
    for n, d1, d2 in [(40, 1, 1), (60, 10, 10), (50, 7, 12), (80, 20, 3), (150, 40, 64), (10, 16, 12)]:
        x, y = made(n, d1, d2)
        s, ex, ax, ey, by = correlations(x, y, reg, level=level)
        live = s > 1e-9
        assert (s.diff() <= 0).all()
        torch.testing.assert_close(s, reference.definition(x, y, *reg)[1], rtol=1e-11, atol=1e-13)
        assert torch.equal(s, correlations(x, y, reg, factors=False, level=level)[0])
        for view, factor, r in ((x, ax, reg[0]), (y, by, reg[1])):
            variance = factor.mT @ torch.cov(view.mT).view(factor.shape[0], -1) @ factor + r * factor.mT @ factor
            torch.testing.assert_close(variance, torch.diag(live.double()), rtol=0, atol=1e-10)
        leaves = x.clone().requires_grad_(), y.clone().requires_grad_()
        for i in {0, int(live.sum()) - 1}:
            exact = torch.autograd.grad(reference.definition(*leaves, *reg)[1][i], leaves)
            ours = ex[:, i : i + 1] * ax[:, i], ey[:, i : i + 1] * by[:, i]
            assert max(map(torture.error, ours, exact)) < 1e-8
        whole = torture.truth(x, y, reg)
        assert max(torture.error(ex @ ax.mT, whole.dx), torture.error(ey @ by.mT, whole.dy)) < 1e-9


def test_ranks_of_equal_correlations():
    """A tie is broken by order, so that the k largest are always k."""
    q = torch.linalg.qr(torch.randn(40, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).Q
    q = torch.linalg.qr(q - q.mean(0)).Q.contiguous()
    x, y = q[:, :6].contiguous(), (q[:, :6] + q[:, 6:]).contiguous()  # each unit correlates with its own by 1 / sqrt(2)
    one = dcca(x, y, (1e-9, 1e-9))[0] / 6
    for k in range(1, 7):
        value, weights, _ = dcca(x, y, (1e-9, 1e-9), "topk", k)
        assert value == pytest.approx(float(one) * k, rel=1e-12)
        assert torch.linalg.matrix_rank(weights[:6, 6:]) == k


# Exactly zero --------------------------------------------------------------------------------------------------------


@dtypes
@levels
def test_dead_units_get_exactly_nothing(level, dtype):
    for n, d1, d2 in ((30, 10, 10), (60, 12, 20), (80, 33, 21)):
        for shape in ((), (5,)):
            x, y = made(n, d1, d2, *shape, dtype=dtype)
            x[..., [0, 3]], x[..., d1 - 1], y[..., [2, d2 - 1]] = 0, 0.3, -7e4 / 3
            for objective in OBJECTIVES:
                value, weights, _ = dcca(x, y, objective=objective, k=4, level=level)
                dx, dy = gradient(torch.ones_like(value), x, y, weights, level=level)
                for slope, units in ((dx, [0, 3, d1 - 1]), (dy, [2, d2 - 1])):
                    assert not slope[..., units].any()
                    assert slope.isfinite().all()
                    assert (slope.abs().amax(-2) > 0).sum(-1).eq(slope.shape[-1] - len(units)).all()
            s, ex, ax, ey, by = correlations(x, y, level=level)
            assert not ax[..., [0, 3, d1 - 1], :].any()
            assert not by[..., [2, d2 - 1], :].any()


@levels
def test_nothing_in_common_with_nothing(level):
    """Views without variance: no correlation, no gradient, no NaN."""
    for x, y in (
        (torch.zeros(9, 4), torch.ones(9, 3)),
        (torch.full((9, 4), 1e30), made(9, 4, 3, dtype=torch.float32)[1]),
    ):
        for objective in OBJECTIVES:
            value, *slopes = evaluate(x, y, (1e-4, 1e-4), objective, 2, level)
            assert value == 0
            assert not any(slope.any() for slope in slopes)
        assert not any(t[..., :2].any() for t in correlations(x, y, level=level)[:3])


def pooled(slopes: tuple[Tensor, ...]) -> list[Tensor]:
    """Gradients with those of duplicates added up: how they share one, the digits of a covariance may not say."""
    dx, dy = slopes
    return [
        torch.cat([dx[:, [0, 2, 3, 4, 6, 7]], dx[:, [1, 5, 8]].sum(1, keepdim=True)], 1),
        torch.cat([dy[:, 1:7], dy[:, [0, 7]].sum(1, keepdim=True)], 1),
    ]


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3, 1e6])
@levels
def test_rounding_is_no_correlation(level, scale):
    """Duplicated units in both views leave a direction without variance, in which M is rounding alone."""
    x, y = made(60, 9, 8)
    x, y, reg = x * scale, y * scale, (1e-4, 1e-4)
    x[:, 5], x[:, 8], y[:, 7] = x[:, 1], x[:, 1], y[:, 0]
    exact = torture.truth(x, y, reg)
    value, *slopes = evaluate(x, y, reg, "nuclear", 0, level)
    assert torture.error(value, exact.value) < 1e-9
    assert all(torture.error(*both) < 1e-7 for both in zip(pooled(tuple(slopes)), pooled(exact[1:]), strict=True))
    if scale <= 1:
        assert_right((value, *slopes), x, y, reg, "nuclear", 0, 1e-7)
    assert correlations(x, y, reg, level=level)[0].count_nonzero() == 7


@levels
def test_scales(level):
    """A power of two changes the digits of a result in nothing but the power, however far it goes."""
    x, y = made(30, 6, 5)
    value, weights, _ = dcca(x, y, (1e-3, 1e-3), level=level)
    for power in (-60, -8, 3, 50, 200):
        up, reg = 2.0**power, 1e-3 * 4.0**power
        found = dcca(x * up, y * up, (reg, reg), level=level)
        assert same((found[0], found[1] * up * up), (value, weights))
    tiny = correlations(x * 1e-70, y * 1e-70, (1e-4, 1e-4), level=level)[0]
    torch.testing.assert_close(
        tiny * 1e140, correlations(x * 1e-7, y * 1e-7, (1e-4, 1e-4))[0] * 1e14, rtol=1e-6, atol=0
    )


# What must not matter ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [(2, 2), (10, 10), (7, 12), (19, 16)], ids=str)
@levels
def test_neighbours_leave_no_trace(level, dims):
    """An item gives the same bits alone, where it fills registers by itself, and among any others, one to a lane."""
    x, y = made(40, *dims, 100)
    x[3], y[5, :, 0], x[6, :, 1] = 0, 2, x[6, :, 0]
    x[7], y[8] = y[7, :, :1], x[8, :, :1]
    expected = everything(x, y, level=level)
    g = torch.linspace(0.5, 2, 100, dtype=torch.float64)
    for count in (1, 2, 3, 7, 8, 9, 33):
        chosen = torch.randperm(100, generator=torch.Generator().manual_seed(count))[:count]
        out = dcca(x[chosen], y[chosen], level=level)
        found = (*out, *gradient(g[chosen], x[chosen], y[chosen], out[1], level=level))
        assert same(found, tuple(t[chosen] for t in expected[:5]))
        assert same(correlations(x[chosen], y[chosen], level=level), tuple(t[chosen] for t in expected[15:]))
    alone = everything(x[11], y[11], level=level)
    assert same(alone[:3], tuple(t[11] for t in expected[:3]))


@pytest.mark.parametrize("shape", [(40, 10, 10, 7), (64, 16, 16, 100), (700, 5, 9), (700, 30, 20, 3)], ids=str)
def test_threads_leave_no_trace(shape):
    x, y = made(*shape, dtype=torch.float32)
    once = everything(x, y)
    assert same(once, everything(x, y))
    for threads in (2, 3, 5):
        assert same(once, everything(x, y, threads=threads))


@dtypes
@levels
def test_layouts_leave_no_trace(level, dtype):
    """Rows with gaps between them that hold NaN, offsets, transposed and broadcast views: the same bits."""
    for dims in ((10, 10), (3, 17)):
        x, y = made(33, *dims, 5, dtype=dtype)
        expected = everything(x, y, level=level)
        padded, swapped = [], []
        for v in (x, y):
            room = torch.full((5, 40, v.shape[-1] + 13), torch.nan, dtype=dtype)
            padded.append(room[:, 4:37, 5 : 5 + v.shape[-1]].copy_(v))
            swapped.append(v.transpose(0, 1).contiguous().transpose(0, 1))
        assert same(everything(*padded, level=level), expected)
        assert same(everything(*swapped, level=level), expected)
        assert same(everything(padded[0], swapped[1], level=level), expected)
        assert same(everything(x.mT.contiguous().mT, y, level=level), expected)
        one = everything(x[:1].expand(5, 33, -1), y, level=level)
        assert same(one, everything(x[:1].repeat(5, 1, 1), y, level=level))
        rows = everything(x[0, :1].expand(33, -1), y[0], level=level)  # no distance between rows at all
        assert same(rows, everything(x[0, :1].repeat(33, 1), y[0], level=level))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dims", [(10, 10), (5, 9), (9, 5), (1, 1)], ids=str)
@levels
def test_a_broken_item_spoils_only_itself(level, dims, bad):
    x, y = made(20, *dims, 21)
    expected = everything(x, y, level=level)
    x[2, 3, 0], y[9, 0, -1], x[20, 19, -1] = bad, bad, bad
    found = everything(x, y, level=level)
    broken = torch.zeros(21, dtype=torch.bool).index_fill(0, torch.tensor([2, 9, 20]), True)
    assert same(tuple(t[~broken] for t in found), tuple(t[~broken] for t in expected))
    for at, t in enumerate(found):
        assert t[broken].isnan().all() or at in (2, 7, 12)  # a mean is spoilt in its own column
    assert everything(x[2], y[2], level=level)[1].isnan().all()


@dtypes
@levels
def test_nothing_is_written_beside_the_outputs(level, dtype):
    """Results are written some columns at a time, over what follows them: never over what is not theirs."""
    guard = 64
    for dims in ((10, 10), (3, 9), (1, 1), (17, 6)):
        x, y = made(30, *dims, 3, dtype=dtype)
        out, g = dcca(x, y, level=level), torch.ones(3, dtype=compute_dtype(x))
        expected = (*out, *gradient(g, x, y, out[1], level=level), *correlations(x, y, level=level))
        rooms = [torch.full((t.numel() + 2 * guard,), -77.0, dtype=t.dtype) for t in expected]
        inner = [room[guard : guard + t.numel()].view(t.shape) for room, t in zip(rooms, expected, strict=True)]
        *_held, views = pair(x, y)
        at, kind, last = [t.data_ptr() for t in inner], DTYPES[dtype], (1, LEVELS[level])
        native.core().dcca_small(kind, *views, 1e-3, 1e-2, 0, 0, *at[:3], *last)
        native.core().dcca_small_gradient(kind, *views, g.data_ptr(), 1, at[1], *at[3:5], *last)
        native.core().correlations_small(kind, *views, 1e-3, 1e-2, *at[5:], *last)
        assert same(tuple(inner), expected)
        for room in rooms:
            assert (room[:guard] == -77).all()
            assert (room[-guard:] == -77).all()


@given(
    n=st.integers(2, 40),
    d1=st.integers(1, 24),
    d2=st.integers(1, 24),
    items=st.integers(1, 9),
    power=st.integers(-6, 2),
)
def test_any_shape(n, d1, d2, items, power):
    """Of the objective wherever it has a primal form, and of the correlations everywhere."""
    x, y = made(n, d1, d2, items)
    reg = (10.0**power, 10.0 ** (power / 2))
    if n > max(d1, d2):
        found = dcca(x, y, reg)
        dx, dy = gradient(torch.ones(items, dtype=torch.float64), x, y, found[1])
        assert_right((found[0][-1], dx[-1], dy[-1]), x[-1], y[-1], reg, "nuclear", 0, 1e-6)
    exact = reference.correlations(x, y, *reg, False)[0]
    torch.testing.assert_close(correlations(x, y, reg)[0], exact, rtol=0, atol=1e-8)


# The op --------------------------------------------------------------------------------------------------------------


def test_the_op_is_this():
    """Forced to the CPU, small views come here, with any leading dimensions, in the dtype that they compute in."""
    for shape in ((40, 10, 10), (40, 10, 10, 2, 3), (50, 7, 12, 4)):
        for dtype in DTYPES:
            x, y = made(*shape, dtype=dtype)
            x.requires_grad_(), y.requires_grad_()
            with nk.backend("cpu"), backends.record() as ran:
                loss = nk.dcca_loss(x, y, reg=(1e-3, 1e-2))
                slopes = torch.autograd.grad(loss.sum(), (x, y))
                values = nk.canonical_correlations(x.detach(), y.detach(), reg=(1e-3, 1e-2))
            assert ran == [("dcca", "cpu")] * 3
            x, y = x.detach(), y.detach()
            value, weights, _ = dcca(x, y)
            assert same((-loss.detach(), *slopes), (value, *gradient(-torch.ones_like(value), x, y, weights)))
            assert same((values,), correlations(x, y, factors=False))


def test_which_views_it_takes():
    def views(n: int, d1: int, d2: int) -> tuple[Tensor, Tensor]:
        return torch.empty(n, d1, device="meta"), torch.empty(n, d2, device="meta")

    limit = native.core().cca_limit
    assert cpu_small.takes(*views(10, limit, 3))
    assert not cpu_small.takes(*views(10, 3, limit + 1))
    assert cpu_small.takes_gradient(*views(limit + 1, limit, 3))
    assert not cpu_small.takes_gradient(*views(limit, limit, 3))
    assert cpu_small.takes_objective(*views(100, limit, 10))
    assert not cpu_small.takes_objective(*views(100, limit, limit))
    assert cpu_small.takes_objective(*views(100, limit, limit), "topk")
    assert not cpu_small.takes(*views(10**6, 3, 3))


@pytest.mark.parametrize("batch", [(0,), (2, 0)], ids=str)
def test_nothing_to_do(batch):
    x, y = made(10, 4, 3, *batch)
    found = everything(x, y)
    assert all(t.numel() == 0 for t in found)


def test_refusals():
    for shape in ((9, 65, 1), (9, 2, 65)):
        with pytest.raises(ValueError, match=r"^cca: views must have 1 to 64 columns, got \d+ and 65"):
            dcca(*made(*shape))
    with pytest.raises(ValueError, match="^cca: views must have at least 2 rows, got 1"):
        correlations(*made(1, 2, 2))
    with pytest.raises(ValueError, match="^cca: .* lacks instruction set level 9"):
        native.core().dcca_small(1, *pair(*made(9, 2, 2))[2], 1.0, 1.0, 0, 0, 0, 0, 0, 1, 9)


def test_the_best_instruction_set_is_the_default():
    x, y = made(40, 10, 7, 9)
    assert same(everything(x, y), everything(x, y, level=next(iter(LEVELS))))


# Mutants: what a broken core would return must fail the assertion that right ones pass -------------------------------


def solved(x: Tensor, y: Tensor, reg: Any, n: int) -> tuple[Tensor, ...]:
    """Inverse factors and singular triplets by torch, from samples as they are."""
    roots = [
        torch.linalg.inv(torch.linalg.cholesky(v.mT @ v / n + r * torch.eye(v.shape[1])))
        for v, r in zip((x, y), reg, strict=True)
    ]
    u, s, vh = torch.linalg.svd(roots[0] @ (x.mT @ y / n) @ roots[1].mT, full_matrices=False)
    return *roots, u, s, vh.mT


def broken(x: Tensor, y: Tensor, reg: Any, which: str) -> tuple[Tensor, ...]:
    """The core's formulas with one mistake, or with none."""
    n = len(x) - (which != "divided by N")
    x, y = (v if which == "not centred" else v - v.mean(0) for v in (x, y))
    a, b, u, s, v = solved(x, y, reg, n)
    kept = (s > (0 if which == "rounding counts" else 1e-9)).double()
    if which == "largest missing":
        kept[0] = 0
    ax, by = a.mT @ u * kept, b.mT @ v * kept
    cross = ax @ by.mT
    if which == "transposed":
        cross = cross.mT
    own = torch.ones_like(s) if which == "no singular values" else s
    zero = 0 if which == "no own term" else 1
    dx = (y @ cross.mT - zero * (x * (1 if which != "wrong sign" else -1)) @ (ax * own) @ ax.mT) / n
    dy = (x @ cross - zero * y @ (by * own) @ by.mT) / n
    return (s * kept).sum(), dx, dy


MUTANTS = (
    "divided by N", "not centred", "rounding counts", "largest missing", "transposed", "no singular values",
    "no own term", "wrong sign",
)  # fmt: skip


@pytest.mark.parametrize("which", MUTANTS)
def test_mutants_fail(which):
    x, y = made(40, 6, 6)
    x[:, 5] = x[:, 1]
    reg = (1e-3, 1e-2)
    assert_right(broken(x, y, reg, "nothing"), x, y, reg, "nuclear", 0, 1e-8)
    assert_right(evaluate(x, y, reg, "nuclear", 0), x, y, reg, "nuclear", 0, 1e-8)
    with pytest.raises(AssertionError):
        assert_right(broken(x, y, reg, which), x, y, reg, "nuclear", 0, 1e-8)
