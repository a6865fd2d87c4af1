"""The ops that are held to the contract."""

from tests.contract.entries import lif

OPS = (lif.LIF, lif.LEAKY_INTEGRATE)
