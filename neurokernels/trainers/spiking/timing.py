"""What the fused op is worth: a whole training step and the LIF layer alone, raced against plain PyTorch loops."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from neurokernels.bench import Group, Row, race
from neurokernels.encoders import Events
from neurokernels.trainers.spiking.network import SpikingNet
from neurokernels.trainers.spiking.settings import Settings
from neurokernels.trainers.spiking.trainer import Learner


def race_networks(net: SpikingNet, settings: Settings, events: Events, labels: Tensor) -> list[Group]:
    """Times one batch, fused and plain in turn, on copies of a network; what computes something else gets no time.

    Returns:
        Two groups with the rows ``fused`` and ``plain``: forward, backward and Adam of the whole network; forward and
        backward of its LIF layer.
    """
    with torch.no_grad():
        current = net.dense(events).contiguous()
        expected = net(events).softmax(1)
        spikes = net.lif(current)
    # hundreds of steps on one batch would end in denormal gradients, which are slow and which no real training meets
    still = replace(settings, learning_rate=0.0)
    learners = {name: Learner(copy, still) for name, copy in (("fused", deepcopy(net)), ("plain", net.as_plain()))}
    cells = {"fused": net.lif, "plain": net.as_plain().lif}
    leaf, upstream = current.clone().requires_grad_(), torch.randn_like(current)

    def step(name: str) -> Any:
        return lambda pixels, offsets: learners[name].step(Events(pixels, offsets, events.shape), labels)

    def layer(name: str) -> Any:
        cell = cells[name]

        def call(current: Tensor, upstream: Tensor) -> Tensor:
            out: Tensor = cell(current)
            torch.autograd.grad(out, (current, *cell.parameters()), upstream)
            return out

        return call

    def same_loss(found: tuple[Tensor, Tensor]) -> str | None:
        return None if abs(float(found[0]) - loss) <= 1e-6 * loss else f"the loss is {float(found[0])}, expected {loss}"

    def same_spikes(found: Tensor) -> str | None:
        return None if torch.equal(found, spikes) else f"{int((found != spikes).sum())} spikes differ"

    target = torch.nn.functional.one_hot(labels, expected.shape[1]).to(expected.dtype)
    loss = float((expected - target).square().mean())
    threads = torch.get_num_threads()
    return [
        race(
            "training step", [Row(name, step(name), ours=name == "fused") for name in cells],
            op="lif", inputs=(events.pixels, events.offsets), gate=same_loss, threads=threads,
        ),
        race(
            "LIF layer", [Row(name, layer(name), ours=name == "fused") for name in cells],
            op="lif", inputs=(leaf, upstream), gate=same_spikes, threads=threads,
        ),
    ]  # fmt: skip
