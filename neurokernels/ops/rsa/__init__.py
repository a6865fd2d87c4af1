"""Representational similarity: dissimilarity matrices of patterns."""

from neurokernels.ops.rsa.op import rdm

__all__ = ["rdm"]
