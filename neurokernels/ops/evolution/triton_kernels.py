# mypy: disable-error-code="no-untyped-def, assignment"
"""The Triton kernels of the room; `neurokernels.ops.evolution.triton` launches them.

A program is one agent in a block of mazes and runs the whole episode. Hidden units are a ``[UNITS, MAZES]`` tensor in
registers; a layer is a product of the agent's weights, dense and zero where severed, with it: a small matrix product,
which a GPU has units for, where a list of connections would have to go through memory. Only goals leave the program.
"""

from typing import NamedTuple

import triton
import triton.language as tl

# Of the integers: an input that is on, and the table of tanh. See `fixed`.
ONE = tl.constexpr(127)
SEGMENT = tl.constexpr(512)
LAST = tl.constexpr(16383)


class Mazes(NamedTuple):
    """Pointers and sizes: walls ``[M, cells]`` with each cell's bits twice, and ``[3, M]`` places."""

    around: tl.tensor
    places: tl.tensor
    number: int
    cells: int
    width: int


class State(NamedTuple):
    """Pointers to ``[P, M]``, three of them, and ``[P, M, U]``; all None where there is no state."""

    position: tl.tensor
    heading: tl.tensor
    motor: tl.tensor
    hidden: tl.tensor


@triton.jit
def rational_tanh(x):
    """X P(x^2) / Q(x^2), as in csrc/cpu/rollout_lanes.h; NaN stays NaN."""
    x = tl.where(x > 8.0, 8.0, tl.where(x < -8.0, -8.0, x))
    y = x * x
    p = ((1.1428480320319068e-05 * y + 0.002951029920950532) * y + 0.1292566955089569) * y + 0.9999998807907104
    q = ((2.4592273462076264e-07 * y + 0.00023866997798904777) * y + 0.02381558157503605) * y + 0.4625888466835022
    return x * p / (q * y + 1.0)


@triton.jit
def integer_tanh(total, knots):
    """Linear between the knots: `fixed.tanh`."""
    size = tl.minimum(tl.abs(total), LAST)
    segment = size // SEGMENT
    low, high = tl.load(knots + segment), tl.load(knots + segment + 1)
    found = (low * SEGMENT + (high - low) * (size % SEGMENT) + SEGMENT * 32) // (SEGMENT * 64)
    return tl.where(total < 0, -found, found)


@triton.jit
def squash(total, knots, ACTIVATION: tl.constexpr, EXACT: tl.constexpr):
    """The activation; of integers in exact mode."""
    if ACTIVATION == "sign":
        found = tl.where(total > 0, 1, tl.where(total < 0, -1, total))
        if EXACT:
            found = found * ONE
    elif ACTIVATION == "relu":
        found = tl.where(total <= 0, 0.0, total)
    elif EXACT:
        found = integer_tanh(total, knots)
    else:
        found = rational_tanh(total)
    return found


@triton.jit
def product(a, b, EXACT: tl.constexpr):
    """A product of matrices: of int8 to int32, or of float32 as three products of TF32, which are as good as one."""
    if EXACT:
        found = tl.dot(a, b, out_dtype=tl.int32)
    else:
        found = tl.dot(a, b, input_precision="tf32x3")
    return found


@triton.jit
def matrix(base, row, rows, column, columns):
    """Rows and columns of a dense matrix that exist, zeros elsewhere."""
    mask = (row[:, None] < rows) & (column[None, :] < columns)
    return tl.load(base + row[:, None] * columns + column[None, :], mask=mask, other=0)


@triton.jit
def sensed(sides, there, motor, row, one):
    """The inputs as ``[INPUTS, MAZES]``, in the order of `network.INPUTS`."""
    on = tl.where(row == 0, sides >> 3 & 1, tl.where(row == 1, sides & 1, tl.where(row == 2, sides >> 1 & 1, 0)))
    on = tl.where(row == 3, 1, tl.where(row == 4, there.to(tl.int32), on))
    on = tl.where((row >= 5) & (row < 8), (motor == row - 5).to(tl.int32), on)
    return on.to(one.dtype) * one


@triton.jit
def picked(outputs, row, which: tl.constexpr):
    """One row of the outputs."""
    return tl.sum(tl.where(row[:, None] == which, outputs, 0), axis=0)


@triton.jit(do_not_specialize=["steps"])
def rollout_kernel(
    inputs_ptr, hidden_ptr, outputs_ptr, layer_ptr, knots, goals_ptr, mazes: Mazes, before: State, after: State, units,
    steps, FORGET: tl.constexpr, ACTIVATION: tl.constexpr, EXACT: tl.constexpr, LAYERS: tl.constexpr,
    UNITS: tl.constexpr, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, MAZES: tl.constexpr,
):  # fmt: skip
    """Episodes of one agent in a block of mazes. Weights are ``[P, U, 8]``, ``[P, U, U]`` and ``[P, 3, U]``."""
    agent = tl.program_id(0).to(tl.int64)
    maze = tl.program_id(1) * MAZES + tl.arange(0, MAZES)
    mine, unit, source, gives = maze < mazes.number, tl.arange(0, UNITS), tl.arange(0, INPUTS), tl.arange(0, OUTPUTS)
    from_inputs = matrix(inputs_ptr + agent * units * 8, unit, units, source, 8)
    from_hidden = matrix(hidden_ptr + agent * units * units, unit, units, unit, units)
    to_outputs = matrix(outputs_ptr + agent * 3 * units, gives, 3, unit, units)
    layer = tl.load(layer_ptr + unit, mask=unit < units, other=-1)
    start = tl.load(mazes.places + maze, mask=mine, other=0)
    goal = tl.load(mazes.places + mazes.number + maze, mask=mine, other=0)
    facing = tl.load(mazes.places + 2 * mazes.number + maze, mask=mine, other=0)
    around = mazes.around + tl.where(mine, maze, 0).to(tl.int64) * mazes.cells
    at = agent * mazes.number + maze
    hidden_at = at[None, :] * units + unit[:, None]
    exists = mine[None, :] & (unit < units)[:, None]
    position, heading, motor = start, facing, tl.full((MAZES,), 3, tl.int32)
    hidden = tl.zeros((UNITS, MAZES), from_hidden.dtype)
    if before.position is not None:
        position = tl.load(before.position + at, mask=mine, other=0)
        heading = tl.load(before.heading + at, mask=mine, other=0)
        motor = tl.load(before.motor + at, mask=mine, other=3)
        hidden = tl.load(before.hidden + hidden_at, mask=exists, other=0.0).to(hidden.dtype)
    one = tl.full((1, 1), 1, from_inputs.dtype)
    if EXACT:
        one = one * ONE
    goals = tl.zeros((MAZES,), tl.int32)
    for _ in range(steps):
        sides = tl.load(around + position).to(tl.int32) >> heading
        there, free = position == goal, (sides & 1) == 0
        seen = sensed(sides[None, :], there[None, :], motor[None, :], source[:, None], one)
        given = product(from_inputs, seen, EXACT)  # rows of later layers are zero
        for k in tl.range(LAYERS):  # in a loop: unrolled, two layers would spill
            total = product(from_hidden, hidden, EXACT) + given
            fresh = squash(total, knots, ACTIVATION, EXACT).to(hidden.dtype)
            hidden = tl.where((layer == k)[:, None], fresh, hidden)
        said = product(to_outputs, hidden, EXACT)
        forward, left, right = picked(said, gives, 0), picked(said, gives, 1), picked(said, gives, 2)
        turns = left > forward
        command = tl.where(right > tl.where(turns, left, forward), 2, turns.to(tl.int32))
        goals += there.to(tl.int32)
        move = tl.where((heading & 1) == 0, mazes.width, 1) * (((heading + 1) & 2) - 1)
        walked = tl.where((command == 0) & free, position + move, position)
        turned = (heading + (command == 2).to(tl.int32) - (command == 1).to(tl.int32)) & 3
        position, heading, motor = tl.where(there, start, walked), tl.where(there, facing, turned), command
        if FORGET:
            motor = tl.where(there, 3, motor)
            hidden = tl.where(there[None, :], tl.zeros_like(hidden), hidden)
    tl.store(goals_ptr + at, goals, mask=mine)
    if after.position is not None:
        tl.store(after.position + at, position, mask=mine)
        tl.store(after.heading + at, heading, mask=mine)
        tl.store(after.motor + at, motor, mask=mine)
        tl.store(after.hidden + hidden_at, hidden.to(tl.float32), mask=exists)


@triton.jit
def draw(seed, position, agent, generation, STREAM: tl.constexpr):
    """Four words of Philox4x32-10 for each position: see `philox`."""
    zeros = tl.zeros_like(position)
    return tl.philox(seed, position, zeros + agent, zeros + generation, zeros + STREAM)


@triton.jit
def parts(word):
    """The sum of a word's three ten-bit numbers."""
    return ((word & 1023) + (word >> 10 & 1023) + (word >> 20 & 1023)).to(tl.int32)


@triton.jit(do_not_specialize=["seed", "generation", "severance", "kept"])
def offspring_kernel(
    weights_ptr, mask_ptr, family_ptr, new_weights_ptr, new_mask_ptr, edges, kept, generation, seed: tl.int64,
    severance: tl.int64, mutation: tl.float32, limit: tl.float32, MUTATION: tl.constexpr, SEVERANCE: tl.constexpr,
    EDGES: tl.constexpr,
):  # fmt: skip
    """A block of one agent's connections: a parent's as they are, or a child's."""
    agent, edge = tl.program_id(0), tl.program_id(1) * EDGES + tl.arange(0, EDGES)
    here, parent = edge < edges, tl.load(family_ptr + agent)
    weight = tl.load(weights_ptr + parent * edges + edge, mask=here, other=0.0)
    exists = tl.load(mask_ptr + parent * edges + edge, mask=here, other=0) != 0
    if agent >= kept:
        a, b, c, d = draw(seed, edge, agent, generation, MUTATION)
        noise = (parts(a) + parts(b) + parts(c) + parts(d) - 6138).to(tl.float32) / 1024
        mutated = weight + noise * mutation
        weight = tl.where(mutated > limit, limit, tl.where(mutated < -limit, -limit, mutated))
        a, b, c, d = draw(seed, edge // 4, agent, generation, SEVERANCE)
        word = tl.where(edge % 4 == 0, a, tl.where(edge % 4 == 1, b, tl.where(edge % 4 == 2, c, d)))
        exists = exists & (word.to(tl.int64) >= severance)
    at = agent.to(tl.int64) * edges + edge
    tl.store(new_weights_ptr + at, tl.where(exists, weight, 0.0), mask=here)
    tl.store(new_mask_ptr + at, exists.to(tl.int8), mask=here)
