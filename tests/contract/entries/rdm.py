"""`neurokernels.rdm`, but for its precision, which is a leaf op before it: `tests/ops/test_rdm_precision.py`."""

from typing import Any

import torch
from torch import Tensor

import neurokernels as nk
from tests import definitions
from tests.contract.registry import Bad, Op, Sample, Tensors


def _patterns(shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> Tensors:
    """Channels of different variance about a mean pattern."""
    x = torch.randn(shape, dtype=torch.float64, generator=generator)
    return {"x": (x * torch.linspace(0.5, 2, shape[-1], dtype=torch.float64) + 0.5).to(dtype)}


def _with_folds(function: Any) -> Any:
    """Folds of crossnobis are made of the first one: other measurements of the same patterns.

    Correlations get more channels, over which every two patterns have another correlation: over two it is 1 or -1, and
    its gradient rounding.
    """

    def call(x: Tensor, metric: str = "correlation", **arguments: Any) -> tuple[Tensor, ...]:
        if not isinstance(x, Tensor) or x.ndim < 2 or "folds" in arguments:
            pass
        elif metric == "crossnobis":
            x = torch.stack((x, x + x.flip(-1).square() / 8, x + x.flip(-2) / 8), -3)
        elif metric == "correlation":
            x = torch.cat((x, -x, torch.ones_like(x[..., :1])), -1)
        return (function(x, metric=metric, **arguments),)

    return call


def _directly(x: Any, metric: str = "correlation", **arguments: Any) -> tuple[Tensor, ...]:
    """The public function: nine patterns are three folds of three."""
    if metric == "crossnobis" and hasattr(x, "reshape"):
        return (nk.rdm(x.reshape(3, 3, 4), metric=metric, **arguments),)
    folds = [[0, 1, 2], [3, 4, 5], [6, 7, 8]] if metric == "crossnobis" else None
    return (nk.rdm(x, metric=metric, folds=folds, **arguments),)


RDM = Op(
    name="rdm",
    call=_with_folds(nk.rdm),
    direct=_directly,
    definition=_with_folds(definitions.rdm),
    samples=(
        Sample("correlation", _patterns, smooth=(0,), least=(2, 1)),
        Sample("euclidean", _patterns, {"metric": "euclidean", "condensed": False}, (2, 9, 3), (0,), (2, 1)),
        Sample("crossnobis", _patterns, {"metric": "crossnobis"}, (9, 4), (0,), (2, 1)),
    ),
    leaves=frozenset({"rdm_fwd", "rdm_bwd"}),
    bad=(
        Bad("rank", {"x": torch.ones(3)}, ValueError, ("x", "[..., N, D]", "at least 2 dimensions", "(3,)")),
        Bad("no array", {"x": [[1.0]]}, TypeError, ("x", "tensor", "list")),
        Bad("integers", {"x": torch.ones(5, 3, dtype=torch.int64)}, TypeError, ("x", "int64", ".float()")),
        Bad("one condition", {"x": torch.ones(1, 3)}, ValueError, ("x", "at least 2 conditions", "N = 1", "(1, 7)")),
        Bad("one channel", {"x": torch.ones(4, 0)}, ValueError, ("x", "at least 2 channels", "D = 0", "(4, 0)")),
        Bad("metric", {"metric": "manhattan"}, ValueError, ("metric", "one of correlation, cosine", "'manhattan'")),
        Bad("condensed", {"condensed": "no"}, TypeError, ("condensed", "bool", "str")),
        Bad("folds", {"folds": [0, 1]}, ValueError, ("folds", "None but for metric='crossnobis'", "'correlation'")),
        Bad("precision", {"precision": torch.eye(4)}, ValueError, ("precision", "None but for", "'correlation'")),
        Bad(
            "labels",
            {"metric": "crossnobis", "x": torch.ones(4, 3), "folds": [0, 1, 0]},
            ValueError,
            ("folds", "one label for each of the 4 observations", "got 3"),
        ),
        Bad(
            "sizes of folds",
            {"metric": "crossnobis", "x": torch.ones(5, 3), "folds": [0, 0, 0, 7, 7]},
            ValueError,
            ("folds", "of one size", "folds of [3, 2]"),
        ),
        Bad(
            "indices",
            {"metric": "crossnobis", "x": torch.ones(4, 3), "folds": [[0, 1], [1, 3]]},
            ValueError,
            ("folds", "a partition of the 4 observations", "without 2"),
        ),
        Bad(
            "too few indices",
            {"metric": "crossnobis", "x": torch.ones(6, 3), "folds": [[0, 1], [2, 3]]},
            ValueError,
            ("folds", "a partition of the 6 observations", "4 indices without 4"),
        ),
        Bad(
            "fractional folds",
            {"metric": "crossnobis", "x": torch.ones(4, 3), "folds": [0.0, 1.0, 0.0, 1.0]},
            TypeError,
            ("folds", "integers", "0.0"),
        ),
    ),
    # In a forked child torch has one thread to make samples of it, and so must not want more; the core does.
    large=(2, 100, 54),
    mixes=True,
    tangent_kernels=0,
    odd=(33, 7, 9, 65),
)
