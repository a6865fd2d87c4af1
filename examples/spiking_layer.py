"""A spiking layer in place of a loop over time: gradients through 200 steps, and a stream cut into pieces.

python examples/spiking_layer.py
"""

import torch

import neurokernels as nk

torch.manual_seed(0)
current = (0.3 * torch.rand(200, 32, 64)).requires_grad_()  # [T, batch, neurons]
decay = torch.full((64,), 0.9, requires_grad=True)  # one per neuron, trainable

out = nk.lif(current, decay=decay, reset="subtract", surrogate=nk.surrogate.atan(2.0))
rate = out.spikes.mean()
(rate - 0.05).square().backward()
print(nk.explain("lif", current))
print(f"mean rate {rate:.4f}, gradient norms: current {current.grad.norm():.3g}, decay {decay.grad.norm():.3g}")

state, pieces = None, []
with torch.no_grad():
    for piece in current.split(50):
        step = nk.lif(piece, decay=decay, reset="subtract", v0=state)
        pieces.append(step.spikes)
        state = step.state
print("four pieces of 50 steps spike exactly as 200 at once:", torch.equal(torch.cat(pieces), out.spikes))
