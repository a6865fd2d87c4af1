"""Neural recordings: responses of a population to images, in the layout of the V4 data of Cowley et al.

A folder holds, for every session::

    images/images_<session>.zip                          image0001.jpg, image0002.jpg, ...
    responses_repeat_averaged/responses_<session>.npy    [neurons, images], spike counts averaged over repeats
    responses_raw/responses_<session>.npy                [neurons, images, repeats], NaN where there was none; optional

Source of the layout: Cowley, Stan, Pillow & Smith, "Compact deep neural network models of visual cortex", 2023
(github.com/cowleygroup/V4_compact_models). Their data have a licence of their own and are not part of this library.
"""

import os
import re
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from neurokernels._core import checks
from neurokernels.data.registry import DataError

_AVERAGED, _RAW = "responses_repeat_averaged", "responses_raw"
_NUMBERED = re.compile(r"image(\d+)\.(?:jpe?g|png)", re.IGNORECASE)
_LARGEST = 1 << 26  # bytes of one image in an archive: nothing in it may fill the memory


@dataclass(frozen=True, eq=False)
class Recording:
    """Responses of one population to images.

    Attributes:
        name: The session.
        images: ``[N, C, H, W]``, uint8.
        responses: ``[N, neurons]``, float32: the mean over the repeats.
        repeats: ``[N, neurons, R]``, float32, NaN where there was no repeat; or None.

    Raises:
        ValueError: The shapes do not agree.
    """

    name: str
    images: torch.Tensor
    responses: torch.Tensor
    repeats: torch.Tensor | None = None

    def __post_init__(self) -> None:
        images, responses = self.images, self.responses
        if images.ndim != 4 or images.dtype != torch.uint8:
            checks.value_error("Recording", "images", "uint8 [N, C, H, W]", f"{images.dtype} {list(images.shape)}")
        if responses.ndim != 2 or len(responses) != len(images):
            checks.value_error("Recording", "responses", f"[{len(images)}, neurons]", list(responses.shape))
        if self.repeats is not None and (self.repeats.ndim != 3 or self.repeats.shape[:2] != responses.shape):
            expected = f"[{len(images)}, {responses.shape[1]}, R]"
            checks.value_error("Recording", "repeats", expected, list(self.repeats.shape))

    def split(self, test: float = 0.15, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """Sorted indices of the training and of the test images, int64.

        Args:
            test: Share of the images that is held out, rounded to whole images.
            seed: Which images.

        Raises:
            ValueError: One of the two parts would be empty.
        """
        held = round(checks.number("split", "test", test, 0, 1) * len(self.images))
        if not 0 < held < len(self.images):
            expected = f"a share that leaves images on both sides of {len(self.images)}"
            checks.value_error("split", "test", expected, test)
        order = torch.randperm(len(self.images), generator=_seeded(seed))
        return order[held:].sort().values, order[:held].sort().values

    def halves(self, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """Responses ``[N, neurons]``, float32, from two random halves of the repeats of every image.

        Of an odd number the second half has one more. Neurons that were recorded together share the split, so that
        what their noise has in common stays together. NaN where there are fewer than two repeats.

        Args:
            seed: Which halves.

        Raises:
            ValueError: There are no repeats.
        """
        repeats = self._with_repeats("halves")
        images, _, count = repeats.shape
        there = ~repeats.isnan()
        keys = torch.rand(images, 1, count, generator=_seeded(seed)).where(there, torch.inf)
        first = keys.argsort(-1).argsort(-1) < there.sum(-1, keepdim=True) // 2
        return _mean_where(first, repeats), _mean_where(there & ~first & there.sum(-1, keepdim=True).gt(1), repeats)

    def reliability(self, splits: int = 20, seed: int = 0) -> torch.Tensor:
        """Split-half reliability of every neuron: ``[neurons]``, float64.

        The correlation over images between the responses of two halves of the repeats, averaged over random splits and
        corrected to the full number of repeats by 2r / (1 + r) (Spearman, 1910; Brown, 1910). Images with fewer than
        two repeats do not count. NaN for a neuron whose responses do not vary.

        Args:
            splits: How many random splits.
            seed: Which ones.

        Raises:
            ValueError: There are no repeats.
        """
        self._with_repeats("reliability")
        count = checks.count("reliability", "splits", splits, 1)
        seeds = torch.randint(1 << 62, (count,), generator=_seeded(seed)).tolist()
        r = torch.stack([_correlations(*self.halves(one)) for one in seeds]).mean(0)
        return 2 * r / (1 + r)

    def _with_repeats(self, op: str) -> torch.Tensor:
        if self.repeats is None:
            raise ValueError(f"{op}: recording {self.name} has no single repeats, only their mean")
        return self.repeats


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _mean_where(chosen: torch.Tensor, repeats: torch.Tensor) -> torch.Tensor:
    return repeats.where(chosen, 0).sum(-1) / chosen.sum(-1)


def _correlations(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Pearson correlation of every column, over the rows where neither is NaN."""
    both = ~(x.isnan() | y.isnan())
    centred = []
    for values in (x.double(), y.double()):
        mean = values.where(both, 0).sum(0) / both.sum(0)
        centred.append((values - mean).where(both, 0))
    x, y = centred
    return (x * y).sum(0) / (x.square().sum(0) * y.square().sum(0)).sqrt()


def zscore(responses: torch.Tensor, train: torch.Tensor | None = None) -> torch.Tensor:
    """Responses with mean 0 and standard deviation 1 over the training images, for every neuron.

    Args:
        responses: ``[N, neurons]``.
        train: Indices of the rows that give mean and standard deviation; None takes all.

    Returns:
        ``[N, neurons]`` in the dtype of ``responses``.

    Raises:
        ValueError: A neuron does not vary over the training images.
    """
    values, known = _fitted_on("zscore", responses, train)
    deviation = known.std(0, correction=0)
    if bool((deviation == 0).any()):
        silent = (deviation == 0).nonzero()[:, 0].tolist()
        checks.value_error("zscore", "responses", "of neurons that vary; drop the others", f"constant ones: {silent}")
    return ((values - known.mean(0)) / deviation).to(responses.dtype)


def principal_components(responses: torch.Tensor, dims: int, train: torch.Tensor | None = None) -> torch.Tensor:
    """Projections of responses on the directions of largest variance over the training images.

    A direction's sign is that which makes its largest weight positive.

    Args:
        responses: ``[N, neurons]``.
        dims: How many directions.
        train: Indices of the rows that give mean and directions; None takes all.

    Returns:
        ``[N, dims]`` in the dtype of ``responses``, the largest variance first.

    Raises:
        ValueError: The training responses vary in fewer than ``dims`` directions.
    """
    values, known = _fitted_on("principal_components", responses, train)
    checks.count("principal_components", "dims", dims, 1)
    mean = known.mean(0)
    _, scale, directions = torch.linalg.svd(known - mean, full_matrices=False)
    rank = int((scale > scale[0] * max(known.shape) * torch.finfo(scale.dtype).eps).sum())
    if dims > rank:
        expected = f"at most {rank}, the rank of {len(known)} training responses of {known.shape[1]} neurons"
        checks.value_error("principal_components", "dims", expected, dims)
    directions = directions[:dims]
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    return ((values - mean) @ (directions * largest.sign()).T).to(responses.dtype)


def _fitted_on(op: str, responses: torch.Tensor, train: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """All rows and the training rows, in float64."""
    checks.floating(op, "responses", responses)
    if responses.ndim != 2:
        checks.value_error(op, "responses", "[N, neurons]", list(responses.shape))
    values = responses.double()
    known = values if train is None else values[train]
    if len(known) < 2:
        checks.value_error(op, "train", "at least two images", len(known))
    if not bool(known.isfinite().all()):
        checks.value_error(op, "responses", "finite on the training images", "NaN or infinities")
    return values, known


def recordings(
    folder: str | os.PathLike[str], sessions: str | Sequence[str] | None = None, size: int | None = None
) -> list[Recording]:
    """Loads recordings from a folder in the layout that the module describes.

    Images belong to responses by their numbers: image0001 is the first. Archives are read in memory and never unpacked,
    no pickle is loaded. Needs Pillow (``pip install 'neurokernels[train]'``).

    Args:
        folder: The user's folder.
        sessions: Names of the sessions, in the order wanted; None takes all in the order of their names.
        size: Side in pixels to which every image is resized, antialiased; None leaves them as they are.

    Raises:
        ValueError: ``size`` is not positive.
        DataError: There is no such session, a file is missing or damaged, images and responses do not match, or a
            response is not finite.
    """
    if size is not None:
        checks.count("recordings", "size", size, 1)
    home = Path(folder).expanduser()
    known = sorted(path.stem.removeprefix("responses_") for path in (home / _AVERAGED).glob("responses_*.npy"))
    if not known:
        raise DataError(f"recordings: no session in {home}: expected {_AVERAGED}/responses_<session>.npy there")
    wanted = known if sessions is None else [sessions] if isinstance(sessions, str) else list(sessions)
    for session in wanted:
        if session not in known:
            raise DataError(f"recordings: session must be one of {', '.join(known)} in {home}, got {session!r}")
    return [_session(home, session, size) for session in wanted]


def _session(home: Path, session: str, size: int | None) -> Recording:
    path = home / _AVERAGED / f"responses_{session}.npy"
    averaged = _array(path, "neurons, images")
    if not np.isfinite(averaged).all():
        neuron, image = np.argwhere(~np.isfinite(averaged))[0]
        raise DataError(f"recordings: {path} holds {averaged[neuron, image]} for neuron {neuron}, image {image + 1}")
    images = _images(home / "images" / f"images_{session}.zip", averaged.shape[1], size)
    raw = _repeats(home / _RAW / path.name, averaged)
    return Recording(session, images, _images_first(averaged), None if raw is None else _images_first(raw))


def _images_first(values: NDArray[np.floating]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values.swapaxes(0, 1), np.float32))


def _array(path: Path, axes: str) -> NDArray[np.floating]:
    try:
        values = np.load(path, allow_pickle=False)
    except FileNotFoundError as why:
        raise DataError(f"recordings: there is no {path}") from why
    except (OSError, ValueError, EOFError) as why:
        raise DataError(f"recordings: {path} cannot be read: {why}") from why
    if not isinstance(values, np.ndarray) or values.ndim != len(axes.split()) or values.dtype.kind != "f":
        got = f"{values.dtype} {list(values.shape)}" if isinstance(values, np.ndarray) else "an archive"
        raise DataError(f"recordings: expected floats [{axes}] in {path}, got {got}")
    if not values.size:
        raise DataError(f"recordings: {path} holds no responses, shape {list(values.shape)}")
    return values


def _repeats(path: Path, averaged: NDArray[np.floating]) -> NDArray[np.floating] | None:
    """Single repeats, where the session has them. Their mean must be the averaged response, or the files differ."""
    if not path.exists():
        return None
    raw = _array(path, "neurons, images, repeats")
    if raw.shape[:2] != averaged.shape:
        expected = f"[{averaged.shape[0]}, {averaged.shape[1]}, repeats] as the averaged responses"
        raise DataError(f"recordings: expected {expected} in {path}, got {list(raw.shape)}")
    there = ~np.isnan(raw)
    with np.errstate(invalid="ignore"):
        mean = np.where(there, raw, 0).sum(-1) / there.sum(-1)
    wrong = ~np.isclose(mean, averaged, rtol=1e-4, atol=1e-4)
    if wrong.any():
        neuron, image = np.argwhere(wrong)[0]
        got = f"{mean[neuron, image]:g} for neuron {neuron}, image {image + 1}"
        raise DataError(f"recordings: {path} averages to {got}, expected {averaged[neuron, image]:g} ({_AVERAGED})")
    return raw


def _images(path: Path, count: int, size: int | None) -> torch.Tensor:
    """The images of an archive in the order of their numbers: ``[count, 3, H, W]``, uint8."""
    try:
        with zipfile.ZipFile(path) as archive:
            pixels = [_pixels(archive, member, size) for member in _numbered(archive, path, count)]
    except FileNotFoundError as why:
        raise DataError(f"recordings: there is no {path}") from why
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as why:  # RuntimeError: encrypted
        raise DataError(f"recordings: {path} cannot be read: {why}") from why
    shapes = sorted({image.shape[:2] for image in pixels})
    if len(shapes) > 1:
        sizes = ", ".join(f"{height} x {width}" for height, width in shapes)
        raise DataError(f"recordings: {path} holds images of {sizes} pixels: give one size=")
    return torch.from_numpy(np.stack(pixels).transpose(0, 3, 1, 2).copy())


def _numbered(archive: zipfile.ZipFile, path: Path, count: int) -> list[zipfile.ZipInfo]:
    """Members by number, from 1 to ``count``."""
    members: dict[int, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        name = Path(member.filename).name
        if member.is_dir() or name.startswith("."):  # what file managers leave behind
            continue
        match = _NUMBERED.fullmatch(name)
        if match is None:
            raise DataError(f"recordings: expected image0001.jpg and so on in {path}, got {member.filename}")
        if int(match[1]) in members:
            raise DataError(f"recordings: {path} holds image {int(match[1])} twice")
        members[int(match[1])] = member
    odd = sorted(set(range(1, count + 1)) ^ set(members))
    if odd:
        reason = f"{'no' if odd[0] not in members else 'an'} image {odd[0]}"
        raise DataError(f"recordings: {path} holds {len(members)} images for {count} responses: {reason}")
    return [members[number] for number in sorted(members)]


def _pixels(archive: zipfile.ZipFile, member: zipfile.ZipInfo, size: int | None) -> NDArray[np.uint8]:
    """One image in RGB: ``[H, W, 3]``."""
    try:
        from PIL import Image
    except ModuleNotFoundError as missing:
        raise DataError(f"recordings: images need {missing.name}: pip install 'neurokernels[train]'") from missing
    where = f"{member.filename} in {archive.filename}"
    if member.file_size > _LARGEST:
        raise DataError(f"recordings: {where} has {member.file_size} bytes, expected {_LARGEST} at most")
    content = BytesIO(archive.read(member))
    try:
        with Image.open(content, formats=("JPEG", "PNG")) as opened:
            image = opened.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as why:
        raise DataError(f"recordings: {where} is no image that can be read: {why}") from why
    return np.asarray(image if size is None else image.resize((size, size), Image.Resampling.BICUBIC))
