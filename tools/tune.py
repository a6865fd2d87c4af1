"""Measures configurations of kernels on this GPU, and writes the fastest into neurokernels/_core/tuned.json.

    python tools/tune.py [--ops lif rdm ...] [--seconds 60] [--rehearse] [--table FILE]

Every candidate computes the same call; one whose answer differs from that of the present configuration is not
considered, and neither is one that the compiler refuses. The present configuration stays unless another one is faster
by 3 %. Each dtype and size gets the row of its class; classes of equal configurations are joined. What was tried and
how long it took, is printed, for the log of the op's README. Users' calls look the table up and measure nothing.
"""

import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from torch import Tensor

import neurokernels as nk
from neurokernels._core import tuned
from neurokernels._core.covariance_triton import rank_update
from neurokernels.bench import clocks

#: A candidate has to be so much faster than what the table has.
MARGIN = 0.97

Config = dict[str, Any]
Call = Callable[..., Any]


@dataclass(frozen=True)
class Space:
    """What is tried for one key of the table.

    Attributes:
        backend: Whose kernels a configuration is for.
        sizes: Sizes that are measured, in the unit of the table, ascending; the first is for a rehearsal too.
        make: ``(size, dtype, device)`` to a call and its arguments.
        values: For each parameter the values that are tried, all with all.
        dtypes: Which ones are measured.
        valid: Whether a combination makes sense for a dtype.
        tolerance: How far the answer may be from that of the present configuration, in norms.
    """

    backend: Callable[[Config], str]
    sizes: tuple[int, ...]
    make: Callable[[int, torch.dtype, torch.device], tuple[Call, tuple[Tensor, ...]]]
    values: dict[str, tuple[Any, ...]]
    dtypes: tuple[torch.dtype, ...] = (torch.float32,)
    valid: Callable[[Config, torch.dtype], bool] = lambda config, dtype: True
    tolerance: float = 1e-3

    def candidates(self, dtype: torch.dtype) -> Iterator[Config]:
        """All combinations that make sense."""
        for values in product(*self.values.values()):
            config = dict(zip(self.values, values, strict=True))
            if self.valid(config, dtype):
                yield config


def _normal(*shape: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device, dtype)


def _lif(size: int, dtype: torch.dtype, device: torch.device) -> tuple[Call, tuple[Tensor, ...]]:
    steps = 500 if size > 64 else 20
    x, g = (_normal(steps, size, dtype=dtype, device=device) for _ in range(2))
    x = x.add_(0.3).requires_grad_()

    def trained(x: Tensor, g: Tensor) -> tuple[Tensor, ...]:
        spikes = nk.lif(x, decay=0.9).spikes
        return spikes, *torch.autograd.grad(spikes, x, g)

    return trained, (x, g)


def _covariance(size: int, dtype: torch.dtype, device: torch.device) -> tuple[Call, tuple[Tensor, ...]]:
    return nk.covariance, (_normal(max(2 * size, 64), size, dtype=dtype, device=device),)


def _rank_update(size: int, dtype: torch.dtype, device: torch.device) -> tuple[Call, tuple[Tensor, ...]]:
    """The gradient of x from that of `size` eigenvalues, as `neurokernels.covariance_spectrum` launches it."""
    samples, units = (2048, max(4 * size, 256)) if device.type == "cuda" else (40, 33)
    shapes = (samples, size), (size,), (units, size), (samples, units), (units,), ()
    return rank_update, tuple(_normal(*shape, dtype=dtype, device=device) for shape in shapes)


def _eigh(size: int, dtype: torch.dtype, device: torch.device) -> tuple[Call, tuple[Tensor, ...]]:
    a = _normal(256 if device.type == "cuda" else 2, size, size, dtype=dtype, device=device)
    return nk.eigvalsh, (a + a.mT,)  # the signs of vectors are each solver's own


def _rdm(size: int, dtype: torch.dtype, device: torch.device) -> tuple[Call, tuple[Tensor, ...]]:
    x = _normal(size, min(4 * size, 2048), dtype=dtype, device=device)
    return lambda x: nk.rdm(x, metric="correlation"), (x,)


def _rsa_loss(accuracy: str) -> Callable[..., tuple[Call, tuple[Tensor, ...]]]:
    def make(size: int, dtype: torch.dtype, device: torch.device) -> tuple[Call, tuple[Tensor, ...]]:
        x = _normal(size, min(size, 512), dtype=dtype, device=device).requires_grad_()
        target = torch.corrcoef(_normal(size, 64, dtype=dtype, device=device))

        def trained(x: Tensor, target: Tensor) -> tuple[Tensor, ...]:
            loss = nk.rsa_loss(x, target, accuracy=accuracy)
            return loss, *torch.autograd.grad(loss, x)

        return trained, (x, target)

    return make


def _dcca(size: int, dtype: torch.dtype, device: torch.device) -> tuple[Call, tuple[Tensor, ...]]:
    x, y = (_normal(4 * size, size, dtype=dtype, device=device).requires_grad_() for _ in range(2))

    def trained(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        loss = nk.dcca_loss(x, y)
        return loss, *torch.autograd.grad(loss, (x, y))

    return trained, (x, y)


def _searchlight(size: int, dtype: torch.dtype, device: torch.device) -> tuple[Call, tuple[Tensor, ...]]:
    data, models = _normal(size, 400, dtype=dtype, device=device), torch.rand(3, size * (size - 1) // 2, device=device)
    centres = [torch.arange(i, i + 100) for i in range(300)][: 300 if size > 16 else 20]
    return lambda data: nk.searchlight_rsa(data, centres, models.to(dtype)), (data,)


def _rollout(size: int, dtype: torch.dtype, device: torch.device) -> tuple[Call, tuple[Tensor, ...]]:
    agents, steps = (1024, 200) if device.type == "cuda" else (3, 4)
    population = nk.evolution.Population.random(agents, hidden=size).to(device)
    mazes = nk.evolution.mazes(64 if device.type == "cuda" else 16).to(device)
    mode = "float" if dtype.is_floating_point else "exact"

    def walked(_: Tensor) -> Tensor:
        return nk.maze_rollout(population, mazes, steps=steps, mode=mode).goals.sum()

    return walked, (torch.zeros(1, device=device),)


def _triton(config: Config) -> str:
    return "triton"


_TILES: dict[str, tuple[Any, ...]] = {"warps": (1, 4, 8), "stages": (2, 3, 4)}

SPACES: dict[str, Space] = {
    "lif": Space(
        lambda c: "cuda" if c["small"] else "triton", (64, 8192, 65536, 262144), _lif,
        {"small": (True, False), "warps": (1, 2, 4)}, (torch.float32, torch.bfloat16),
        lambda c, dtype: c["small"] or c["warps"] == 2,
    ),
    "lif_triton": Space(
        _triton, (64, 8192, 65536, 262144, 1048576), _lif, {"warps": (1, 2, 4, 8), "pairs": (False, True)},
        (torch.float32, torch.bfloat16),
    ),
    "eigh": Space(
        lambda c: c["backend"], (8, 16, 32, 64, 100, 128), _eigh, {"backend": ("cuda", "triton")},
        (torch.float32, torch.float64),
    ),
    "covariance": Space(
        _triton, (16, 32, 128, 512, 2048), _covariance, {"tile": (16, 32, 64, 128), "rows": (16, 32, 64), **_TILES},
        (torch.float32, torch.bfloat16), lambda c, dtype: c["tile"] * c["rows"] <= 64 * 64,
    ),
    "rank_update": Space(
        _triton, (8, 32, 128, 512), _rank_update,
        {"rows": (32, 64, 128), "columns": (32, 64, 128), "rank": (16, 32), **_TILES},
        valid=lambda c, dtype: c["rows"] * c["columns"] <= 64 * 128,
    ),
    "rdm": Space(
        _triton, (16, 100, 500, 2000), _rdm, {"tile": (16, 32, 64, 128), "depth": (16, 32), **_TILES},
    ),
    "rsa_loss": Space(
        _triton, (32, 1024, 8192), _rsa_loss("high"),
        {"tile": (32, 64, 128), "inner": (16, 32), "columns": (32, 64), "warps": (4, 8, 16), "stages": (2, 3)},
    ),
    "rsa_loss_fast": Space(
        _triton, (32, 1024, 8192), _rsa_loss("fast"),
        {"tile": (64, 128), "inner": (32, 64), "columns": (64, 128), "warps": (8, 16), "stages": (2, 3, 4)},
    ),
    "polar": Space(_triton, (48, 128, 256, 512), _dcca, {"tile": (32, 64, 128), "inner": (16, 32), **_TILES}),
    "dcca": Space(
        lambda c: c["backend"], (10, 20, 32), _dcca, {"backend": ("cuda", "triton"), "samples": (512,)},
    ),
    "dcca_small": Space(_triton, (10, 32), _dcca, {"rows": (16, 32), "warps": (1, 2, 4, 8), "stages": (2,)}),
    "dcca_gradient": Space(
        _triton, (10, 32, 256, 512), _dcca, {"rows": (32, 64), "columns": (16, 32, 64), **_TILES},
    ),
    "searchlight": Space(_triton, (16, 32, 60, 128), _searchlight, {"warps": (1, 2, 4, 8, 16)}),
    "maze_rollout": Space(
        lambda c: c["backend"], (8, 16, 20, 32, 60), _rollout,
        {"backend": ("cuda", "triton"), "few": (0, 264, 528, 1056), "list_cost": (0, 90, 150, 200, 340, 490, 720)},
        (torch.float32, torch.int8),
        lambda c, dtype: c["backend"] == "cuda" or (c["few"], c["list_cost"]) == (528, 0),
        tolerance=0.1,  # walks are chaotic: the goals of all agents agree, those of one do not
    ),
    "maze_rollout_triton": Space(
        _triton, (20, 60), _rollout, {"mazes": (16, 32, 64), "warps": (1, 2, 4, 8)}, tolerance=0.1,
    ),
}  # fmt: skip


@dataclass
class Tuned:
    """What was found for a dtype and a size."""

    dtype: torch.dtype
    size: int
    best: Config
    tried: list[tuple[float, Config]] = field(default_factory=list)


def _outputs(call: Call, arguments: tuple[Tensor, ...]) -> list[Tensor]:
    found = call(*arguments)
    return [t.detach().double() for t in (found if isinstance(found, tuple) else (found,)) if isinstance(t, Tensor)]


def _agree(found: list[Tensor], expected: list[Tensor], tolerance: float) -> bool:
    """Whether nothing is far from what the present configuration computes; NaN agrees with nothing."""
    return all(
        bool(torch.linalg.vector_norm(f - e) <= tolerance * torch.linalg.vector_norm(e) + 1e-12)
        for f, e in zip(found, expected, strict=True)
    )


def _seconds(call: Call, arguments: tuple[Tensor, ...], clock: str) -> float:
    """The median of five samples of device time."""
    given = clocks.rotated(arguments)
    take = clocks.sampler(clock, call, given, max(len(given), 3 if clock != "wall" else 1))[1]
    return statistics.median(take() for _ in range(5 if clock != "wall" else 1))


def measured(op: str, space: Space, dtype: torch.dtype, size: int, device: torch.device, deadline: float) -> Tuned:
    """Tries all candidates until the deadline."""
    call, arguments = space.make(size, dtype, device)
    clock = "graph" if device.type == "cuda" else "wall"
    as_given = op in ("lif", "lif_triton") or not dtype.is_floating_point
    compute = dtype if as_given else torch.promote_types(dtype, torch.float32)
    present = tuned.choice(op, torch.empty(0, dtype=compute, device=device), size)
    with nk.backend(space.backend(present)):
        expected = _outputs(call, arguments)
        best = _seconds(call, arguments, clock)
    found = Tuned(dtype, size, present, [(best, present)])
    for config in space.candidates(compute):
        if time.monotonic() > deadline:
            break
        if config != present:
            with tuned.forced(op, config), nk.backend(space.backend(config)):
                try:
                    if not _agree(_outputs(call, arguments), expected, space.tolerance):
                        continue
                    found.tried.append((_seconds(call, arguments, clock), config))
                except Exception as error:  # a compiler or a driver that refuses: of many types
                    Console(stderr=True).print(f"[dim]{op} {config}: {type(error).__name__}: {str(error)[:80]}[/dim]")
    fastest = min(found.tried, key=lambda tried: tried[0])
    if fastest[0] < MARGIN * best:
        found.best = fastest[1]
    return found


def rows(op: str, found: list[Tuned], arch: str, gpu: str) -> list[dict[str, Any]]:
    """Rows of the table: a class ends half-way, in logarithms, to the next size; equal neighbours are one class."""
    made: list[dict[str, Any]] = []
    for dtype in dict.fromkeys(tried.dtype for tried in found):
        mine = [tried for tried in found if tried.dtype == dtype]
        for i, tried in enumerate(mine):
            if i + 1 < len(mine) and mine[i + 1].best == tried.best:
                continue
            up_to = int(math.sqrt(tried.size * mine[i + 1].size)) if i + 1 < len(mine) else None
            name = str(dtype).removeprefix("torch.")
            made.append(
                {"op": op, "arch": arch, "dtype": name, "up_to": up_to, "config": tried.best, "measured": gpu}
            )  # fmt: skip
    return made


def merged(table: dict[str, Any], fresh: list[dict[str, Any]]) -> dict[str, Any]:
    """The table with fresh rows before the op's others, in place of those of the same op, architecture and dtype."""
    replaced = {(row["op"], row["arch"], row["dtype"]) for row in fresh}
    kept = [row for row in table["rows"] if (row["op"], row["arch"], row["dtype"]) not in replaced]
    ops = list(dict.fromkeys(row["op"] for row in kept))
    ordered = [row for op in ops for row in [r for r in fresh if r["op"] == op] + [r for r in kept if r["op"] == op]]
    return table | {"rows": ordered}


def written(table: dict[str, Any]) -> str:
    """The text of the table, a line for each row."""
    lines = ",\n".join(f"  {json.dumps(row)}" for row in table["rows"])
    head = "\n".join(f' "{name}": {json.dumps(table[name])},' for name in ("about", "sizes"))
    return f'{{\n{head}\n "rows": [\n{lines}\n ]\n}}\n'


def main(
    ops: tuple[str, ...] = tuple(SPACES), seconds: float = 30.0, rehearse: bool = False, table: Path = tuned.TABLE
) -> None:
    """Tunes on the current GPU.

    Args:
        ops: Keys of the table.
        seconds: At most so long for each dtype and size.
        rehearse: Run on the CPU, emulated, with the smallest sizes: for tests. Needs a table of its own.
        table: The table that is read and written.
    """
    unknown = [op for op in ops if op not in SPACES]
    if unknown:
        sys.exit(f"ops must be among {', '.join(SPACES)}, got {unknown[0]!r}")
    if not rehearse and not torch.cuda.is_available():
        sys.exit("tune: there is no CUDA GPU here to measure on")
    if rehearse and table == tuned.TABLE:
        sys.exit("tune: a rehearsal needs --table: what a CPU measures is not for the package")
    device = torch.device("cpu" if rehearse else "cuda")
    arch = "sm_00" if rehearse else "sm_{}{}".format(*torch.cuda.get_device_capability())
    gpu = f"{'rehearsal' if rehearse else torch.cuda.get_device_name()}, {time.strftime('%Y-%m-%d')}"
    console = Console(width=None if sys.stdout.isatty() else 160)
    for op in ops:
        space, found = SPACES[op], []
        for dtype, size in product(
            space.dtypes[:1] if rehearse else space.dtypes, space.sizes[: 1 if rehearse else None]
        ):
            found.append(measured(op, space, dtype, size, device, time.monotonic() + seconds))
            times = sorted(found[-1].tried, key=lambda tried: tried[0])
            console.print(f"{op} {str(dtype).removeprefix('torch.')} {size}: {found[-1].best}")
            for second, config in [*times[:3], found[-1].tried[0]]:
                console.print(f"    {second * 1e6:10.1f} us  {config}")
        table.write_text(written(merged(json.loads(table.read_text()), rows(op, found, arch, gpu))))


if __name__ == "__main__":
    tyro.cli(main)
