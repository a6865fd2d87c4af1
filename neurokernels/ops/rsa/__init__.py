"""Representational similarity: dissimilarity matrices, and losses between the similarities of a network and a brain."""

from neurokernels.ops.rsa.cka import cka
from neurokernels.ops.rsa.loss import rsa_loss
from neurokernels.ops.rsa.op import rdm

__all__ = ["cka", "rdm", "rsa_loss"]
