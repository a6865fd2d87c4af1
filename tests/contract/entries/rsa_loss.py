"""`neurokernels.rsa_loss` and `neurokernels.cka`: two leaf ops, one table of backends."""

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor

import neurokernels as nk
from tests import definitions
from tests.contract.registry import Bad, Op, Sample, Tensors


def _patterns(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Units of different variance, about a mean that is not zero."""
    x = torch.randn(shape, dtype=torch.float64, generator=generator)
    return x * torch.linspace(0.5, 2, shape[-1], dtype=torch.float64) + 0.5


def _one(shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> Tensors:
    return {"x": _patterns(shape, generator).to(dtype)}


def _weighted(shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> Tensors:
    """The layers are made of x: see `_layers`."""
    weights = torch.randn((*shape[:-2], 2), dtype=torch.float64, generator=generator)
    return _one(shape, dtype, generator) | {"weights": weights.to(dtype)}


def _waves(n: int, d: int) -> Tensor:
    """Numbers without pattern ``[n, d]``, the same ones in every dtype, under vmap and while compiling."""
    return (12.9898 * torch.arange(1.0, n * d + 1, dtype=torch.float64).sqrt()).sin().view(n, d)


@cache
def _waves_there(n: int, d: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """`_waves` on a GPU: copied once, since a CUDA graph cannot hold a copy from the host."""
    return _waves(n, d).to(device, dtype)


def _responses(x: Any) -> Tensor:
    """Five neurons' responses to the images of x, in the dtype that it computes in."""
    shape, dtype = getattr(x, "shape", ()), str(getattr(getattr(x, "array", x), "dtype", ""))
    n, wide = shape[-2] if len(shape) > 1 else 7, torch.float64 if "float64" in dtype else torch.float32
    if isinstance(x, Tensor) and x.is_cuda:
        return _waves_there(n, 5, x.device, wide)
    return _waves(n, 5).to(wide)


def _call(function: Any) -> Any:
    """Of two layers, one of which is a map of the other, if they have weights."""

    def call(x: Any, weights: Tensor | None = None, **options: Any) -> tuple[Tensor]:
        if not {"target", "responses"} & set(options):
            options["responses"] = _responses(x)
        layers = x if weights is None or not isinstance(x, Tensor) else (x, (x.flip(-1) + x / 4).tanh())
        return (function(layers, weights=weights, **options),)

    return call


def _direct(x: Any, weights: Any = None, **options: Any) -> tuple[Tensor]:
    """Of the one layer that there is: two have to be copied to stand side by side."""
    return (nk.rsa_loss(x, **{"responses": _responses(x)} | options),)


RSA_LOSS = Op(
    name="rsa_loss",
    call=_call(nk.rsa_loss),
    direct=_direct,
    definition=_call(definitions.rsa_loss),
    samples=(
        # With a small eps, images that are nearly alike would have gradients of few digits.
        Sample("li2019", _one, {"eps": 0.1}, (2, 7, 4), smooth=(0,), least=(2, 2)),
        Sample("mse", _one, {"form": "mse", "metric": "sqeuclidean"}, (2, 9, 3), smooth=(0,), least=(2, 1)),
        Sample("weighted", _weighted, {"eps": 0.1}, (2, 6, 5), smooth=(0,), least=(2, 2)),
    ),
    leaves=frozenset({"rsa_loss_fwd"}),
    bad=(
        Bad("rank", {"x": torch.ones(3)}, ValueError, ("x must be [..., N, D]", "at least 2 dimensions", "(3,)")),
        Bad("no array", {"x": [[1.0]]}, TypeError, ("x must be a tensor", "list")),
        Bad("integers", {"x": torch.ones(7, 3, dtype=torch.int64)}, TypeError, ("x", "int64", ".float()")),
        Bad("no layers", {"x": ()}, ValueError, ("x must be a tensor or several of them", "none")),
        Bad(
            "layers", {"x": (torch.ones(7, 3), torch.ones(6, 3))}, ValueError, ("x[1]", "(7,) patterns", "(6, 3)")
        ),
        Bad("one image", {"x": torch.ones(1, 3)}, ValueError, ("x must be of at least 2 images", "N = 1")),
        Bad("few", {"x": torch.ones(3, 3), "form": "cka_debiased"}, ValueError, ("at least 4 images", "N = 3")),
        Bad("no units", {"x": torch.ones(4, 0)}, ValueError, ("x must be of at least 2 units", "parallel", "D = 0")),
        Bad("one unit", {"x": torch.ones(4, 1)}, ValueError, ("x must be of at least 2 units", "D = 1")),
        Bad("form", {"form": "li2020"}, ValueError, ("form", "li2019, pearson, cosine, mse, cka", "'li2020'")),
        Bad("metric", {"metric": "poisson"}, ValueError, ("metric", "cosine, correlation", "'poisson'")),
        Bad("metric of li2019", {"metric": "linear"}, ValueError, ("metric", "cosine or correlation", "arctanh")),
        Bad("metric of cka", {"form": "cka", "metric": "sqeuclidean"}, ValueError, ("metric", "linear", "cka")),
        Bad("scale", {"scale": "pages"}, ValueError, ("scale", "code, paper", "'pages'")),
        Bad("scale of mse", {"form": "mse", "scale": "paper"}, ValueError, ("scale", "li2019", "'paper'")),
        Bad("pairs", {"pairs": "some"}, ValueError, ("pairs", "all, disjoint", "'some'")),
        Bad("odd", {"pairs": "disjoint"}, ValueError, ("even number of images", "N = 7")),
        Bad("pairs of cka", {"form": "cka", "pairs": "disjoint"}, ValueError, ("pairs", "left alone", "cka")),
        Bad("eps", {"eps": 0.0}, ValueError, ("eps must be in [1e-12, 1]", "0.0")),
        Bad("eps nan", {"eps": math.nan}, ValueError, ("eps", "nan")),
        Bad("accuracy", {"accuracy": "low"}, ValueError, ("accuracy", "high, fast", "'low'")),
        Bad("neither", {"responses": None}, ValueError, ("target or responses", "one of them", "neither")),
        Bad(
            "both", {"responses": torch.ones(7, 2), "target": torch.eye(7)}, ValueError, ("target or resp", "both")
        ),
        Bad("target", {"target": torch.ones(7, 6)}, ValueError, ("target", "[..., 7, 7] or [..., 21]", "(7, 6)")),
        Bad(
            "condensed", {"target": torch.ones(21), "form": "cka"}, ValueError, ("target", "[..., 7, 7] for", "(21,)")
        ),
        Bad("target batch", {"target": torch.ones(3, 7, 7)}, ValueError, ("target", "leading dimensions (2,)", "(3,)")),
        Bad("images", {"responses": torch.ones(6, 2)}, ValueError, ("responses", "N = 7 images of x", "(6, 2)")),
        Bad("scans", {"responses": (torch.ones(7, 2), torch.ones(7))}, ValueError, ("responses[1]", "[..., N, M]")),
        Bad("no scans", {"responses": ()}, ValueError, ("responses", "none")),
        Bad(
            "learnt", {"target": torch.eye(7).requires_grad_()}, ValueError, ("target", "data", ".detach()", "nk.cka")
        ),
        Bad("mean", {"mean": torch.ones(3)}, ValueError, ("mean must be [D] = [4]", "(3,)")),
        Bad("means", {"mean": (torch.ones(4),) * 2}, ValueError, ("mean", "each of 1 layers", "2 of them")),
        Bad(
            "mean of distances", {"mean": torch.ones(4), "metric": "sqeuclidean", "form": "mse"}, ValueError,
            ("mean must be left out", "sqeuclidean"),
        ),
        Bad("weights", {"weights": torch.ones(3)}, ValueError, ("weights", "logits [2]", "(3,)")),
        Bad(
            "no precision", {"metric": "mahalanobis", "form": "mse"}, ValueError, ("precision", "given", "mahalanobis")
        ),
        Bad("precision", {"precision": torch.eye(4)}, ValueError, ("precision must be left out", "'cosine'")),
        Bad(
            "not definite", {"metric": "mahalanobis", "form": "mse", "precision": -torch.eye(4)}, ValueError,
            ("precision", "positive definite", "Cholesky"),
        ),
        Bad(
            "precision shape", {"metric": "mahalanobis", "form": "mse", "precision": torch.eye(3)}, ValueError,
            ("precision must be [D, D] = [4, 4]", "(3, 3)"),
        ),
        Bad("folds", {"metric": "crossnobis", "form": "mse", "x": torch.ones(1, 7, 4)}, ValueError, ("2 folds",)),
        Bad("distances", {"distances": True, "metric": "linear", "form": "mse"}, ValueError, ("distances", "linear")),
    ),
    large=(3, 300, 70),
    odd=(33, 7, 8, 9, 31, 65, 130),
    huge=(2, 7, 2**42),
    ulps=64,
    mixes=True,
    backward_kernels=0,
    tangent_kernels=0,
    leans=True,
)  # fmt: skip


def _more(v: Tensor) -> Tensor:
    return _waves_there(3, v.shape[-1], v.device, v.dtype) if v.is_cuda else _waves(3, v.shape[-1]).to(v.dtype)


def _views(x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
    """Two views; of two or three images with three more, since the similarity of so few is 1 or not defined."""
    y = y if y is not None else (x.flip(-2) + x / 4).tanh() if x.ndim > 1 else x
    if isinstance(x, Tensor) and isinstance(y, Tensor) and x.ndim > 1 and 2 <= x.shape[-2] < 4:
        x, y = (torch.cat([v, _more(v).expand(*v.shape[:-2], -1, -1)], -2) for v in (x, y))
    return x, y


def _two(more: int) -> Any:
    """Two views, the second one of so many more units."""

    def make(shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> Tensors:
        x, y = _patterns(shape, generator), _patterns((*shape[:-1], shape[-1] + more), generator)
        y[..., : shape[-1]] += x
        return {"x": x.to(dtype), "y": y.to(dtype)}

    return make


CKA = Op(
    name="rsa_loss",
    call=lambda x, y=None, **options: (nk.cka(*_views(x, y), **options),),
    direct=lambda x, y=None, **options: (nk.cka(x, x if y is None else y, **options),),
    definition=lambda x, y=None, **options: (definitions.cka(*_views(x, y), **options),),
    samples=(
        Sample("cka", _one, shape=(2, 7, 4), smooth=(0,), least=(2, 1)),
        Sample("cka of two", _two(1), {"debiased": True}, (2, 6, 5), smooth=(0,), least=(2, 1)),
    ),
    leaves=frozenset({"cka_fwd"}),
    bad=(
        Bad("rank", {"x": torch.ones(3)}, ValueError, ("x must be [..., N, D]", "at least 2 dimensions", "(3,)")),
        Bad("rank of y", {"y": torch.ones(7)}, ValueError, ("y must be [..., N, D]", "(7,)")),
        Bad("y no array", {"y": [[1.0]]}, TypeError, ("y must be a tensor", "list")),
        Bad("integers", {"y": torch.ones(2, 7, 3, dtype=torch.int64)}, TypeError, ("y", "int64", ".float()")),
        Bad("images", {"y": torch.ones(2, 6, 3)}, ValueError, ("y", "images of x", "(2, 6, 3)", "(2, 7, 4)")),
        Bad("batches", {"y": torch.ones(3, 7, 3)}, ValueError, ("y", "leading dimensions", "(3, 7, 3)")),
        Bad("one image", {"x": torch.ones(1, 3), "y": torch.ones(1, 2)}, ValueError, ("at least 2 images", "N = 1")),
        Bad(
            "few", {"x": torch.ones(1, 3), "y": torch.ones(1, 2), "debiased": True}, ValueError, ("at least 4", "N = 1")
        ),
        Bad("no units", {"x": torch.ones(4, 0)}, ValueError, ("x must be of at least 1 unit", "D = 0")),
    ),
    speakers=("cka: ",),
    large=(3, 300, 70),
    odd=(33, 7, 8, 9, 31, 65, 130),
    huge=(2, 7, 2**42),
    ulps=64,
    small=2048,  # unbiased, of five images
    mixes=True,
    peers=True,
    backward_kernels=0,
    tangent_kernels=0,
    leans=True,
)  # fmt: skip
