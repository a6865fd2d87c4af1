"""Patterns and the features whose products are their similarities, and gradients on the way back.

A layer ``z[N, D]`` has features f with ``S = f J f'``: unit rows for cosine and correlation, centred over patterns and
divided by the root of D for sqeuclidean, z itself for linear. Several layers stand side by side, each times the root of
its weight: their products are then the weighted mean of similarities, and there is one matrix, not one for each layer.
J is the identity but for crossnobis, where the sum over folds counts once and each fold counts minus one.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from neurokernels.ops.rsa.loss_leaves import Options

#: Elements of what is made to be added up.
_BLOCK = 1 << 20


class Rows(NamedTuple):
    """Features ``f[B, N, D]``, the signs J ``[D]`` or None, and what the way back needs.

    ``roots[B, layers]`` are those of the weights, ``norms[B, N, layers]`` the lengths of patterns, None where they do
    not count.
    """

    f: Tensor
    signs: Tensor | None
    roots: Tensor
    norms: Tensor | None


def flat(x: Tensor, trailing: int = 2) -> Tensor:
    """``[B, ...]`` with one leading dimension."""
    return x.reshape(x.shape[: x.ndim - trailing].numel(), *x.shape[x.ndim - trailing :])


def is_unit(o: Options) -> bool:
    """Whether patterns count by their direction alone, so that every similarity with itself is 1."""
    return o.metric in ("cosine", "correlation")


def roots_of(logits: Tensor | None, items: int, layers: int, like: Tensor) -> Tensor:
    """The roots of the weights of layers ``[B, layers]``: softmax of their logits, or alike."""
    if logits is None:
        return like.new_full((items, layers), layers**-0.5)
    return flat(logits, 1).double().softmax(-1).sqrt().to(like.dtype)


def signs_of(o: Options, like: Tensor) -> Tensor | None:
    """J ``[D]``: None for the identity."""
    if not o.folds:
        return None
    parts = [(width // (o.folds + 1), width) for width in o.widths]
    return torch.cat([like.new_ones(width).mul_(-1).index_fill_(0, torch.arange(own, device=like.device), 1)
                      for own, width in parts])  # fmt: skip


def scale_of(o: Options, width: int) -> float:
    """What similarities of a layer are multiplied by: 1 over the number of channels and of products of folds."""
    if o.folds:
        return 1 / (o.folds * (o.folds - 1) * (width // (o.folds + 1)))
    return 1 / width if o.metric == "sqeuclidean" else 1.0


def inner(a: Tensor, b: Tensor, signs: Tensor | None = None) -> Tensor:
    """The products ``[B, N]`` of rows of ``a[B, N, D]`` with those of b, float64, of a block of rows at a time.

    torch would make a matrix of products, and one of float64 to add them up. Its sums of float32 are pairwise.
    """
    step = max(1, _BLOCK // max(1, a.shape[0] * a.shape[2]))
    parts = []
    for i in range(0, max(a.shape[1], 1), step):
        product = a[:, i : i + step] * b[:, i : i + step]
        parts.append((product if signs is None else product.mul_(signs)).sum(-1).double())
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def centred(x: Tensor) -> Tensor:
    """``x[B, N, D]`` minus its mean over patterns, taken relative to the first one: constant units become zeros."""
    xc = x - x[:, :1]
    return xc.sub_(xc.mean(1, keepdim=True))


def features(x: Tensor, logits: Tensor | None, mean: Tensor | None, o: Options, dtype: torch.dtype) -> Rows:
    """The features of ``x[..., N, D]`` in a dtype, in memory of their own."""
    f = torch.empty(flat(x).shape, dtype=dtype, device=x.device).copy_(flat(x))
    if mean is not None:
        f -= flat(mean, 1)[:, None, :].to(dtype)
    roots = roots_of(logits, len(f), len(o.widths), f)
    norms = f.new_empty((*f.shape[:2], len(o.widths))) if is_unit(o) else None
    for k, part in enumerate(f.split(o.widths, -1)):
        factor = roots[:, k, None, None]
        if norms is None:
            if o.metric == "sqeuclidean":
                part -= part.mean(1, keepdim=True)
            part *= factor * scale_of(o, o.widths[k]) ** 0.5
            continue
        if o.metric == "correlation":
            part -= part.mean(-1, keepdim=True)
        norms[..., k] = inner(part, part).sqrt()
        part *= factor / norms[..., k, None]
    return Rows(f, signs_of(o, f), roots, norms)


def gradients(
    rows: Rows, df: Tensor, x: Tensor, logits: Tensor | None, o: Options
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """The gradients of x and of the logits from that of the features, which is overwritten.

    With q_k the product of the features of layer k and their gradient, half of it is the derivative by the logarithm of
    the layer's weight; so that a weight of zero divides nothing.
    """
    wanted = rows.norms is not None or logits is not None
    shares = [inner(f, d) for f, d in _parts(rows, df, o)] if wanted else []
    for k, (f, part) in enumerate(_parts(rows, df, o)):
        root = rows.roots[:, k, None, None]
        if rows.norms is None:
            part *= root * scale_of(o, o.widths[k]) ** 0.5
            continue
        norms = rows.norms[..., k, None]
        along = torch.where(root == 0, 0, shares[k][..., None].to(part.dtype) / root)
        part.mul_(root / norms).sub_(f * (along / norms))
        if o.metric == "correlation":
            part -= part.mean(-1, keepdim=True)
    if logits is None:
        return df.view(x.shape), None
    return df.view(x.shape), logit_gradient(torch.stack([q.sum(-1) for q in shares], -1), rows.roots, logits)


def logit_gradient(shares: Tensor, roots: Tensor, logits: Tensor) -> Tensor:
    """The gradient of the logits of softmax from q ``[B, layers]`` of every layer."""
    half = shares / 2
    out = half - roots.double().square() * half.sum(-1, keepdim=True)
    return out.to(roots.dtype).view(logits.shape)


def _parts(rows: Rows, df: Tensor, o: Options) -> list[tuple[Tensor, Tensor]]:
    return list(zip(rows.f.split(o.widths, -1), df.split(o.widths, -1), strict=True))


def of_responses(v: Tensor, metric: str, centre: bool) -> Tensor:
    """The features of responses ``[..., N, M]`` of one scan; see the docstring of `rsa_loss`."""
    if metric == "cosine" and centre:
        v = v - v.mean(-2, keepdim=True)
    if metric == "correlation":
        v = v - v.mean(-1, keepdim=True)
    if metric in ("cosine", "correlation"):
        rows = flat(v)
        return v / inner(rows, rows).sqrt().to(v.dtype).view(*v.shape[:-1], 1)
    if metric == "sqeuclidean":
        return (v - v.mean(-2, keepdim=True)) / v.shape[-1] ** 0.5
    return v
