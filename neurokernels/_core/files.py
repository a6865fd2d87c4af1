"""Files that are whole or absent: the user's cache folder, and writes that never leave half a file."""

import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path


def user_folder() -> Path:
    """``neurokernels`` in the user's cache folder."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "neurokernels"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "neurokernels" / "Cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "neurokernels"


def write_whole(contents: Mapping[Path, bytes]) -> None:
    """Writes every file or none: each one beside its place first, all renamed only when the last byte is on the disk.

    A reader sees the old file or the new one, whatever happens in between; what an interrupted call leaves behind is
    removed.

    Args:
        contents: The bytes of each file. Folders are made as needed.

    Raises:
        OSError: A file cannot be written (full disk, missing right). No file has changed then.
    """
    staged: list[tuple[Path, Path]] = []
    try:
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")  # same folder: a rename never copies
            staged.append((part, path))
            with part.open("xb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
        while staged:
            os.replace(*staged[0])
            staged.pop(0)
    finally:
        for part, _ in staged:
            part.unlink(missing_ok=True)
