"""The tables of a sweep, in ``summary.md``: every arm after its last generation, and its difference to none."""

from collections.abc import Callable, Iterator

from rich.console import Console

from neurokernels.trainers.loop import Row
from neurokernels.trainers.maze.results import Difference, Group, Results, holm
from neurokernels.trainers.results import Lines, publish, spread
from neurokernels.trainers.run import RunFolder

#: Largest corrected p of a difference that is called one.
ALPHA = 0.05


def summarise(results: Results, folder: RunFolder, console: Console) -> None:
    """Shows the tables and writes ``summary.md``."""
    title = f"{results.title}: goals per maze of the best agent, and mazes solved; mean ± sd over seeds"
    tables = [(title, _ends(results))]
    if len(differences := _differences(results)) > 1:
        heading = "difference to the arm none, seed by seed: mean, 95 % interval, p of a paired t-test after Holm"
        tables.append((heading, differences))
    publish(tables, list(_findings(results)), folder, console)


def _ends(results: Results) -> Lines:
    """A line per arm, wall followers first."""
    names = ["train", *map(str, results.sizes)]
    lines = [["arm", "seeds", "kept (%)", "goals, training", *(f"goals, {n} x {n}" for n in results.sizes)]]
    lines[0] += [f"solved, {n} x {n} (%)" for n in results.sizes]
    for hand, follower in results.wall_followers.items():
        cells = [f"{follower[f'goals_{name}']:.2f}" for name in names]
        cells += [f"{100 * follower[f'solved_{n}']:.0f}" for n in results.sizes]
        lines.append([f"wall follower, {hand} hand", "–", "–", *cells])
    for group in results.groups():
        line = [group.label, str(len(group.rows)), spread(100 * v for v in group.values("kept")).shown(1)]
        line += [spread(group.values(f"goals_{name}")).shown(2) for name in names]
        line += [spread(100 * v for v in group.values(f"solved_{n}")).shown(0) for n in results.sizes]
        lines.append(line)
    return lines


def measures(results: Results) -> dict[str, Callable[[Row], float]]:
    """What arms are compared by, from the last test of a population."""
    found = {"goals, training": _column("goals_train")}
    found |= {f"goals, {n} x {n}": _column(f"goals_{n}") for n in results.sizes}
    found |= {f"solved, {n} x {n} (points)": _column(f"solved_{n}", 100) for n in results.sizes}
    unseen = f"goals_{results.sizes[0]}"
    return found | {"gap": lambda row: float(row["goals_train"] - row[unseen])}


def _column(name: str, factor: float = 1) -> Callable[[Row], float]:
    return lambda row: factor * float(row[name])


def comparisons(results: Results, measure: Callable[[Row], float]) -> list[tuple[Group, Difference, float]]:
    """Every arm that can be compared with none, and its p corrected for their number."""
    pairs = [(group, results.compared(group, measure)) for group in results.groups()]
    found = [(group, difference) for group, difference in pairs if difference is not None]
    corrected = holm([difference.p for _, difference in found])
    return [(*pair, p) for pair, p in zip(found, corrected, strict=True)]


def _differences(results: Results) -> Lines:
    """A line per arm, a column per measure."""
    columns = {name: comparisons(results, measure) for name, measure in measures(results).items()}
    lines = [["arm", "pairs", *columns]]
    for row in zip(*columns.values(), strict=True):
        group, difference, _ = row[0]
        cells = [_cell(d, p, 1 if "points" in name else 2) for name, (_, d, p) in zip(columns, row, strict=True)]
        lines.append([group.label, str(difference.seeds), *cells])
    return lines


def _cell(found: Difference, p: float, digits: int) -> str:
    said = "p –" if p != p else "p < 0.001" if p < 0.001 else f"p = {p:.2g}"
    return f"{found.mean:+.{digits}f} [{found.low:+.{digits}f}, {found.high:+.{digits}f}], {said}"


def _findings(results: Results) -> Iterator[str]:
    """The paper's question in numbers: which severed arms do better than the one without, and by how much at best."""
    for name, measure in measures(results).items():
        found = comparisons(results, measure)
        severed = [(group, d, p) for group, d, p in found if group.arm == "severance"]
        if severed:
            better, worse = (
                [f"{g.amount:g}" for g, d, p in severed if p < ALPHA and sign * d.mean > 0] for sign in (1, -1)
            )
            line = f"{name}: more than none at severance {', '.join(better) or '–'}, less at {', '.join(worse) or '–'}"
            together = results.severed_together(measure)
            digits = 1 if "points" in name else 2
            yield line + (f"; mean of all severed arms {_cell(together, together.p, digits)}" if together else "")
    kept = [100 * share for group in results.groups() for share in group.values("kept") if group.arm == "severance"]
    if kept:
        yield f"connections that severed agents kept: {min(kept):.1f} to {max(kept):.1f} %"
