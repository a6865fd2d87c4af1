"""Tables of what kernels became: printed, written, and read again so that nothing is compiled twice."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def recorded(
    file: Path, keys: Mapping[str, str], case: Callable[[dict[str, Any]], str], **versions: str
) -> list[dict[str, Any]]:
    """The rows of a record that are of what would be compiled now.

    Args:
        file: What `report` wrote.
        keys: For each case a digest of what it would be compiled from.
        case: Of a row.
        versions: Those that the record must have.
    """
    record = json.loads(file.read_text())
    if any(record["versions"][name] != version for name, version in versions.items()):
        return []
    current = {name for name, made_of in keys.items() if record["keys"].get(name) == made_of}
    return [row for row in record["rows"] if case(row) in current]


def report(
    kind: type,
    rows: Sequence[Any],
    name: Callable[[Any], str],
    versions: Mapping[str, str],
    keys: Mapping[str, str],
    caption: str | None = None,
    file: Path | None = None,
) -> None:
    """Prints rows of a dataclass and writes them if a file is given; exits with the names of those that failed."""
    table = Table(*(field.name.replace("_", " ") for field in fields(kind)), caption=caption)
    for row in rows:
        table.add_row(*map(str, asdict(row).values()), style="red" if row.failed else None)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        content = {"versions": versions, "keys": keys, "rows": [asdict(row) for row in rows]}
        file.write_text(json.dumps(content, indent=1) + "\n")
    if any(row.failed for row in rows):
        sys.exit("; ".join(f"{name(row)}: {row.failed}" for row in rows if row.failed))
