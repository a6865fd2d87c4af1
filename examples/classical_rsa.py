"""A classical representational similarity analysis: images, responses, RDMs, models, and intervals of their fits.

python examples/classical_rsa.py
"""

import torch
from matplotlib import pyplot
from scipy.spatial.distance import squareform
from torch import nn
from torch.nn import functional as F

import neurokernels as nk

torch.manual_seed(0)
digits = nk.data.load("digits")
labels = torch.arange(10).repeat_interleave(6)
images = torch.cat([digits.test_images[digits.test_labels == digit][:6] for digit in range(10)])[:, None]
brains = [nk.data.gabor_population(images, neurons=80, seed=seed, repeats=4).responses for seed in range(8)]
network = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
for _ in range(200):
    loss = F.cross_entropy(network(digits.train_images / 255), digits.train_labels)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
data = nk.rdm(torch.stack(brains))  # [subjects, pairs]
pixels, hidden = (nk.rdm(x.detach().flatten(1)) for x in (images / 255, network[:3](images / 255)))
models = {"pixels": pixels, "network": hidden, "category": nk.rdm(F.one_hot(labels).float(), metric="euclidean")}
rdms = torch.stack(list(models.values()))
fits = nk.compare_rdms(rdms, data, method="rho_a").mean(-1)  # over subjects
samples = nk.bootstrap_rdms(rdms, data, method="rho_a", resample="both").mean(-1)
low, high = torch.nanquantile(samples, torch.tensor([0.025, 0.975]), dim=0)
axes = pyplot.figure(figsize=(12, 3)).subplots(1, 4)
for axis, (name, rdm) in zip(axes, {"brains": data.mean(0), **models}.items(), strict=True):
    axis.set_title(name)
    axis.imshow(squareform(rdm))
pyplot.savefig("classical_rsa.png")
for name, fit, *interval in zip(models, fits, low, high, strict=True):
    print(f"{name:9} rho-a {fit:.3f}, 95 % of resamples in [{interval[0]:.3f}, {interval[1]:.3f}]")
