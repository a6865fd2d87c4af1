"""Where benchmarks run, and at what size: the GPU if there is one, else the CPU; in a rehearsal the CPU, in little."""

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

#: Whether groups of a GPU are raced: on one, or in a rehearsal, where its kernels are interpreted and emulated.
GPU = DEVICE == "cuda"
REHEARSAL = False


def rehearse() -> None:
    """Races the groups of a GPU on the CPU, with tiny sizes; to be called before benchmark files are imported."""
    global GPU, REHEARSAL
    GPU, REHEARSAL = True, True
