"""Data sets behind one small interface: ``nk.data.load("mnist")``. Neural responses: ``nk.data.recordings(folder)``.

A data set is a registry entry (`Spec`): its official files with their checksums, the sources that may serve them in
order, and how they become tensors. To add one, write a small module like ``mnist.py`` and name it in ``_SPECS``.
A `Recording` holds the responses of a population to images: one measured, or the synthetic `gabor_population`.
"""

from neurokernels.data.neural import Recording, principal_components, recordings, zscore
from neurokernels.data.population import gabor_population
from neurokernels.data.registry import DataError, Dataset, load, names
from neurokernels.data.sources import File, Installed, Npm, SourceError, Web, WebArchive

__all__ = [
    "DataError",
    "Dataset",
    "File",
    "Installed",
    "Npm",
    "Recording",
    "SourceError",
    "Web",
    "WebArchive",
    "gabor_population",
    "load",
    "names",
    "principal_components",
    "recordings",
    "zscore",
]
