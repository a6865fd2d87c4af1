"""The CUDA kernels of LIF, emulated: all options, ways of copying, orders of threads, residuals, mutants."""

import itertools
from contextlib import nullcontext

import pytest
import torch

import neurokernels as nk
from neurokernels._core import backends, tuned
from neurokernels.ops.lif import cuda as lif
from neurokernels.ops.lif import rule
from tests import emulator
from tests.emulator import EmulatedDriver, switched_on
from tests.ops.agreement import (
    SURROGATES,
    calls,
    check,
    identical,
    made,
    special_values_hold,
    thresholds_hold,
)

GRID = list(itertools.product(rule.RESETS, rule.RESET_AT, (None, -0.3), (0, 2), (True, False)))
DTYPES = (torch.float32, torch.bfloat16, torch.float32, torch.float16, torch.float64)


@pytest.mark.parametrize("i", range(len(GRID)), ids=lambda i: "-".join(map(str, GRID[i])))
def test_options(i):
    """Every combination of discrete options, each with another surrogate, dtype, residual and way of copying."""
    reset, reset_at, floor, refractory, detach = GRID[i]
    learn = i % 3 > 0
    case = made(
        35, (5, 40, 64)[i % 3], dtype=DTYPES[i % 5], learn=learn, seed=i, state=i % 7 > 2,
        reset=reset, reset_at=reset_at, floor=floor, refractory=refractory, detach_reset=detach,
        surrogate=SURROGATES[i % 12] if learn else ("boxcar", "constant")[i % 2],
        residual=("recompute", "membrane")[i // 3 % 2] if learn else "auto",
    )  # fmt: skip
    check("cuda", case)


@pytest.mark.parametrize("chosen", SURROGATES, ids=str)
def test_surrogates(chosen):
    for residual, detach in (("recompute", True), ("membrane", False)):
        check("cuda", made(20, 7, learn=False, surrogate=chosen, residual=residual, detach_reset=detach))


@pytest.mark.parametrize("steps", [0, 1, 15, 16, 17, 64, 65, 80, 129])
def test_chunks(steps):
    """Chunks that are not full, and more of them than there are stages, by one and by a whole ring."""
    for neurons in (3, 32):
        for options in ({"residual": "bits", "learn": False, "surrogate": "boxcar"}, {"refractory": 2}):
            check("cuda", made(steps, neurons, **options))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("neurons", [(1,), (31,), (33,), (2, 0), (8,), (24,), (5, 8), (3, 1, 11)], ids=str)
def test_sizes(neurons, dtype):
    """No neuron, one, a warp more or less, rows that are and are not made of 16 bytes."""
    check("cuda", made(35, *neurons, dtype=dtype, learn=False, floor=-0.2, refractory=1))


@pytest.mark.parametrize("warps", [1, 2, 4])
def test_warps_of_a_block(warps):
    with tuned.forced("lif", {"small": True, "warps": warps}):
        for residual in ("recompute", "membrane"):
            check("cuda", made(35, 100, residual=residual))
        check("cuda", made(35, 100, learn=False, surrogate="boxcar"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("residual", ["bits", "recompute", "membrane"])
def test_every_order_of_threads(residual, dtype):
    """The same bits, whichever thread is first: nothing that one leaves to another is without a barrier."""
    found = []
    for order, seed in (("forward", 0), ("reverse", 0), ("random", 1), ("random", 2)):
        with switched_on(EmulatedDriver(order, seed)) as driver:
            case = made(100, 64, dtype=dtype, learn=residual != "bits", surrogate="boxcar", residual=residual)
            found.append(check("cuda", case))
        assert [name.split("_")[1] for name in driver.launched[:2]] == ["forward", "backward"]
    for other in found[1:]:
        identical(other.spikes, found[0].spikes, "spikes")
        for name, gradient in other.gradients.items():
            identical(gradient, found[0].gradients[name], name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_order_of_threads_of_the_integrator(dtype):
    """The same of `leaky_integrate`."""
    found = []
    for order, seed in (("forward", 0), ("reverse", 0), ("random", 1), ("random", 2)):
        with switched_on(EmulatedDriver(order, seed)), nk.backend("cuda"), backends.record() as ran:
            x = made(100, 64, dtype=dtype).x.requires_grad_()
            decay = torch.full((64,), 0.9, requires_grad=True)
            trace = nk.leaky_integrate(x, decay=decay, floor=-0.5)
            found.append((trace, *torch.autograd.grad((trace * trace.detach().cos()).sum(), (x, decay))))
        assert ran == [("leaky_integrate", "cuda")] * 2
    for other in found[1:]:
        for ours, theirs in zip(other, found[0], strict=True):
            identical(ours, theirs, "trace or gradient")


VIEWS = {
    "time last": lambda x: x.movedim(0, -1).contiguous().movedim(-1, 0),
    "every other neuron": lambda x: torch.stack((x, x), -1).flatten(-2)[..., ::2],
    "an odd offset": lambda x: torch.cat((x[..., :1], x), -1)[..., 1:],
    "channels": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "three strides": lambda x: x.view(*x.shape[:2], 4, -1).permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("name", VIEWS)
def test_layouts(name, dtype):
    case = made(35, 3, 16, dtype=dtype, learn=False)
    view = VIEWS[name](case.x)
    check("cuda", type(case)(view, case.parameters, case.options, *(
        None if t is None else t.reshape(view.shape[1:]) for t in (case.v0, case.countdown)
    )))  # fmt: skip


def test_how_series_are_copied():
    """16 bytes at a time only where all rows begin at a multiple of it."""

    def mode(x):
        return lif._mode(x, lif.Strided(x, x.stride(0), 0, x.stride(-1)), x[0].numel(), 0)

    whole = torch.empty(8, 64)
    assert mode(whole) == mode(whole.bfloat16()) == mode(whole.double()) == lif._TILES
    assert mode(whole[:, 4:]) == mode(whole.bfloat16()[:, 8:]) == lif._TILES
    assert mode(whole[:, 1:33]) == mode(whole[:, ::2]) == mode(torch.empty(8, 63)) == lif._LANE
    assert mode(whole.bfloat16()[:, 4:36]) == mode(whole.half()[:, :60]) == lif._DIRECT


@pytest.mark.parametrize("mode", ["bits", "recompute", "membrane"])
@pytest.mark.parametrize("refractory", [0, 3, 300])
@pytest.mark.parametrize("other", ["reference", "cpu"])
def test_residuals_are_shared(mode, refractory, other):
    """What is kept is what the others keep, word for word, and either's backward pass reads it."""
    case = made(
        53, 40, learn=mode != "bits", surrogate="boxcar", residual=mode, refractory=refractory, floor=-0.3,
        reset_at="above",
    )  # fmt: skip
    (_, _, kept), (overload, arguments, outputs) = calls("cuda", case)
    for ours, theirs in zip(kept, calls(other, case)[0][2], strict=True):
        identical(ours, theirs, "an output of lif_fwd")
    for ours, theirs in zip(outputs, overload(*arguments[:-1], other), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("reset_at", rule.RESET_AT)
def test_membranes_at_the_threshold(reset_at):
    thresholds_hold("cuda", 36, 40, reset_at)


def test_special_values():
    special_values_hold("cuda")


@pytest.mark.parametrize("chosen", ["atan", "fast_sigmoid", "sigmoid"])
def test_surrogates_far_away(chosen):
    """Quotients by numbers that have no inverse in single precision are zero, not NaN, and those of NaN are NaN."""
    x = torch.tensor([[1e15, -1e19, 1e30, torch.inf, -torch.inf, torch.nan]])
    for backend in ("cuda", "reference"):
        with nk.backend(backend):
            leaf = x.clone().requires_grad_()
            spikes = nk.lif(leaf, decay=0.5, surrogate=chosen).spikes
            (dx,) = torch.autograd.grad(spikes.sum(), leaf)
        assert dx[0, :2].abs().max() < 1e-28
        assert dx[0, 2:5].tolist() == [0.0] * 3
        assert dx[0, 5].isnan()


def test_auto_leaves_large_layers_to_triton(monkeypatch):
    small, large = torch.empty(3, 8192), torch.empty(3, 1 << 17)
    rows = {row.name: row for row in backends.rows("lif")}
    assert rows["cuda"].yields(small) is None
    assert "a layer of 131072 neurons fills a GPU" in rows["cuda"].yields(large)
    assert [row.name for row in backends.rows("lif")].index("cuda") < [r.name for r in backends.rows("lif")].index(
        "triton"
    )


FLUSH = "    if (mode == kTiles) {\n      X* to"
MUTANTS = {
    "a ring that is not waited for": ("wait<kStages - 1>();", "wait<kStages>();"),
    "a stage refilled too early": ("xs.take(stage, format, x);", "xs.issue(t + 64, stage), xs.take(stage, format, x);"),
    "a reset that is not one": ("return resets(u) ? target : u;", "return u;"),
    "bits of two steps in one place": ("left > 0) << 2 * k;", "left > 0) << k;"),
    "a tile that goes out before all lanes filled it": (f"    __syncwarp();\n{FLUSH}", FLUSH),
    "bits of another neuron": ("[t / kChunk * r.total + h.n] = word", "[t / kChunk * r.total + (h.n ^ 1)] = word"),
}  # fmt: skip


# The kernels that the mutants are tried with; compiling all of them would take long.
INSTANCES = """
NK_LIF_KERNEL(lif_forward_f32_bits, Forward, 128, (nk::lif::forward<float, nk::lif::kBits>))
NK_LIF_KERNEL(lif_backward_f32_bits, Backward, 128, nk::lif::backward_bits<float>)
"""


@pytest.mark.parametrize("name", ["none", *MUTANTS])
def test_mutants(name, tmp_path, monkeypatch):
    """The same check sees each of these mistakes, and nothing in the source that has none."""
    old, new = MUTANTS.get(name, ("", ""))
    stream, text = ((emulator.ROOT / "csrc/cuda" / file).read_text() for file in ("lif_stream.cuh", "lif.cu"))
    text = text.replace('#include "cuda/lif_stream.cuh"', stream.replace("#pragma once", ""))
    assert old in text
    source = tmp_path / f"mutant{abs(hash(name))}.cu"
    head, _, _ = (text.replace(old, new) if old else text).partition("#define NK_LIF(")
    source.write_text(head + INSTANCES)
    monkeypatch.setattr(emulator, "BUILT", tmp_path)
    monkeypatch.setattr(emulator, "FLAGS", (*emulator.FLAGS, "-O0"))  # the compiler takes longer than the kernels
    emulator.library(source)  # it compiles
    launch = lif.cuda.launch
    monkeypatch.setattr(lif.cuda, "launch", lambda _, *rest: launch(source.stem, *rest))
    seen = pytest.raises((AssertionError, RuntimeError)) if old else nullcontext()
    with switched_on(EmulatedDriver("reverse", folder=tmp_path)), seen:
        check("cuda", made(137, 32, learn=False, surrogate="boxcar", residual="bits"))
