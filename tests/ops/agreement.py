"""What it means that a backend computes LIF: one check that grids, fuzzers, residual modes and mutants share."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

import neurokernels as nk
from neurokernels import surrogate as surrogates
from neurokernels._core import accuracy, backends
from tests import definitions
from tests.leaves import Leaves
from tests.ops import golden

#: Every surrogate by name, and one as a table.
TABLE = surrogates.tabulated([0.1, 0.3, 0.9, 1.2, 0.7, 0.2, 0.4], low=-1.2, high=0.8)
SURROGATES = (*surrogates.NAMED, TABLE)

PARAMETERS = ("decay", "threshold", "gain", "v_reset")


@dataclass(frozen=True)
class Case:
    """A call of `neurokernels.lif`; ``x`` may be laid out in any way, with time first."""

    x: Tensor
    parameters: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)
    v0: Tensor | None = None
    countdown: Tensor | None = None

    def neuron(self) -> golden.Neuron:
        """The same for `golden`."""
        options = {name: value for name, value in self.options.items() if name != "residual"}
        chosen = options.get("surrogate")
        if isinstance(chosen, surrogates.Surrogate):
            assert chosen.table is not None
            options["surrogate"] = ("tabulated", (chosen.table.numpy(), chosen.low, chosen.high))
        state = torch.promote_types(self.x.dtype, torch.float32)
        rounded = {k: torch.as_tensor(v, dtype=state) for k, v in self.parameters.items()}
        parameters = {k: v.detach().double().numpy() for k, v in rounded.items()}
        return golden.Neuron(**parameters, **options)

    def with_(self, **changes: Any) -> "Case":
        """The same with other options."""
        return replace(self, options=self.options | changes)


@dataclass(frozen=True)
class Outcome:
    """What came out."""

    spikes: Tensor
    membrane: Tensor
    countdown: Tensor | None
    gradients: dict[str, Tensor]


def directions(case: Case) -> tuple[Tensor, Tensor]:
    """Gradients that come in: of the spikes, and of the membrane."""
    generator = torch.Generator().manual_seed(11)
    state = torch.promote_types(case.x.dtype, torch.float32)
    g = torch.randn(case.x.shape, dtype=torch.float64, generator=generator).to(case.x.device, case.x.dtype)
    a = torch.randn(case.x.shape[1:], dtype=torch.float64, generator=generator)
    return g, a.to(case.x.device, state)


def outcome(function: Any, case: Case) -> Outcome:
    """Runs ``function``, with the signature of `neurokernels.lif`, forward and backward."""
    given = {k: v.detach().requires_grad_() for k, v in case.parameters.items() if isinstance(v, Tensor)}
    given["x"] = case.x.detach().requires_grad_()
    if case.v0 is not None:
        given["v0"] = case.v0.detach().requires_grad_()
    v0 = (given["v0"], case.countdown) if case.countdown is not None else given.get("v0")
    fixed = {k: v for k, v in case.parameters.items() if k not in given}
    arguments = {k: v for k, v in given.items() if k != "v0"}
    spikes, membrane, state = function(**arguments, **fixed, **case.options, v0=v0)
    countdown = state.countdown if isinstance(state, nk.LIFOutput.__annotations__["state"]) else state
    outputs = [(o, d) for o, d in zip((spikes, membrane), directions(case), strict=True) if o.requires_grad]
    found = torch.autograd.grad(
        [o for o, _ in outputs], list(given.values()), [d for _, d in outputs], materialize_grads=True
    ) if outputs else [torch.zeros_like(t) for t in given.values()]  # fmt: skip
    return Outcome(spikes.detach(), membrane.detach(), countdown, dict(zip(given, found, strict=True)))


def on(backend: str, case: Case) -> Outcome:
    """Runs `neurokernels.lif` on a forced backend and asserts that it ran, forward and backward."""
    with nk.backend(backend), backends.record() as ran:
        result = outcome(nk.lif, case)
    assert ran == [("lif", backend)] * 2
    return result


def identical(got: Tensor | None, expected: Tensor | None, name: str) -> None:
    """Asserts equality bit for bit, but for the signs of zeros and NaNs."""
    if expected is None:
        assert got is None
        return
    torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True, msg=lambda m: f"{name}: {m}")


def forward_agrees(result: Outcome, case: Case) -> golden.Run:
    """Spikes, membrane and countdown are those of the definition and of `golden`, bit for bit."""
    with torch.no_grad():
        v0 = case.v0 if case.countdown is None else (case.v0, case.countdown)
        spikes, membrane, countdown = definitions.lif(case.x, **case.parameters, **case.options, v0=v0)
    run = golden.forward(
        case.x.to(membrane.dtype).numpy(),
        case.neuron(),
        None if case.v0 is None else case.v0.numpy(),
        None if case.countdown is None else case.countdown.numpy(),
    )
    for expected in ((spikes, membrane, countdown), (torch.tensor(run.spikes), torch.tensor(run.membrane), countdown)):
        identical(result.spikes, expected[0].to(case.x.dtype), "spikes")
        identical(result.membrane, expected[1], "membrane")
        identical(result.countdown, expected[2], "countdown")
    if countdown is not None:
        identical(result.countdown, torch.tensor(run.countdown), "countdown")
    return run


def exact_gradients(case: Case, decided: golden.Run) -> golden.Gradients:
    """The gradients in float64, of the spikes that were decided in the dtype of the state."""
    x, neuron = case.x.double().numpy(), case.neuron()
    v0 = None if case.v0 is None else case.v0.double().numpy()
    countdown = None if case.countdown is None else case.countdown.numpy()
    run = golden.forward(x, neuron, v0, countdown, decided.decisions)
    g, a = (d.double().numpy() for d in directions(case))
    return golden.backward(run, x, neuron, g, a)


def agrees(result: Outcome, case: Case, ulps: float = 4.0) -> None:
    """The whole promise: `forward_agrees`, and every gradient within the accuracy rule.

    The gradient of a parameter that several neurons share is a sum whose terms may cancel: it is allowed the rounding
    of its terms, not of what is left of them.
    """
    decided = forward_agrees(result, case)
    exact, reference = exact_gradients(case, decided), outcome(definitions.lif, case)
    for name, gradient in result.gradients.items():
        value, cancels = torch.tensor(getattr(exact, name)), 1.0
        if name in PARAMETERS:
            terms = torch.tensor(exact.magnitude[name]).sum_to_size(gradient.shape)
            value = value.sum_to_size(gradient.shape)
            cancels = float(terms.max() / value.abs().max().clamp(min=1e-300)) if value.numel() else 1.0
        assert gradient.dtype == reference.gradients[name].dtype
        accuracy.check(
            gradient,
            reference.gradients[name],
            value,
            factor=accuracy.BACKWARD,
            ulps=ulps * max(cancels, 1.0) * (16 if case.x.dtype == torch.float64 else 1),
            name=f"gradient of {name}",
        )


def check(backend: str, case: Case, ulps: float = 4.0) -> Outcome:
    """`agrees` of one backend."""
    result = on(backend, case)
    agrees(result, case, ulps)
    return result


def calls(backend: str, case: Case) -> list[tuple[Any, tuple[Any, ...], Any]]:
    """The calls of the forward and of the backward leaf op, with arguments and outputs."""
    with Leaves() as recorded:
        on(backend, case)
    return recorded.calls


def residuals_hold(backend: str, case: Case) -> None:
    """What is kept for the backward pass is what `neurokernels.ops.lif.rule` says, in every mode."""
    run = forward_agrees(on(backend, case), case)
    words, none = calls(backend, case.with_(residual="bits"))[0][2][3:]
    assert none.numel() == 0
    live = ~torch.tensor(run.resting | run.decisions.low)
    for t in range(len(case.x)):
        bits = words[t // 16] >> (2 * (t % 16))
        identical((bits & 1).bool(), live[t] & torch.tensor(run.decisions.inside[t]), f"bit 0 of step {t}")
        identical((bits & 2).bool(), live[t] & ~torch.tensor(run.decisions.resets[t]), f"bit 1 of step {t}")
    countdowns = torch.tensor(run.counts[16::16]).clamp(max=255).to(torch.uint8)
    checkpoints, counts = calls(backend, case.with_(residual="recompute"))[0][2][3:]
    identical(checkpoints, torch.tensor(run.before[16::16]), "checkpoints")
    identical(counts, countdowns, "countdowns")
    membranes, counts = calls(backend, case.with_(residual="membrane"))[0][2][3:]
    identical(membranes, torch.tensor(run.u), "membranes")
    identical(counts, countdowns, "countdowns")


def made(
    steps: int,
    *neurons: int,
    dtype: torch.dtype = torch.float32,
    learn: bool = True,
    seed: int = 0,
    state: bool = True,
    **options: Any,
) -> Case:
    """A random case in which neurons spike about every fourth step."""
    generator = torch.Generator().manual_seed(seed)
    wide = torch.promote_types(dtype, torch.float32)

    def uniform(low: float, high: float, *size: int) -> Tensor:
        return (low + (high - low) * torch.rand(size, dtype=torch.float64, generator=generator)).to(wide)

    x = torch.randn(steps, *neurons, dtype=torch.float64, generator=generator).mul(0.7).add(0.2).to(dtype)
    width = neurons[-1:]
    parameters = {
        "decay": uniform(0.5, 1.0, *width),
        "threshold": uniform(0.6, 1.1, *width),
        "gain": uniform(0.8, 1.2, *neurons),
        "v_reset": uniform(-0.2, 0.2),
    }
    fixed = {"decay": 0.83, "threshold": 0.9, "gain": 1.1, "v_reset": -0.1}
    v0 = uniform(-0.5, 0.5, *neurons) if state else None
    countdown = None
    if state and options.get("refractory"):
        countdown = torch.randint(0, options["refractory"] + 1, neurons, dtype=torch.int32, generator=generator)
    return Case(x, parameters if learn else fixed, options, v0, countdown)


def lattice(steps: int, *neurons: int, seed: int = 0, **options: Any) -> Case:
    """A case on a lattice of binary fractions: membranes hit threshold and floor exactly, again and again."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-3, 5, (steps, *neurons), generator=generator).float() / 4
    return Case(x, {"decay": 0.5, "threshold": 0.75, "gain": 1.0, "v_reset": 0.25}, options)


def numpy(tensor: Tensor) -> np.ndarray:
    """As an array of float64."""
    return tensor.detach().double().numpy()


def special_values_hold(backend: str) -> None:
    """NaN stays in its neuron, infinities reset, as in the reference: selects, not products."""
    x = torch.zeros(4, 4)
    x[1] = torch.tensor([torch.nan, torch.inf, -torch.inf, 2.0])
    for options in ({"floor": -1.0}, {"reset": "subtract"}, {"refractory": 1}, {"surrogate": "boxcar"}):
        fixed = {"decay": 0.5, "surrogate": "triangle"} | options
        results = {}
        for name in (backend, "reference"):
            with nk.backend(name), backends.record() as ran:
                leaf = x.clone().requires_grad_()
                out = nk.lif(leaf, **fixed)
                results[name] = *out[:2], *torch.autograd.grad(out.spikes.sum() + out.membrane.sum(), leaf)
            assert ran == [("lif", name)] * 2
        for ours, theirs in zip(*results.values(), strict=True):
            identical(ours, theirs, str(options))


def thresholds_hold(backend: str, steps: int, neurons: int, reset_at: str) -> None:
    """On a lattice membranes hit threshold and floor exactly, and the box of the surrogate reaches below the floor."""
    for reset, chosen in (("zero", ("boxcar", 0.2)), ("subtract", "triangle")):
        case = lattice(steps, neurons, reset=reset, reset_at=reset_at, floor=-0.5, surrogate=chosen)
        check(backend, case)
        check(backend, case.with_(refractory=2))
