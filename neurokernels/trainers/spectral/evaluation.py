"""The exponent of a trained network's spectrum."""

import torch
from torch import Tensor

from neurokernels import covariance_spectrum, power_law_exponent
from neurokernels.trainers.evaluation import BATCH
from neurokernels.trainers.spectral.network import Classifier

_FLOOR = 1e-8  # added to the eigenvalues, which sum to one, by the paper's definition of the exponent


@torch.no_grad()
def eigenspectrum(net: Classifier, images: Tensor) -> Tensor:
    """Eigenvalues of the last hidden layer on images in [0, 1], as shares of their sum.

    Returns:
        ``[min(N, D)]`` float64, in descending order. Float32 would bury a steep tail in rounding.
    """
    hidden = torch.cat([net.features(some) for some in images.split(BATCH)]).double()
    values = covariance_spectrum(hidden, solver="exact")
    return values / values.sum()


def exponent(shares: Tensor) -> float:
    """The measured exponent as the paper defines it, from eigenvalues as shares of their sum."""
    return float(power_law_exponent(shares.relu() + _FLOOR))
