"""The report: every file of results as tables in the terminal, and as Markdown with plots in a folder."""

from pathlib import Path

from rich.console import Console

from neurokernels.bench.plots import pictures
from neurokernels.bench.results import Results, load
from neurokernels.bench.tables import markdown, rich_table, rich_trace


def terminal() -> Console:
    """Where tables are printed: 130 columns wide where the output is a file or a pipe."""
    console = Console()
    return console if console.is_terminal else Console(width=130)


def collect(folder: Path) -> dict[str, list[Results]]:
    """The results in a folder, by machine.

    Raises:
        ValueError: The folder holds no results, or a file in it is broken.
    """
    found: dict[str, list[Results]] = {}
    for path in sorted(folder.glob("*/*.json")):
        found.setdefault(path.parent.name, []).append(load(path))
    if not found:
        raise ValueError(f"{folder}: no results (MACHINE/NAME.json) here; run pytest --benchmark first")
    return found


def report(results: Path, out: Path, console: Console | None = None) -> list[Path]:
    """Prints every table and writes ``MACHINE.md`` with its plots for each machine.

    Args:
        results: The folder of results.
        out: The folder to write to.
        console: Where to print.

    Returns:
        What was written.

    Raises:
        ValueError: The folder holds no results, or a file in it is broken; nothing is written then.
    """
    console = console or terminal()
    found = collect(results)
    written = [
        path
        for slug, files in found.items()
        for path in page(f"Benchmarks on {slug}", files, out / f"{slug}.md", console)
    ]
    for path in written:
        console.print(f"wrote {path}")
    return written


def page(title: str, files: list[Results], path: Path, console: Console | None = None) -> list[Path]:
    """Prints the tables of a machine and writes them to a Markdown file, with plots in a folder of its name beside it.

    Args:
        title: The heading.
        files: The machine's results.
        path: The Markdown file.
        console: Where to print.

    Returns:
        What was written: the plots, then the page.
    """
    console = console or terminal()
    written: list[Path] = []
    sections = [f"# {title}"]
    path.parent.mkdir(parents=True, exist_ok=True)
    for result in files:
        shown = pictures(result, path.with_suffix(""))
        written += shown
        sections += [f"![{caption}]({p.relative_to(path.parent).as_posix()})\n" for p, caption in shown.items()]
        sections.append(markdown(result))
        console.print(f"\n{result.name}: {result.machine.line}", style="bold")
        for group in result.groups:
            console.print(rich_table(group))
        for trace in result.traces:
            console.print(rich_trace(trace))
    path.write_text("\n".join(sections))
    return [*written, path]
