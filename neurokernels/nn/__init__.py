"""Modules: thin holders of parameters and state over the ops."""

from neurokernels.nn.lif import LIF, GerumLIF, LeakyReadout

__all__ = ["LIF", "GerumLIF", "LeakyReadout"]
