import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from neurokernels.data.files import sha256
from neurokernels.data.idx import parse
from neurokernels.data.registry import Dataset, Spec
from neurokernels.data.sources import Contents, File, Source, SourceError

IMAGES, LABELS = "tiny-images", "tiny-labels"


def idx(shape: tuple[int, ...], values: bytes, kind: int = 8) -> bytes:
    return bytes((0, 0, kind, len(shape))) + struct.pack(f">{len(shape)}I", *shape) + values


CONTENTS = {IMAGES: idx((3, 2, 2), bytes(range(12))), LABELS: idx((3,), bytes((1, 0, 1)))}
FILES = tuple(File(name, len(content), sha256(content)) for name, content in CONTENTS.items())


def decode(contents: Contents) -> Dataset:
    images, labels = parse(contents[IMAGES]), parse(contents[LABELS]).long()
    return Dataset("tiny", images[:2], labels[:2], images[2:], labels[2:], ("a", "b"))


@dataclass
class Fake:
    """A source that hands over what it was given, and notes that it was asked."""

    contents: Contents | str
    keep: bool = True
    asked: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"fake {id(self)}"

    def fetch(self, files: tuple[File, ...]) -> Contents:
        self.asked += [file.name for file in files]
        if isinstance(self.contents, str):
            raise SourceError(self.contents)
        return self.contents


@pytest.fixture
def tiny() -> Callable[..., Spec]:
    return lambda *sources: Spec("tiny", FILES, tuple[Source, ...](sources), decode, folders=("elsewhere",))


@pytest.fixture
def left(tmp_path: Path) -> Callable[[], list[str]]:
    """Everything below the data folder."""
    return lambda: sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
