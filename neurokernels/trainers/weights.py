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
