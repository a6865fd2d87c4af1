"""The ops that are held to the contract."""

from tests.contract.entries import cca, covariance, lif, rdm, spectrum, whitening

OPS = (
    cca.DCCA,
    cca.CORRELATIONS,
    lif.LIF,
    lif.LEAKY_INTEGRATE,
    covariance.COVARIANCE,
    rdm.RDM,
    spectrum.EIGH,
    spectrum.SPECTRUM,
    whitening.WHITEN,
)
