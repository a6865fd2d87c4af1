"""The checks have teeth: each of these broken variants of the reference backend fails what the right one passes."""

import pytest
import torch

from neurokernels.ops.lif import reference
from tests.contract import test_layouts, test_purity, test_sizes, test_transforms
from tests.contract.entries.lif import LEAKY_INTEGRATE, LIF
from tests.ops import agreement, test_leaky
from tests.ops.agreement import lattice, made

through, step, pass_and_keep = reference._through, reference._step, reference._pass_and_keep
forward, backward, neurons, clamp = reference.forward, reference.backward, reference._neurons, reference.clamp
reset_tangent, leaky_forward = reference._reset_tangent, reference.leaky_forward
leaky_backward, leaky_jvp = reference.leaky_backward, reference.leaky_jvp


def agrees(**how):
    """The check of agreement with the definition, for a case."""
    case = lattice(20, 30, **how) if how.pop("lattice", False) else made(37, 4, 5, **how)
    return lambda: agreement.check("reference", case)


def residuals_hold():
    agreement.residuals_hold("reference", made(50, 6, learn=False, surrogate="boxcar", refractory=3, floor=-0.4))


def with_rule(changes):
    """A step under another rule."""
    return lambda n, *rest: step(n._replace(rule=n.rule._replace(**changes(n.rule))), *rest)


def with_step(function, **changes):
    """The backward of a step of which something was forgotten."""
    return lambda n, s, *rest: function(n, s._replace(**{k: change(s) for k, change in changes.items()}), *rest)


def never(name):
    return {name: lambda s: torch.zeros_like(getattr(s, name))}


def fused(n, x_t, c, left):
    """The membrane as a fused multiply-add would round it."""
    u = (n.decay.double() * c.double() + (n.gain * x_t).double()).to(c.dtype)
    return step(n._replace(decay=torch.ones_like(u), gain=torch.zeros_like(u)), x_t, u, left)._replace(before=c)


def half_state(n, x_t, c, left):
    """A membrane that is carried in bfloat16."""
    s = step(n, x_t, c, left)
    return s._replace(after=s.after.bfloat16().to(c.dtype))


def without(position):
    """One of the three results of a step's backward is lost."""
    return lambda *given: tuple(torch.zeros_like(r) if i == position else r for i, r in enumerate(through(*given)))


def without_decay(g, *rest):
    """Backward with a_{t-1} = z_t: the membranes were kept, so that nothing else uses the decay."""
    try:
        reference._neurons = lambda *given: (n := neurons(*given))._replace(decay=torch.ones_like(n.decay))
        return backward(g, *rest)
    finally:
        reference._neurons = neurons


def changed(function, change):
    """The outputs of a leaf op after ``change``, which may write to them."""

    def mutant(*given):
        out = function(*given)
        change(*out)
        return out

    return mutant


def shifted(spikes, membrane, countdown, residual, counts):
    residual.copy_(residual.roll(1, 0))


def shifted_counts(spikes, membrane, countdown, residual, counts):
    counts.copy_(counts.roll(1, 0))


def unwritten(spikes, *_):
    spikes[-1:] = torch.empty_like(spikes[-1:])


def swapped(*found):
    x, v0, decay, threshold, gain, v_reset = found
    return x, v0, gain, threshold, decay, v_reset


ATTACHED = {"detach_reset": False}
SUBTRACT = {"reset": "subtract"}
FLOOR = {"floor": -0.3}
REST = {"refractory": 2}
BITS = {"learn": False, "surrogate": "boxcar"}

MUTANTS = {
    "the surrogate has the wrong sign": (agrees(), "_through", lambda n, s, g, a, d: through(n, s, g, a, -d)),
    "the surrogate is forgotten": (agrees(), "_through", lambda n, s, g, a, d: through(n, s, g, a, torch.ones_like(d))),
    "resets above where it should reach": (agrees(lattice=True), "_step", with_rule(lambda r: {"above": True})),
    "resets where it should be above": (
        agrees(lattice=True, reset_at="above"),
        "_step",
        with_rule(lambda r: {"above": False}),
    ),
    "spikes above": (
        agrees(lattice=True),
        "_step",
        lambda *a: (s := step(*a))._replace(fires=s.fires & (s.u > a[0].threshold)),
    ),
    "no floor": (agrees(**FLOOR), "_step", with_rule(lambda r: {"has_floor": False})),
    "no floor anywhere": (agrees(**FLOOR), "clamp", lambda u, rule: (u, torch.zeros_like(u, dtype=torch.bool))),
    "no floor in the backward pass": (agrees(**FLOOR), "_through", with_step(through, **never("low"))),
    "no floor in the bits": (agrees(**FLOOR, **BITS), "_pass_and_keep", with_step(pass_and_keep, **never("low"))),
    "refractory steps pass gradients": (agrees(**REST), "_through", with_step(through, **never("resting"))),
    "refractory bits pass gradients": (
        agrees(**REST, **BITS),
        "_pass_and_keep",
        with_step(pass_and_keep, **never("resting")),
    ),
    "a refractory step too few": (agrees(**REST), "_step", with_rule(lambda r: {"refractory": r.refractory - 1})),
    "resets keep their gradient": (agrees(), "_through", with_step(through, **never("resets"))),
    "the keep bit is dropped": (
        agrees(**BITS),
        "_pass_and_keep",
        lambda *a: (pass_and_keep(*a)[0], torch.zeros(4, 5).bool()),
    ),
    "the keep bit is always set": (
        agrees(**BITS),
        "_pass_and_keep",
        lambda *a: (pass_and_keep(*a)[0], torch.ones(4, 5).bool()),
    ),
    "the pass bit is always set": (
        agrees(**BITS),
        "_pass_and_keep",
        lambda *a: (torch.ones(4, 5).bool(), pass_and_keep(*a)[1]),
    ),
    "the decay is missing backwards": (agrees(residual="membrane"), "backward", without_decay),
    "the threshold has no gradient": (agrees(), "_through", without(1)),
    "v_reset has no gradient": (agrees(), "_through", without(2)),
    "decay and gain swap gradients": (agrees(), "backward", lambda *a: swapped(*backward(*a))),
    "an attached reset is detached": (
        agrees(**ATTACHED),
        "_through",
        lambda n, *a: through(n._replace(rule=n.rule._replace(detach=True)), *a),
    ),
    "a detached reset is attached": (
        agrees(**SUBTRACT),
        "_through",
        lambda n, *a: through(n._replace(rule=n.rule._replace(detach=False)), *a),
    ),
    "the state is bfloat16": (agrees(), "_step", half_state),
    "multiply and add are fused": (agrees(state=False), "_step", fused),
    "the last step is not written": (agrees(), "forward", changed(forward, unwritten)),
    "a gradient is not written": (
        agrees(),
        "backward",
        changed(backward, lambda dx, *_: dx.copy_(torch.empty_like(dx))),
    ),
    "a word is in the wrong place": (residuals_hold, "forward", changed(forward, shifted)),
    "a countdown is in the wrong place": (residuals_hold, "forward", changed(forward, shifted_counts)),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_lif(monkeypatch, name):
    check, piece, mutant = MUTANTS[name]
    check()
    monkeypatch.setattr(reference, piece, mutant)
    with pytest.raises(AssertionError):
        check()


def leaky_agrees():
    test_leaky.check("reference", test_leaky.made(20, 3, 4), floor=-0.5)


def leaky_arguments(**changes):
    """The backward pass of a leaky integrator with other arguments."""
    names = ("g", "x", "trace", "decay", "gain", "v0", "numbers", "has_floor", "dtype", "wanted")

    def mutant(*given):
        named = dict(zip(names, given, strict=True))
        return leaky_backward(*(named | {k: change(named) for k, change in changes.items()}).values())

    return mutant


LEAKY_MUTANTS = {
    "no floor": ("leaky_forward", lambda *a: leaky_forward(*a[:-1], False)),
    "no floor in the backward pass": ("leaky_backward", leaky_arguments(has_floor=lambda a: False)),
    "the decay is missing backwards": ("leaky_backward", leaky_arguments(decay=lambda a: torch.ones_like(a["decay"]))),
    "the gain is missing": ("leaky_backward", leaky_arguments(gain=lambda a: torch.ones_like(a["gain"]))),
    "the trace is a step late": ("leaky_backward", leaky_arguments(trace=lambda a: a["trace"].roll(1, 0))),
    "v0 is forgotten": ("leaky_backward", leaky_arguments(v0=lambda a: torch.zeros_like(a["v0"]))),
    "the gradient has the wrong sign": ("leaky_backward", leaky_arguments(g=lambda a: -a["g"])),
    "x is a step late": ("leaky_backward", leaky_arguments(x=lambda a: a["x"].roll(1, 0))),
}


@pytest.mark.parametrize("name", LEAKY_MUTANTS)
def test_leaky_integrate(monkeypatch, name):
    leaky_agrees()
    monkeypatch.setattr(reference, *LEAKY_MUTANTS[name])
    with pytest.raises(AssertionError):
        leaky_agrees()


def in_place(*given):
    """A forward pass that writes to its input."""
    out = forward(*given)
    given[0].mul_(2)
    return out


def wandering(*given):
    """A kernel that adds the neurons of a row up: a NaN does not stay where it is."""
    out = forward(*given)
    out.membrane.add_(0 * out.membrane.sum(-1, keepdim=True))
    return out


def contiguous_only(*given):
    """A kernel that reads x as if it were contiguous."""
    x = given[0]
    storage = (
        x.as_strided((x.numel(),), (1,), x.storage_offset()) if x.untyped_storage().nbytes() >= 4 * x.numel() else x
    )
    return forward(storage.view(x.shape), *given[1:])


LEARNABLE = LIF.samples[1]
CONTRACT_MUTANTS = {
    "a tangent resets where it should not": (
        lambda: test_transforms.test_jvp(LIF, LEARNABLE, "reference"),
        "_reset_tangent",
        lambda n, s, *rest: reset_tangent(n, s._replace(resets=~s.resets), *rest),
    ),
    "a leaky tangent ignores the floor": (
        lambda: test_transforms.test_jvp(LEAKY_INTEGRATE, LEAKY_INTEGRATE.samples[2], "reference"),
        "leaky_jvp",
        lambda *a: leaky_jvp(*a[:-1], False),
    ),
    "the input is written to": (
        lambda: test_purity.test_inputs_are_unchanged(LIF, LEARNABLE, "reference"),
        "forward",
        in_place,
    ),
    "a step is not written": (
        lambda: test_purity.test_every_element_is_written(LIF, LEARNABLE, "reference"),
        "forward",
        changed(forward, unwritten),
    ),
    "neurons meet": (lambda: test_sizes.test_neurons_do_not_meet(LIF, "reference"), "forward", wandering),
    "strides are ignored": (
        lambda: test_layouts.test_inputs(LIF, LEARNABLE, "reference"),
        "forward",
        contiguous_only,
    ),
}


@pytest.mark.parametrize("name", CONTRACT_MUTANTS)
def test_contract(monkeypatch, name):
    check, piece, mutant = CONTRACT_MUTANTS[name]
    check()
    monkeypatch.setattr(reference, piece, mutant)
    with pytest.raises(AssertionError):
        check()
