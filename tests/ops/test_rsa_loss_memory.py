"""What a similarity loss takes beside its inputs: no N x N matrix. Peaks of a process, as Linux counts."""

import json
import subprocess
import sys

import pytest

N, D = 16384, 64
#: A first step of few images loads what is loaded once; then the peak is forgotten before each step.
PROGRAM = """
import json, torch, neurokernels as nk
torch.set_num_threads(1)
CALLS = {
    "li2019": lambda x, v: nk.rsa_loss(x, responses=v),
    "pearson": lambda x, v: nk.rsa_loss(x, responses=v, form="pearson"),
    "sqeuclidean": lambda x, v: nk.rsa_loss(x, responses=v, form="pearson", metric="sqeuclidean"),
    "rsa cka": lambda x, v: nk.rsa_loss(x, responses=v, form="cka_debiased"),
    "cka": lambda x, v: nk.cka(x, v),
    "naive": lambda x, v: (x @ x[:2048].mT).square().sum(),
}
def memory(name):
    with open("/proc/self/status") as status:
        return int(next(line.split()[1] for line in status if line.startswith(name))) * 1024
x, v = torch.randn(N, D, requires_grad=True), torch.randn(N, 16)
for name, call in CALLS.items():
    x.grad = None
    call(x[:128], v[:128]).backward()
    x.grad = None
    with open("/proc/self/clear_refs", "w") as clear:
        clear.write("5")
    before = memory("VmRSS")
    call(x, v).backward()
    CALLS[name] = memory("VmHWM") - before
print(json.dumps(CALLS))
"""


@pytest.fixture(scope="module")
def extra():
    program = PROGRAM.replace("N, D", f"{N}, {D}").replace("(N, 16)", f"({N}, 16)")
    return json.loads(
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    )


@pytest.mark.parametrize("name", ["li2019", "pearson", "sqeuclidean", "rsa cka", "cka"])
def test_peak(extra, name):
    """Four times N D elements, and for li2019 a tile of similarities and one of targets; 2 MB of what goes with it."""
    tiles = 2 * 4 * 1024**2 if name == "li2019" else 0
    assert extra[name] <= 4 * 4 * N * D + tiles + (2 << 20)


def test_it_would_be_noticed(extra):
    """An eighth of an N x N matrix."""
    assert extra["naive"] > 4 * N * N // 8
