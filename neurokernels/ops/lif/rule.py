"""What a leaf op is told about a LIF neuron: two flat lists for the schema, one tuple for whoever reads them.

Parameters come twice, as an optional tensor and as a number: a float costs no tensor, no copy to a GPU and no cache, and
where a tensor is given the number is not looked at.
"""

from typing import NamedTuple

import torch

from neurokernels.surrogate import SHAPES, Surrogate

RESETS = ("zero", "subtract", "none")
RESET_AT = ("reach", "above")
RESIDUALS = ("none", "bits", "recompute", "membrane")

#: Steps per chunk: one 32-bit word holds two bits of each step, and one checkpoint of the membrane stands before each.
CHUNK = 16


class Rule(NamedTuple):
    """One LIF rule. ``residual`` is what the forward pass keeps for the backward pass."""

    reset: str
    above: bool
    has_floor: bool
    refractory: int
    detach: bool
    shape: str
    residual: str
    decay: float
    threshold: float
    gain: float
    v_reset: float
    floor: float
    peak: float
    slope: float
    low: float
    high: float

    def surrogate(self, table: torch.Tensor | None) -> Surrogate:
        """The surrogate as the definition takes it."""
        return Surrogate(self.shape, 1.0, self.shape, self.peak, self.slope, table, self.low, self.high)


def pack(rule: Rule) -> tuple[list[int], list[float]]:
    """The rule as a schema can carry it: ``int[] codes, float[] numbers``."""
    codes = [
        RESETS.index(rule.reset), int(rule.above), int(rule.has_floor), rule.refractory, int(rule.detach),
        SHAPES.index(rule.shape), RESIDUALS.index(rule.residual),
    ]  # fmt: skip
    return codes, list(rule[7:])


def unpack(codes: list[int], numbers: list[float]) -> Rule:
    """The inverse of `pack`."""
    reset, above, has_floor, refractory, detach, shape, residual = codes
    return Rule(
        RESETS[reset], bool(above), bool(has_floor), refractory, bool(detach), SHAPES[shape], RESIDUALS[residual], *numbers
    )


def compute_dtype(x: torch.Tensor) -> torch.dtype:
    """The dtype of the state: float64 for float64 input, else float32 (a bfloat16 state flips over 1 % of spikes)."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def chunks(steps: int) -> int:
    """Chunks of `CHUNK` steps, the last one perhaps shorter."""
    return -(-steps // CHUNK)


class Forward(NamedTuple):
    """What a forward kernel fills."""

    spikes: torch.Tensor  # like x
    membrane: torch.Tensor  # [*neurons]
    countdown: torch.Tensor  # [*neurons] int32 with refractory, else [0]
    residual: torch.Tensor  # by mode: [0] | int32 [chunks, *n] | checkpoints [chunks - 1, *n] | u [T, *n]
    counts: torch.Tensor  # uint8 [chunks - 1, *n] where a replay has to know the countdown, else [0]


def allocate_forward(x: torch.Tensor, codes: list[int]) -> Forward:
    """Empty outputs of a forward kernel, for real tensors and fakes alike."""
    refractory, residual = codes[3], RESIDUALS[codes[6]]
    neurons, dtype, count = x.shape[1:], compute_dtype(x), chunks(x.shape[0])
    before_chunks = (max(count - 1, 0), *neurons)
    kept = {"none": (0,), "bits": (count, *neurons), "recompute": before_chunks, "membrane": x.shape}[residual]
    replays = refractory > 0 and residual in ("recompute", "membrane")
    return Forward(
        torch.empty_like(x),
        x.new_empty(neurons, dtype=dtype),
        x.new_empty(neurons if refractory else (0,), dtype=torch.int32),
        x.new_empty(kept, dtype=torch.int32 if residual == "bits" else dtype),
        x.new_empty(before_chunks if replays else (0,), dtype=torch.uint8),
    )


#: What a backward kernel may be asked for, in the order of its outputs.
GRADIENTS = ("x", "v0", "decay", "threshold", "gain", "v_reset")


def allocate_backward(g: torch.Tensor, wanted: list[bool]) -> tuple[torch.Tensor, ...]:
    """Empty gradients: dx like g, the others one value per neuron; [0] for what is not wanted."""
    dtype = compute_dtype(g)
    dx = torch.empty_like(g) if wanted[0] else g.new_empty((0,))
    return dx, *(g.new_empty(g.shape[1:] if want else (0,), dtype=dtype) for want in wanted[1:])
