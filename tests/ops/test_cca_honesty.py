"""What published DCCA losses compute, from their formulas and by the packages that run, beside what ours do."""

import re
from importlib import import_module
from pathlib import Path

import pytest
import torch

import neurokernels as nk
from benchmarks import cca_errors
from benchmarks import cca_objectives as published
from neurokernels._core import backends

ROOT = Path(__file__).parents[2]
K = 5
X, Y = published.views()
TRUTH = published.truths(X, Y, published.REG, K)

#: What each formula is, as a function of the true correlations s; what T's columns are is not one.
MEANING = {
    published.frobenius: lambda s: s.square().sum().sqrt(),
    published.squares: lambda s: s.square().sum(),
    published.smallest: lambda s: s[-K:].sum(),
    published.largest: lambda s: s[:K].sum(),
    published.raised: lambda s: (s.square() + published.REG).sqrt()[:K].sum(),
}


def test_the_truth_is_the_definition():
    """By Cholesky factors, which whiten as well as symmetric roots, and by the roots: one set of singular values."""
    s = published.correlations(X, Y, published.REG)
    xc, yc, n = X - X.mean(0), Y - Y.mean(0), len(X) - 1
    unit = published.REG * torch.eye(X.shape[1], dtype=X.dtype)
    first, second = (torch.linalg.cholesky(c.mT @ c / n + unit) for c in (xc, yc))
    m = torch.linalg.inv(first) @ (xc.mT @ yc / n) @ torch.linalg.inv(second).mT
    torch.testing.assert_close(s, torch.linalg.svdvals(m), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(s, torch.linalg.svdvals(published.matrix(X, Y, published.REG)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("k", [1, K, 20])
@pytest.mark.parametrize("backend", ["reference", "cpu", "triton", "cuda"])
def test_ours_are_what_they_are_said_to_be(backend, dtype, k):
    bound = 1e-11 if dtype == torch.float64 else 2e-6
    x, y = (v.to(dtype) for v in (X[:60], Y[:60]))
    truth = published.truths(x, y, published.REG, k)
    with nk.backend(backend), backends.record() as ran:
        for name, (claim, value) in published.ours(x, y, published.REG, k).items():
            assert float(value) == pytest.approx(float(truth[claim]), rel=bound), name
        found = nk.canonical_correlations(x, y, reg=published.REG)
    assert set(ran) == {("dcca", backend)}
    torch.testing.assert_close(found.double(), published.correlations(x, y, published.REG), rtol=0, atol=bound)


@pytest.mark.parametrize("formula", MEANING, ids=lambda f: f.__name__)
def test_published_formulas_are_what_the_page_says(formula):
    s = published.correlations(X, Y, published.REG)
    assert float(formula(X, Y, published.REG, K)) == pytest.approx(float(MEANING[formula](s)), rel=1e-9)


def test_columns_of_t_are_no_correlation():
    """The sum of their lengths is above the sum of the correlations, and changes when a view is rotated."""
    value = published.columns(X, Y, published.REG, K)
    assert value > TRUTH[published.ALL] + 1
    q = torch.linalg.qr(torch.randn(20, 20, dtype=torch.float64)).Q
    assert abs(published.columns(X, Y @ q, published.REG, K) - value) > 5e-3
    for formula in MEANING:
        torch.testing.assert_close(formula(X, Y @ q, published.REG, K), formula(X, Y, published.REG, K))


def test_no_other_formula_is_the_sum_of_all():
    """The page would be unfair otherwise: what is not what it is said to be differs by more than rounding."""
    for name, (claim, words, formula) in published.PUBLISHED.items():
        gap = abs(formula(X, Y, published.REG, K) - TRUTH[claim]) / TRUTH[claim]
        assert (gap < 1e-9) == (words == "that"), name
        assert words == "that" or gap > 5e-4, name


# The packages themselves --------------------------------------------------------------------------------------------


def test_cca_zoo_is_the_sum_of_squares():
    objectives = import_module("cca_zoo.deep.objectives")
    got = -objectives.CCALoss(reg_covar=published.REG)([X, Y])
    assert float(got) == pytest.approx(float(published.squares(X, Y, published.REG, K)), rel=1e-12)
    assert float(got) == pytest.approx(float(TRUTH[published.SQUARES]), rel=1e-9)


@pytest.mark.parametrize(("every", "formula"), [(True, published.frobenius), (False, published.largest)])
def test_mvlearn(monkeypatch, every, formula):
    """Under a name that PyTorch dropped; its regulariser is 1e-3 and cannot be set."""
    dcca = import_module("mvlearn.embed.dcca")
    monkeypatch.setattr(torch, "symeig", lambda a, eigenvectors: torch.linalg.eigh(a), raising=False)
    # Its identity matrices are of the default dtype.
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        got = -dcca.cca_loss(K, every, torch.device("cpu")).loss(X, Y)
    finally:
        torch.set_default_dtype(before)
    assert float(got) == pytest.approx(float(formula(X, Y, published.REG, K)), rel=1e-12)


def test_gradients_of_a_constant_view():
    """Equal eigenvalues: a difference of eigendecompositions has no gradient there, ours has, and it is 0."""
    objectives = import_module("cca_zoo.deep.objectives")
    x = torch.full((50, 4), 0.1, dtype=torch.float64)
    y = Y[:50, :4]
    found = {}
    for name, loss in (
        ("cca-zoo", lambda x, y: objectives.CCALoss(reg_covar=1e-3)([x, y])),
        ("formula", lambda x, y: published.squares(x, y, 1e-3, K)),
        ("ours", lambda x, y: nk.dcca_loss(x, y, reg=1e-3)),
        ("ours, squares", lambda x, y: nk.dcca_loss(x, y, reg=1e-3, objective="fro2")),
    ):
        leaf = x.clone().requires_grad_()
        found[name] = torch.autograd.grad(loss(leaf, y), leaf)[0]
    assert not found["cca-zoo"].isfinite().all()
    assert not found["formula"].isfinite().all()
    assert torch.equal(found["ours"], torch.zeros_like(x))
    assert torch.equal(found["ours, squares"], torch.zeros_like(x))


# The page -----------------------------------------------------------------------------------------------------------


def test_the_table_of_the_page_is_the_scripts():
    page = (ROOT / "docs" / "canonical-correlation.md").read_text()
    shown = re.search(r"<!-- table objectives -->\n\n(.*?)\n\n<!-- end -->", page, re.DOTALL)
    assert shown, "the page has no table"
    assert shown.group(1) == published.table(K)


def test_links_of_the_page_lead_somewhere():
    page = ROOT / "docs" / "canonical-correlation.md"
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()) if "://" not in link]
    assert links
    assert [link for link in links if not (page.parent / link).exists()] == []


def _parsed(text):
    """Rows of a Markdown table by the input's name, without its shape: the cells."""
    lines = [[cell.strip() for cell in line.strip("| \n").split("|")] for line in text.strip().splitlines()]
    return lines[0], {row[0]: row[1:] for row in lines[2:]}


def _error(cell):
    return {"NaN": float("inf"), "wrong": 1.0}.get(cell) or float(cell)


def test_the_table_of_errors_is_what_the_script_prints():
    """But for rounding, which differs among processors; `fast` depends on whether there are bfloat16 products."""
    page = (ROOT / "docs/canonical-correlation.md").read_text()
    printed = re.search(r"<!-- table errors -->(.*?)<!-- end -->", page, re.DOTALL)[1]
    (header, written), (columns, found) = _parsed(printed), _parsed(cca_errors.table())
    assert (header, [*written]) == (columns, [*found])
    ours = [i for i, name in enumerate(header[1:]) if name.startswith("`")]
    assert len(ours) == 3
    for name, cells in written.items():
        for i, (cell, again) in enumerate(zip(cells, found[name], strict=True)):
            if i in ours and "fast" not in header[i + 1]:
                assert _error(again) < 10 * _error(cell), (name, header[i + 1])
            if i not in ours:
                assert _error(again) >= min(_error(cell), 1) / 30, (name, header[i + 1])
    assert sum("NaN" in cells for cells in written.values()) >= 2
    assert all(_error(cells[i]) < 1e-2 for rows in (written, found) for cells in rows.values() for i in ours)
