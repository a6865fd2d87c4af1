"""The Triton kernels under the interpreter: every two options, layouts, launches, and tangents.

Shapes are small and odd: more than one chunk of 16 steps, the last not full, and neurons that do not fill a program.
"""

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch

import neurokernels as nk
from neurokernels import surrogate
from neurokernels._core import accuracy, backends, triton, tuned
from neurokernels.ops.lif import reference, rule
from neurokernels.ops.lif import triton as lif
from neurokernels.ops.lif.arguments import periodic
from tests.covering import grid
from tests.ops.agreement import (
    SURROGATES,
    TABLE,
    calls,
    check,
    identical,
    made,
    special_values_hold,
    thresholds_hold,
)

LARGE = {"warps": 4, "pairs": True}  # programs for many neurons
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

# The grid ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reset", "reset_at", "floor", "refractory", "detach", "dtype", "residual", "state"),
    grid(
        rule.RESETS, rule.RESET_AT, (None, -0.3), (0, 2), (True, False), DTYPES, ("recompute", "membrane", "fixed"),
        (True, False),
    ),
)  # fmt: skip
def test_options(reset, reset_at, floor, refractory, detach, dtype, residual, state):
    """Every two of the discrete options; fixed parameters have the surrogates that can be kept as bits."""
    learn = residual != "fixed"
    case = made(
        18, 5, dtype=dtype, learn=learn, state=state,
        reset=reset, reset_at=reset_at, floor=floor, refractory=refractory, detach_reset=detach,
        surrogate=("atan" if detach else TABLE) if learn else ("boxcar" if detach else "constant"),
        residual=residual if learn else "auto",
    )  # fmt: skip
    check("triton", case)


@pytest.mark.parametrize("chosen", SURROGATES, ids=str)
def test_surrogates(chosen):
    """Every surrogate with both residuals, detached and not."""
    for residual, detach in (("recompute", True), ("membrane", False)):
        check("triton", made(5, 7, learn=False, surrogate=chosen, residual=residual, detach_reset=detach))


@pytest.mark.parametrize("steps", [0, 1, 15, 16, 17, 32, 33])
def test_chunks(steps):
    """Chunks that are not full, just full, and one step more."""
    for options in ({"residual": "bits", "learn": False, "surrogate": "boxcar"}, {"refractory": 2}):
        check("triton", made(steps, 3, **options))


@pytest.mark.parametrize("neurons", [(1,), (31,), (33,), (2, 0), (3, 1, 11)], ids=str)
def test_sizes(neurons):
    """No neuron, one, and a program more or less."""
    check("triton", made(3, *neurons, learn=False, floor=-0.2, refractory=1))


@pytest.mark.parametrize("mode", ["bits", "recompute", "membrane"])
@pytest.mark.parametrize("refractory", [0, 3, 300])
def test_residuals(mode, refractory):
    """What is kept is what the reference keeps, word for word."""
    case = made(35, 5, learn=False, surrogate="boxcar", residual=mode, refractory=refractory, floor=-0.3)
    for ours, theirs in zip(calls("triton", case)[0][2], calls("reference", case)[0][2], strict=True):
        identical(ours, theirs, "an output of lif_fwd")


@pytest.mark.parametrize("reset_at", rule.RESET_AT)
def test_membranes_at_the_threshold(reset_at):
    thresholds_hold("triton", 20, 24, reset_at)


@pytest.mark.parametrize("reset", rule.RESETS)
def test_states_above_the_threshold(reset):
    """Neurons that start above the threshold, and that fire again in every refractory step."""
    for residual in ("recompute", "membrane"):
        case = made(19, 5, reset=reset, refractory=2, residual=residual)
        parameters = case.parameters | {"threshold": case.parameters["threshold"] - 1}
        check("triton", replace(case, parameters=parameters, v0=case.v0 + 1, countdown=None))


def test_special_values():
    special_values_hold("triton")


# Forward mode --------------------------------------------------------------------------------------------------------

TANGENTS = list(itertools.product(rule.RESETS, (True, False), (0, 2)))


def agree(ours, theirs, name):
    """Equality but for the rounding of a division or an exponential."""
    assert ours.dtype == theirs.dtype
    accuracy.check(ours, theirs, theirs, ulps=64, name=name)


@pytest.mark.parametrize("i", range(len(TANGENTS)), ids=lambda i: "-".join(map(str, TANGENTS[i])))
def test_tangents(i):
    """Tangents of the leaf op, where some of the inputs have none."""
    reset, detach, refractory = TANGENTS[i]
    case = made(6, 2, 5, dtype=(torch.float32, torch.float64)[i % 2], seed=i, refractory=2)
    chosen = (
        SURROGATES[i % 12] if isinstance(SURROGATES[i % 12], surrogate.Surrogate) else surrogate.get(SURROGATES[i % 12])
    )
    exact = rule.Rule(
        reset, i % 2 > 0, i % 3 > 0, refractory, detach, chosen.shape, "none", 0.9, 1.0, 0.8, 0.1, -0.4,
        chosen.peak, chosen.slope, chosen.low, chosen.high,
    )  # fmt: skip
    parameters = [case.parameters[name] for name in ("decay", "threshold", "gain", "v_reset")]
    parameters[1] = parameters[1] - refractory / 2  # then neurons fire again in every refractory step
    parameters[i // 2 % 4] = None
    given = (case.x, case.v0, *parameters)
    moved = [None if t is None or (i + k) % 7 == 0 else torch.randn_like(t) for k, t in enumerate(given)]
    countdown = case.countdown if refractory else None
    table = None if chosen.table is None else chosen.table.to(case.v0)
    arguments = (*moved, case.x, *parameters, case.v0, countdown, table, *rule.decode(rule.encode(exact)))
    for name, ours, theirs in zip(("spikes", "membrane"), lif.jvp(*arguments), reference.jvp(*arguments), strict=True):
        agree(ours, theirs, name)


def test_ends_of_a_table():
    """Linear up to both ends and zero beyond them; what lies behind the table in memory is not looked at."""
    table = torch.tensor([0.5, 1.0, 0.25, torch.nan])[:3]
    x = torch.tensor([[-1.0, 1.0, -1.01, 1.01, 0.5]]) + 1
    exact = rule.Rule("zero", False, False, 0, True, "table", "none", 0.5, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0, -1.0, 1.0)
    arguments = (torch.ones_like(x), *[None] * 5, x, *[None] * 6, table, *rule.decode(rule.encode(exact)))
    for kernels in (lif, reference):
        identical(kernels.jvp(*arguments)[0], torch.tensor([[0.5, 0.25, 0, 0, 0.625]]), "tangent of the spikes")


@pytest.mark.parametrize("floor", [None, -0.2])
def test_leaky(floor):
    """Every leaf op of the integrator, with and without what may be absent."""
    for dtype, steps, full in ((torch.float32, 33, True), (torch.bfloat16, 18, False), (torch.float64, 16, True)):
        x = torch.randn(steps, 2, 5, dtype=dtype)
        trace = reference.leaky_forward(x, None, None, None, [0.9, 0.8, -0.2], floor is not None)
        decay, gain, v0 = (torch.rand_like(trace[0, 0]), torch.rand_like(trace[0]), trace[3]) if full else (None,) * 3
        if full:
            decay[0] = torch.inf  # no step beyond the last one may show: it would be NaN
        rule_of = ([0.9, 0.8, -0.2], floor is not None)
        ours, theirs = (module.leaky_forward(x, decay, gain, v0, *rule_of) for module in (lif, reference))
        identical(ours, theirs, "trace")
        wanted = [True, full, full, full]
        arguments = (torch.randn_like(trace), x if full else None, theirs, decay, gain, v0, *rule_of, dtype, wanted)
        for a, b in zip(lif.leaky_backward(*arguments), reference.leaky_backward(*arguments), strict=True):
            agree(a, b, "a gradient")
        moved = [torch.randn_like(t) for t in (x, decay, gain, v0)] if full else [torch.randn_like(x), None, None, None]
        arguments = (*moved, x, theirs, decay, gain, v0, *rule_of)
        agree(lif.leaky_jvp(*arguments), reference.leaky_jvp(*arguments), "a tangent")


# Layouts -------------------------------------------------------------------------------------------------------------

BASE = torch.arange(4 * 6 * 4 * 5, dtype=torch.float32).remainder(7).sub(3)
LAYOUTS = {
    "contiguous": lambda: BASE.view(4, 6, 4, 5),
    "time second": lambda: BASE.view(6, 4, 20).movedim(1, 0),
    "time last": lambda: BASE.view(6, 20, 4).movedim(2, 0),
    "every other neuron": lambda: BASE.view(4, 6, 20)[..., ::2],
    "offset": lambda: BASE.view(4, 6, 20)[1:, 2:, 3:],
    "transposed": lambda: BASE.view(4, 6, 20).transpose(1, 2),
    "channels last, one image": lambda: BASE.view(4, 6, 4, 5).permute(0, 3, 1, 2),
    "channels last": lambda: BASE.view(4, 2, 3, 4, 5).permute(0, 1, 4, 2, 3),
    "one for all": lambda: BASE[:24].view(4, 6, 1).expand(4, 6, 8),
    "one for each step": lambda: BASE[:4].view(4, 1, 1).expand(4, 6, 8),
    "a scalar": lambda: BASE[3].expand(4, 6, 8),
    "sizes of one": lambda: BASE.view(4, 1, 120).transpose(1, 2),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_series_are_their_tensors(name):
    """Series step through the tensors they stand for; without a copy unless three strides are needed."""
    x, out = LAYOUTS[name](), torch.empty(LAYOUTS[name]().shape)
    with triton.arranged([x, None], [out]) as (inner, series):
        assert series[1] == (None, 0, 0, 0)
        assert (series[0].pointer is x) != (name == "channels last")
        for tensor, one in ((x, series[0]), (out, series[2])):
            count = tensor[0].numel() // inner if inner else 1
            size = (x.shape[0], count, inner or x[0].numel())
            view = one.pointer.as_strided(size, one[1:])
            if tensor is out:
                view.copy_(x.reshape(size))
            assert torch.equal(view.reshape(x.shape), x)
    assert torch.equal(out, x)


@pytest.mark.parametrize("name", ["time second", "time last", "offset", "channels last", "one for all", "a scalar"])
def test_layouts(name):
    """Inputs and incoming gradients of any layout; outputs are laid out as everywhere else."""
    x, found = LAYOUTS[name](), {}
    for backend in ("triton", "reference"):
        with nk.backend(backend), backends.record() as ran:
            leaf = x.detach().requires_grad_()
            out = nk.lif(leaf, decay=0.5, threshold=torch.full(x.shape[-1:], 1.5), floor=-1.0)
            trace = nk.leaky_integrate(leaf, decay=0.5)
            total = out.spikes.sum() + (out.membrane * 3).sum() + (trace * x).sum()
            found[backend] = out.spikes, out.membrane, trace, torch.autograd.grad(total, leaf)[0]
        assert {ran_on for _, ran_on in ran} == {backend}
    for ours, theirs in zip(*found.values(), strict=True):
        assert ours.stride() == theirs.stride()
        identical(ours, theirs, name)


PARAMETERS = [(), (1,), (7,), (5, 1), (5, 7), (1, 7), (3, 5, 7), (3, 1, 1), (1, 5, 1)]


@pytest.mark.parametrize("shapes", list(itertools.pairwise(PARAMETERS)), ids=str)
def test_parameters_by_period(shapes):
    """Neuron n reads value n modulo the period."""
    neurons = torch.Size((3, 5, 7))
    given = [torch.randn(shape) for shape in shapes]
    period, (*found, nothing) = periodic(neurons, *given, None)
    assert nothing is None
    for tensor, one in zip(given, found, strict=True):
        assert one.is_contiguous()
        assert one.numel() == period
        assert torch.equal(one.flatten()[torch.arange(105) % period], tensor.expand(neurons).flatten())
    assert period == 1 or max(t.numel() for t in given) > 1


# Launches ------------------------------------------------------------------------------------------------------------


class Spy:
    """A kernel that keeps what it is launched with."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
        self.launches: list[dict[str, Any]] = []

    def __getitem__(self, grid: tuple[int]) -> Any:
        def launch(**arguments: Any) -> None:
            self.launches.append(arguments | {"grid": grid})
            self.kernel[grid](**arguments)

        return launch


@pytest.fixture
def spies(monkeypatch):
    """Every kernel, spied upon."""
    found = {name: Spy(kernel) for name, kernel in vars(lif).items() if name.endswith("_kernel")}
    assert len(found) == 6
    for name, spy in found.items():
        monkeypatch.setattr(lif, name, spy)
    return found


@pytest.mark.parametrize(("width", "size"), [(72, 256), (75, 128)], ids=["pairs", "no pairs"])
def test_many_neurons(spies, width, size):
    """Large programs compute what small ones do, and come in pairs only where a pair lies side by side."""
    case = made(17, 2, width, learn=False, surrogate="boxcar", reset="subtract")
    few = check("triton", case)
    with tuned.forced("lif_triton", LARGE):
        many = check("triton", case)
    identical(many.spikes, few.spikes, "spikes")
    for name, gradient in few.gradients.items():
        identical(many.gradients[name], gradient, name)
    for name in ("forward_kernel", "backward_kernel"):
        small, large = spies[name].launches
        assert (small["BLOCK"], small["num_warps"], small["grid"]) == (32, 1, (-(-2 * width // 32),))
        assert (large["BLOCK"], large["num_warps"], large["grid"]) == (size, 4, (-(-2 * width // size),))


def test_what_fits_no_pair(spies):
    """Two neurons per thread only where registers hold them."""
    with tuned.forced("lif_triton", LARGE):
        for dtype, learn in ((torch.float32, True), (torch.float64, False)):
            check("triton", made(3, 2, 72, dtype=dtype, learn=learn))
    assert [launch["BLOCK"] for launch in spies["forward_kernel"].launches] == [256, 128]
    assert [launch["BLOCK"] for launch in spies["backward_kernel"].launches] == [128, 128]


def test_no_launch_fuses(spies):
    """One fused multiply-add would flip spikes; the default of Triton depends on its version."""
    x = torch.randn(3, 4)
    with nk.backend("triton"):
        for function in (lambda x: nk.lif(x, decay=0.5).spikes, lambda x: nk.leaky_integrate(x, decay=0.5)):
            torch.func.jvp(function, (x,), (x,))
            function(x.clone().requires_grad_()).sum().backward()
    for spy in spies.values():
        assert spy.launches
        assert all(launch["enable_fp_fusion"] is False for launch in spy.launches)
