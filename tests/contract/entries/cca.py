"""`neurokernels.dcca_loss` and `neurokernels.canonical_correlations`: two leaf ops, one table of backends."""

import math
from typing import Any

import torch
from torch import Tensor

import neurokernels as nk
from tests import definitions
from tests.contract.registry import Bad, Op, Sample, Tensors


def _view(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Units of different variance."""
    x = torch.randn(shape, dtype=torch.float64, generator=generator)
    return x * torch.linspace(0.5, 2, shape[-1], dtype=torch.float64) + 0.5


def _one(shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> Tensors:
    """The second view is made of the first one: see `_other`.

    Variances are those of the default regulariser: with few samples and no more regularisation than this, correlations
    of larger units would be 1 but for a difference in which most digits cancel.
    """
    return {"x": (_view(shape, generator) / 50).to(dtype)}


def _other(x: Tensor, y: Tensor | None) -> Tensor:
    """A view of as many units that shares something with the other one; not a linear map, which would share it all."""
    return y if y is not None else (x.flip(-2) + x / 4).tanh() if x.ndim > 1 else x


def _two(more: int) -> Any:
    """Two views, the second one of so many more units; of small variance beside the regularisers that go with them."""

    def make(shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> Tensors:
        x = _view(shape, generator)
        y = _view((*shape[:-1], shape[-1] + more), generator) / 2
        y[..., : shape[-1]] += x  # correlations are far from zero: close to it, directions are known to few digits
        return {"x": (x / 4).to(dtype), "y": (y / 4).to(dtype)}

    return make


_BAD: tuple[Bad, ...] = (
    Bad("rank", {"x": torch.ones(3)}, ValueError, ("x must be [..., N, D]", "at least 2 dimensions", "(3,)")),
    Bad("rank of y", {"y": torch.ones(7)}, ValueError, ("y must be [..., N, D]", "(7,)")),
    Bad("no array", {"x": [[1.0]], "y": torch.ones(7, 2)}, TypeError, ("x must be a tensor", "list")),
    Bad("y no array", {"y": [[1.0]]}, TypeError, ("y must be a tensor", "list")),
    Bad("integers", {"y": torch.ones(2, 7, 3, dtype=torch.int64)}, TypeError, ("y", "int64", ".float()")),
    Bad("complex", {"y": torch.ones(2, 7, 3, dtype=torch.complex64)}, TypeError, ("y", "complex64")),
    Bad("samples", {"y": torch.ones(2, 6, 3)}, ValueError, ("y", "samples of x", "(2, 6, 3)", "(2, 7, 4)")),
    Bad("batches", {"y": torch.ones(3, 7, 3)}, ValueError, ("y", "leading dimensions", "(3, 7, 3)", "(2, 7, 4)")),
    Bad("one sample", {"x": torch.ones(1, 3), "y": torch.ones(1, 2)}, ValueError, ("at least 2 samples", "N = 1")),
    Bad("no samples", {"x": torch.ones(0, 3), "y": torch.ones(0, 2)}, ValueError, ("at least 2 samples", "N = 0")),
    Bad("no units", {"x": torch.ones(4, 0)}, ValueError, ("x must be of at least 1 unit", "D = 0")),
    Bad("y has no units", {"y": torch.ones(2, 7, 0)}, ValueError, ("y must be of at least 1 unit", "D = 0")),
    Bad("reg zero", {"reg": 0.0}, ValueError, ("reg must be finite and > 0", "no inverse", "0.0")),
    Bad("reg of y", {"reg": (1e-4, -1.0)}, ValueError, ("reg", "> 0", "-1.0")),
    Bad("reg nan", {"reg": math.nan}, ValueError, ("reg", "nan")),
    Bad("reg infinite", {"reg": math.inf}, ValueError, ("reg", "finite", "inf")),
    Bad("reg text", {"reg": "small"}, TypeError, ("reg", "number", "str")),
    Bad("three regs", {"reg": (1, 1, 1)}, ValueError, ("reg", "pair", "3")),
)

DCCA = Op(
    name="dcca",
    call=lambda x, y=None, **options: (nk.dcca_loss(x, _other(x, y), **options),),
    direct=lambda x, y=None, **options: (nk.dcca_loss(x, x if y is None else y, **options),),
    definition=lambda x, y=None, **options: (definitions.dcca_loss(x, _other(x, y), **options),),
    samples=(
        Sample("loss", _one, shape=(2, 7, 4), smooth=(0,), least=(2, 1)),
        Sample("loss dual", _two(1), {"reg": (2.0, 1.0)}, (2, 4, 6), smooth=(0,), least=(2, 1)),
        Sample("loss top", _two(1), {"objective": "topk", "k": 2, "reg": 0.5}, (2, 9, 5), smooth=(0,), least=(2, 2)),
        Sample(
            "loss squares", _two(2), {"objective": "fro2", "reg": 0.5, "precision": "fast"}, (3, 9, 3), (0,), (2, 1)
        ),
    ),
    leaves=frozenset({"dcca_fwd", "dcca_bwd"}),
    bad=(
        *_BAD,
        Bad("objective", {"objective": "sum"}, ValueError, ("objective", "nuclear, topk, fro2", "'sum'")),
        Bad("precision", {"precision": "low"}, ValueError, ("precision", "high, fast", "'low'")),
        Bad("k alone", {"k": 2}, ValueError, ("k must be given for objective='topk'", "k=2 for 'nuclear'")),
        Bad("topk alone", {"objective": "topk"}, ValueError, ("k must be given", "k=None for 'topk'")),
        Bad("k above", {"objective": "topk", "k": 5}, ValueError, ("k must be at most min(D1, D2) = 4", "5")),
        Bad("k zero", {"objective": "topk", "k": 0}, ValueError, ("k must be an integer >= 1", "0")),
        Bad("k fraction", {"objective": "topk", "k": 1.5}, ValueError, ("k", "integer", "1.5")),
    ),
    speakers=("dcca_loss: ",),
    large=(3, 300, 70),
    odd=(33, 7, 8, 9, 31, 65, 70),
    huge=(2, 7, 2**42),
    ulps=32,
    small=512,
    mixes=True,
    peers=True,
    leans=True,
    backends=("reference", "cpu", "triton", "cuda"),
)

CORRELATIONS = Op(
    name="dcca",
    call=lambda x, y=None, **options: (nk.canonical_correlations(x, _other(x, y), **options),),
    direct=lambda x, y=None, **options: (nk.canonical_correlations(x, x if y is None else y, **options),),
    definition=lambda x, y=None, **options: (definitions.canonical_correlations(x, _other(x, y), **options),),
    samples=(
        Sample("correlations", _one, shape=(2, 7, 4), smooth=(0,), least=(2, 1)),
        Sample("correlations dual", _two(1), {"reg": (2.0, 1.0)}, (2, 4, 6), smooth=(0,), least=(2, 1)),
        Sample("correlations narrow", _two(2), {"reg": 0.5}, (3, 9, 3), smooth=(0,), least=(2, 1)),
    ),
    leaves=frozenset({"correlations_fwd", "correlations_bwd"}),
    bad=_BAD,
    speakers=("canonical_correlations: ",),
    large=(3, 300, 70),
    odd=(33, 7, 8, 9, 31, 65, 70),
    huge=(2, 7, 2**42),
    ulps=32,
    small=512,
    mixes=True,
    peers=True,
    tangent_kernels=0,
    leans=True,
    backends=("reference", "cpu", "triton", "cuda"),
)
