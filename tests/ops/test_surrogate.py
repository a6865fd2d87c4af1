"""Surrogate derivatives: formulas, names, areas, the peers' own backward passes, and what is refused."""

import math

import numpy as np
import pytest
import snntorch.surrogate as snn
import torch
from spikingjelly.activation_based import surrogate as sj

from neurokernels import surrogate
from tests.ops import golden

Y = torch.linspace(-4, 4, 8001, dtype=torch.float64)
UNIT_AREA = ("boxcar", "piecewise_quadratic", "atan", "sigmoid", "gaussian", "erf", "piecewise_exp")
PEAKS = {
    "constant": lambda a: a,
    "boxcar": lambda a: a,
    "triangle": lambda a: 1,
    "esser": lambda a: 1,
    "piecewise_quadratic": lambda a: a,
    "atan": lambda a: a / 2,
    "sigmoid": lambda a: a / 4,
    "fast_sigmoid": lambda a: 1,
    "gaussian": lambda a: a / math.sqrt(2 * math.pi),
    "erf": lambda a: a / math.sqrt(math.pi),
    "piecewise_exp": lambda a: a / 2,
}


@pytest.mark.parametrize("name", surrogate.NAMED)
@pytest.mark.parametrize("alpha", [None, 0.3, 1.0, 5.0])
def test_formulas(name, alpha):
    """Against the formulas as they are published, which the code writes in other ways."""
    chosen = surrogate.get(name if alpha is None else (name, alpha))
    value, inside = golden.shape_of(name if alpha is None else (name, alpha), Y.numpy())
    expected = np.where(inside, value, 0.0)
    np.testing.assert_allclose(surrogate.derivative(Y, chosen).numpy(), expected, rtol=1e-12, atol=1e-300)
    assert surrogate.derivative(torch.zeros(1, dtype=torch.float64), chosen).item() == pytest.approx(
        PEAKS[name](chosen.alpha), rel=1e-12
    )


@pytest.mark.parametrize("name", UNIT_AREA)
def test_unit_area(name):
    """Those that are derivatives of a step from 0 to 1."""
    wide = torch.linspace(-400, 400, 2_000_001, dtype=torch.float64)
    area = torch.trapezoid(surrogate.derivative(wide, surrogate.get((name, 2.0))), wide).item()
    assert area == pytest.approx(1.0, abs=1e-3)


PEERS = {
    "boxcar": sj.Rect,
    "piecewise_quadratic": sj.PiecewiseQuadratic,
    "atan": sj.ATan,
    "sigmoid": sj.Sigmoid,
    "erf": sj.Erf,
    "piecewise_exp": sj.PiecewiseExp,
}


def peers(function, y):
    leaf = y.clone().requires_grad_()
    function(leaf).sum().backward()
    return leaf.grad


@pytest.mark.parametrize("name", PEERS)
def test_spikingjelly(name):
    for alpha in (0.5, 2.0, 3.3):
        got = surrogate.derivative(Y, surrogate.get((name, alpha)))
        torch.testing.assert_close(got, peers(PEERS[name](alpha), Y), rtol=1e-7, atol=1e-9)
    soft_sign = peers(sj.SoftSign(3.0), Y)
    torch.testing.assert_close(
        surrogate.derivative(Y, surrogate.fast_sigmoid(3.0)) * 1.5, soft_sign, rtol=1e-7, atol=1e-9
    )


@pytest.mark.parametrize("name", ["atan", "sigmoid", "fast_sigmoid"])
def test_snntorch(name):
    for alpha in (0.5, 2.0, 25.0):
        got = surrogate.derivative(Y, surrogate.get((name, alpha)))
        torch.testing.assert_close(got, peers(getattr(snn, name)(alpha), Y), rtol=1e-6, atol=1e-9)
    straight = peers(snn.straight_through_estimator(), Y)
    torch.testing.assert_close(surrogate.derivative(Y, surrogate.constant()), straight)


def test_names():
    """Every name has its default width, every alias its meaning."""
    assert set(surrogate.NAMED) == set(PEAKS)
    for name, make in surrogate.NAMED.items():
        chosen = surrogate.get(name)
        assert (chosen.name, chosen.alpha) == (name, make().alpha)
        assert repr(chosen) == f"surrogate.{name}({chosen.alpha:g})"
        assert surrogate.get(chosen) is chosen
        assert surrogate.get((name, 3)).alpha == 3
        assert chosen.code == surrogate.SHAPES.index(chosen.shape)
    assert surrogate.get("flat").name == "constant"
    assert surrogate.get("superspike").name == "fast_sigmoid"
    assert {n for n in surrogate.NAMED if surrogate.get(n).is_two_valued} == {"constant", "boxcar"}


def test_edges():
    """The box is open, everything else continuous; nothing is NaN far away; NaN stays NaN but where it is decided."""
    edge = torch.tensor([0.25, math.nextafter(0.25, 0), -0.25], dtype=torch.float64)
    assert surrogate.derivative(edge, surrogate.boxcar(2.0)).tolist() == [0.0, 2.0, 0.0]
    far = torch.tensor([1e30, -1e30, math.inf, -math.inf])
    for name in surrogate.NAMED:
        value = surrogate.derivative(far, surrogate.get(name))
        assert value.isfinite().all()
        assert name == "constant" or not value.any()
    for name in set(surrogate.NAMED) - {"constant", "boxcar"}:
        assert surrogate.derivative(torch.tensor([math.nan]), surrogate.get(name)).isnan().all(), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_tabulated(dtype):
    values = [0.5, 1.0, 0.25]
    table = surrogate.tabulated(values, low=-1, high=1)
    y = torch.tensor([-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.0001], dtype=dtype)
    assert surrogate.derivative(y, table).tolist() == [0.0, 0.5, 0.75, 1.0, 0.625, 0.25, 0.0]
    assert surrogate.derivative(y, table).dtype == dtype
    assert repr(table) == "surrogate.tabulated(...)"
    assert not table.is_two_valued
    fine = surrogate.tabulated(surrogate.derivative(Y, surrogate.atan()), low=-4, high=4)
    between = Y[:-1] + 3e-4
    torch.testing.assert_close(
        surrogate.derivative(between, fine), surrogate.derivative(between, surrogate.atan()), rtol=0, atol=1e-5
    )


def test_a_table_is_a_copy():
    values = torch.ones(3)
    table = surrogate.tabulated(values, low=0, high=1)
    values.zero_()
    assert surrogate.derivative(torch.tensor([0.5]), table).item() == 1.0


@pytest.mark.parametrize(
    ("values", "low", "high", "words"),
    [
        ([1.0], 0, 1, ("values", "[K] with K >= 2", "(1,)")),
        ([[1.0, 2.0]], 0, 1, ("values", "(1, 2)")),
        ([1.0, 2.0], 1, 1, ("low", "below high", "low=1 and high=1")),
        ([1.0, 2.0], math.nan, 1, ("low", "nan")),
    ],
)
def test_bad_tables(values, low, high, words):
    with pytest.raises(ValueError, match="surrogate.tabulated") as caught:
        surrogate.tabulated(values, low=low, high=high)
    assert [w for w in words if w not in str(caught.value)] == []


@pytest.mark.parametrize("alpha", [0.0, -1.0, math.nan, math.inf])
def test_bad_widths(alpha):
    with pytest.raises(ValueError, match="alpha must be positive and finite"):
        surrogate.get(("atan", alpha))
    with pytest.raises(ValueError, match="alpha must be positive and finite"):
        surrogate.get(surrogate.atan(alpha))


def test_bad_names():
    with pytest.raises(ValueError, match="constant, boxcar, .*superspike") as caught:
        surrogate.get("arctan")
    assert [name for name in surrogate.NAMED if name not in str(caught.value)] == []
    for wrong in (("atan", 1.0, 2.0), ("arctan", 2.0), ()):
        with pytest.raises(ValueError, match="surrogate must be one of"):
            surrogate.get(wrong)
    for wrong in (None, 2.0, ["atan"], torch.ones(3)):
        with pytest.raises(TypeError, match="surrogate must be a name"):
            surrogate.get(wrong)
    with pytest.raises(TypeError, match="surrogate atan: alpha must be a number, got str"):
        surrogate.get(("atan", "wide"))
