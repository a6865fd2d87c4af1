"""Spikes bit for bit and gradients within the accuracy rule, over the options of the contract."""

from itertools import product

import pytest
import torch

from neurokernels import surrogate
from neurokernels._core import accuracy
from tests.ops.agreement import SURROGATES, calls, check, identical, lattice, made, residuals_hold

BACKENDS = ("reference", "cpu", "triton", "cuda")
RESETS = list(product(("zero", "subtract", "none"), ("reach", "above"), (True, False)))


#: For grids that Triton has in test_lif_triton.py, cut to the pace of its interpreter.
COMPILED = pytest.mark.parametrize("backend", ["reference", "cpu"])


def few(backend, cases):
    """All of them; on the interpreter the first one."""
    return list(cases)[: 1 if backend == "triton" else None]


def steps(backend, many=37, some=5):
    """More than two chunks of residuals; on the interpreter a few steps, unless the chunks are what is tested."""
    return some if backend == "triton" else many


@COMPILED
@pytest.mark.parametrize(("reset", "reset_at", "detach"), RESETS)
@pytest.mark.parametrize("learn", [True, False], ids=["learnable", "fixed"])
def test_resets(backend, reset, reset_at, detach, learn):
    options = {"reset": reset, "reset_at": reset_at, "detach_reset": detach}
    for k, (floor, refractory) in enumerate(product((None, -0.3), (0, 2))):
        chosen = ("atan", "boxcar", "constant", "triangle")[k]
        options |= {"floor": floor, "refractory": refractory, "surrogate": chosen}
        check(backend, made(37, 2, 5, learn=learn, seed=k, state=k % 2 == 0, **options))


@COMPILED
@pytest.mark.parametrize("chosen", SURROGATES, ids=str)
@pytest.mark.parametrize("detach", [True, False], ids=["detached", "attached"])
def test_surrogates(backend, chosen, detach):
    for reset in ("zero", "subtract"):
        check(backend, made(37, 9, reset=reset, detach_reset=detach, surrogate=chosen))


@COMPILED
@pytest.mark.parametrize("name", surrogate.NAMED)
def test_widths(backend, name):
    for alpha in (0.3, 7.0):
        check(backend, made(12, 9, surrogate=(name, alpha)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_dtypes(backend, dtype):
    for i, reset in few(backend, ((1, "subtract"), (0, "zero"), (2, "none"))):
        for learn in (True, False):
            options = {"dtype": dtype, "reset": reset, "seed": i}
            check(backend, made(steps(backend), 3, 7, learn=learn, floor=-0.5, refractory=i, **options))
            check(backend, made(steps(backend), 3, 7, learn=False, surrogate=("boxcar", 0.3), **options))


def test_membranes_at_the_threshold(backend):
    """On a lattice every fourth membrane lies at the threshold or the floor exactly: nothing there is rounding."""
    grid = product(("above", "reach"), ("zero", "subtract"), (-0.5, None))
    for reset_at, reset, floor in few(backend, grid):
        case = lattice(steps(backend, 37, 12), 40, reset=reset, reset_at=reset_at, floor=floor, surrogate="boxcar")
        check(backend, case)
        check(backend, case.with_(surrogate="triangle"))


@pytest.mark.parametrize("learn", [True, False], ids=["learnable", "fixed"])
@pytest.mark.parametrize("refractory", [0, 1, 300])
def test_residual_modes_agree(backend, learn, refractory):
    """What is kept is a matter of memory: gradients are the same, bit for bit where the same is computed."""
    case = made(steps(backend, 40, 17), 2, 4, learn=learn, surrogate="boxcar", floor=-0.4, refractory=refractory)
    modes = ["recompute", "membrane"] + ([] if learn else ["bits"])
    results = [check(backend, case.with_(residual=mode)) for mode in modes]
    for result in results[1:]:
        identical(result.spikes, results[0].spikes, "spikes")
        for name, gradient in result.gradients.items():
            identical(gradient, results[0].gradients[name], f"gradient of {name}")


@pytest.mark.parametrize("mode", ["bits", "recompute", "membrane"])
@pytest.mark.parametrize("refractory", [0, 2, 300])
def test_residuals_are_shared(backend, mode, refractory):
    """What any backend keeps is what every other one keeps, and what every other one's backward pass can read."""
    case = made(
        steps(backend, 35, 17),
        5,
        learn=mode != "bits",
        surrogate="boxcar",
        residual=mode,
        refractory=refractory,
        reset_at="above",
        floor=-0.3,
    )
    other = "cpu" if backend == "reference" else "reference"
    forward, backward = calls(backend, case)
    for i, (a, b) in enumerate(zip(forward[2], calls(other, case)[0][2], strict=True)):
        identical(a, b, f"output {i} of lif_fwd")
    overload, arguments, outputs = backward
    elsewhere = overload(*arguments[:-1], other)
    for i, (a, b) in enumerate(zip(elsewhere, outputs, strict=True)):
        accuracy.check(a, b, b, name=f"output {i} of lif_bwd")


def test_residuals_hold_what_they_say(backend):
    """The two bits, the checkpoints and the countdowns, against the run that they stand for."""
    options = {"surrogate": "boxcar", "refractory": 3, "floor": -0.4}
    residuals_hold(backend, made(steps(backend, 50, 33), 6, learn=False, **options))
