"""What published DCCA losses compute, from their formulas, beside ours and the singular values in float64.

    python -m benchmarks.cca_objectives

prints the table of docs/canonical-correlation.md. Every formula is written from its mathematics and has the name of who
computes it; the regulariser is the same for all, so that formulas are compared and not settings.
"""

from collections.abc import Callable

import torch
from torch import Tensor

import neurokernels as nk

REG = 1e-3
N, D = 200, 20


def views(n: int = N, d: int = D) -> tuple[Tensor, Tensor]:
    """Two views with correlations of every size, which a rotation mixes: float64, the same every time."""
    g = torch.Generator().manual_seed(0)
    shared, first, second = (torch.randn(n, d, dtype=torch.float64, generator=g) for _ in range(3))
    strength = torch.linspace(0, 1.5, d, dtype=torch.float64)
    rotations = [torch.linalg.qr(torch.randn(d, d, dtype=torch.float64, generator=g)).Q for _ in range(2)]
    return (strength * shared + first) @ rotations[0], (strength * shared + second) @ rotations[1]


def _root(c: Tensor) -> Tensor:
    """The symmetric inverse root."""
    values, vectors = torch.linalg.eigh(c)
    return (vectors * values.rsqrt()) @ vectors.mT


def matrix(x: Tensor, y: Tensor, reg: float) -> Tensor:
    """T = S11^-1/2 S12 S22^-1/2, whose singular values are the canonical correlations."""
    xc, yc, n = x - x.mean(0), y - y.mean(0), len(x) - 1
    s11, s22 = (c.mT @ c / n + reg * torch.eye(c.shape[1], dtype=c.dtype) for c in (xc, yc))
    return _root(s11) @ (xc.mT @ yc / n) @ _root(s22)


def correlations(x: Tensor, y: Tensor, reg: float) -> Tensor:
    """The truth: singular values of T in float64, descending, without a covariance matrix.

    With the singular value decomposition X = U diag(s) V', T is U1' U2 between factors s / sqrt(s^2 + n reg).
    """
    factors = []
    for view in (x.double(), y.double()):
        u, s, _ = torch.linalg.svd(view - view.mean(0), full_matrices=False)
        factors.append(u * (s / (s.square() + (len(view) - 1) * reg).sqrt()))
    return torch.linalg.svdvals(factors[0].mT @ factors[1])


def frobenius(x: Tensor, y: Tensor, reg: float, k: int) -> Tensor:
    """The root of the trace of T'T: one number for all correlations, the root of the sum of their squares."""
    return matrix(x, y, reg).square().sum().sqrt()


def columns(x: Tensor, y: Tensor, reg: float, k: int) -> Tensor:
    """The trace of the root of T'T, taken element by element: the sum of the lengths of T's columns."""
    return matrix(x, y, reg).square().sum(0).sqrt().sum()


def raised(x: Tensor, y: Tensor, reg: float, k: int) -> Tensor:
    """The k largest of sqrt(s^2 + reg): the regulariser once more, inside the root."""
    t = matrix(x, y, reg)
    shifted = t.mT @ t + reg * torch.eye(t.shape[1], dtype=t.dtype)
    return torch.linalg.eigvalsh(shifted).sqrt().topk(k).values.sum()


def largest(x: Tensor, y: Tensor, reg: float, k: int) -> Tensor:
    """The k largest correlations."""
    t = matrix(x, y, reg)
    return torch.linalg.eigvalsh(t.mT @ t).clamp(min=0).sqrt().topk(k).values.sum()


def smallest(x: Tensor, y: Tensor, reg: float, k: int) -> Tensor:
    """The first k of the eigenvalues of T'T in ascending order, and their roots: the k smallest correlations."""
    t = matrix(x, y, reg)
    return torch.linalg.eigvalsh(t.mT @ t).clamp(min=0).sqrt()[:k].sum()


def squares(x: Tensor, y: Tensor, reg: float, k: int) -> Tensor:
    """The sum of the squared correlations."""
    return matrix(x, y, reg).square().sum()


Formula = Callable[[Tensor, Tensor, float, int], Tensor]

ALL, TOP, SQUARES = "the sum of all", "the sum of the k largest", "the sum of squares"

#: Who computes it, what it is said to be, the formula in words, and the formula. Two entries for those that have a
#: switch between all correlations and k of them.
PUBLISHED: dict[str, tuple[str, str, Formula]] = {
    "VahidooX/DeepCCA": (ALL, "the root of the sum of squares", frobenius),
    "VahidooX/DeepCCA, k": (TOP, "the sum of the k *smallest*", smallest),
    "Michaelvll/DeepCCA": (ALL, "the lengths of the columns of T", columns),
    "Michaelvll/DeepCCA, k": (TOP, "the k largest of sqrt(s² + reg)", raised),
    "mvlearn 0.5.0": (ALL, "the root of the sum of squares", frobenius),
    "mvlearn 0.5.0, k": (TOP, "that", largest),
    "cca-zoo 4.0.1": (SQUARES, "that", squares),
}


def ours(x: Tensor, y: Tensor, reg: float, k: int) -> dict[str, tuple[str, Tensor]]:
    """Our objectives, and what each is said to be."""
    return {
        'objective="nuclear"': (ALL, -nk.dcca_loss(x, y, reg=reg)),
        'objective="topk"': (TOP, -nk.dcca_loss(x, y, reg=reg, objective="topk", k=k)),
        'objective="fro2"': (SQUARES, -nk.dcca_loss(x, y, reg=reg, objective="fro2")),
    }


def truths(x: Tensor, y: Tensor, reg: float, k: int) -> dict[str, Tensor]:
    """What the claims are worth."""
    s = correlations(x, y, reg)
    return {ALL: s.sum(), TOP: s[:k].sum(), SQUARES: s.square().sum()}


def table(k: int = 5) -> str:
    """The table of the page, in Markdown."""
    x, y = views()
    truth = truths(x, y, REG, k)
    lines = [("", claim, "singular values in float64", value) for claim, value in truth.items()]
    lines += [(f"`{name}`", claim, "that", value) for name, (claim, value) in ours(x, y, REG, k).items()]
    lines += [(name, claim, words, formula(x, y, REG, k)) for name, (claim, words, formula) in PUBLISHED.items()]
    rows = ["| who | is said to be | is | value | off by |", "|---|---|---|---:|---:|"]
    for name, claim, words, value in lines:
        gap = value - truth[claim]
        off = "0" if abs(gap) < 1e-6 else f"{100 * gap / truth[claim]:+.2g} %"
        rows.append(f"| {name} | {claim} | {words} | {value:.3f} | {off if name else ''} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())
