"""`torch.library.opcheck` of every leaf op, on the arguments that real calls hand to it."""

import torch

from tests.contract.harness import leaf_calls

THIN = True


LIGHT = ("test_schema", "test_faketensor")  # what a kernel may get wrong; the others are of how an op is registered


def test_opcheck(op, sample, backend):
    thorough = backend == op.usual and sample is op.samples[1]
    calls = leaf_calls(op, sample, backend)
    assert {overload.__name__.partition(".")[0] for overload, *_ in calls} == op.leaves
    for overload, arguments, _ in calls:
        torch.library.opcheck(overload, arguments, **{} if thorough else {"test_utils": LIGHT})
