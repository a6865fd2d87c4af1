"""Spikes and residuals of LIF are the same bits on every backend: one may run forward, and another one backward."""

from dataclasses import dataclass
from itertools import permutations

import pytest
import torch
from torch import Tensor

from tests.gpu import coverage
from tests.gpu.cases import DEVICE, parametrised, placed
from tests.ops.agreement import Case, calls, identical, made

#: Two bits, checkpoints, and membranes, with and without a countdown.
OPTIONS = {
    "bits": {"surrogate": "boxcar", "learn": False},
    "bits, resting": {"surrogate": "boxcar", "learn": False, "refractory": 2, "floor": -0.3, "reset_at": "above"},
    "recompute": {"surrogate": "atan"},
    "recompute, resting": {"surrogate": "sigmoid", "refractory": 3, "reset": "subtract", "detach_reset": False},
    "membrane": {"surrogate": "gaussian", "residual": "membrane", "floor": -0.3},
}
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@dataclass(frozen=True)
class Exchange:
    """A backend that runs forward and one that runs backward."""

    backend: str
    other: str
    name: str
    part: str = "lif"
    op: str = "lif"

    def __str__(self) -> str:
        return f"{self.op}-{self.backend}-{self.other}-{self.name}"


CASES = [
    Exchange(one, other, name)
    for name in OPTIONS
    for one, other in permutations((*coverage.of("lif"), "reference"), 2)
    if one in coverage.GPU
]


def there(case: Case) -> Case:
    """The same call with its tensors on the GPU."""

    def move(value: object) -> object:
        return placed(value) if isinstance(value, Tensor) else value

    parameters = {name: move(value) for name, value in case.parameters.items()}
    return Case(placed(case.x), parameters, case.options, move(case.v0), move(case.countdown))


@parametrised(CASES)
def test_forward_on_one_and_backward_on_another(case: Exchange) -> None:
    steps, neurons = (53, 300) if DEVICE == "cuda" else (20, 8)
    for dtype in DTYPES if DEVICE == "cuda" else DTYPES[:1]:
        call = there(made(steps, neurons, dtype=dtype, **OPTIONS[case.name]))
        (_, _, kept), (overload, arguments, gradients) = calls(case.backend, call)
        (_, _, others), (_, _, expected) = calls(case.other, call)
        for i, (ours, theirs) in enumerate(zip(kept, others, strict=True)):
            identical(ours, theirs, f"{dtype}: output {i} of the forward pass")
        *given, name = arguments
        assert name == case.backend
        crossed = overload(*given, case.other)
        for i, (mixed, mine, theirs) in enumerate(zip(crossed, gradients, expected, strict=True)):
            identical(mixed, theirs, f"{dtype}: gradient {i} of {case.other} from what {case.backend} kept")
            scale = float(theirs.abs().max()) if theirs.numel() else 0.0
            level = 64 * torch.finfo(mine.dtype).eps
            torch.testing.assert_close(mine, theirs, rtol=level, atol=level * scale)


@pytest.mark.skipif(DEVICE == "cpu", reason="NO CUDA GPU HERE: the layers are too large to be emulated")
@parametrised([Exchange(one, "reference", "large") for one in coverage.of("lif")])
def test_no_spike_of_a_large_layer_flips(case: Exchange) -> None:
    """Of 33 million updates, none; a fused multiply-add flips dozens."""
    import neurokernels as nk

    generator = torch.Generator(DEVICE).manual_seed(1)
    x = torch.randn(500, 65536, device=DEVICE, generator=generator).add_(0.3)
    decay = torch.rand(65536, device=DEVICE, generator=generator)
    found = []
    for backend in (case.backend, case.other):
        with nk.backend(backend), torch.no_grad():
            found.append(nk.lif(x, decay=decay, gain=0.7, threshold=0.9, reset="subtract"))
    assert found[0].spikes.mean() > 0.01
    assert torch.equal(found[0].spikes, found[1].spikes)
    assert torch.equal(found[0].membrane, found[1].membrane)
