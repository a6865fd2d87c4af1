"""A classical RSA, from images to a plotted RDM: what explains which digits a population of neurons finds alike?

python examples/rsa_analysis.py
"""

import torch
from matplotlib import pyplot as plt

import neurokernels as nk

torch.manual_seed(0)
# eight images of every digit, and five animals whose neurons saw them ten times
digits = nk.data.load("digits")
images = torch.cat([digits.train_images[digits.train_labels == digit][:8] for digit in range(10)]).unsqueeze(1)
digit = torch.arange(10.0).repeat_interleave(8)
animals = torch.stack([nk.data.gabor_population(images, 100, seed=seed).responses.sqrt() for seed in range(5)])

# dissimilarities: correlation distance of every two images, for each animal and for three models
measured = nk.rdm(animals, metric="correlation")
i, j = torch.triu_indices(len(images), len(images), 1)
models = {
    "pixels": nk.rdm(images.flatten(1).float()),
    "ink": (images.float().mean((1, 2, 3))[i] - images.float().mean((1, 2, 3))[j]).abs(),
    "digit": (digit[i] != digit[j]).float(),
}
predicted = torch.stack(list(models.values()))

# each model against each animal, and what other images would have given
r = nk.compare_rdms(predicted, measured, method="spearman").mean(-1)
resampled = nk.bootstrap_rdms(predicted, measured, n=1000, method="spearman")
low, high = torch.nanquantile(resampled.mean(-1), torch.tensor([0.025, 0.975]), dim=0)
for name, *values in zip(models, r, low, high, strict=True):
    print("{:8s} rho {:.3f}, 95 % of bootstraps {:.3f} to {:.3f}".format(name, *map(float, values)))

figure, axes = plt.subplots(1, 2, figsize=(8, 3.6), layout="constrained")
squares = nk.rdm(animals, condensed=False).mean(0), nk.rdm(images.flatten(1).float(), condensed=False)
for axis, square, title in zip(axes, squares, ("neurons", "pixels"), strict=True):
    axis.imshow(square)
    axis.set(title=f"dissimilarity to {title}", xticks=range(4, 80, 8), xticklabels=range(10), yticks=[])
figure.savefig("rsa_analysis.png")
