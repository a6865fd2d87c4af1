"""The leaf ops of LIF: forward, backward and forward-mode, dispatched to a backend, with their fakes."""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from neurokernels._core import backends, cuda, native, triton, tuned
from neurokernels._core.library import leaf
from neurokernels.ops.lif.rule import allocate_backward, allocate_forward, compute_dtype, decode

_NEURON = (
    "Tensor? decay, Tensor? threshold, Tensor? gain, Tensor? v_reset, Tensor? v0, Tensor? countdown, "
    "Tensor? table, str rule"
)


def _yields(x: Tensor) -> str | None:
    """Why ``auto`` leaves a layer to Triton, or None."""
    total = x.shape[1:].numel() if x.ndim else 0
    if tuned.choice("lif", x, total)["small"]:
        return None
    return f"a layer of {total} neurons fills a GPU, where Triton's kernels take fewer instructions"


backends.register(
    "lif",
    backends.Backend("cpu", ("cpu",), lambda x: native.reason(), "neurokernels.ops.lif.cpu"),
    backends.Backend("cuda", (), cuda.refuses, "neurokernels.ops.lif.cuda", _yields),
    backends.Backend("triton", (), triton.refuses, "neurokernels.ops.lif.triton"),
    backends.Backend("reference", (), lambda x: None, "neurokernels.ops.lif.reference"),
)
backends.register("leaky_integrate", *backends.rows("lif"))


def _kernels(backend: str, x: Tensor) -> ModuleType:
    return backends.select("lif", backend, x).kernels()


def _forward(x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    *neuron, rule, backend = rest
    return _kernels(backend, x).forward(x, *neuron, *decode(rule))


def _backward(g: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    *neuron, rule, wanted, backend = rest
    return _kernels(backend, g).backward(g, *neuron, *decode(rule), wanted)


def _jvp(*rest: Any) -> tuple[Tensor, ...]:
    *neuron, rule, backend = rest
    return _kernels(backend, neuron[6]).jvp(*neuron, *decode(rule))


def _jvp_fake(*rest: Any) -> tuple[Tensor, Tensor]:
    x = rest[6]
    return torch.empty_like(x), x.new_empty(x.shape[1:], dtype=compute_dtype(x))


lif_fwd = leaf(
    f"lif_fwd(Tensor x, {_NEURON}, str backend) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _forward,
    lambda x, *rest: tuple(allocate_forward(x, decode(rest[-2])[1])),
)
lif_bwd = leaf(
    f"lif_bwd(Tensor g, Tensor g_membrane, Tensor? x, Tensor residual, Tensor counts, {_NEURON}, bool[] wanted, "
    "str backend) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _backward,
    lambda g, *rest: allocate_backward(g, rest[-2]),
)
lif_jvp = leaf(
    "lif_jvp(Tensor? dx, Tensor? dv0, Tensor? ddecay, Tensor? dthreshold, Tensor? dgain, Tensor? dv_reset, "
    f"Tensor x, {_NEURON}, str backend) -> (Tensor, Tensor)",
    _jvp,
    _jvp_fake,
)
