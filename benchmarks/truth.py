"""What a LIF layer's spikes and input gradient are, in float64, and whether others agree: the gate of `bench_lif`."""

import torch
from torch import Tensor

from benchmarks.peers import LIF, unbind

#: Distance from a threshold, in thresholds, within which rounding in float32 may tip a spike.
TIP = 2e-6
#: Share of neurons that may be tipped.
TIPPED = 0.01


class Truth:
    """The float64 result on a sample of neurons; neurons know nothing of each other, so that a sample is exact.

    Args:
        x: Input, ``[T, *batch, *neurons]``.
        g: Gradient of the loss with respect to the spikes, like ``x``.
        config: The layer.
        neurons: The most neurons to look at. An odd stride walks over them: every lane of a kernel has its turn.

    Attributes:
        spikes: The spikes of the sample, ``[T, sample]``.
    """

    def __init__(self, x: Tensor, g: Tensor, config: LIF, neurons: int = 32768) -> None:
        count = x[0].numel()
        self._index = torch.arange(0, count, -(-count // neurons) | 1, device=x.device)
        self._config = config
        sample = self._pick(x).double().requires_grad_()
        spikes = unbind.lif(sample, config)
        self.spikes = spikes.detach()
        (self._dx,) = torch.autograd.grad(spikes, sample, self._pick(g).double())
        self._delicate = self._find_delicate(sample.detach())

    def __call__(self, results: tuple[Tensor, ...]) -> str | None:
        """Judges ``(spikes,)`` or ``(spikes, dx)``: what is wrong in a sentence, or None."""
        spikes = self._pick(results[0].detach())
        differs = (spikes.double() != self.spikes).any(0)
        if len(results) > 1:
            differs |= self._wrong_gradient(results[1])
        unexplained = differs & ~self._delicate
        if unexplained.any():
            return f"{int(unexplained.sum())} of {differs.numel()} neurons disagree with the float64 result"
        if differs.float().mean() > TIPPED:
            return f"{int(differs.sum())} of {differs.numel()} neurons disagree at thresholds: more than rounding does"
        return None

    def _wrong_gradient(self, dx: Tensor) -> Tensor:
        relative = 1e-4 if dx.dtype in (torch.float32, torch.float64) else torch.finfo(dx.dtype).eps
        error = (self._pick(dx).double() - self._dx).abs()
        wrong = ~(error <= relative * self._dx.abs() + 1e-5 * self._dx.abs().max())  # so that a NaN is wrong
        return wrong.any(0)

    def _pick(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], -1)[:, self._index]

    def _find_delicate(self, x: Tensor) -> Tensor:
        """Neurons that come within rounding of a threshold or of a boxcar's edge, ``[neurons]``."""
        config, v = self._config, torch.zeros_like(x[0])
        delicate = torch.zeros_like(v, dtype=torch.bool)
        edge = 0.5 / config.alpha if config.surrogate == "boxcar" else 0.0
        for current, s in zip(x, self.spikes, strict=True):
            u = config.decay * v + config.gain * current
            y = (u - config.threshold).abs()
            delicate |= torch.minimum(y, (y - edge).abs()) <= TIP * config.threshold
            v = u * (1 - s) if config.reset == "zero" else u - config.threshold * s if config.reset == "subtract" else u
        return delicate
