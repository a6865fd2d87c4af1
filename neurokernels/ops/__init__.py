"""The op families; importing this package registers the leaf ops and backend tables of every one."""

from neurokernels.ops import cca as cca
from neurokernels.ops import evolution as evolution
from neurokernels.ops import lif as lif
from neurokernels.ops import rsa as rsa
from neurokernels.ops import spectrum as spectrum
