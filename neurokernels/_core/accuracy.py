"""The rule that every floating point result is held to: not much worse than plain PyTorch in the same type.

``err(kernel, float64) <= factor * err(reference in the same dtype, float64)``, with factor 2 forward and 3 backward.
Errors are relative to the largest value of the float64 result, and a floor of a few units in the last place keeps the
rule meaningful where the reference happens to be exact.
"""

import torch

FORWARD, BACKWARD = 2.0, 3.0


def error(value: torch.Tensor, exact: torch.Tensor) -> tuple[float, tuple[int, ...]]:
    """The largest difference relative to the largest magnitude of ``exact``, and where it is.

    NaN and infinities must be in the same places; otherwise the error is infinite.
    """
    value, exact = value.detach().double().cpu(), exact.detach().double().cpu()
    if value.shape != exact.shape:
        raise AssertionError(f"shape {tuple(value.shape)} where {tuple(exact.shape)} is due")
    if exact.numel() == 0:
        return 0.0, ()
    finite = exact.isfinite()
    same = torch.where(finite, value.isfinite(), (value == exact) | (value.isnan() & exact.isnan()))
    scale = exact[finite].abs().max().clamp(min=torch.finfo(torch.float64).tiny) if finite.any() else torch.tensor(1.0)
    gap = torch.where(finite & value.isfinite(), (value - exact).abs() / scale, 0.0)
    gap = torch.where(same, gap, torch.inf)
    worst = int(gap.argmax())
    where = tuple(int(i) for i in torch.unravel_index(torch.tensor(worst), exact.shape)) if exact.ndim else ()
    return float(gap.flatten()[worst]), where


def check(
    value: torch.Tensor,
    reference: torch.Tensor,
    exact: torch.Tensor,
    *,
    factor: float = FORWARD,
    ulps: float = 4.0,
    name: str = "value",
) -> None:
    """Raises an AssertionError that names the worst index and both errors if ``value`` breaks the rule.

    Args:
        value: What the kernel computed.
        reference: What plain PyTorch computed in the same dtype.
        exact: What plain PyTorch computed in float64.
        factor: How much worse than the reference the kernel may be.
        ulps: Floor of the allowance in units in the last place of the result's dtype.
        name: What to call it in the message.
    """
    ours, where = error(value, exact)
    theirs, _ = error(reference, exact)
    allowed = max(factor * theirs, ulps * torch.finfo(value.dtype).eps)
    if not ours <= allowed:
        raise AssertionError(
            f"{name}: relative error {ours:.3g} at {where} where {allowed:.3g} is allowed "
            f"(reference in {reference.dtype}: {theirs:.3g}); got {value[where] if where else value}, "
            f"exact {exact[where] if where else exact}"
        )
