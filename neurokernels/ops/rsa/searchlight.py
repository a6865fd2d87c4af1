"""`searchlight_rsa` and the spheres that it goes through: RDMs that are compared with models and never stored."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neurokernels._core import arrays, backends, checks
from neurokernels._core.arrays import accepts_arrays
from neurokernels.ops.rsa.compare import check_rdms
from neurokernels.ops.rsa.inference_leaves import METHODS, METRICS, searchlight_fwd

_NOT_HERE = {
    "mahalanobis": "a precision matrix of all channels has none of a neighbourhood in it: whiten the channels, "
    "and take metric='sqeuclidean'"
}


class Spheres(NamedTuple):
    """Neighbourhoods of different sizes, as `searchlight_rsa` takes them.

    Attributes:
        centres: The places of the centres in the flattened volume ``[C]``.
        indices: The channels of every neighbourhood, one after the other ``[K]``.
        offsets: Where each of them begins, and the last one ends ``[C + 1]``.
    """

    centres: Tensor
    indices: Tensor
    offsets: Tensor


@accepts_arrays
def searchlight_spheres(
    mask: Tensor, *, radius: float = 2.0, threshold: float = 1.0, inside: bool = False, columns: str = "volume"
) -> Spheres:
    """The spheres around all voxels of a mask, as rsatoolbox's ``get_volume_searchlight`` finds them.

    Args:
        mask: A volume ``[X, Y, Z]``; voxels that are not 0 are centres.
        radius: In voxels: a sphere has the voxels that are less than this away from its centre, within the volume.
        threshold: The share of a sphere's voxels that have to be in the mask; spheres with less are left out.
        inside: Whether spheres lose their voxels outside of the mask. The share is then 1.
        columns: What indices count: voxels of the flattened ``"volume"``, as rsatoolbox's do, or those of the
            ``"mask"`` alone, for data of shape ``[conditions, mask.sum()]``; then spheres must be inside.

    Returns:
        `Spheres`, of int64, on the mask's device.

    Raises:
        TypeError: The mask is no tensor or array.
        ValueError: A shape or a value is wrong.
    """
    op = "searchlight_spheres"
    if not isinstance(mask, Tensor):
        checks.type_error(op, "mask", "a tensor or a NumPy or CuPy array", type(mask).__name__)
    if mask.ndim != 3:
        checks.value_error(op, "mask", "a volume [X, Y, Z]", f"shape {tuple(mask.shape)}")
    radius = checks.number(op, "radius", radius, 0.0)
    threshold = checks.number(op, "threshold", threshold, 0.0, 1.0)
    checks.choice(op, "columns", columns, ("volume", "mask"))
    if columns == "mask" and not inside and threshold < 1:
        checks.value_error(op, "inside", "True for columns='mask', unless the threshold is 1", inside)
    mask, device = mask != 0, mask.device
    reach = torch.arange(-int(radius), int(radius) + 1, device=device)
    steps = torch.cartesian_prod(reach, reach, reach)
    steps = steps[steps.square().sum(-1) < radius * radius]
    centres = mask.nonzero()
    places = centres[:, None, :] + steps
    size = torch.tensor(mask.shape, device=device)
    there = ((places >= 0) & (places < size)).all(-1)
    x, y, z = torch.where(there[..., None], places, 0).unbind(-1)
    flat = (x * size[1] + y) * size[2] + z
    hit = mask.flatten()[flat] & there
    if inside:
        there = hit
    good = hit.sum(-1) >= threshold * there.sum(-1)
    good &= there.any(-1)
    there, flat, centres = there[good], flat[good], centres[good]
    ends = there.sum(-1).cumsum(0)
    indices = flat[there]
    if columns == "mask":
        indices = (mask.flatten().cumsum(0) - 1)[indices]
    own = (centres[:, 0] * size[1] + centres[:, 1]) * size[2] + centres[:, 2]
    return Spheres(own, indices, torch.cat((ends.new_zeros(1), ends)))


@accepts_arrays
def searchlight_rsa(
    data: Tensor, centres: Any, models: Tensor, *, metric: str = "correlation", method: str = "pearson"
) -> Tensor:
    """Compares the RDM of every neighbourhood of channels with every model; without derivatives.

    An RDM is gone as soon as it has been compared: what there is of them at a time fits a cache.

    Args:
        data: ``[..., conditions, channels]``; for crossnobis ``[..., folds, conditions, channels]``. float32, float64,
            bfloat16 or float16 (half precision computes in float32). Leading dimensions are independent items.
        centres: The channels of every neighbourhood: `Spheres`; a pair ``(indices[K], offsets[C + 1])``; a tensor
            ``[C, size]``, in which -1 stands for no channel; or a list of C tensors, arrays or lists.
        models: RDMs ``[M, pairs]``, condensed as for `compare_rdms`.
        metric: ``"correlation"``, ``"cosine"``, ``"euclidean"``, ``"sqeuclidean"``, ``"poisson"`` or ``"crossnobis"``,
            as of `rdm`. For multivariate noise normalisation, whiten the channels beforehand.
        method: One of the eight of `compare_rdms`.

    Returns:
        ``[..., C, M]``, float32, or float64 for float64 data. NaN where there is nothing to compare.

    Raises:
        TypeError: data or models are not floating point, or channels are not integers.
        ValueError: A shape or a value is wrong, or there is no such channel.
        BackendError: The backend that was asked for cannot run this call.
    """
    op = "searchlight_rsa"
    checks.floating(op, "data", data)
    if metric in _NOT_HERE:
        checks.value_error(op, "metric", f"one of {', '.join(METRICS)}", f"{metric!r}: {_NOT_HERE[metric]}")
    checks.choice(op, "metric", metric, METRICS)
    checks.choice(op, "method", method, METHODS)
    least = 3 if metric == "crossnobis" else 2
    if data.ndim < least:
        what = "[..., folds, conditions, channels]" if least == 3 else "[..., conditions, channels]"
        checks.value_error(op, "data", f"{what} with at least {least} dimensions", f"shape {tuple(data.shape)}")
    if least == 3 and data.shape[-3] < 2:
        checks.value_error(op, "data", "of at least 2 folds", f"{data.shape[-3]} in shape {tuple(data.shape)}")
    if not isinstance(models, Tensor):
        checks.type_error(op, "models", "a tensor or an array", type(models).__name__)
    if models.ndim != 2:
        checks.value_error(op, "models", "[M, pairs]", f"shape {tuple(models.shape)}")
    n = check_rdms(op, "models", models)
    if models.device != data.device:
        checks.value_error(op, "models", f"on {data.device} as data is", f"a tensor on {models.device}")
    if n != data.shape[-2]:
        what = f"of the {data.shape[-2] * (data.shape[-2] - 1) // 2} pairs of {data.shape[-2]} conditions"
        checks.value_error(op, "models", what, f"{models.shape[-1]} pairs")
    indices, offsets = neighbourhoods(op, centres, data.shape[-1], data.device)
    compiling = torch.compiler.is_compiling()
    with torch.no_grad():
        return searchlight_fwd(
            data.detach(), indices, offsets, models.detach(), metric, method,
            backends.INHERIT if compiling else backends.requested(),
        )  # fmt: skip


def neighbourhoods(op: str, centres: Any, channels: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Indices and offsets of any of the forms that `searchlight_rsa` takes, int64, dense and on a device."""
    centres = arrays.to_tensor(centres) if not isinstance(centres, list) else [arrays.to_tensor(c) for c in centres]
    if isinstance(centres, Spheres):
        centres = centres[1:]
    if isinstance(centres, Tensor):
        _integers(op, centres)
        if centres.ndim != 2:
            checks.value_error(op, "centres", "[C, size]", f"shape {tuple(centres.shape)}")
        there = centres >= 0
        if centres.numel() and int(centres.min()) < -1:
            checks.value_error(op, "centres", "of channels >= 0, or -1 for none", int(centres.min()))
        indices, sizes = centres[there], there.sum(-1)
    elif isinstance(centres, tuple) and len(centres) == 2 and all(isinstance(c, Tensor) for c in centres):
        indices, offsets = centres
        _integers(op, indices)
        _integers(op, offsets)
        sizes = offsets.diff()
        if (
            indices.ndim != 1
            or offsets.ndim != 1
            or not len(offsets)
            or int(offsets[0])
            or int(offsets[-1]) != len(indices)
        ):
            what = "indices [K] and offsets [C + 1] from 0 to K"
            checks.value_error(op, "centres", what, f"shapes {tuple(indices.shape)} and {tuple(offsets.shape)}")
    elif isinstance(centres, Sequence) and not isinstance(centres, str):
        parts = [torch.as_tensor(c) for c in centres]
        for part in parts:
            _integers(op, part)
            if part.ndim != 1:
                checks.value_error(op, "centres", "one-dimensional, each of the list", f"shape {tuple(part.shape)}")
        indices = torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)
        sizes = torch.tensor([len(part) for part in parts], dtype=torch.int64)
    else:
        what = "Spheres, (indices, offsets), a tensor [C, size] or a list of tensors"
        checks.type_error(op, "centres", what, type(centres).__name__)
    if sizes.numel() and int(sizes.min()) < 1:
        checks.value_error(
            op, "centres", "of at least 1 channel each", f"{int(sizes.min())} at centre {int(sizes.argmin())}"
        )
    if indices.numel() and not (int(indices.min()) >= 0 and int(indices.max()) < channels):
        wrong = int(indices.min()) if int(indices.min()) < 0 else int(indices.max())
        checks.value_error(op, "centres", f"of channels from 0 to {channels - 1}", wrong)
    sizes = sizes.to(device, torch.int64)
    return indices.to(device, torch.int64).contiguous(), torch.cat((sizes.new_zeros(1), sizes.cumsum(0)))


def _integers(op: str, x: Tensor) -> None:
    if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
        checks.type_error(op, "centres", "of integers", f"{x.dtype}; convert them with .long()")
