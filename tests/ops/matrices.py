"""A zoo of symmetric matrices on which eigensolvers fail in different ways, and what is asked of them on each."""

from collections.abc import Callable

import torch
from torch import Tensor

from neurokernels._core import eigh_reference

Kind = Callable[[int, torch.Generator], Tensor]


def symmetric(n: int, g: torch.Generator) -> Tensor:
    """Entries of a normal distribution: half of the eigenvalues are negative."""
    a = torch.randn(n, n, dtype=torch.float64, generator=g)
    return (a + a.mT) / 2


def of_values(values: Tensor, g: torch.Generator) -> Tensor:
    """A dense matrix with the given eigenvalues."""
    q = torch.linalg.qr(torch.randn(len(values), len(values), dtype=torch.float64, generator=g)).Q
    a = (q * values) @ q.mT
    return (a + a.mT) / 2


def covariance(n: int, samples: int, g: torch.Generator) -> Tensor:
    """Of so many samples; singular where they are not more than n."""
    x = torch.randn(samples, n, dtype=torch.float64, generator=g)
    x = x - x.mean(0)
    return x.mT @ x / max(samples - 1, 1)


def _steps(n: int) -> Tensor:
    return torch.linspace(0, 1, n, dtype=torch.float64) if n > 1 else torch.zeros(1, dtype=torch.float64)


def _tridiagonal(diagonal: Tensor, beside: Tensor) -> Tensor:
    return torch.diag(diagonal) + torch.diag(beside, 1) + torch.diag(beside, -1)


def _repeated_blocks(n: int, g: torch.Generator) -> Tensor:
    block = symmetric(4, g)
    return torch.block_diag(*[block] * (n // 4 + 1))[:n, :n]


def _arrow(n: int, g: torch.Generator) -> Tensor:
    a = torch.diag(torch.ones(n, dtype=torch.float64))
    a[-1] = a[:, -1] = torch.randn(n, dtype=torch.float64, generator=g)
    return a


def _few_rows(n: int, g: torch.Generator) -> Tensor:
    """Dead units: rows and columns of zeros between others."""
    alive = (torch.arange(n) % 3 == 0).double()
    return symmetric(n, g) * alive * alive[:, None]


_ULP = torch.finfo(torch.float64).eps

#: Spectra of LAPACK's test matrices (its modes 1 to 6) and others, and matrices of a special form.
KINDS: dict[str, Kind] = {
    "random": symmetric,
    "covariance": lambda n, g: covariance(n, 2 * n, g),
    "rank deficient": lambda n, g: covariance(n, n // 2 + 1, g),
    "rank one": lambda n, g: covariance(n, 2, g),
    "nearly rank deficient": lambda n, g: covariance(n, n // 2 + 1, g) + 1e-9 * torch.eye(n, dtype=torch.float64),
    "power law": lambda n, g: of_values(torch.arange(1, n + 1, dtype=torch.float64) ** -1.5, g),
    "one large value": lambda n, g: of_values(torch.cat([torch.ones(1), torch.full((n - 1,), _ULP)]).double(), g),
    "one small value": lambda n, g: of_values(torch.cat([torch.ones(n - 1), torch.full((1,), _ULP)]).double(), g),
    "geometric": lambda n, g: of_values(_ULP ** _steps(n), g),
    "geometric, both signs": lambda n, g: of_values(_ULP ** _steps(n) * (-1) ** torch.arange(n), g),
    "evenly spaced": lambda n, g: of_values(1 - _steps(n) * (1 - _ULP), g),
    "log uniform": lambda n, g: of_values(10 ** (-7 * torch.rand(n, dtype=torch.float64, generator=g)), g),
    "graded": lambda n, g: symmetric(n, g) * 10 ** (-6 * _steps(n)) * 10 ** (-6 * _steps(n)[:, None]),
    "graded upwards": lambda n, g: symmetric(n, g) * 10 ** (6 * _steps(n)) * 10 ** (6 * _steps(n)[:, None]),
    "clustered": lambda n, g: of_values(1 + 1e-7 * _steps(n), g),
    "two clusters": lambda n, g: of_values((torch.arange(n) % 2) + 1e-12 * _steps(n), g),
    "pairs of signs": lambda n, g: of_values((-1.0) ** torch.arange(n, dtype=torch.float64), g),
    "diagonal": lambda n, g: torch.diag(torch.randn(n, dtype=torch.float64, generator=g)),
    "descending diagonal": lambda n, g: torch.diag(-torch.arange(n, dtype=torch.float64)),
    "zero": lambda n, g: torch.zeros(n, n, dtype=torch.float64),
    "identity": lambda n, g: torch.eye(n, dtype=torch.float64),
    "minus identity": lambda n, g: -torch.eye(n, dtype=torch.float64),
    "nearly identity": lambda n, g: torch.eye(n, dtype=torch.float64) + 1e-6 * symmetric(n, g),
    "ones": lambda n, g: torch.ones(n, n, dtype=torch.float64),
    "exchange": lambda n, g: torch.eye(n, dtype=torch.float64).flip(0),
    "repeated blocks": _repeated_blocks,
    "dead units": _few_rows,
    "arrow": _arrow,
    "Wilkinson": lambda n, g: _tridiagonal(
        (torch.arange(n, dtype=torch.float64) - (n - 1) / 2).abs(), torch.ones(n - 1, dtype=torch.float64)
    ),
    "second differences": lambda n, g: _tridiagonal(
        torch.full((n,), 2.0, dtype=torch.float64), torch.full((n - 1,), -1.0, dtype=torch.float64)
    ),
    "no diagonal": lambda n, g: _tridiagonal(torch.zeros(n, dtype=torch.float64), torch.ones(n - 1).double()),
    "weak couplings": lambda n, g: _tridiagonal(
        torch.ones(n, dtype=torch.float64), 1e-8 * torch.rand(n - 1, dtype=torch.float64, generator=g)
    ),
    "entries of all sizes": lambda n, g: symmetric(n, g) * 10 ** (-40 * torch.rand(n, n, generator=g).double()),
}


def zoo(n: int, dtype: torch.dtype) -> tuple[list[str], Tensor]:
    """One matrix of each kind, and two of them near the ends of the range of the dtype: names and ``[K, n, n]``."""
    g = torch.Generator().manual_seed(n)
    matrices = {name: kind(n, g) for name, kind in KINDS.items()}
    end = 30 if dtype == torch.float32 else 300
    for name in ("random", "rank deficient"):
        matrices[f"{name}, huge"] = matrices[name] * 10.0**end
        matrices[f"{name}, tiny"] = matrices[name] * 10.0**-end
    return list(matrices), torch.stack(list(matrices.values())).to(dtype)


def errors(a: Tensor, values: Tensor, vectors: Tensor) -> dict[str, Tensor]:
    """Largest residual of a column, departure of a column from orthonormality, and error of a value, for each matrix.

    All in units of rounding, those of residual and values relative to the norm of the matrix. Float64 arithmetic; its
    own rounding is a few units for float64 matrices.
    """
    a = a.double().tril()
    a = a + a.tril(-1).mT
    # By powers of two, which change no digit: products of huge entries would overflow here.
    scale = 2.0 ** a.abs().amax((-2, -1)).clamp(min=torch.finfo(a.dtype).tiny).log2().floor()
    a, values, vectors = a / scale[:, None, None], values.double() / scale[:, None], vectors.double()
    exact = torch.linalg.eigvalsh(a)
    norm = exact.abs().amax(-1).clamp(min=torch.finfo(a.dtype).tiny)
    residual = (a @ vectors - vectors * values[..., None, :]).norm(dim=-2).amax(-1) / norm
    orthogonality = (vectors.mT @ vectors - torch.eye(a.shape[-1], dtype=a.dtype)).norm(dim=-2).amax(-1)
    return {"residual": residual, "orthogonality": orthogonality, "values": (values - exact).abs().amax(-1) / norm}


def assert_conforms(names: list[str], a: Tensor, values: Tensor, vectors: Tensor) -> None:
    """Values ascend, and no error is larger than 8 + n / 8 units of rounding and 3 times LAPACK's on the same matrix.

    A unit that is relative to the norm: LAPACK's users expect errors of order n, and its own are about 4 at n = 16 and
    8 at n = 64.
    """
    assert values.dtype == vectors.dtype == a.dtype
    eps = torch.finfo(a.dtype).eps
    ours, lapack = errors(a, values, vectors), errors(a, *eigh_reference.decomposed(a))
    for measure, found in ours.items():
        bound = (8 + a.shape[-1] / 8) * eps + 3 * lapack[measure]
        for name, error, limit in zip(names, found.tolist(), bound.tolist(), strict=True):
            assert error <= limit, f"{name}: {measure} {error / eps:.3g} eps, at most {limit / eps:.3g} is allowed"
    assert (values.diff(dim=-1) >= 0).all(), "values must ascend"
