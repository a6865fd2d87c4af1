"""The ops that are held to the contract."""

from tests.contract.entries import cca, covariance, lif, rdm, rsa_loss, spectrum, whitening

OPS = (
    cca.DCCA,
    cca.CORRELATIONS,
    lif.LIF,
    lif.LEAKY_INTEGRATE,
    covariance.COVARIANCE,
    rdm.RDM,
    rsa_loss.RSA_LOSS,
    rsa_loss.CKA,
    spectrum.EIGH,
    spectrum.SPECTRUM,
    whitening.WHITEN,
)
