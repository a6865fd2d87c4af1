"""How well a network's projections and a population's agree, on the stimuli that they learned from and on others."""

import torch
from torch import Tensor

from neurokernels.nn import DCCARegularizer
from neurokernels.trainers.dcca.network import Areas
from neurokernels.trainers.dcca.stimuli import Session
from neurokernels.trainers.evaluation import BATCH, brightness


@torch.no_grad()
def correlations(net: Areas, block: str, regulariser: DCCARegularizer, session: Session) -> tuple[Tensor, Tensor]:
    """Canonical correlations of the two projections of a session, on training and on held-out stimuli.

    Pairs of directions are fitted to the training stimuli, where their correlations are the canonical ones. The same
    directions are then correlated on the held-out stimuli: nothing is fitted to those, so unrelated responses give
    values around 0 there, and not the high ones that any fit to few samples finds.

    Returns:
        Both ``[dims]``, float64, in the order of the training values. NaN where a projection is not finite.
    """
    training = regulariser.training
    regulariser.eval()
    h = torch.cat([net.until(block, brightness(some)) for some in session.stimuli.split(BATCH)])
    u, v = (part.double() for part in regulariser.project(h, session.responses))
    regulariser.train(training)
    ridge = regulariser.reg if isinstance(regulariser.reg, tuple) else (regulariser.reg, regulariser.reg)
    return on_both(u, v, session.train, session.held_out, ridge)


def on_both(u: Tensor, v: Tensor, train: Tensor, held_out: Tensor, ridge: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """The same of projections ``[N, dims]``. The ridge is added to variances, as in `neurokernels.dcca_loss`."""
    if not bool((u.isfinite() & v.isfinite()).all()):
        return (torch.full((u.shape[1],), torch.nan, dtype=u.dtype, device=u.device),) * 2
    s11, s22, s12 = _covariances(u[train], v[train], ridge)
    roots = torch.linalg.cholesky(s11), torch.linalg.cholesky(s22)
    half = torch.linalg.solve_triangular(roots[0], s12, upper=False)
    whitened = torch.linalg.solve_triangular(roots[1], half.mT, upper=False).mT
    left, fitted, right = torch.linalg.svd(whitened)
    a = torch.linalg.solve_triangular(roots[0].mT, left, upper=True)
    b = torch.linalg.solve_triangular(roots[1].mT, right.mT, upper=True)
    t11, t22, t12 = (one.T @ s @ two for s, one, two in _with(_covariances(u[held_out], v[held_out], ridge), a, b))
    return fitted, t12.diagonal() / (t11.diagonal() * t22.diagonal()).sqrt()


def _covariances(u: Tensor, v: Tensor, ridge: tuple[float, float]) -> tuple[Tensor, Tensor, Tensor]:
    u, v, n = u - u.mean(0), v - v.mean(0), len(u) - 1
    eye = torch.eye(u.shape[1], dtype=u.dtype, device=u.device)
    return u.T @ u / n + ridge[0] * eye, v.T @ v / n + ridge[1] * eye, u.T @ v / n


def _with(found: tuple[Tensor, Tensor, Tensor], a: Tensor, b: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], ...]:
    return (found[0], a, a), (found[1], b, b), (found[2], a, b)
