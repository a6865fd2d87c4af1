"""Which ops belong to which part of `make gpu-proof`, and the GPU backends that they have: read from the tables."""

from neurokernels._core import backends

GPU = ("triton", "cuda")

#: Every op with a GPU backend is in one of them: `tests/bench/test_gpu_proof.py` says so without a GPU.
PARTS = {
    "lif": ("lif", "leaky_integrate"),
    "spectrum": ("covariance", "eigh", "spectrum"),
    "cca": ("dcca", "whiten"),
    "rsa": ("rdm", "rsa_loss", "searchlight_rsa"),
    "evolution": ("maze_rollout", "offspring"),
}


def of(op: str) -> tuple[str, ...]:
    """The GPU backends of an op, in the order in which ``auto`` tries them."""
    return tuple(row.name for row in backends.rows(op) if row.name in GPU)


def pairs() -> list[tuple[str, str]]:
    """Every op with each GPU backend that its table has, whether or not it is in `PARTS`."""
    return [(op, backend) for op in backends.table() for backend in of(op)]


def part(op: str) -> str:
    """The part that an op belongs to.

    Raises:
        KeyError: It is in none.
    """
    for name, ops in PARTS.items():
        if op in ops:
            return name
    raise KeyError(f"{op} is in no part of the proof: enter it in tests/gpu/coverage.py")


def parts(backend: str) -> list[str]:
    """The parts with an op that has this backend."""
    return [name for name, ops in PARTS.items() if any((op, backend) in pairs() for op in ops)]
