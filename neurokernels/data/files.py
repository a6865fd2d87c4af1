"""Where data sets are, and the checksums of their files."""

import hashlib
import os
from pathlib import Path

from neurokernels._core.files import user_folder


def cache_folder(root: str | os.PathLike[str] | None = None) -> Path:
    """Where data sets are: ``root``, else ``NEUROKERNELS_DATA``, else ``neurokernels`` in the user's cache folder."""
    chosen = root or os.environ.get("NEUROKERNELS_DATA")
    return Path(chosen).expanduser().absolute() if chosen else user_folder()


def sha256(content: bytes) -> str:
    """The checksum of a file's content as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()
