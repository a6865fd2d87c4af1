"""Which pairs of pulses make a neuron fire? NumPy in, NumPy out; no PyTorch in sight.

python examples/pulses_numpy.py
"""

import numpy as np

import neurokernels as nk

LEAK, LONGEST = 0.1, 20
weights = np.linspace(0.5, 1.0, 6)
gaps = np.arange(1, LONGEST + 1)
current = np.zeros((LONGEST + 1, len(gaps), len(weights)))  # [T, gaps, weights]
current[0] = weights
current[gaps, gaps - 1] = weights  # the second pulse, so many steps later

fired = nk.lif(current, decay=1 - LEAK).spikes.any(0)
longest = np.where(fired.any(0), LONGEST - fired[::-1].argmax(0), 0)
for weight, gap in zip(weights, longest, strict=True):
    limit = np.log(1 / weight - 1) / np.log(1 - LEAK) if weight < 1 else np.inf
    print(f"weight {weight:.1f}: two pulses fire up to {gap:2d} steps apart (formula: {limit:.2f})")
