"""How networks start."""

import torch
from torch import nn


def glorot(net: nn.Module, seed: int) -> None:
    """Glorot uniform weights and zero biases: the same for a seed on every device, where the network is on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        else:
            nn.init.xavier_uniform_(parameter, generator=generator)


def he(net: nn.Module, seed: int) -> None:
    """He normal convolutions, Glorot uniform dense layers, normalisations that change nothing, zero biases."""
    generator = torch.Generator().manual_seed(seed)
    for part in net.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        elif isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight, generator=generator)
        if isinstance(part, nn.Conv2d | nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)
