"""The CUDA eigensolver, emulated: the zoo of matrices, orders of threads, neighbours, strides, mutants."""

import shutil

import pytest
import torch

import neurokernels as nk
from neurokernels._core import backends
from neurokernels.ops.spectrum import cuda as solver
from neurokernels.ops.spectrum import cuda_limits
from tests import emulator
from tests.emulator import EmulatedDriver, switched_on
from tests.ops.matrices import assert_conforms, symmetric, zoo

dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
#: The largest kernels take a second a matrix: they are given what came closest to the bounds in the whole zoo.
HARD = (
    "no diagonal", "two clusters", "arrow", "covariance", "evenly spaced", "nearly identity", "geometric, both signs",
    "Wilkinson", "zero",
)  # fmt: skip


def solved(a, **options):
    with nk.backend("cuda"), backends.record() as ran:
        found = nk.eigh(a, **options)
    assert ran == [("eigh", "cuda")]
    return found


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 9, 16, 17, 31, 32])
@dtypes
def test_conforms(dtype, n):
    names, a = zoo(n, dtype)
    keep = range(0, len(names), 1 if n < 16 else 5)
    a = a[list(keep)]
    values, vectors = solved(a)
    assert_conforms([names[i] for i in keep], a, values, vectors)
    with nk.backend("cuda"):
        assert torch.equal(nk.eigvalsh(a), values)


@pytest.mark.parametrize(
    ("dtype", "n", "kinds"),
    [
        (torch.float32, 33, 4), (torch.float32, 64, 9), (torch.float32, 65, 2), (torch.float32, 100, 1),
        (torch.float64, 33, 4), (torch.float64, 64, 5), (torch.float64, 65, 1),
    ],
    ids=str,
)  # fmt: skip
def test_blocks_conform(dtype, n, kinds):
    names, a = zoo(n, dtype)
    keep = [names.index(name) for name in HARD[:kinds]]
    values, vectors = solved(a[keep])
    assert_conforms(list(HARD[:kinds]), a[keep], values, vectors)


@pytest.mark.parametrize("n", [8, 32, 33])
@dtypes
def test_every_order_of_threads(dtype, n):
    a = torch.stack([symmetric(n, torch.Generator().manual_seed(seed)) for seed in range(2)]).to(dtype)
    found = []
    for order, seed in (("forward", 0), ("reverse", 0), ("random", 1)):
        with switched_on(EmulatedDriver(order, seed)):
            found.append(solved(a))
    for values, vectors in found[1:]:
        assert torch.equal(values, found[0][0])
        assert torch.equal(vectors, found[0][1])


def neighbours(n, dtype):
    """The zoo, and again from its end: where two matrices share a warp, each of them has two neighbours."""
    a = zoo(n, dtype)[1]
    return torch.cat([a, a.flip(0)])


@pytest.mark.parametrize("n", [3, 8, 16, 20])
@dtypes
def test_neighbours_leave_no_trace(dtype, n):
    """A matrix gives the same bits alone, and beside others in the same warp that converge later."""
    a = neighbours(n, dtype)[:: 1 if n == 16 else 7]
    values, vectors = solved(a)
    for i in range(len(a)):
        alone = solved(a[i])
        assert torch.equal(alone[0], values[i])
        assert torch.equal(alone[1], vectors[i])


@dtypes
def test_strides_and_the_upper_triangle_leave_no_trace(dtype):
    a = zoo(11, dtype)[1][:6]
    expected = solved(a)
    spoilt = a.tril() + torch.full_like(a, torch.nan).triu(1)
    for view in (spoilt, a.mT.contiguous().mT, torch.stack((a, a), -1)[..., 0], a.flip(0).flip(0)):
        for ours, theirs in zip(solved(view), expected, strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("n", [4, 20, 40])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_broken_matrix_spoils_only_itself(n, bad):
    a = torch.stack([symmetric(n, torch.Generator().manual_seed(seed)) for seed in range(3)]).float()
    whole = solved(a)
    a[1, n - 1, n // 2] = bad
    values, vectors = solved(a)
    assert values[1].isnan().all()
    assert vectors[1].isnan().all()
    for i in (0, 2):
        assert torch.equal(values[i], whole[0][i])
        assert torch.equal(vectors[i], whole[1][i])


@dtypes
def test_scales_change_no_digit(dtype):
    a = zoo(9, dtype)[1][:12]
    a = a[a.isfinite().flatten(1).all(1) & (a.abs().amax((1, 2)) < 1e3) & (a.abs().amax((1, 2)) > 1e-3)]
    values, vectors = solved(a)
    for power in (-60, 50):
        scaled = solved(a * 2.0**power)
        assert torch.equal(scaled[0], values * 2.0**power)
        assert torch.equal(scaled[1], vectors)


def test_half_precision_computes_in_float32():
    a = symmetric(6, torch.Generator().manual_seed(0))[None]
    for dtype in (torch.bfloat16, torch.float16):
        for ours, theirs in zip(solved(a.to(dtype)), solved(a.to(dtype).float()), strict=True):
            assert torch.equal(ours, theirs)


def test_what_does_not_fit_is_refused():
    with nk.backend("cuda"), pytest.raises(backends.BackendError, match="D = 129, and a block holds .* D = 128"):
        nk.eigh(torch.eye(129))
    assert cuda_limits.fits(128)


def test_spectra():
    """Eigenproblems of the room by CUDA, and torch.linalg where they do not fit; the gradient too."""
    for shape in ((2, 40, 9), (7, 30), (140, 135)):
        x = torch.randn(shape, requires_grad=True)
        found = []
        for backend in ("cuda", "reference"):
            with nk.backend(backend), backends.record() as ran:
                values = nk.covariance_spectrum(x)
                found.append((values, *torch.autograd.grad(values.square().sum(), x)))
            assert set(ran) == {("spectrum", backend)}
        for ours, theirs in zip(*found, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.detach().abs().max()))


MUTANTS = {
    "columns that are not sorted": ("(first ? gap > 0 : gap < 0)", "false", "repeats"),
    "a shift that is left in": ("(sqrt(norms[k]) - lift)", "sqrt(norms[k])", "values"),
    "a barrier that is missing": ("if (PARTS > 1) __syncthreads();", "", "orders"),
    "half of the rounds": ("r < kLanes; ++r) far |= meet", "r < kLanes / 2; ++r) far |= meet", "values"),
    "pairs that are left as they are": ("cross > tolerance.turns", "cross > tolerance.stays", "limits"),
    "a cosine of half of the digits": ("T(0.5) * estimate, near)", "T(0), near)", "values"),
    "a matrix that goes on beside another": ("rounds<0>(live,", "rounds<0>(true,", "neighbours"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants(name, tmp_path, monkeypatch):
    """The same checks see each of these mistakes."""
    old, new, seen_by = MUTANTS[name]
    folder = tmp_path / "csrc" / "cuda"
    shutil.copytree(emulator.ROOT / "csrc", tmp_path / "csrc")
    header = folder / "eigh_jacobi.cuh"
    assert old in header.read_text()
    header.write_text(header.read_text().replace(old, new))
    source = folder / "mutant.cu"
    n = {"orders": 40, "limits": 65, "neighbours": 16}.get(seen_by, 32)
    kernel = f"NK_EIGH(eigh_f32_{1 << (n - 1).bit_length()},"
    lines = (folder / "eigh.cu").read_text().splitlines()
    kernels = [line for line in lines if not line.startswith("NK_EIGH(") or line.startswith(kernel)]
    assert len(kernels) < len(lines)
    source.write_text("\n".join(kernels))
    monkeypatch.setattr(emulator, "BUILT", tmp_path)
    monkeypatch.setattr(emulator, "INCLUDED", tmp_path / "csrc")
    launch = solver.cuda.launch
    monkeypatch.setattr(solver.cuda, "launch", lambda _, *rest: launch("mutant", *rest))
    with switched_on(EmulatedDriver("reverse" if seen_by == "orders" else "forward", folder=folder)):
        a = symmetric(n, torch.Generator().manual_seed(0)).float()[None]
        if seen_by == "neighbours":
            matrices = neighbours(n, torch.float32)
            alone = torch.stack([solved(one)[1] for one in matrices])
            with pytest.raises(AssertionError):
                assert torch.equal(solved(matrices)[1], alone)
            return
        if seen_by == "limits":
            names, every = zoo(n, torch.float32)
            a = every[names.index(HARD[0])][None]
        if seen_by == "repeats":  # sweeps run out where clusters are not sorted
            q = torch.linalg.eigh(a.double()).eigenvectors
            a = ((q * torch.tensor([1.0, -1.0]).double().repeat(n // 2)) @ q.mT).float()
            values, vectors = solver.small_eigh(a, sweeps=9)
        else:
            values, vectors = solved(a)
        with pytest.raises(AssertionError):
            assert_conforms([name], a, values, vectors)
