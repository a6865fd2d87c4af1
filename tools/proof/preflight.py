"""Whether there is a GPU, what machine this is, and which parts have CUDA kernels: a JSON file for the plan."""

import json
import sys
from pathlib import Path

import torch


def main(path: Path, rehearse: bool) -> None:
    """Writes what it finds; exits with 2 where there is no GPU, unless it is a rehearsal."""
    if not rehearse and not torch.cuda.is_available():
        why = "torch was built without CUDA" if torch.version.cuda is None else "torch sees none"
        sys.exit(f"gpu-proof: there is no CUDA GPU here ({why}, torch {torch.__version__})")
    from neurokernels.bench import machine
    from tests.gpu import coverage

    here = machine.describe()
    found = {"slug": here.slug, "machine": here.line, "gpu": here.gpu, "cuda parts": coverage.parts("cuda")}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[-1]), "--rehearse" in sys.argv)
