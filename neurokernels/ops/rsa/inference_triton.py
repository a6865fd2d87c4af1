# mypy: disable-error-code="no-untyped-def, assignment"
"""The searchlight on a GPU: a program gathers a neighbourhood, makes its RDM and compares it with all models.

Products are of float32 or float64 throughout, never of TF32. Comparators of ranks have to sort: for those the kernel
writes the RDMs of a part of the neighbourhoods, which torch ranks. More conditions than `_MOST` do not fit the
registers of a program; then RDMs are torch's products, a part at a time (`searchlight_reference`).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from neurokernels._core import tuned
from neurokernels._core.covariance import compute_dtype
from neurokernels._core.triton import on_device
from neurokernels.ops.rsa import searchlight_reference as reference
from neurokernels.ops.rsa.inference_leaves import METRICS, SMOOTH
from neurokernels.ops.rsa.inference_reference import BLOCK, centred, square

#: Conditions up to which nothing spills; crossnobis, which holds a sum of folds as well, takes half of them.
_MOST = {torch.float32: 128, torch.float64: 64}
_CORRELATION, _COSINE, _EUCLIDEAN, _SQEUCLIDEAN, _POISSON, _CROSSNOBIS = (tl.constexpr(i) for i in range(len(METRICS)))


@triton.jit
def channels_of(data, indices, start, count, c, part, lane, parts, n, INNER: tl.constexpr):
    """Rows of some channels ``[INNER, SIZE]``, zero outside."""
    inner = c + tl.arange(0, INNER)
    here = inner < count
    channel = tl.load(indices + start + inner, mask=here, other=0)
    places = (channel * parts + part)[:, None] * n + lane[None, :]
    return tl.load(data + places, mask=here[:, None] & (lane < n)[None, :], other=0)


@triton.jit
def inside(count, c, lane, n, INNER: tl.constexpr):
    """Where `channels_of` has something."""
    return (c + tl.arange(0, INNER) < count)[:, None] & (lane < n)[None, :]


@triton.jit
def without_mean(x, here, n):
    """Rows less their means over conditions: no distance changes, and no digits are lost to what conditions share."""
    return tl.where(here, x - (tl.sum(x, 1) / n)[:, None], 0)


@triton.jit
def searchlight_kernel(
    data, indices, offsets, models, out, first, volume, parts, n, count_models,
    METRIC: tl.constexpr, CENTRED: tl.constexpr, WHITENED: tl.constexpr, STORED: tl.constexpr,
    SIZE: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """One neighbourhood of one item: `models` are matrices of unit length, or the RDM itself is stored."""
    DTYPE: tl.constexpr = out.dtype.element_ty
    centre, item = first + tl.program_id(0), tl.program_id(1).to(tl.int64)
    start = tl.load(offsets + centre)
    count = (tl.load(offsets + centre + 1) - start).to(tl.int32)
    data += item * volume
    lane = tl.arange(0, SIZE)
    mean = tl.zeros([SIZE], DTYPE)
    origin = mean
    if METRIC == _CORRELATION:  # relative to the first channel: of a constant pattern nothing is left
        channel = tl.load(indices + start)
        origin = tl.load(data + channel * n + lane, mask=lane < n, other=0)
        for c in range(0, count, INNER):
            x = channels_of(data, indices, start, count, c, 0, lane, parts, n, INNER)
            mean += tl.sum(tl.where(inside(count, c, lane, n, INNER), x - origin[None, :], 0), 0)
        mean = mean / count
    k = tl.zeros([SIZE, SIZE], DTYPE)
    for c in range(0, count, INNER):
        x = channels_of(data, indices, start, count, c, 0, lane, parts, n, INNER)
        here = inside(count, c, lane, n, INNER)
        other = x
        if METRIC == _CORRELATION:
            x = tl.where(here, (x - origin[None, :]) - mean[None, :], 0)
            other = x
        elif METRIC == _POISSON:
            other = channels_of(data, indices, start, count, c, 1, lane, parts, n, INNER)
        elif METRIC != _COSINE:
            x = without_mean(x, here, n)
            other = x
        if METRIC == _CROSSNOBIS:  # every fold by the sum of all others
            total = x
            for part in range(1, parts):
                fold = channels_of(data, indices, start, count, c, part, lane, parts, n, INNER)
                total += without_mean(fold, here, n)
            for part in range(parts):
                fold = channels_of(data, indices, start, count, c, part, lane, parts, n, INNER)
                fold = without_mean(fold, here, n)
                k = tl.dot(tl.trans(fold), total - fold, k, input_precision="ieee", out_dtype=DTYPE)
        else:
            k = tl.dot(tl.trans(x), other, k, input_precision="ieee", out_dtype=DTYPE)
    if METRIC == _POISSON:
        k = (k + tl.trans(k)) / 2
    same = lane[:, None] == lane[None, :]
    real = (lane < n)[:, None] & (lane < n)[None, :]
    diagonal = tl.sum(tl.where(same, k, 0), 1)
    down = tl.sum(tl.where(same, k, 0), 0)
    if METRIC == _CORRELATION or METRIC == _COSINE:  # noqa: SIM109 (Triton has no `in`)
        diagonal, down = tl.where(lane < n, diagonal, 1), tl.where(lane < n, down, 1)
        d = 1 - k * ((1 / tl.sqrt(diagonal))[:, None] * (1 / tl.sqrt(down))[None, :])
    else:
        d = (diagonal[:, None] + down[None, :]) - 2 * k
        if METRIC == _EUCLIDEAN:  # a difference of equal products may round below zero, which has no root
            d = tl.sqrt(tl.where(d < 0, 0, d))
        elif METRIC == _CROSSNOBIS:
            d = d / (count.to(DTYPE) * parts * (parts - 1))
        else:
            d = d / count
    real_pairs = real & (lane[:, None] != lane[None, :])
    d = tl.where(real_pairs, d, 0)
    if STORED:
        i, j = lane[:, None], lane[None, :]
        pairs = n * (n - 1) // 2
        at = (item * tl.num_programs(0) + tl.program_id(0)) * pairs + i * (2 * n - i - 1) // 2 + j - i - 1
        tl.store(out + at, d, mask=real & (i < j))
    else:
        if CENTRED:
            d = tl.where(real_pairs, d - tl.sum(d) / (n * (n - 1)), 0)
            d = tl.where(real_pairs, d - tl.sum(d) / (n * (n - 1)), 0)
        if WHITENED:
            rows = tl.sum(d, 1) / n
            columns = tl.sum(d, 0) / n
            d = tl.where(real, (d - rows[:, None]) - (columns[None, :] - tl.sum(rows) / n), 0)
        length = tl.sqrt(tl.sum(d * d))
        places = lane[:, None] * n + lane[None, :]
        for m in range(count_models):
            model = tl.load(models + m * n * n + places, mask=real, other=0)
            at = (item * tl.num_programs(0) + tl.program_id(0)) * count_models + m
            tl.store(out + at, tl.sum(d * model) / length)


def _panel(data: Tensor, metric: str) -> Tensor:
    """Data by channel ``[items, V, parts, N]``: a neighbourhood gathers whole rows of memory."""
    if metric == "poisson":
        data = reference.rates(data)
        data = torch.stack((data, data.log()), -3)
    elif metric != "crossnobis":
        data = data.unsqueeze(-3)
    return data.movedim(-1, -3).flatten(0, -4).contiguous()


def _matrices(models: Tensor, method: str, dtype: torch.dtype) -> Tensor:
    """What a comparator multiplies square RDMs by: matrices of unit length ``[M, N, N]``."""
    models = models.double()
    m = square(centred(models) if method in ("pearson", "whitened_pearson") else models)
    if method.startswith("whitened"):
        rows = m.mean(-1, keepdim=True)
        m = m - rows - rows.mT + rows.mean(-2, keepdim=True)
    return (m / torch.linalg.matrix_norm(m, keepdim=True)).to(dtype).contiguous()


def searchlight(data: Tensor, indices: Tensor, offsets: Tensor, models: Tensor, metric: str, method: str) -> Tensor:
    """The leaf op ``searchlight_fwd``."""
    data = data.to(compute_dtype(data))
    n, pairs = data.shape[-2], models.shape[-1]
    if n > _MOST[data.dtype] // (2 if metric == "crossnobis" else 1):
        return reference.searchlight(data, indices, offsets, models, metric, method)
    batch, centres = data.shape[: -3 if metric == "crossnobis" else -2], offsets.shape[0] - 1
    out = data.new_empty((*batch, centres, models.shape[0]))
    if out.numel() == 0:
        return out
    panel, items = _panel(data.reshape(-1, *data.shape[len(batch) :]), metric), batch.numel()
    smooth = method in SMOOTH
    size = max(16, triton.next_power_of_2(n))
    step = centres if smooth else max(1, BLOCK // (pairs * items))
    given = _matrices(models, method, data.dtype) if smooth else reference.prepared(models, method, data.dtype)
    found = out.view(items, centres, -1)
    for first in range(0, centres, step):
        count = min(step, centres - first)
        to = found if smooth else data.new_empty((items, count, pairs))
        with on_device(data):
            searchlight_kernel[(count, items)](
                data=panel, indices=indices, offsets=offsets, models=given, out=to, first=first, volume=panel.stride(0),
                parts=panel.shape[2], n=n, count_models=models.shape[0],
                METRIC=METRICS.index(metric), CENTRED=method in ("pearson", "whitened_pearson"),
                WHITENED=method.startswith("whitened"), STORED=not smooth, SIZE=size, INNER=16,
                num_warps=tuned.choice("searchlight", data, n)["warps"], enable_fp_fusion=False,
            )  # fmt: skip
        if not smooth:
            found[:, first : first + count] = reference.compared(to, given, method)
    return out
