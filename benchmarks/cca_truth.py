"""How far a loss of deep CCA and its gradients are from float64: the gates of `bench_cca`."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from benchmarks.cca_contenders import Loss, trained


def relative(found: Tensor, due: Tensor) -> float:
    """The largest error, relative to the largest entry that is due."""
    largest = due.abs().max().clamp_min(torch.finfo(torch.float64).tiny)
    return float(((found.detach().double() - due).abs().max() / largest).nan_to_num(torch.inf))


class Close:
    """Value and gradients of a loss in float64, and how far others are from them.

    Args:
        loss: Stable in float64 on these inputs.
        reg: Its regularisation.
        inputs: ``x[N, D1]`` and ``y[N, D2]``.
    """

    def __init__(self, loss: Loss, reg: float, *inputs: Tensor) -> None:
        self.inputs = inputs
        self._exact = trained(loss)(*(v.detach().double().requires_grad_() for v in inputs), reg)

    def errors(self, found: Sequence[Tensor]) -> dict[str, float]:
        """Of the value and of the gradients, relative."""
        value, *gradients = (relative(a, b) for a, b in zip(found, self._exact, strict=True))
        return {"value error": value, "gradient error": max(gradients)}

    def within(self, value: float, gradient: float) -> Callable[[Sequence[Tensor]], str | None]:
        """A gate: says what is wrong in a sentence, or returns None."""
        bounds = {"value error": value, "gradient error": gradient}

        def gate(found: Sequence[Tensor]) -> str | None:
            errors = self.errors(found)
            wrong = [
                f"{name} {errors[name]:.2g} > {bound:g}" for name, bound in bounds.items() if not errors[name] <= bound
            ]
            return "; ".join(wrong) or None

        return gate
