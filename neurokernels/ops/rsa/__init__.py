"""Representational similarity analysis: RDMs compared, resampled and searched for through a volume."""

from neurokernels.ops.rsa.bootstrap import bootstrap_rdms
from neurokernels.ops.rsa.compare import compare_rdms
from neurokernels.ops.rsa.searchlight import searchlight_rsa, searchlight_spheres

__all__ = ["bootstrap_rdms", "compare_rdms", "searchlight_rsa", "searchlight_spheres"]
