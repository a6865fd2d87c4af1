"""Representational similarity: losses between the similarities of images in a network and in a brain."""

from neurokernels.ops.rsa.cka import cka
from neurokernels.ops.rsa.loss import rsa_loss

__all__ = ["cka", "rsa_loss"]
