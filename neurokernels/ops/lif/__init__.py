"""LIF time-stepping: `lif` and `leaky_integrate`."""

from neurokernels.ops.lif.leaky import leaky_integrate
from neurokernels.ops.lif.op import LIFOutput, LIFState, lif

__all__ = ["LIFOutput", "LIFState", "leaky_integrate", "lif"]
