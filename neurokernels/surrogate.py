"""Surrogate derivatives: what stands for the derivative of a spike, a delta function, in the backward pass.

Eleven names, nine shapes: every kernel evaluates ``peak * shape(slope * (u - threshold))`` and nothing else, so that
a name costs one line here and none in a kernel. With ``y = u - threshold``:

| constructor                | derivative                            | SpikingJelly 2.0       | snnTorch 1.0         |
|----------------------------|---------------------------------------|------------------------|----------------------|
| ``constant(alpha=1)``      | ``alpha``                             |                        | straight_through     |
| ``boxcar(alpha=1)``        | ``alpha`` if ``abs(y) < 0.5 / alpha`` | Rect(alpha)            |                      |
| ``triangle(alpha=1)``      | ``max(0, 1 - alpha abs(y))``          |                        |                      |
| ``esser(alpha=10)``        | ``max(0, 1 - alpha abs(y))``          |                        |                      |
| ``piecewise_quadratic(1)`` | ``alpha max(0, 1 - alpha abs(y))``    | PiecewiseQuadratic     |                      |
| ``atan(alpha=2)``          | ``alpha/2 / (1 + (pi/2 alpha y)**2)`` | ATan(alpha)            | atan(alpha)          |
| ``sigmoid(alpha=4)``       | ``alpha s (1 - s)`` at alpha y        | Sigmoid(alpha)         | sigmoid(slope=alpha) |
| ``fast_sigmoid(alpha=25)`` | ``1 / (1 + alpha abs(y))**2``         | SoftSign / (alpha / 2) | fast_sigmoid(slope)  |
| ``gaussian(alpha=2)``      | normal density, ``sigma = 1 / alpha`` |                        |                      |
| ``erf(alpha=2)``           | ``alpha/sqrt(pi) exp(-(alpha y)**2)`` | Erf(alpha)             |                      |
| ``piecewise_exp(alpha=1)`` | ``alpha / 2 exp(-alpha abs(y))``      | PiecewiseExp           |                      |
| ``tabulated(values, ...)`` | linear interpolation of ``values``    |                        |                      |

``alpha`` is the inverse width in units of the membrane. ``flat`` (Gerum & Schilling 2021) is ``constant``,
``superspike`` (Zenke & Ganguli 2018) is ``fast_sigmoid``. ``esser`` follows Esser et al. 2016 with the width of Gerum
& Schilling's code.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch

#: The shapes that kernels know, by the code that is handed to them; y is ``slope * (u - threshold)``.
SHAPES = ("constant", "boxcar", "tent", "lorentz", "logistic", "superspike", "gauss", "laplace", "table")


@dataclass(frozen=True, eq=False)
class Surrogate:
    """A surrogate derivative ``peak * shape(slope * y)``; made by the constructors of this module."""

    name: str
    alpha: float
    shape: str
    peak: float
    slope: float = 1.0
    table: torch.Tensor | None = None
    low: float = 0.0
    high: float = 0.0

    @property
    def code(self) -> int:
        """The shape's position in `SHAPES`, which is what kernels are handed."""
        return SHAPES.index(self.shape)

    @property
    def is_two_valued(self) -> bool:
        """Whether the derivative is ``peak`` or zero, so that one bit holds it."""
        return self.shape in ("constant", "boxcar")

    def __repr__(self) -> str:
        return f"surrogate.{self.name}({self.alpha:g})" if self.table is None else "surrogate.tabulated(...)"


def constant(alpha: float = 1.0) -> Surrogate:
    """The same derivative everywhere: Gerum & Schilling's "flat", the straight-through estimator."""
    return Surrogate("constant", alpha, "constant", peak=alpha)


def boxcar(alpha: float = 1.0) -> Surrogate:
    """A box of unit area, ``1 / alpha`` wide."""
    return Surrogate("boxcar", alpha, "boxcar", peak=alpha, slope=2 * alpha)


def triangle(alpha: float = 1.0) -> Surrogate:
    """A triangle of unit height, ``2 / alpha`` wide."""
    return Surrogate("triangle", alpha, "tent", peak=1.0, slope=alpha)


def esser(alpha: float = 10.0) -> Surrogate:
    """The narrow triangle of Esser et al. 2016."""
    return Surrogate("esser", alpha, "tent", peak=1.0, slope=alpha)


def piecewise_quadratic(alpha: float = 1.0) -> Surrogate:
    """A triangle of unit area: the derivative of a piecewise quadratic step."""
    return Surrogate("piecewise_quadratic", alpha, "tent", peak=alpha, slope=alpha)


def atan(alpha: float = 2.0) -> Surrogate:
    """The derivative of an arc tangent (Fang et al. 2021)."""
    return Surrogate("atan", alpha, "lorentz", peak=alpha / 2, slope=math.pi / 2 * alpha)


def sigmoid(alpha: float = 4.0) -> Surrogate:
    """The derivative of a logistic function."""
    return Surrogate("sigmoid", alpha, "logistic", peak=alpha, slope=alpha)


def fast_sigmoid(alpha: float = 25.0) -> Surrogate:
    """The derivative of a fast sigmoid, scaled to unit height: SuperSpike (Zenke & Ganguli 2018)."""
    return Surrogate("fast_sigmoid", alpha, "superspike", peak=1.0, slope=alpha)


def gaussian(alpha: float = 2.0) -> Surrogate:
    """The normal density with standard deviation ``1 / alpha``."""
    return Surrogate("gaussian", alpha, "gauss", peak=alpha / math.sqrt(2 * math.pi), slope=alpha / math.sqrt(2))


def erf(alpha: float = 2.0) -> Surrogate:
    """The derivative of an error function."""
    return Surrogate("erf", alpha, "gauss", peak=alpha / math.sqrt(math.pi), slope=alpha)


def piecewise_exp(alpha: float = 1.0) -> Surrogate:
    """A two-sided exponential of unit area (Shrestha & Orchard 2018)."""
    return Surrogate("piecewise_exp", alpha, "laplace", peak=alpha / 2, slope=alpha)


def tabulated(values: Any, *, low: float, high: float) -> Surrogate:
    """A derivative given by samples: linear between them, zero outside ``[low, high]``.

    Args:
        values: The derivative at equidistant points from ``low`` to ``high``, shape ``[K]`` with K >= 2.
        low: ``u - threshold`` at the first value.
        high: ``u - threshold`` at the last value.

    Raises:
        ValueError: Fewer than two values, values in more than one dimension, or ``low >= high``.
    """
    table = torch.as_tensor(values, dtype=torch.float64).detach().clone()
    if table.ndim != 1 or table.numel() < 2:
        raise ValueError(f"surrogate.tabulated: values must be [K] with K >= 2, got shape {tuple(table.shape)}")
    if not low < high:
        raise ValueError(f"surrogate.tabulated: low must be below high, got low={low} and high={high}")
    return Surrogate("tabulated", math.nan, "table", peak=1.0, table=table, low=float(low), high=float(high))


NAMED = {
    make.__name__: make
    for make in (constant, boxcar, triangle, atan, sigmoid, fast_sigmoid, gaussian, erf, piecewise_quadratic,
                 piecewise_exp, esser)
}  # fmt: skip
ALIASES = {"flat": constant, "superspike": fast_sigmoid}
_DEFAULTS = {name: make() for name, make in (NAMED | ALIASES).items()}


def get(surrogate: "str | tuple[str, float] | Surrogate") -> Surrogate:
    """The surrogate of a name, of a pair ``(name, alpha)``, or itself.

    Raises:
        TypeError: Something else was given.
        ValueError: The name does not exist, or alpha is not positive and finite.
    """
    if isinstance(surrogate, str) and surrogate in _DEFAULTS:
        return _DEFAULTS[surrogate]
    if isinstance(surrogate, Surrogate):
        found = surrogate
    elif isinstance(surrogate, tuple) and len(surrogate) == 2 and surrogate[0] in _DEFAULTS:
        name, alpha = surrogate
        if not isinstance(alpha, int | float):
            raise TypeError(f"surrogate {name}: alpha must be a number, got {type(alpha).__name__}")
        found = (NAMED | ALIASES)[name](alpha)
    elif isinstance(surrogate, str | tuple):
        raise ValueError(f"surrogate must be one of {', '.join(_DEFAULTS)} or tabulated(...), got {surrogate!r}")
    else:
        raise TypeError(f"surrogate must be a name, (name, alpha) or a Surrogate, got {type(surrogate).__name__}")
    if found.table is None and not (0 < found.alpha < math.inf):
        raise ValueError(f"surrogate {found.name}: alpha must be positive and finite, got {found.alpha}")
    return found


def derivative(y: torch.Tensor, surrogate: Surrogate) -> torch.Tensor:
    """The surrogate derivative at ``y = u - threshold``, in plain PyTorch: the definition that every kernel is held to.

    Args:
        y: Membrane minus threshold, any shape, floating point.
        surrogate: The surrogate.

    Returns:
        A tensor like ``y``.
    """
    if surrogate.shape == "table":
        return _interpolate(y, surrogate)
    z = (surrogate.slope * y).abs()
    if surrogate.shape == "constant":
        return torch.full_like(y, surrogate.peak)
    if surrogate.shape == "boxcar":
        return surrogate.peak * (z < 1).to(y.dtype)
    if surrogate.shape == "tent":
        return surrogate.peak * (1 - z).clamp(min=0)
    if surrogate.shape == "lorentz":
        return surrogate.peak / (1 + z * z)
    if surrogate.shape == "logistic":
        e = torch.exp(-z)
        return surrogate.peak * e / ((1 + e) * (1 + e))
    if surrogate.shape == "superspike":
        return surrogate.peak / ((1 + z) * (1 + z))
    if surrogate.shape == "gauss":
        return surrogate.peak * torch.exp(-z * z)
    return surrogate.peak * torch.exp(-z)


def _interpolate(y: torch.Tensor, surrogate: Surrogate) -> torch.Tensor:
    assert surrogate.table is not None
    table = surrogate.table.to(y)
    last = table.numel() - 1
    position = (y - surrogate.low) * (last / (surrogate.high - surrogate.low))
    inside = (position >= 0) & (position <= last)
    position = torch.where(inside, position, 0.0)
    left = position.floor().clamp(max=last - 1)
    index = left.long()
    below, above = table[index], table[index + 1]
    return torch.where(inside, below + (position - left) * (above - below), 0.0).to(y.dtype)
