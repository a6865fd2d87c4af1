"""Pairs of views on which published CCA losses fail in different ways, and their float64 truth.

The truth takes another route than any kernel: singular values of the centred views themselves, in float64. Nothing is
squared, so that it stands where a covariance would already have lost its digits, and it holds whatever N is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

Make = Callable[[int, int, int, torch.Generator], tuple[Tensor, Tensor]]


def _noise(n: int, d: int, g: torch.Generator) -> Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=g)


def related(n: int, d1: int, d2: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """The second view is half a random map of the first one, half noise."""
    x = _noise(n, d1, g)
    return x + 0.5, 0.5 * x @ _noise(d1, d2, g) / d1**0.5 + _noise(n, d2, g)


def white(n: int, d1: int, d2: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Both covariances are the identity: every eigenvalue is repeated."""
    x, y = related(n, d1, d2, g)
    return tuple(torch.linalg.qr(v - v.mean(0)).Q * (n - 1) ** 0.5 for v in (x, y))  # type: ignore[return-value]


def duplicated(n: int, d1: int, d2: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """A unit of each view is there twice."""
    x, y = related(n, d1, d2, g)
    x[:, -1], y[:, -1] = x[:, 0], y[:, 0]
    return x, y


def dead(n: int, d1: int, d2: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """ReLU units, three of which never fire."""
    x, y = related(n, d1, d2, g)
    x[:, [0, 2, 4]] = -1
    return x.relu(), y


def constant(n: int, d1: int, d2: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """A unit of each view that always says the same, beside others far from zero."""
    x, y = related(n, d1, d2, g)
    x[:, 1], y[:, 0] = 3.7, -1e3
    return x, y + 10


def conditioned(n: int, d1: int, d2: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Covariances of condition number 1e6."""
    views = []
    for v in related(n, d1, d2, g):
        q = torch.linalg.qr(_noise(v.shape[1], v.shape[1], g)).Q
        views.append(v * torch.logspace(0, -3, v.shape[1], dtype=torch.float64) @ q)
    return views[0], views[1]


def identical(n: int, d1: int, d2: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """One view twice: every correlation is nearly 1."""
    x = related(n, d1, d1, g)[0]
    return x, x.clone()


def independent(n: int, d1: int, d2: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Nothing in common: correlations come close to 0."""
    return _noise(n, d1, g), _noise(n, d2, g)


def scaled(a: float, b: float) -> Make:
    """Views of very large or very small activations, beside a regulariser that is absolute."""

    def make(n: int, d1: int, d2: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
        x, y = related(n, d1, d2, g)
        return a * x, b * y

    return make


@dataclass(frozen=True)
class Case:
    """One entry of the list.

    Attributes:
        make: ``(N, D1, D2, generator)`` to two views, float64.
        shape: N, D1, D2: small; `inputs` takes others.
        reg: The regularisers.
    """

    make: Make
    shape: tuple[int, int, int] = (40, 10, 10)
    reg: tuple[float, float] = (1e-4, 1e-4)

    def inputs(self, shape: tuple[int, int, int] | None = None, dtype: torch.dtype = torch.float32) -> Any:
        """The two views, the same ones every time."""
        n, d1, d2 = shape or self.shape
        return tuple(v.to(dtype) for v in self.make(n, d1, d2, torch.Generator().manual_seed(n + d1 + d2)))


CASES: dict[str, Case] = {
    "ordinary": Case(related),
    "already white": Case(white),
    "duplicated unit": Case(duplicated),
    "three dead units": Case(dead),
    "constant column": Case(constant),
    "condition 1e6": Case(conditioned, reg=(1e-6, 1e-6)),
    "identical views": Case(identical),
    "independent views": Case(independent),
    "scale 1e6": Case(scaled(1e6, 1e6)),
    "scale 1e-6": Case(scaled(1e-6, 1e-6)),
    "scales 1e6 and 1e-6": Case(scaled(1e6, 1e-6)),
    "D1 > D2": Case(related, (40, 13, 6)),
    "D1 < D2": Case(related, (40, 6, 13), (1e-2, 1e-4)),
    "D = 1": Case(related, (40, 1, 1)),
    "D1 = 1": Case(related, (40, 1, 10)),
    "N = 2": Case(related, (2, 3, 4)),
    "N = D": Case(related, (10, 10, 10)),
    **{f"N < D, reg {r:g}": Case(related, (12, 24, 24), (r, r)) for r in (1e-1, 1e-2, 1e-3, 1e-4)},
    "N < D1 only": Case(related, (12, 24, 5)),
}


class Truth(NamedTuple):
    """The objective and its gradients, float64."""

    value: Tensor
    dx: Tensor
    dy: Tensor


def _whitened(view: Tensor, r: float) -> tuple[Tensor, Tensor]:
    """F and T of one view, so that M = F1' F2 and a gradient is (F2 W' - F1 P) T1."""
    xc = view.double() - view.double()[:1]
    xc = xc - xc.mean(0)
    u, s, vh = torch.linalg.svd(xc, full_matrices=False)
    u, s, vh = (t[..., : int((s > 1e-13 * s[0]).sum())] for t in (u, s, vh.mT))
    root = (s.square() + (len(view) - 1) * r).sqrt()
    return u * (s / root), vh.mT / root[:, None]


def truth(x: Tensor, y: Tensor, reg: tuple[float, float], objective: str = "nuclear", k: int = 0) -> Truth:
    """What an objective and its gradients are, of two views ``[N, D]`` in any dtype."""
    (fx, tx), (fy, ty) = _whitened(x, reg[0]), _whitened(y, reg[1])
    u, s, vh = torch.linalg.svd(fx.mT @ fy, full_matrices=False)
    kept = (s > 1e-12 * s[:1]).double()
    t = {"nuclear": kept, "topk": kept * (torch.arange(len(s)) < k), "fro2": 2 * s}[objective]
    p, q = fx @ u, fy @ vh.mT
    value = (t * s).sum() / (2 if objective == "fro2" else 1)
    return Truth(value, ((q - p * s) * t) @ (u.mT @ tx), ((p - q * s) * t) @ (vh @ ty))


def spectrum(x: Tensor, y: Tensor, reg: tuple[float, float]) -> Tensor:
    """The correlations that can differ from zero, descending, float64."""
    (fx, _), (fy, _) = _whitened(x, reg[0]), _whitened(y, reg[1])
    return torch.linalg.svdvals(fx.mT @ fy)


def error(got: Tensor, exact: Tensor) -> float:
    """The largest difference relative to the largest magnitude of the truth; infinite for a NaN."""
    gap = (got.detach().double() - exact).abs().max() / exact.abs().max().clamp(min=1e-300)
    return float(gap.nan_to_num(nan=torch.inf))


def errors(got: tuple[Tensor, Tensor, Tensor], exact: Truth) -> tuple[float, float]:
    """Relative errors of the value and of the gradients, these relative to the largest entry of their view."""
    return error(got[0], exact.value), max(error(got[1], exact.dx), error(got[2], exact.dy))
