"""Mazes: walls as four bits a cell, and the generator of perfect ones."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neurokernels._core import checks
from neurokernels.ops.evolution.philox import Stream, below, key, words

#: Headings, clockwise, and the bit of the wall on that side of a cell.
NORTH, EAST, SOUTH, WEST = range(4)
HEADINGS = ("north", "east", "south", "west")
#: Rows and columns that a step goes.
_MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))
#: Positions are int32 in the kernels, and with a register of mazes counted through.
MOST_CELLS = 2**24
#: Steps of the search whose random words are drawn together; a multiple of four.
_AT_ONCE = 256


def _cells(op: str, argument: str, value: Any, count: int, high: int, default: int, device: torch.device) -> Tensor:
    """One integer below a bound for each maze."""
    given = torch.as_tensor(default if value is None else value, device=device)
    if given.dtype in (torch.bool, torch.float16, torch.bfloat16, torch.float32, torch.float64):
        checks.type_error(op, argument, "integers, one or one for each maze", given.dtype)
    if given.shape not in ((), (count,)):
        checks.value_error(op, argument, f"one integer or [{count}] of them", f"shape {tuple(given.shape)}")
    if given.numel() and not 0 <= int(given.min()) <= int(given.max()) < high:
        checks.value_error(op, argument, f"in [0, {high - 1}]", f"{int(given.min())} to {int(given.max())}")
    return given.to(torch.int32).expand(count).contiguous()


@dataclass(frozen=True, eq=False)
class Mazes:
    """Mazes of one size, with where an agent starts, how it then faces, and where it is to go.

    A cell is numbered ``row * W + column``, a heading 0 to 3: north (to row 0), east, south, west.

    Args:
        walls: ``[M, H, W]`` integers: bit 0 of a cell is a wall on its north side, bit 1 east, bit 2 south, bit 3 west.
        start: A cell, or one for each maze; the first one by default.
        goal: A cell, or one for each maze; the last one by default.
        facing: A heading, or one for each maze; east by default.

    Raises:
        TypeError: Something else than integers.
        ValueError: A wrong shape; walls that are not the same seen from both sides; an open border; a start that is the
            goal; no path from start to goal; sizes beyond 2**24 cells.
    """

    walls: Tensor
    start: Tensor
    goal: Tensor
    facing: Tensor

    def __init__(self, walls: Any, *, start: Any = None, goal: Any = None, facing: Any = EAST) -> None:
        walls = torch.as_tensor(walls)
        if walls.dtype == torch.bool or walls.is_floating_point() or walls.is_complex():
            checks.type_error("Mazes", "walls", "integers with one bit per side", walls.dtype)
        if walls.ndim != 3 or 0 in walls.shape:
            checks.value_error(
                "Mazes", "walls", "[mazes, height, width], none of them 0", f"shape {tuple(walls.shape)}"
            )
        count, height, width = walls.shape
        _sized("Mazes", height, width)
        if not 0 <= int(walls.min()) <= int(walls.max()) < 16:
            checks.value_error("Mazes", "walls", "in [0, 15]", f"{int(walls.min())} to {int(walls.max())}")
        fields = {
            "walls": walls.to(torch.uint8).contiguous(),
            "start": _cells("Mazes", "start", start, count, height * width, 0, walls.device),
            "goal": _cells("Mazes", "goal", goal, count, height * width, height * width - 1, walls.device),
            "facing": _cells("Mazes", "facing", facing, count, 4, EAST, walls.device),
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)
        self._check()

    def _check(self) -> None:
        found = _consistent(self.walls)
        if found is not None:
            checks.value_error("Mazes", "walls", *found)
        if bool(same := (self.start == self.goal).nonzero().flatten().tolist()):
            checks.value_error("Mazes", "goal", "another cell than start", f"the same one in maze {same[0]}")
        away = self.distances(self.goal).flatten(1).gather(1, self.start[:, None].long())
        if blocked := (away < 0).nonzero()[:, 0].tolist():
            checks.value_error(
                "Mazes", "walls", "such that a path leads from start to goal", f"none in maze {blocked[0]}"
            )

    def __len__(self) -> int:
        return len(self.walls)

    def __getitem__(self, which: Any) -> "Mazes":
        """Some of the mazes, by a slice, a list or a tensor; a number makes one maze."""
        which = slice(which, which + 1 or None) if isinstance(which, int) else which
        return _unchecked(self.walls[which], self.start[which], self.goal[which], self.facing[which])

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.walls.shape[1], self.walls.shape[2]

    def to(self, device: torch.device | str) -> "Mazes":
        """The same on another device."""
        return _unchecked(*(t.to(device) for t in (self.walls, self.start, self.goal, self.facing)))

    def distances(self, origin: Tensor | None = None) -> Tensor:
        """Steps from a cell to every other, by breadth-first search in all mazes at once.

        Args:
            origin: ``[M]`` cells; the starts by default.

        Returns:
            ``[M, H, W]`` int32, -1 where no path leads.
        """
        origin = self.start if origin is None else origin
        seen = torch.zeros(self.walls.shape, dtype=torch.bool, device=self.walls.device)
        seen.view(len(self), -1).scatter_(1, origin[:, None].long(), True)
        found, edge, distance = torch.where(seen, 0, -1).int(), seen, 0
        while bool(edge.any()):
            reached = torch.zeros_like(seen)
            for heading, here, there in _neighbours(*self.size):
                reached[there] |= edge[here] & (self.walls[here] >> heading & 1 == 0)
            edge, distance = reached & (found < 0), distance + 1
            found[edge] = distance
        return found


def _unchecked(walls: Tensor, start: Tensor, goal: Tensor, facing: Tensor) -> Mazes:
    """Mazes that are known to be sound."""
    made = object.__new__(Mazes)
    for name, value in (("walls", walls), ("start", start), ("goal", goal), ("facing", facing)):
        object.__setattr__(made, name, value.contiguous())
    return made


def _sized(op: str, height: int, width: int) -> None:
    if not 2 <= height * width <= MOST_CELLS:
        checks.value_error(op, "size", f"2 to {MOST_CELLS} cells", f"{height} x {width} = {height * width}")


def _neighbours(height: int, width: int) -> list[tuple[int, tuple[Any, ...], tuple[Any, ...]]]:
    """Per heading, the cells from which a step that way stays inside, and the cells it leads to."""

    def cut(size: int, move: int) -> tuple[slice, slice]:
        return slice(max(0, -move), size - max(0, move)), slice(max(0, move), size - max(0, -move))

    found = []
    for heading, (down, right) in enumerate(_MOVES):
        (from_row, to_row), (from_column, to_column) = cut(height, down), cut(width, right)
        found.append((heading, (slice(None), from_row, from_column), (slice(None), to_row, to_column)))
    return found


def _consistent(walls: Tensor) -> tuple[str, str] | None:
    """What is wrong with walls: expected and got."""
    for heading, here, there in _neighbours(*walls.shape[1:]):
        opposite = (heading + 2) % 4
        if bool((walls[here] >> heading & 1 != walls[there] >> opposite & 1).any()):
            maze = int((walls[here] >> heading & 1 != walls[there] >> opposite & 1).nonzero()[0, 0])
            side = HEADINGS[heading]
            return "the same seen from both sides", f"a wall {side} of a cell that its neighbour lacks, in maze {maze}"
        outside = torch.ones(walls.shape, dtype=torch.bool, device=walls.device)
        outside[here] = False
        if bool((open_ := outside & (walls >> heading & 1 == 0)).any()):
            maze = int(open_.nonzero()[0, 0])
            return "closed at the border", f"a cell open to the {HEADINGS[heading]} of maze {maze}"
    return None


def mazes(
    n: int, *, size: int | tuple[int, int] = 8, seed: int = 0, first: int = 0, goal: str = "corner", facing: Any = EAST
) -> Mazes:
    """Perfect mazes: exactly one path between any two cells, made by randomised depth-first search.

    Maze i is a function of the seed, the size and its number ``first + i`` alone, so held-out mazes are those with
    other numbers: ``mazes(100, first=1000)`` shares none with ``mazes(1000)``, but for those that are alike by chance.

    Args:
        n: How many.
        size: Cells along a side, or ``(height, width)``.
        seed: The key of the Philox generator.
        first: Number of the first one.
        goal: ``"corner"``, opposite to the start in the first cell, or ``"far"``, the cell that is farthest from it.
        facing: The heading at the start, 0 to 3 for north, east, south and west; or one for each maze.

    Returns:
        n mazes, on the CPU.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: No maze, fewer than 2 cells, more than 2**24 of them, or another goal.
    """
    count, first = checks.count("mazes", "n", n, 1), checks.count("mazes", "first", first)
    sides = size if isinstance(size, tuple | list) else (size, size)
    if len(sides) != 2:
        checks.value_error("mazes", "size", "one number or (height, width)", sides)
    height, width = (checks.count("mazes", "size", side, 1) for side in sides)
    _sized("mazes", height, width)
    checks.choice("mazes", "goal", goal, ("corner", "far"))
    if first + count > 2**32:
        checks.value_error("mazes", "first", "such that the last number is below 2**32", first)
    seed = key("mazes", seed)
    made = Mazes(_carved(count, height, width, seed, first), facing=facing)
    if goal == "far":
        made = _unchecked(made.walls, made.start, made.distances().flatten(1).argmax(1).int(), made.facing)
    return made


def _carved(count: int, height: int, width: int, seed: int, first: int) -> Tensor:
    """Depth-first search in all mazes at once, each at its own place: 2 (cells - 1) steps, forward or back.

    The neighbour is drawn among the k that were not visited, in the order of headings; step s of maze i uses word
    s % 4 of the block s // 4.
    """
    maze, cells = torch.arange(count), height * width
    walls = torch.full((count, cells), 15, dtype=torch.int64)
    fresh = torch.nn.functional.pad(torch.ones(count, height, width, dtype=torch.bool), (1, 1, 1, 1)).flatten(1)
    stride, position = width + 2, torch.full((count,), width + 3)  # within the padded mazes
    steps = torch.tensor([down * stride + right for down, right in _MOVES])
    path, depth = torch.zeros(count, cells, dtype=torch.int64), torch.zeros(count, dtype=torch.int64)
    path[:, 0] = position
    fresh[:, width + 3] = False
    for step in range(2 * (cells - 1)):
        if step % _AT_ONCE == 0:
            blocks = torch.arange(step // 4, min(step + _AT_ONCE, 2 * cells) // 4 + 1)[:, None]
            drawn = torch.stack(words(seed, blocks, maze + first, 0, Stream.MAZE), 1).flatten(0, 1)
        free = fresh[maze[:, None], position[:, None] + steps]
        chosen = below(drawn[step % _AT_ONCE], free.sum(1))
        heading = (free.cumsum(1) <= chosen[:, None]).sum(1)  # the free one that so many free ones come before
        forward = heading < 4
        depth += torch.where(forward, 1, -1)
        there = torch.where(forward, position + steps[heading % 4], path[maze, depth])
        _open(walls, maze[forward], _unpadded(position[forward], width), heading[forward])
        _open(walls, maze[forward], _unpadded(there[forward], width), (heading[forward] + 2) % 4)
        fresh[maze, there] = False
        path[maze, depth] = there
        position = there
    return walls.reshape(count, height, width)


def _unpadded(position: Tensor, width: int) -> Tensor:
    return (position // (width + 2) - 1) * width + position % (width + 2) - 1


def _open(walls: Tensor, maze: Tensor, cell: Tensor, side: Tensor) -> None:
    walls[maze, cell] &= ~(1 << side)
