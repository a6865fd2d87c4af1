"""Whitening as a layer: batch statistics in training, running statistics afterwards."""

from typing import Any

import torch
from torch import Tensor, nn

from neurokernels._core import checks
from neurokernels._core.covariance import compute_dtype, full_precision
from neurokernels.ops.cca.whitening import check_options, whitened
from neurokernels.ops.cca.whitening_reference import transform

_OP = "nn.Whitening"


class Whitening(nn.Module):
    """Decorrelates features and gives them unit variance: batch normalisation with the whole covariance matrix.

    Decorrelated batch normalisation (Huang et al. 2018, arXiv 1804.08450) is ``method="zca"``. The axes of pca may swap
    from batch to batch, which is why that paper advises against it in a network.

    In training the statistics are those of the batch, and running averages of the mean and of the covariance (divided
    by N - 1) are kept in buffers. In evaluation mode these are used; the transform made of them is kept until they
    change (in a compiled graph it is made in each call). Before the first batch they are those of white data.

    Args:
        features: Channels, the second dimension of the input.
        method: ``"zca"``, ``"pca"`` or ``"cholesky"``: see `neurokernels.whiten`.
        eps: Added to the variances, > 0.
        momentum: Weight of a new batch in the running averages; None averages all batches alike, as in
            `torch.nn.BatchNorm1d`.
        groups: The features are cut into so many groups of neighbours, each of which is whitened for itself: cheaper,
            and better behaved where a batch has few samples for many features.

    Shape:
        ``[N, features]`` or ``[N, features, ...]``, whose places count as samples, to the same; float32, or float64 for
        float64 input.

    Attributes:
        running_mean: ``[features]``.
        running_covariance: ``[groups, features / groups, features / groups]``.
        num_batches_tracked: How many batches there were.

    Raises:
        TypeError: An argument has the wrong type, or the input is not floating point.
        ValueError: An argument has a wrong value, or the input a wrong shape; in training, fewer than 2 samples.
    """

    running_mean: Tensor
    running_covariance: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self,
        features: int,
        *,
        method: str = "zca",
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.features, self.groups = checks.count(_OP, "features", features, 1), checks.count(_OP, "groups", groups, 1)
        if self.features % self.groups:
            checks.value_error(_OP, "groups", f"a divisor of features = {features}", groups)
        self.method, self.eps = method, check_options(_OP, method, eps)
        self.momentum = None if momentum is None else checks.number(_OP, "momentum", momentum, 0, 1)
        size = self.features // self.groups
        self.register_buffer("running_mean", torch.zeros(self.features))
        self.register_buffer("running_covariance", torch.eye(size).repeat(self.groups, 1, 1))
        self.register_buffer("num_batches_tracked", torch.tensor(0))
        self._kept: tuple[Tensor, int, Tensor] | None = None

    def reset_running_stats(self) -> None:
        """Forgets all batches."""
        self.running_mean.zero_()
        self.running_covariance.copy_(torch.eye(self.running_covariance.shape[-1]))
        self.num_batches_tracked.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """The whitened input."""
        checks.floating(_OP, "x", x)
        if x.ndim < 2 or x.shape[1] != self.features:
            due = f"[N, {self.features}] or [N, {self.features}, ...]"
            checks.value_error(_OP, "x", due, f"shape {tuple(x.shape)}")
        places = x.movedim(1, -1)
        samples = places.reshape(-1, self.groups, self.features // self.groups).transpose(0, 1)
        y = self._of_batch(samples) if self.training else self._of_running(samples)
        return y.transpose(0, 1).reshape(places.shape).movedim(-1, 1)

    def _of_batch(self, samples: Tensor) -> Tensor:
        if samples.shape[1] < 2:
            got = f"{samples.shape[1]} of them"
            checks.value_error(_OP, "x", "of at least 2 samples in training: one has no variance", got)
        y, mean, covariance = whitened(samples, self.method, self.eps, True)
        self._kept = None
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            for running, new in ((self.running_mean, mean.flatten()), (self.running_covariance, covariance)):
                weight: Any = self.momentum
                if weight is None:
                    weight = self.num_batches_tracked.reciprocal().to(running.dtype)
                running.lerp_(new.to(running.dtype), weight)
        return y

    def _of_running(self, samples: Tensor) -> Tensor:
        dtype = torch.promote_types(compute_dtype(samples), self.running_mean.dtype)
        centred = samples.to(dtype) - self.running_mean.view(self.groups, 1, -1)
        with full_precision(samples):
            return centred @ self._transform().to(dtype)

    def _transform(self) -> Tensor:
        """Of the running covariance; made anew where that is another tensor, or was written to."""
        covariance = self.running_covariance
        tracked = not torch.compiler.is_compiling() and not covariance.is_inference()
        if tracked and self._kept and self._kept[0] is covariance and self._kept[1] == covariance._version:
            return self._kept[2]
        # A tensor that is made in inference mode could not be used outside later on.
        with torch.no_grad(), full_precision(covariance):
            if not tracked:
                return transform(covariance.to(compute_dtype(covariance)), self.method, self.eps)[0]
            with torch.inference_mode(False):
                made = transform(covariance.to(compute_dtype(covariance)), self.method, self.eps)[0]
        self._kept = covariance, covariance._version, made
        return made

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kept": None}  # a copy counts its own versions

    def extra_repr(self) -> str:
        """The settings, for ``print(model)``."""
        groups = f", groups={self.groups}" if self.groups > 1 else ""
        return f"{self.features}, method={self.method!r}, eps={self.eps:g}, momentum={self.momentum}{groups}"
