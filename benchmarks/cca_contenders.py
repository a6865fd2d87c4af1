"""Other ways to compute the loss of deep CCA, each in its best form: what `bench_cca` and `cca_errors` race and judge.

All take samples ``x[N, D1]`` and ``y[N, D2]`` and regularise both covariances by ``reg``. Value and gradients come from
autograd, except in `closed_form`, which knows its own.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.linalg import solve_triangular

Loss = Callable[[Tensor, Tensor, float], Tensor]
Trained = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor, Tensor]]

#: Polynomials of Polar Express (Amsel et al. 2025) for singular values from 1e-3 to 1; the last one goes on for ever.
POLYNOMIALS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
)


def _covariances(x: Tensor, y: Tensor, reg: float) -> tuple[Tensor, Tensor, Tensor]:
    n = x.shape[0] - 1
    xc, yc = x - x.mean(0), y - y.mean(0)
    sxx, syy = xc.mT @ xc / n, yc.mT @ yc / n
    ridge = [torch.eye(s.shape[0], dtype=s.dtype, device=s.device) * reg for s in (sxx, syy)]
    return sxx + ridge[0], xc.mT @ yc / n, syy + ridge[1]


def _inverse_root(s: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(s)
    return (vectors * values.rsqrt()) @ vectors.mT


def _coherence(x: Tensor, y: Tensor, reg: float) -> Tensor:
    sxx, sxy, syy = _covariances(x, y, reg)
    return _inverse_root(sxx) @ sxy @ _inverse_root(syy)


def naive(x: Tensor, y: Tensor, reg: float) -> Tensor:
    """Three eigendecompositions, as most published code has it: of both covariances, and of ``T'T``."""
    t = _coherence(x, y, reg)
    squares = torch.linalg.eigvalsh(t.mT @ t if t.shape[0] >= t.shape[1] else t @ t.mT)
    return -squares.clamp_min(torch.finfo(x.dtype).eps).sqrt().sum()


def eigh_svd(x: Tensor, y: Tensor, reg: float) -> Tensor:
    """Two eigendecompositions and the singular values of T."""
    return -torch.linalg.svdvals(_coherence(x, y, reg)).sum()


def squares(x: Tensor, y: Tensor, reg: float) -> Tensor:
    """The sum of squared correlations, without a third decomposition."""
    return -_coherence(x, y, reg).square().sum()


def closed_form(x: Tensor, y: Tensor, reg: float, steps: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """Value and gradients by Cholesky factors and the polar factor, in plain PyTorch."""
    n = x.shape[0] - 1
    xc, yc = x - x.mean(0), y - y.mean(0)
    lx, ly = (torch.linalg.cholesky(s) for s in _covariances(x, y, reg)[::2])
    m = _between(lx, xc.mT @ yc / n, ly)
    w = polar(m, steps)
    p, h = w @ m.mT, m.mT @ w
    gxy, gxx, gyy = (_outside(*f) for f in ((lx, w, ly), (lx, (p + p.mT) / 2, lx), (ly, (h + h.mT) / 2, ly)))
    return -(w * m).sum(), -(yc @ gxy.mT - xc @ gxx) / n, -(xc @ gxy - yc @ gyy) / n


def polar(m: Tensor, steps: int) -> Tensor:
    """The polar factor of a matrix whose singular values are at most 1."""
    for step in range(steps):
        a, b, c = POLYNOMIALS[min(step, len(POLYNOMIALS) - 1)]
        gram = m.mT @ m
        m = a * m + m @ (b * gram + c * gram @ gram)
    return m


def _between(left: Tensor, a: Tensor, right: Tensor) -> Tensor:
    """``left^-1 a right'^-1`` of lower triangles."""
    return solve_triangular(right, solve_triangular(left, a, upper=False).mT, upper=False).mT


def _outside(left: Tensor, a: Tensor, right: Tensor) -> Tensor:
    """``left'^-1 a right^-1`` of lower triangles."""
    return solve_triangular(right.mT, solve_triangular(left.mT, a, upper=True).mT, upper=True).mT


def trained(loss: Loss) -> Trained:
    """Value and gradients by autograd."""

    def run(x: Tensor, y: Tensor, reg: float) -> tuple[Tensor, Tensor, Tensor]:
        value = loss(x, y, reg)
        return value, *torch.autograd.grad(value, (x, y))

    return run


def cca_zoo() -> Loss:
    """The loss of cca-zoo: the sum of squared correlations, by three eigendecompositions.

    Raises:
        ImportError: It is not installed.
    """
    from cca_zoo.deep.objectives import CCALoss

    return lambda x, y, reg: CCALoss(reg_covar=reg)([x, y])


def whitened(x: Tensor, eps: float) -> Tensor:
    """ZCA whitening by an eigendecomposition."""
    xc = x - x.mean(-2, keepdim=True)
    c = xc.mT @ xc / (x.shape[-2] - 1) + eps * torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    values, vectors = torch.linalg.eigh(c)
    return xc @ ((vectors * values.rsqrt()[..., None, :]) @ vectors.mT)


def decorrelated(x: Tensor, eps: float) -> Tensor:
    """Cholesky whitening."""
    xc = x - x.mean(-2, keepdim=True)
    c = xc.mT @ xc / (x.shape[-2] - 1) + eps * torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    return solve_triangular(torch.linalg.cholesky(c), xc.mT, upper=False).mT


def vicreg(x: Tensor, y: Tensor) -> Tensor:
    """VICReg with its usual weights (Bardes et al. 2022), in plain PyTorch."""
    spread = correlation = x.new_zeros(())
    for z in (x, y):
        c = (z - z.mean(0)).mT @ (z - z.mean(0)) / (z.shape[0] - 1)
        spread = spread + (1 - (z.var(0) + 1e-4).sqrt()).relu().mean() / 2
        correlation = correlation + (c.square().sum() - c.diagonal().square().sum()) / z.shape[1]
    return 25 * (x - y).square().mean() + 25 * spread + correlation


def barlow_twins(x: Tensor, y: Tensor, lambd: float = 5e-3) -> Tensor:
    """The loss of Barlow Twins (Zbontar et al. 2021), in plain PyTorch."""
    zx, zy = ((z - z.mean(0)) / (z.var(0, correction=0) + 1e-5).sqrt() for z in (x, y))
    c = zx.mT @ zy / x.shape[0]
    return (1 - c.diagonal()).square().sum() + lambd * (c.square().sum() - c.diagonal().square().sum())
