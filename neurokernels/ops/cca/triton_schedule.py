"""Which polynomials take a matrix to its polar factor on a GPU, where nothing can be asked between two steps.

A step is W <- a W + b W A + c W A^2 with A = W' W: of every singular value, x <- a x + b x^3 + c x^5.
"""

import torch

Step = tuple[float, float, float]

#: Polar Express of degree 5 (Amsel et al. 2025): seven steps that take singular values in [1e-3, 1] to 1 +- 1e-9.
POLAR_EXPRESS: tuple[Step, ...] = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
)

#: The last step has slope 0 at 1 and no linear term: what is near 1 becomes 1, and what is still small, 0.
LAST: Step = (0.0, 2.5, -1.5)


def _longer(further: int) -> tuple[Step, ...]:
    """For singular values of a quarter for each further step, which is the third one again: it keeps its own range."""
    return (*POLAR_EXPRESS[:2], *POLAR_EXPRESS[2:3] * (1 + further), *POLAR_EXPRESS[3:], LAST)


def _safe(step: Step) -> Step:
    """The step for singular values up to 1 % above what they should be: rounded factors put them there."""
    return step[0] / 1.01, step[1] / 1.01**3, step[2] / 1.01**5


#: By the dtype of the iteration. Singular values from 1e-4 or 1e-7 on count in full, those below 1e-6 or 1e-9 as zero:
#: the rounding of a direction that is zero, of a duplicated unit for example, is less, and gets no weight.
HIGH: dict[torch.dtype, tuple[Step, ...]] = {torch.float32: _longer(2), torch.float64: _longer(7)}

#: For products of factors rounded to TF32, where singular values below 5e-4 are rounding. Those from 2e-3 on count.
FAST: tuple[Step, ...] = (*map(_safe, POLAR_EXPRESS[:5]), POLAR_EXPRESS[5], LAST)
