"""Representational similarity: dissimilarity matrices, losses on similarities, and inference with many RDMs."""

from neurokernels.ops.rsa.bootstrap import bootstrap_rdms
from neurokernels.ops.rsa.cka import cka
from neurokernels.ops.rsa.compare import compare_rdms
from neurokernels.ops.rsa.loss import rsa_loss
from neurokernels.ops.rsa.op import rdm
from neurokernels.ops.rsa.searchlight import searchlight_rsa, searchlight_spheres

__all__ = ["bootstrap_rdms", "cka", "compare_rdms", "rdm", "rsa_loss", "searchlight_rsa", "searchlight_spheres"]
