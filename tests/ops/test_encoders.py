"""Encoders: the distribution is exact, the cost follows the spikes, and bad input is refused."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from neurokernels import encoders
from neurokernels.encoders import intensity, latency, poisson, poisson_events

DENSE, SPARSE = 0.9, 0.12  # rates on either side of the switch from jumping between spikes to drawing every place
RATES = pytest.mark.parametrize("rate", [SPARSE, DENSE])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pattern_chi2(spikes: Tensor, pixel: float, rate: float) -> float:
    """How far the frequencies of all 2**T spike patterns are from independent draws: chi squared over its mean."""
    steps, trials = spikes.shape
    weights = 2 ** torch.arange(steps)
    seen = torch.bincount((spikes.long() * weights[:, None]).sum(0), minlength=2**steps)
    p = pixel * rate
    patterns = itertools.product((0, 1), repeat=steps)
    due = torch.tensor([math.prod(p if bit else 1 - p for bit in reversed(pattern)) for pattern in patterns]) * trials
    return float(((seen - due) ** 2 / due).sum() / (2**steps - 1))


@RATES
@pytest.mark.parametrize("pixel", [1.0, 0.4])
def test_every_pattern_is_as_frequent_as_independent_draws_make_it(rate: float, pixel: float):
    trials = 60_000
    images = torch.tensor([pixel, 1.0]).repeat(trials, 1)  # beside a brighter pixel, which sets the pace of the jumps
    spikes = poisson(images, 3, rate=rate, generator=seeded())[:, :, 0]
    assert pattern_chi2(spikes, pixel, rate) < 3
    assert pattern_chi2(spikes, pixel, rate * 1.05) > 3
    again = spikes.clone()
    again[1] = torch.maximum(spikes[1], spikes[0])  # a spike that brings another one along
    assert pattern_chi2(again, pixel, rate) > 3


@RATES
def test_pixels_are_independent_of_each_other_and_of_their_order(rate: float):
    images = torch.tensor([0.3, 0.0, 1.0, 0.7]).repeat(40_000, 1)
    spikes = poisson(images, 2, rate=rate, generator=seeded(1)).double()
    due = images[0].double() * rate
    sigma = (due * (1 - due) / 80_000).sqrt()
    assert ((spikes.mean((0, 1)) - due).abs() <= 4 * sigma).all()
    joint = torch.einsum("tbi,tbj->ij", spikes, spikes) / 80_000
    expected = torch.where(torch.eye(4, dtype=torch.bool), due.diag(), due[:, None] * due)
    assert ((joint - expected).abs() <= 4.5 * (expected / 80_000).sqrt() + 1e-12).all()


def test_small_rates_are_exact_where_single_precision_is_not():
    """A pixel of 1/255 at rate 0.005 has p = 2e-5, which uniform numbers of 24 bits resolve to 0.3 %."""
    images = torch.full((1000, 1000), 1 / 255)
    seen = len(poisson_events(images, 2000, rate=0.005, generator=seeded()))
    due = 2e9 * 0.005 * float(images[0, 0].double())
    assert abs(seen - due) < 4 * math.sqrt(due)


@RATES
def test_the_list_and_the_dense_form_are_the_same_spikes(rate: float):
    images = torch.rand(5, 3, 4, generator=seeded(2))
    events = poisson_events(images, 7, rate=rate, generator=seeded(3))
    dense = poisson(images, 7, rate=rate, generator=seeded(3))
    assert dense.shape == events.shape == (7, 5, 3, 4)
    assert torch.equal(events.dense(), dense)
    assert 0 < len(events) == int(dense.sum())
    rows = dense.reshape(35, 12)
    for row, (start, end) in enumerate(itertools.pairwise(events.offsets.tolist())):
        assert events.pixels[start:end].tolist() == rows[row].nonzero().flatten().tolist()


@RATES
def test_a_generator_decides_everything(rate: float):
    images, generator = torch.rand(4, 9, generator=seeded(4)), seeded(5)
    first, second = (poisson(images, 20, rate=rate, generator=generator) for _ in range(2))
    assert torch.equal(first, poisson(images, 20, rate=rate, generator=seeded(5)))
    assert not torch.equal(first, second)
    torch.manual_seed(6)
    without = poisson(images, 20, rate=rate)
    torch.manual_seed(6)
    assert torch.equal(without, poisson(images, 20, rate=rate))


def test_white_at_rate_one_spikes_always_and_black_never():
    images = torch.tensor([[1.0, 0.0]])
    spikes = poisson(images, 50)
    assert (spikes[:, 0, 0] == 1).all()
    assert (spikes[:, 0, 1] == 0).all()
    assert len(poisson_events(images, 50, rate=0.0)) == 0


def test_the_work_follows_the_spikes(monkeypatch: pytest.MonkeyPatch):
    drawn, rand = [], torch.rand
    monkeypatch.setattr(torch, "rand", lambda n, **kwargs: drawn.append(n) or rand(n, **kwargs))
    images = torch.zeros(64, 784)
    images[:, ::5] = 1.0
    events = poisson_events(images, 100, rate=0.005, generator=seeded())
    assert 0 < sum(drawn) < 3 * len(events)
    assert sum(drawn) < images.numel() * 100 / 300


def test_too_few_jumps_are_followed_by_more(monkeypatch: pytest.MonkeyPatch):
    """The first draw nearly always reaches the end; here it does not."""
    rounds, rand = [], torch.rand

    def big_numbers_last(n: int, **kwargs: object) -> Tensor:
        rounds.append(n)
        return rand(n, **kwargs) * (1e-3 if len(rounds) < 4 else 1.0)  # small uniforms make small jumps

    monkeypatch.setattr(torch, "rand", big_numbers_last)
    positions = encoders._places(torch.full((100,), 0.01, dtype=torch.float64), 100, seeded())
    assert len(rounds) > 4
    assert (positions.diff() > 0).all()
    assert int(positions[-1]) < 10_000


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (3, 2, 0, 5)])
@pytest.mark.parametrize("encode", [poisson, latency, intensity])
def test_no_images_and_no_pixels(encode, shape: tuple[int, ...]):
    assert encode(torch.zeros(shape), 6).shape == (6, *shape)


@pytest.mark.parametrize("encode", [poisson, latency, intensity])
def test_no_steps(encode):
    assert encode(torch.ones(3, 4), 0).shape == (0, 3, 4)
    assert poisson_events(torch.ones(3, 4), 0).offsets.tolist() == [0]


@pytest.mark.parametrize("encode", [poisson, latency])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes(encode, dtype: torch.dtype):
    images = torch.rand(6, 10, generator=seeded()).to(dtype)
    spikes = encode(images, 8)
    assert spikes.dtype == dtype
    assert set(spikes.unique().tolist()) == {0.0, 1.0}
    assert encode(images, 8, dtype=torch.bool).dtype == torch.bool


@pytest.mark.parametrize("encode", [poisson, latency, intensity])
def test_arrays_in_arrays_out(encode):
    images = np.random.default_rng(0).random((3, 4), dtype=np.float32)
    torch.manual_seed(0)
    encoded = encode(images, 5)
    torch.manual_seed(0)
    assert isinstance(encoded, np.ndarray)
    assert torch.equal(torch.from_numpy(encoded.copy()), encode(torch.from_numpy(images), 5))


@pytest.mark.parametrize("encode", [poisson, latency, intensity])
def test_images_are_left_as_they_were(encode):
    images = torch.rand(3, 8, generator=seeded())[:, ::2].requires_grad_()
    before = images.detach().clone()
    encode(images, 5)
    assert torch.equal(images.detach(), before)


def test_spikes_have_no_gradient():
    images = torch.rand(3, 4, generator=seeded(), requires_grad=True)
    assert not poisson(images, 5).requires_grad
    assert not latency(images, 5).requires_grad


def test_bright_pixels_come_first():
    images = torch.tensor([[1.0, 0.75, 0.5, 0.250001, 0.25, 1e-8, 0.0]])
    spikes = latency(images, 4)
    first = torch.where(spikes.bool().any(0), spikes.argmax(0), -1)
    assert first.tolist() == [[0, 1, 2, 2, 3, 3, -1]]
    assert spikes.sum(0).tolist() == [[1, 1, 1, 1, 1, 1, 0]]


def test_latency_is_linear():
    images = torch.linspace(0.001, 1, 1000, dtype=torch.float64)
    spikes = latency(images, 10)
    assert spikes.sum(0).eq(1).all()
    assert (spikes.argmax(0).diff() <= 0).all()
    assert spikes.sum(1).sub(100).abs().max() <= 1


def test_intensity_takes_no_memory_and_passes_gradients():
    images = torch.rand(3, 4, generator=seeded(), requires_grad=True)
    currents = intensity(images, 7)
    assert currents.data_ptr() == images.data_ptr()
    assert currents.stride() == (0, 4, 1)
    currents.sum().backward()
    assert torch.equal(images.grad, torch.full((3, 4), 7.0))


GOOD = torch.full((2, 3), 0.5)


@pytest.mark.parametrize("encode", [poisson, poisson_events, latency, intensity])
@pytest.mark.parametrize(
    ("images", "steps", "error", "says"),
    [
        ([[0.5]], 3, TypeError, "images must be a tensor, got list"),
        (GOOD.to(torch.uint8), 3, TypeError, "images must be floating point in .0, 1., got torch.uint8; divide by the"),
        (torch.tensor(0.5), 3, ValueError, r"images must be \[B, ...\] with at least 1 dimension, got shape \(\)"),
        (GOOD, -1, ValueError, "steps must be an integer >= 0, got -1"),
        (GOOD, 2.0, ValueError, "steps must be an integer >= 0, got 2.0"),
        (GOOD, True, TypeError, "steps must be an integer >= 0, got True"),
        (GOOD, "3", TypeError, "steps must be an integer >= 0, got '3'"),
    ],
)
def test_bad_input_is_refused(encode, images, steps, error: type[Exception], says: str):
    with pytest.raises(error, match=f"^{encode.__name__}: {says}"):
        encode(images, steps)


@pytest.mark.parametrize("encode", [poisson, poisson_events, latency])
@pytest.mark.parametrize("value", [-0.001, 1.001, 255.0, math.nan, math.inf])
def test_pixels_outside_the_range_are_refused(encode, value: float):
    images = GOOD.clone()
    images[1, 2] = value
    with pytest.raises(ValueError, match=rf"^{encode.__name__}: images must be in \[0, 1\], got values from"):
        encode(images, 3)


@pytest.mark.parametrize("encode", [poisson, poisson_events])
@pytest.mark.parametrize("rate", [-0.1, 1.1, math.nan])
def test_rates_that_are_no_probability_are_refused(encode, rate: float):
    with pytest.raises(ValueError, match=rf"^{encode.__name__}: rate must be in \[0, 1\], got {rate}"):
        encode(GOOD, 3, rate=rate)
