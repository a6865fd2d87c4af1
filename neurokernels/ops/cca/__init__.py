"""Canonical correlations, the DCCA loss, whitening, and losses of self-supervised learning on the same covariances."""

from neurokernels.ops.cca.correlations import canonical_correlations, dcca_loss
from neurokernels.ops.cca.selfsupervised import barlow_twins_loss, vicreg_loss
from neurokernels.ops.cca.whitening import whiten

__all__ = ["barlow_twins_loss", "canonical_correlations", "dcca_loss", "vicreg_loss", "whiten"]
