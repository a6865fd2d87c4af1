"""Modules: thin holders of parameters and state over the ops."""

from neurokernels.nn.cca import DCCARegularizer
from neurokernels.nn.lif import LIF, GerumLIF, LeakyReadout
from neurokernels.nn.similarity import SimilarityRegularizer
from neurokernels.nn.spectral import SpectralRegularizer
from neurokernels.nn.whitening import Whitening
from neurokernels.ops.spectrum.state import SpectrumState

__all__ = [
    "DCCARegularizer",
    "LIF",
    "GerumLIF",
    "LeakyReadout",
    "SimilarityRegularizer",
    "SpectralRegularizer",
    "SpectrumState",
    "Whitening",
]
