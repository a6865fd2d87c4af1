"""A spiking classifier in your own training loop: scikit-learn's digits, some seconds on a laptop.

python examples/train_digits.py
"""

import torch
from torch import nn
from torch.nn import functional as F

import neurokernels as nk

STEPS, EPOCHS, BATCH = 50, 8, 32

torch.manual_seed(0)
digits = nk.data.load("digits")
train, test = (images.flatten(1).float() / 255 for images in (digits.train_images, digits.test_images))
model = nn.Sequential(
    nn.Linear(64, 128),
    nk.nn.LIF(128, decay=0.9, learn="decay", surrogate="atan"),
    nn.Linear(128, 10),
    nk.nn.LeakyReadout(10, floor=None),
)
optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
for epoch in range(1, EPOCHS + 1):
    for chosen in torch.randperm(len(train)).split(BATCH):
        spikes = nk.encoders.poisson(train[chosen], STEPS, rate=0.3)  # [T, batch, pixels]
        loss = F.cross_entropy(model(spikes) / STEPS, digits.train_labels[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        answers = model(nk.encoders.poisson(test, STEPS, rate=0.3)).argmax(1)
    accuracy = (answers == digits.test_labels).double().mean()
    print(f"epoch {epoch:2d}  loss {loss:.3f}  test accuracy {100 * accuracy:.1f} %")
