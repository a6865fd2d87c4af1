"""`neurokernels.whiten`."""

import math

import torch

import neurokernels as nk
from neurokernels.ops.cca import whitening_reference
from tests.contract.registry import Bad, Op, Sample, Tensors


def _samples(shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> Tensors:
    """Standard deviations between 1 and 2, as far apart as can be: backends agree as far as the problem lets them."""
    x = torch.randn(shape, dtype=torch.float64, generator=generator)
    if x.numel():
        u, s, vh = torch.linalg.svd(x - x.mean(-2, keepdim=True), full_matrices=False)
        rank = max(min(shape[-2] - 1, shape[-1]), 1)
        s[..., :rank] = shape[-2] ** 0.5 * torch.linspace(2, 1, rank, dtype=torch.float64)
        s[..., rank:] = 0
        x = (u * s[..., None, :]) @ vh
    return {"x": (x + 0.5).to(dtype)}


WHITEN = Op(
    name="whiten",
    call=lambda x, **options: (nk.whiten(x, **options),),
    definition=lambda x, **options: (whitening_reference.definition(x, **options),),
    samples=(
        Sample("tall", _samples, shape=(2, 7, 4), smooth=(0,), least=(2, 0)),
        Sample("wide", _samples, {"eps": 0.1}, (2, 4, 6), smooth=(0,), least=(2, 0)),
        Sample("cholesky", _samples, {"method": "cholesky", "eps": 1e-3}, (9, 5), smooth=(0,), least=(2, 0)),
        Sample("components", _samples, {"method": "pca"}, (9, 4), smooth=(0,), least=(2, 0)),
        Sample("wide components", _samples, {"method": "pca", "eps": 0.1}, (4, 7), smooth=(0,), least=(2, 0)),
    ),
    leaves=frozenset({"whiten_fwd", "whiten_bwd", "whiten_jvp"}),
    bad=(
        Bad("rank", {"x": torch.ones(3)}, ValueError, ("x must be [..., N, D]", "at least 2 dimensions", "(3,)")),
        Bad("no array", {"x": [[1.0]]}, TypeError, ("x must be a tensor", "list")),
        Bad("integers", {"x": torch.ones(5, 3, dtype=torch.int64)}, TypeError, ("x", "int64", ".float()")),
        Bad("complex", {"x": torch.ones(5, 3, dtype=torch.complex64)}, TypeError, ("x", "complex64")),
        Bad("one sample", {"x": torch.ones(1, 3)}, ValueError, ("x must be of at least 2 samples", "N = 1", "(1, 3)")),
        Bad("no samples", {"x": torch.ones(0, 3)}, ValueError, ("at least 2 samples", "N = 0")),
        Bad("method", {"method": "svd"}, ValueError, ("method", "zca, pca, cholesky", "'svd'")),
        Bad("eps zero", {"eps": 0.0}, ValueError, ("eps must be finite and > 0", "without variance", "0.0")),
        Bad("eps below zero", {"eps": -1e-5}, ValueError, ("eps", "> 0", "-1e-05")),
        Bad("eps nan", {"eps": math.nan}, ValueError, ("eps", "nan")),
        Bad("eps infinite", {"eps": math.inf}, ValueError, ("eps", "finite", "inf")),
        Bad("eps text", {"eps": "small"}, TypeError, ("eps", "number", "str")),
    ),
    large=(3, 300, 48),
    ulps=32,  # a component of the wide sample is divided by a gap of a tenth
    mixes=True,
    leans=True,
)
