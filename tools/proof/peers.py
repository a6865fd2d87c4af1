"""Peer libraries as wheels, for machines without a network: fetched where there is one, unpacked where there is none.

    python tools/proof/peers.py      # `make gpu-wheels`: into build/gpu-wheels

Pure Python wheels alone, without what they declare: that would replace torch. What they import besides is in the image
of any machine with PyTorch for scientists, or is listed here.
"""

import subprocess
import sys
import zipfile
from pathlib import Path

from proof.plan import ROOT

WHEELS, SITE = ROOT / "build" / "gpu-wheels", ROOT / "build" / "gpu-site"

#: Peers, then what they and `neurokernels.bench` import and a bare machine may lack.
PACKAGES = (
    "spikingjelly==2.0.0", "snntorch==1.0.0", "loguru==0.7.3", "tyro==1.0.17", "docstring-parser==0.18.0",
    "typeguard==4.6.1",
)  # fmt: skip
MEGABYTES = 60


def fetch(folder: Path = WHEELS, version: str = "3.12") -> list[Path]:
    """Downloads the wheels for a version of Python; what is there already stays.

    Raises:
        SystemExit: pip fails, or they are more than can travel.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "-q", "--no-deps",
        "--only-binary=:all:", "--python-version", version, "--platform", "any", "-d", str(folder), *PACKAGES,
    ]  # fmt: skip
    done = subprocess.run(command, check=False)
    if done.returncode:
        sys.exit(f"gpu-wheels: pip download failed with status {done.returncode}")
    found = sorted(folder.glob("*.whl"))
    size = sum(path.stat().st_size for path in found) / 2**20
    if size > MEGABYTES:
        sys.exit(f"gpu-wheels: {size:.0f} MiB, more than the {MEGABYTES} that may travel")
    print(f"{len(found)} wheels, {size:.1f} MiB, in {folder}")
    return found


def unpacked(wheels: Path = WHEELS, site: Path = SITE) -> Path | None:
    """The folder with the wheels unpacked, for the end of the path; None where there are none."""
    found = sorted(wheels.glob("*.whl"))
    if not found:
        return None
    site.mkdir(parents=True, exist_ok=True)
    for wheel in found:
        mark = site / f".{wheel.name}"
        if not mark.exists():
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(site)
            mark.touch()
    return site


if __name__ == "__main__":
    fetch()
