"""The synthetic population: what makes it one of primary visual cortex, its noise, and its seed."""

import math

import pytest
import torch

from neurokernels import data
from neurokernels.data import population
from neurokernels.data.population import Cells

SIDE, NEURONS = 32, 60
DENSITY = SIDE / 2.0  # pixels per degree


@pytest.fixture
def cells() -> Cells:
    return population.cells(NEURONS, SIDE, SIDE, torch.Generator().manual_seed(3))


#: Low enough that nothing saturates, which would hide what a cell prefers.
LOW = 0.1


def grating(frequency: torch.Tensor, orientation: torch.Tensor, phases: int, contrast: float = LOW) -> torch.Tensor:
    """Gratings ``[cells, phases, H * W]``, a row of phases for every cell's frequency and orientation."""
    place = (torch.arange(SIDE) - (SIDE - 1) / 2) / DENSITY
    x, y = place.repeat(SIDE), place.repeat_interleave(SIDE)
    along = orientation.cos()[:, None] * x + orientation.sin()[:, None] * y
    phase = torch.arange(phases) * (2 * math.pi / phases)
    return contrast * torch.cos(2 * math.pi * frequency[:, None, None] * along[:, None] + phase[:, None])


def own(cells: Cells, stimuli: torch.Tensor) -> torch.Tensor:
    """Answers ``[cells, phases]`` of every cell to its own row of stimuli, above what it does spontaneously."""
    rates = cells.rates(stimuli.flatten(0, 1)).unflatten(0, stimuli.shape[:2])
    return rates.diagonal(dim1=0, dim2=2).T - population._SPONTANEOUS


def tuned(cells: Cells, turned: float, contrast: float = LOW) -> torch.Tensor:
    return own(cells, grating(cells.frequency, cells.orientation + turned, 8, contrast)).amax(1)


def test_every_cell_prefers_its_orientation(cells: Cells):
    best, orthogonal = tuned(cells, 0.0), tuned(cells, math.pi / 2)
    assert bool((best > 2 * orthogonal).all())
    assert float((orthogonal / best).median()) < 0.02
    aside = tuned(cells, math.pi / 4)
    assert bool((best > aside).all())
    # with the angle mirrored the same assertion fails
    mirrored = own(cells, grating(cells.frequency, -cells.orientation, 8)).amax(1)
    assert not bool((mirrored > 2 * orthogonal).all())


def test_every_cell_prefers_its_frequency(cells: Cells):
    best = tuned(cells, 0.0)
    for factor in (0.25, 2.0):
        other = own(cells, grating(cells.frequency * factor, cells.orientation, 8)).amax(1)
        assert bool((best > 1.5 * other).all())


def modulation(answers: torch.Tensor) -> torch.Tensor:
    return (answers.amax(1) - answers.amin(1)) / answers.mean(1)


def test_complex_cells_do_not_care_about_phase_and_simple_cells_do(cells: Cells):
    found = modulation(own(cells, grating(cells.frequency, cells.orientation, 16)))
    assert 0.3 < float(cells.complex.float().mean()) < 0.7
    assert float(found[cells.complex].max()) < 0.015
    assert float(found[~cells.complex].min()) > 3  # 2 if they answered both polarities


def energy(cells: Cells) -> torch.Tensor:
    """Energy ``[cells, phases]`` of every pair in its preferred grating of full contrast."""
    stimuli = grating(cells.frequency, cells.orientation, 16, 1.0)
    even, odd = ((stimuli @ filters.unsqueeze(-1)).squeeze(-1) for filters in (cells.even, cells.odd))
    return even.square() + odd.square()


def test_pairs_are_in_quadrature_in_spite_of_pixels_and_edges(cells: Cells):
    ones = torch.ones(NEURONS, 16)
    torch.testing.assert_close(energy(cells), ones, atol=1e-4, rtol=0)
    mutant = Cells(**(vars(cells) | {"odd": cells.odd + 0.01 * cells.even}))
    assert not torch.allclose(energy(mutant), ones, atol=1e-4)


def test_a_pair_out_of_quadrature_is_noticed(cells: Cells):
    mutant = Cells(**(vars(cells) | {"odd": cells.odd + 0.1 * cells.even}))
    assert float(modulation(own(mutant, grating(cells.frequency, cells.orientation, 16)))[cells.complex].max()) > 0.05


def test_a_cell_answers_its_grating_with_at_most_its_gain(cells: Cells):
    best = tuned(cells, 0.0, contrast=1.0)
    assert bool((best < cells.gain).all())
    assert bool((best > 0.4 * cells.gain).all())


def suppression(cells: Cells) -> torch.Tensor:
    """How much of a complex cell's answer is left when the grating of another orientation lies on top."""
    preferred = grating(cells.frequency, cells.orientation, 1, 0.4)
    mask = grating(cells.frequency, cells.orientation + math.pi / 2, 1, 0.4)
    return (own(cells, preferred + mask) / own(cells, preferred))[cells.complex, 0]


def saturation(cells: Cells) -> torch.Tensor:
    """Answer at full contrast over that at half of it."""
    pair = (own(cells, grating(cells.frequency, cells.orientation, 1, c)) for c in (1.0, 0.5))
    full, half = pair
    return (full / half)[cells.complex, 0]


def test_answers_are_normalised_by_those_of_the_population(cells: Cells, monkeypatch: pytest.MonkeyPatch):
    assert 0.5 < float(suppression(cells).median()) < 0.8
    assert float(saturation(cells).max()) < 1.3
    monkeypatch.setattr(population, "_SEMISATURATION", 100.0)  # so far off that nothing is normalised
    assert float(suppression(cells).median()) > 0.99
    assert float(saturation(cells).min()) > 3.9


def test_filters_hold_no_denormal_numbers():
    """Their tails would, and one core then filters at a twentieth of its speed."""
    drawn = population.cells(30, 112, 112, torch.Generator().manual_seed(0))
    for filters in (drawn.even, drawn.odd):
        assert float(filters[filters != 0].abs().min()) > torch.finfo(torch.float32).tiny
        assert 0.05 < float((filters == 0).float().mean()) < 0.95


@pytest.mark.parametrize("grey", [0, 100, 255])
def test_uniform_light_drives_no_cell(grey: int):
    images = torch.full((2, 3, SIDE, SIDE), grey, dtype=torch.uint8)
    found = data.gabor_population(images, 40, noise=0).responses
    torch.testing.assert_close(found, torch.full_like(found, 0.5), atol=1e-5, rtol=0)


@pytest.fixture
def images() -> torch.Tensor:
    """Smooth noise, in colour."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(30, 3, 8, 8, generator=generator) * 255
    return torch.nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bilinear").to(torch.uint8)


def test_colours_count_as_they_are_seen(images: torch.Tensor):
    grey = images[:, :1]
    expected = data.gabor_population(grey, 40, noise=0).responses
    torch.testing.assert_close(data.gabor_population(grey.expand(-1, 3, -1, -1), 40, noise=0).responses, expected)
    black = torch.zeros_like(grey)
    green, blue = torch.cat((black, grey, black), 1), torch.cat((black, black, grey), 1)
    driven = [data.gabor_population(one, 40, noise=0).responses.sub(0.5).mean() for one in (green, blue)]
    assert float(driven[0]) > 3 * float(driven[1]) > 0


@pytest.mark.parametrize("noise", [0.5, 1.0, 2.0])
def test_repeats_vary_around_the_mean_answer_by_the_noise(images: torch.Tensor, noise: float):
    found = data.gabor_population(images, 40, repeats=400, noise=noise, seed=5)
    assert found.repeats.shape == (30, 40, 400)
    torch.testing.assert_close(found.repeats.mean(-1), found.responses)
    expected = data.gabor_population(images, 40, noise=0, seed=5)
    assert expected.repeats is None
    error = (found.responses - expected.responses) / (noise * expected.responses / 400).sqrt()
    assert float(error.abs().max()) < 6
    assert 0.9 < float(error.std()) < 1.1
    fano = found.repeats.double().var(-1) / expected.responses
    assert float(fano.mean()) == pytest.approx(noise, rel=0.03)


def test_a_seed_gives_the_same_bits(images: torch.Tensor):
    first, again, other = (data.gabor_population(images, 40, seed=seed) for seed in (2, 2, 3))
    assert first.repeats.shape == (30, 40, 10)
    assert torch.equal(first.repeats, again.repeats)
    assert torch.equal(first.responses, again.responses)
    assert torch.equal(first.images, images)
    assert not torch.allclose(first.responses, other.responses, atol=1.0)


def test_a_seed_gives_the_same_cells_for_other_images(images: torch.Tensor, monkeypatch: pytest.MonkeyPatch):
    whole = data.gabor_population(images, 40, noise=0).responses
    torch.testing.assert_close(data.gabor_population(images[20:], 40, noise=0).responses, whole[20:])
    monkeypatch.setattr(population, "_BATCH", 7)
    monkeypatch.setattr(population, "_CELLS", 9)
    torch.testing.assert_close(data.gabor_population(images, 40, noise=0).responses, whole)


def test_images_are_resized_first(images: torch.Tensor):
    large = images.repeat_interleave(2, 2).repeat_interleave(2, 3)
    found = data.gabor_population(large, 40, size=SIDE, noise=0)
    assert found.images.shape == images.shape
    assert found.images.dtype == torch.uint8
    reference = data.gabor_population(images, 40, noise=0).responses
    r = torch.corrcoef(torch.stack((found.responses.flatten(), reference.flatten())))[0, 1]
    assert float(r) > 0.95


@pytest.mark.parametrize("size", [(8, 8), (28, 28), (48, 96), (112, 112)])
def test_any_image_will_do(size: tuple[int, int]):
    images = torch.randint(256, (3, 1, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = data.gabor_population(images, 30)
    assert bool(found.responses.isfinite().all())
    assert bool(found.repeats.ge(0).all())
    drawn = population.cells(30, *size, torch.Generator().manual_seed(0))
    finest = min(8.0, min(size) / 2 / 4)
    assert 1.0 <= float(drawn.frequency.min()) <= float(drawn.frequency.max()) <= finest + 1e-6


def test_the_share_of_complex_cells_is_chosen():
    for share, kinds in ((0.0, {False}), (1.0, {True})):
        drawn = population.cells(30, SIDE, SIDE, torch.Generator().manual_seed(0), share)
        assert set(drawn.complex.tolist()) == kinds


@pytest.mark.parametrize(
    ("arguments", "kind", "says"),
    [
        ({"images": torch.zeros(2, 3, 9, 9)}, TypeError, "images must be a uint8 tensor, got torch.float32"),
        ({"images": "zebra"}, TypeError, "images must be a uint8 tensor, got str"),
        ({"images": torch.zeros(2, 9, 9, dtype=torch.uint8)}, ValueError, r"images must be \[N, 3, H, W\] or \[N, 1,"),
        (
            {"images": torch.zeros(2, 3, 7, 9, dtype=torch.uint8)},
            ValueError,
            "images must be at least 8 x 8 pixels, got 7 x 9",
        ),
        ({"neurons": 0}, ValueError, "neurons must be an integer >= 1, got 0"),
        ({"repeats": 0}, ValueError, "repeats must be an integer >= 1, got 0"),
        ({"noise": -1.0}, ValueError, r"noise must be in \[0, inf\], got -1"),
        ({"complex_cells": 1.5}, ValueError, r"complex_cells must be in \[0, 1\], got 1.5"),
        ({"size": 0}, ValueError, "size must be an integer >= 1, got 0"),
    ],
)
def test_refusals(arguments: dict[str, object], kind: type[Exception], says: str):
    call = {"images": torch.zeros(2, 3, 9, 9, dtype=torch.uint8)} | arguments
    with pytest.raises(kind, match=f"^gabor_population: {says}"):
        data.gabor_population(**call)
