"""Errors of the gradients of DCCA losses on difficult inputs, ours and others', against singular values in float64.

    python -m benchmarks.cca_errors

prints the table of docs/canonical-correlation.md: the inputs of ``tests/ops/torture.py`` in float32, for every loss the
largest error of a gradient relative to its largest entry.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

import neurokernels as nk
from benchmarks import cca_contenders as contenders
from tests.ops import torture

Trained = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor, Tensor]]

#: Larger than the entries' own, so that they do not fit in a register; those that are about their shape keep it.
SHAPE = (200, 80, 80)


def _ours(**options: str) -> Trained:
    return contenders.trained(lambda x, y, reg: nk.dcca_loss(x, y, reg=reg, **options))  # type: ignore[arg-type]


#: Who computes what: of the sum of correlations, and of the sum of their squares.
NUCLEAR: dict[str, Trained] = {
    "`nk.dcca_loss`": _ours(),
    '`"fast"`': _ours(precision="fast"),
    "3 x eigh": contenders.trained(contenders.naive),
    "eigh + SVD": contenders.trained(contenders.eigh_svd),
    "closed form": lambda x, y, reg: contenders.closed_form(x.detach(), y.detach(), reg),
}
SQUARES: dict[str, Trained] = {
    '`"fro2"`': _ours(objective="fro2"),
    "cca-zoo": lambda x, y, reg: contenders.trained(contenders.cca_zoo())(x, y, reg),
}


def shape_of(case: torture.Case) -> tuple[int, int, int]:
    """N, D1 and D2 of an entry in the table."""
    return SHAPE if case.shape == (40, 10, 10) else case.shape


def gradient_error(call: Trained, case: torture.Case, objective: str) -> float:
    """The error on an entry; infinite for NaN, and where the call fails."""
    x, y = (v.requires_grad_() for v in case.inputs(shape_of(case)))
    exact = torture.truth(x.detach(), y.detach(), case.reg, objective)
    try:
        value, dx, dy = call(x, y, case.reg[0])
    except torch.linalg.LinAlgError:
        return math.inf
    return torture.errors((-value, -dx, -dy), exact)[1]  # losses are minus the objective


def _cell(error: float) -> str:
    return "NaN" if math.isinf(error) else "wrong" if error >= 1 else f"{error:.0e}".replace("e-0", "e-")


def table() -> str:
    """The table of the page, in Markdown."""
    header = ["input", *NUCLEAR, *SQUARES]
    rows = [header, ["---", *["---:"] * (len(header) - 1)]]
    for name, case in torture.CASES.items():
        if case.reg[0] != case.reg[1]:  # which others do not take
            continue
        errors = [gradient_error(call, case, "nuclear") for call in NUCLEAR.values()]
        errors += [gradient_error(call, case, "fro2") for call in SQUARES.values()]
        n, d1, d2 = shape_of(case)
        rows.append([f"{name} ({n} x {d1}, {d2})", *map(_cell, errors)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(table())
