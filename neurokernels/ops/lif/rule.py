"""What a leaf op is told about a LIF neuron: one string in the schema, and tuples for whoever reads it.

A string costs the dispatcher half of what two lists of numbers cost, and reads well in a traced graph. It is parsed
once.

Parameters come twice, as an optional tensor and as a number: a float costs no tensor, no copy to a GPU and no cache,
and where a tensor is given the number is not looked at.
"""

from functools import lru_cache
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


Codes = tuple[int, ...]
Numbers = tuple[float, ...]


def encode(rule: Rule) -> str:
    """The rule as a schema carries it: ``name=value`` for every field, numbers in hexadecimal.

    That is exact, and a compiler to which a number is a symbol can trace it: it then compiles for the value.
    """
    values = *rule[:7], *(float(number).hex() for number in rule[7:])
    return " ".join(f"{name}={value}" for name, value in zip(Rule._fields, values, strict=True))


@lru_cache(maxsize=4096)
def decode(text: str) -> tuple[Numbers, Codes]:
    """The rule as kernels take it: its last nine fields as numbers, the others as codes."""
    fields = dict(field.split("=") for field in text.split(" "))
    reset, above, has_floor, refractory, detach, shape, residual = (fields[name] for name in Rule._fields[:7])
    codes = (
        RESETS.index(reset), int(above == "True"), int(has_floor == "True"), int(refractory), int(detach == "True"),
        SHAPES.index(shape), RESIDUALS.index(residual),
    )  # fmt: skip
    return tuple(float.fromhex(fields[name]) for name in Rule._fields[7:]), codes


def unpack(codes: Codes, numbers: Numbers) -> Rule:
    """The rule that `decode` took apart."""
    reset, above, has_floor, refractory, detach, shape, residual = codes
    return Rule(
        RESETS[reset],
        bool(above),
        bool(has_floor),
        refractory,
        bool(detach),
        SHAPES[shape],
        RESIDUALS[residual],
        *numbers,
    )


def kept(text: str) -> str:
    """What the forward pass of an encoded rule keeps, read in a way that a compiler can trace."""
    for mode in ("bits", "recompute", "membrane"):
        if mode in text:
            return mode
    return "none"


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


def allocate_forward(x: torch.Tensor, codes: Codes) -> Forward:
    """Empty outputs of a forward kernel, for real tensors and fakes alike."""
    refractory, residual = codes[3], RESIDUALS[codes[6]]
    steps, *neurons = x.shape
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    before_chunks = max(chunks(steps) - 1, 0)
    if residual == "none":
        kept = x.new_empty(0, dtype=dtype)
    elif residual == "recompute" and not before_chunks:
        kept = x.new_empty(0, dtype=dtype)  # one chunk begins at v0
    elif residual == "bits":
        kept = x.new_empty(chunks(steps), *neurons, dtype=torch.int32)
    else:
        kept = x.new_empty(before_chunks if residual == "recompute" else steps, *neurons, dtype=dtype)
    counted = refractory and residual in ("recompute", "membrane")
    return Forward(
        torch.empty_like(x),
        x.new_empty(neurons, dtype=dtype),
        x.new_empty(neurons if refractory else 0, dtype=torch.int32),
        kept,
        x.new_empty([before_chunks, *neurons] if counted else 0, dtype=torch.uint8),
    )


#: What a backward kernel may be asked for, in the order of its outputs.
GRADIENTS = ("x", "v0", "decay", "threshold", "gain", "v_reset")


def allocate_backward(g: torch.Tensor, wanted: list[bool]) -> tuple[torch.Tensor, ...]:
    """Empty gradients: dx like g, the others one value per neuron; [0] for what is not wanted."""
    dtype = compute_dtype(g)
    dx = torch.empty_like(g) if wanted[0] else g.new_empty(0)
    return dx, *(g.new_empty(g.shape[1:] if want else 0, dtype=dtype) for want in wanted[1:])
