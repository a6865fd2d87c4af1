"""The similarity trainer: networks, targets and controls are what the papers say, and held-out means held out."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from neurokernels import data
from neurokernels.data import Recording
from neurokernels.trainers.evaluation import Noise, brightness, smallest_changes
from neurokernels.trainers.images import coloured, grey
from neurokernels.trainers.run import RunError
from neurokernels.trainers.similarity import encoding, population
from neurokernels.trainers.similarity.network import TAPS, build, statistics_kept
from neurokernels.trainers.similarity.population import Material, Population, condensed
from neurokernels.trainers.similarity.settings import Run, Settings
from neurokernels.trainers.similarity.trainer import Examiner, Learner, rate

SMALL = Settings(
    network="small", data="digits", stimuli=200, neurons=30, model_epochs=4, device="cpu", alpha=3.0, per_step=12,
    images=400, noise=(0.2,), fgsm=(0.05,), pgd=(0.05,), pgd_steps=4, least_steps=10, attack_samples=60,
)  # fmt: skip


@pytest.fixture(scope="module")
def material() -> Material:
    return population.prepare(SMALL)


def learner(material: Material, arm: str, settings: Settings = SMALL, seed: int = 0) -> Learner:
    net = build("small", 1, 10, seed=seed)
    draws = torch.Generator().manual_seed(seed)
    return Learner(net, settings, Run(arm, seed), material.population, 100, draws)  # type: ignore[arg-type]


def batch(material: Material, count: int = 40) -> tuple[Tensor, Tensor]:
    return brightness(material.images.train_images[:count]), material.images.train_labels[:count]


# The networks ---------------------------------------------------------------------------------------------------------


def test_resnet18_is_that_of_the_paper():
    net = build("resnet18", 1, 10)
    images = torch.rand(1, 1, 32, 32)
    with torch.no_grad():
        taps = net.taps(images)
        assert [tuple(h.shape[1:]) for h in taps] == [
            (64, 32, 32), (64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)
        ]  # fmt: skip
        stem = net.sections.stem[0]
        due = F.batch_norm(F.conv2d(5 * (images - 0.5), stem.conv.weight, None, 1, 3), None, None, training=True).relu()
        torch.testing.assert_close(taps[0], due, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(net(images), net.readout(F.avg_pool2d(taps[-1], 4).flatten(1)))
    assert stem.conv.weight.shape == (64, 1, 7, 7)
    # the published network's, without the two colours of its stem and with ten classes
    assert sum(p.numel() for p in net.parameters()) == 11_689_512 - 2 * 64 * 49 - 990 * 513
    assert len([m for m in net.modules() if isinstance(m, nn.Conv2d)]) == 20
    assert len([m for m in net.modules() if isinstance(m, nn.MaxPool2d)]) == 0


def test_the_small_network_halves_its_maps():
    net = build("small", 1, 10)
    images = torch.rand(2, 1, 32, 32)
    assert [tuple(h.shape[1:]) for h in net.taps(images)] == [(16, 16, 16), (32, 8, 8), (64, 4, 4), (128, 2, 2)]
    assert len(TAPS["small"]) == 4
    assert len(TAPS["resnet18"]) == 5
    assert torch.equal(net(images), build("small", 1, 10)(images))
    assert not torch.equal(net.readout.weight, build("small", 1, 10, seed=1).readout.weight)


def test_stimuli_leave_the_statistics_of_images_alone():
    net, images = build("small", 1, 10).train(), torch.rand(8, 1, 32, 32)
    net(images)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with statistics_kept(net):
        kept = net.taps(images**2)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    torch.testing.assert_close(kept, net.taps(images**2))  # normalised among themselves all the same
    assert not torch.equal(net.state_dict()["sections.stem.0.norm.running_mean"],
                           before["sections.stem.0.norm.running_mean"])  # fmt: skip
    net.eval()
    with statistics_kept(net):
        torch.testing.assert_close(net.taps(images), build_like(net).taps(images))


def build_like(net: nn.Module) -> nn.Module:
    twin = build("small", 1, 10).eval()
    twin.load_state_dict(net.state_dict())
    return twin


def test_the_setting_is_the_published_one():
    default = Settings()
    assert (default.network, default.data, default.epochs, default.batch) == ("resnet18", "cifar10", 40, 64)
    assert (default.learning_rate, default.momentum, default.alpha) == (0.1, 0.9, 10.0)
    assert (default.per_step, default.pairs, default.scale, default.augment) == (32, "disjoint", "code", True)
    assert default.seeds == (0, 1, 2, 3, 4)
    assert set(default.arms) == {"none", "neural", "shuffled", "pixel"}


def test_the_rate_falls_every_four_epochs_and_comes_back_once():
    found = [rate(Settings(), epoch / 40) for epoch in range(40)]
    due = [0.3**power for power in (0, 1, 2, 3, 4) for _ in range(4)]
    assert found == pytest.approx(due + due)
    cosine = [rate(replace(Settings(), schedule="cosine"), done) for done in (0, 0.5, 1)]
    assert cosine == pytest.approx([1, 0.5, 0])


# A step ---------------------------------------------------------------------------------------------------------------


def plain(learner: Learner, chosen: Tensor, target: Tensor, alpha: float) -> Tensor:
    """The loss of Li et al. on the first step, from its formula, where the running mean is the batch's."""
    with statistics_kept(learner.net):
        taps = learner.net.taps(brightness(learner.stimuli[chosen]))
    alike = torch.zeros(len(chosen), len(chosen), dtype=torch.float64)
    for h in taps:
        rows = (h.double() - h.double().mean((0, 2, 3), keepdim=True).detach()).flatten(1)
        rows = rows / rows.norm(dim=1, keepdim=True)
        alike = alike + rows @ rows.T / len(taps)
    i, j = torch.triu_indices(len(chosen), len(chosen), 1)

    def odds(x: Tensor) -> Tensor:
        return (1 + x + 1e-5).log() - (1 - x + 1e-5).log()

    return alpha * (odds(alike[i, j]) - odds(target.double()[i, j])).square().mean()


@pytest.mark.parametrize("arm", ["neural", "shuffled", "pixel"])
def test_a_step_is_cross_entropy_and_alpha_times_the_similarity_loss(material: Material, arm: str):
    settings = replace(SMALL, pairs="all")
    images, labels = batch(material)
    subject, twin = learner(material, arm, settings), learner(material, arm, settings)
    rows = material.population.target(Run(arm, 0))[~material.population.held_out]  # type: ignore[index, arg-type]
    chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:12]
    task = F.cross_entropy(twin.net(images), labels)
    similarity = plain(twin, chosen, rows[chosen] @ rows[chosen].T, 1.0)

    def gradients(loss: Tensor) -> Tensor:
        weights = twin.net.sections.stem[0].conv.weight
        return torch.autograd.grad(loss, weights, retain_graph=True)[0]

    seen = subject.step(images, labels)
    assert float(seen["loss"]) == pytest.approx(task.item(), rel=1e-5)
    assert float(seen["similarity"]) == pytest.approx(similarity.item(), rel=1e-3)
    found = subject.net.sections.stem[0].conv.weight.grad
    torch.testing.assert_close(found, gradients(task + 3 * similarity.float()), rtol=2e-3, atol=2e-4)
    others = rows.flip(0)[chosen]
    for wrong in (task + similarity, task, task + 3 * plain(twin, chosen, others @ others.T, 1.0)):
        assert not torch.allclose(found, gradients(wrong.float()), rtol=2e-2, atol=2e-3)
    assert subject.regulariser.logits.grad is not None
    assert float(subject.regulariser.logits.grad.abs().max()) > 0


def test_disjoint_pairs_and_the_papers_scale_reach_the_loss(material: Material):
    images, labels = batch(material)
    every = learner(material, "neural", replace(SMALL, pairs="all")).step(images, labels)["similarity"]
    some = learner(material, "neural", replace(SMALL, pairs="disjoint")).step(images, labels)["similarity"]
    quarter = learner(material, "neural", replace(SMALL, pairs="all", scale="paper")).step(images, labels)["similarity"]
    assert float(every) == pytest.approx(4 * float(quarter), rel=1e-5)
    assert float(every) != pytest.approx(float(some), rel=1e-3)


def test_resnet18_is_pulled_at_five_taps(material: Material):
    net = build("resnet18", 1, 10)
    settings = replace(SMALL, network="resnet18")
    subject = Learner(net, settings, Run("neural", 0), material.population, 10, torch.Generator().manual_seed(0))
    assert subject.regulariser.logits.shape == (5,)
    assert "similarity" in subject.step(*batch(material, 16))
    assert all(float(part.first.conv.weight.grad.abs().max()) > 0 for part in net.sections.section1)


def test_the_arm_without_learns_from_cross_entropy_alone(material: Material):
    images, labels = batch(material)
    subject = learner(material, "none")
    assert "similarity" not in subject.step(images, labels)
    fresh = build("small", 1, 10)
    due = torch.autograd.grad(F.cross_entropy(fresh(images), labels), list(fresh.parameters()))
    for parameter, gradient in zip(subject.net.parameters(), due, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)
    count = sum(len(group["params"]) for group in subject.optimiser.param_groups)
    assert count == len(list(subject.net.parameters()))
    assert {group["weight_decay"] for group in subject.optimiser.param_groups} == {0}


def test_only_learned_stimuli_are_shown_to_a_network(material: Material):
    subject, seen = learner(material, "neural"), set[bytes]()
    take = subject.net.taps
    subject.net.taps = lambda x: (seen.update(i.numpy().tobytes() for i in x if len(x) == 12), take(x))[1]  # type: ignore[method-assign]
    for _ in range(12):
        subject.step(*batch(material))
    found = material.population
    held_out, learned = (
        {brightness(i).numpy().tobytes() for i in found.stimuli[part]} for part in (found.held_out, ~found.held_out)
    )
    assert len(seen) > 60
    assert seen <= learned
    assert not seen & held_out


# Targets --------------------------------------------------------------------------------------------------------------


def test_pixel_similarities_are_cosines_of_centred_pixels(material: Material):
    found = material.population
    pixels = found.stimuli.flatten(1).double()
    due = torch.nn.functional.cosine_similarity((pixels - pixels.mean(0))[3], (pixels - pixels.mean(0))[17], dim=0)
    assert float(found.pixel[3] @ found.pixel[17]) == pytest.approx(float(due), abs=1e-5)
    torch.testing.assert_close(found.pixel.square().sum(1), torch.ones(200))
    assert torch.equal(found.target(Run("pixel", 5)), found.pixel)  # type: ignore[arg-type]
    assert found.target(Run("none", 5)) is None


def test_shuffled_similarities_are_those_of_other_stimuli(material: Material):
    found = material.population
    shuffled, again, other = (found.target(Run("shuffled", seed)) for seed in (3, 3, 4))
    neural = found.target(Run("neural", 3))
    assert shuffled is not None
    assert neural is not None
    assert torch.equal(neural, found.neural)
    assert torch.equal(shuffled, again)  # type: ignore[arg-type]
    assert not torch.equal(shuffled, other)  # type: ignore[arg-type]
    for part in (found.held_out, ~found.held_out):
        assert sorted(shuffled[part].tolist()) == sorted(neural[part].tolist())
    assert int((shuffled == neural).all(1).sum()) < 8
    shared = condensed(neural), condensed(shuffled)
    assert abs(float(torch.corrcoef(torch.stack(shared))[0, 1])) < 0.1


def test_neural_similarities_are_means_over_sessions_of_weighted_responses(monkeypatch: pytest.MonkeyPatch):
    draws = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (60, 3, 8, 8), generator=draws).to(torch.uint8)
    one = Recording("a", images[:40], torch.rand(40, 5, generator=draws))
    two = Recording("b", images[20:], torch.rand(40, 3, generator=draws))
    predicted = [torch.randn(60, n, generator=draws) for n in (5, 3)]
    v = [torch.tensor([0.5, 0.2, -0.3, torch.nan, 0.1]).double(), torch.tensor([0.9, 0.8, 0.1]).double()]
    w = {"a": torch.tensor([1.0, 2, 1, 1, 3]).double(), "b": torch.ones(3).double()}
    monkeypatch.setattr(population, "fit", lambda *_: encoding.Fit(predicted, v))
    monkeypatch.setattr(population, "noise", lambda recording: encoding.Noise(w[recording.name], "repeats"))
    found = population.made([one, two], SMALL, None)  # type: ignore[arg-type]
    assert len(found.stimuli) == 60
    due = torch.zeros(60, 60, dtype=torch.float64)
    for values, weight in zip(
        predicted, (torch.tensor([0.5, 0.4, 0, 0, 0.3]), torch.tensor([0.9, 0.8, 0.1])), strict=True
    ):
        rows = values.double() * weight
        rows = rows - rows.mean(0)
        due += 0.5 * F.normalize(rows) @ F.normalize(rows).T
    torch.testing.assert_close((found.neural @ found.neural.T).double(), due, rtol=1e-4, atol=1e-5)
    assert [(row["neurons"], row["used"], row["images"]) for row in found.sessions] == [(5, 3, 40), (3, 3, 40)]
    assert found.sessions[0]["v"] == pytest.approx(0.1)
    monkeypatch.setattr(population, "fit", lambda *_: encoding.Fit(predicted, [-v[0].abs(), v[1]]))
    with pytest.raises(RunError, match="recording a cannot be used: none of its neurons can be predicted"):
        population.made([one, two], SMALL, None)  # type: ignore[arg-type]


def test_stimuli_of_several_sessions_are_taken_once():
    images = torch.arange(5 * 3 * 4).reshape(5, 3, 2, 2).to(torch.uint8)
    sessions = [Recording("a", images[:3], torch.rand(3, 2)), Recording("b", images[[4, 1, 3]], torch.rand(3, 2))]
    found, rows = encoding.union(sessions)
    assert torch.equal(found, images[[0, 1, 2, 4, 3]])
    assert [row.tolist() for row in rows] == [[0, 1, 2], [3, 1, 4]]


# Reliability and the predictive model ---------------------------------------------------------------------------------


def counted(images: int = 400, neurons: int = 6, repeats: int = 8) -> tuple[Recording, Tensor]:
    """Poisson counts around known rates, and sigma / eta of their neurons."""
    draws = torch.Generator().manual_seed(0)
    rates = torch.rand(images, neurons, generator=draws).double() * torch.arange(1, neurons + 1) + 0.5
    counts = torch.poisson(rates.unsqueeze(-1).expand(-1, -1, repeats), draws).float()
    pixels = torch.zeros(images, 1, 8, 8, dtype=torch.uint8)
    return Recording("s", pixels, counts.mean(-1), counts), (rates.var(0) / rates.mean(0)).sqrt()


def test_reliability_is_known_from_repeats_or_from_counts():
    recording, due = counted()
    from_repeats, from_counts = encoding.noise(recording), encoding.noise(replace(recording, repeats=None))
    assert (from_repeats.source, from_counts.source) == ("repeats", "counts")
    for found in (from_repeats, from_counts):
        torch.testing.assert_close(found.weight, due, rtol=0.15, atol=0.02)
    # without taking the noise of the means off their variance it would be too high
    raw = (recording.responses.double().var(0) / recording.responses.double().mean(0)).sqrt()
    assert not torch.allclose(raw, due, rtol=0.15, atol=0.02)


def test_missing_repeats_do_not_count():
    recording, _ = counted(images=30)
    repeats = recording.repeats.clone()  # type: ignore[union-attr]
    repeats[:10, :, 5:] = torch.nan
    repeats[10] = torch.cat([repeats[10, :, :1], torch.full((6, 7), torch.nan)], 1)
    some = replace(recording, repeats=repeats, responses=repeats.nanmean(-1))
    within, of_mean = [], []
    for image in range(30):
        if image != 10:
            known = repeats[image][:, ~repeats[image, 0].isnan()].double()
            within.append(known.var(1))
            of_mean.append(known.var(1) / known.shape[1])
    signal = some.responses.double().var(0) - torch.stack(of_mean).mean(0)
    due = (signal.clamp(min=0) / torch.stack(within).mean(0)).sqrt()
    torch.testing.assert_close(encoding.noise(some).weight, due)


def test_how_many_counts_a_mean_is_made_of_shows_in_its_fractions():
    draws = torch.Generator().manual_seed(1)
    counts = torch.randint(0, 60, (50, 30), generator=draws)
    repeats = torch.randint(1, 14, (50,), generator=draws)
    means = (counts / repeats.unsqueeze(1)).double()
    assert torch.equal(encoding.averaged_from(means), repeats.double())  # type: ignore[arg-type]
    assert encoding.averaged_from(means + 0.013) is None
    assert encoding.averaged_from(-means) is None
    recording = Recording("s", torch.zeros(50, 1, 8, 8, dtype=torch.uint8), torch.randn(50, 30, generator=draws))
    unknown = encoding.noise(recording)
    assert unknown.source == "unknown"
    assert torch.equal(unknown.weight, torch.ones(30).double())


def seeing(rows: Callable[[Tensor], Tensor]) -> tuple[Recording, Tensor]:
    """Neurons that see the mean of a quarter of an image each, and stimuli in whose order they answer."""
    draws = torch.Generator().manual_seed(2)
    coarse = torch.rand(240, 1, 2, 2, generator=draws)
    images = (255 * coarse.repeat_interleave(4, 2).repeat_interleave(4, 3)).to(torch.uint8)
    responses = coarse.flatten(1) + 0.05 * torch.randn(240, 4, generator=draws)
    return Recording("s", images, rows(responses)), torch.arange(240)


def test_the_model_predicts_held_out_responses_and_nothing_where_there_is_nothing():
    for rows, expected in ((lambda r: r, (0.85, 1.0)), (lambda r: r[torch.randperm(240)], (-0.25, 0.25))):
        recording, all_rows = seeing(rows)
        held_out = torch.arange(240) % 4 == 0
        found = encoding.fit([recording], recording.images, [all_rows], held_out, 8, Console(quiet=True))
        assert found.predicted[0].shape == (240, 4)
        low, high = expected
        assert low < float(found.correlation[0].mean()) < high
        again = encoding.fit([recording], recording.images, [all_rows], held_out, 8, Console(quiet=True))
        assert torch.equal(found.predicted[0], again.predicted[0])
        torch.testing.assert_close(
            found.correlation[0][0],
            torch.corrcoef(torch.stack((found.predicted[0][held_out, 0], recording.responses[held_out, 0])))[0, 1],
            check_dtype=False, rtol=1e-4, atol=1e-5,
        )  # fmt: skip


def test_responses_that_do_not_vary_are_refused():
    images = torch.zeros(10, 1, 8, 8, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.arange(10)
    responses = torch.rand(10, 3)
    responses[:, 1] = 2.0
    with pytest.raises(RunError, match=r"recording s cannot be used: its neurons \[1\] do not vary"):
        population.made([Recording("s", images, responses)], replace(SMALL, held_out=0.3), None)  # type: ignore[arg-type]
    with pytest.raises(RunError, match=r"--held-out 0.15 leaves a session less than two stimuli"):
        population.made([Recording("s", images[:6], torch.rand(6, 3))], SMALL, None)  # type: ignore[arg-type]


def test_the_population_is_kept_with_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    settings = replace(SMALL, out=tmp_path, model_epochs=1, stimuli=120)
    first = population.prepare(settings).population
    monkeypatch.setattr(population, "made", lambda *_: pytest.fail("made again"))
    kept = population.prepare(settings).population
    for name, value in vars(first).items():
        assert torch.equal(value, getattr(kept, name)) if isinstance(value, Tensor) else value == getattr(kept, name)
    with pytest.raises(RunError, match="keeps a population with other neurons: repeat what it was made with"):
        population.prepare(replace(settings, neurons=31))
    with pytest.raises(RunError, match="other sessions"):
        population.prepare(replace(settings, sessions=("x",)))


def test_what_the_synthetic_population_saw_is_not_learned(material: Material):
    found = population.prepare(replace(SMALL, images=None, model_epochs=1)).images
    whole = data.load("digits")
    both = torch.cat([found.train_images, material.population.stimuli]).flatten(1)
    assert sorted(both.tolist()) == sorted(whole.train_images.flatten(1).tolist())


def test_shown_stimuli_are_held_out_and_ordered_by_what_neurons_tell_apart(material: Material):
    found: Population = material.population
    shown = found.shown()
    assert bool(found.held_out[shown].all())
    assert len(shown.unique()) == len(shown) == 30  # all that are held out here
    rows = found.neural[shown].double()
    first = torch.linalg.eigh(rows @ rows.T).eigenvectors[:, -1]
    assert bool((first.diff() >= 0).all() or (first.diff() <= 0).all())
    about = found.about()
    assert about["held_out"] == 30
    assert len(about["shown"]["neural"]) == 30 * 29 // 2


# Evaluation -----------------------------------------------------------------------------------------------------------


def test_grey_is_luminance():
    images = torch.randint(0, 256, (3, 3, 4, 4)).to(torch.uint8)
    due = (images.double() * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    assert float((coloured(images, 1) - due).abs().max()) <= 0.51
    digits = data.load("digits")
    assert torch.equal(grey(digits).test_images[:, 0], digits.test_images)


class Spying(nn.Module):
    """Keeps what it is shown; answers the brightness of the first pixel against the second."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images)
        return images.flatten(1)[:, :2]


def test_noise_is_the_same_for_all_and_stays_in_the_range_of_an_image():
    images = torch.randint(60, 180, (50, 1, 6, 6)).to(torch.uint8)
    net, other = Spying(), Spying()
    found = Noise((0.1, 0.3), images, torch.zeros(50, dtype=torch.int64))
    assert found(net).keys() == {"noise_0.1", "noise_0.3"}
    found(other)
    assert all(torch.equal(one, two) for one, two in zip(net.seen, other.seen, strict=True))
    x, (weak, strong) = brightness(images), net.seen
    least, most = (getattr(x, kind)((1, 2, 3), keepdim=True) for kind in ("amin", "amax"))
    for noisy in (weak, strong):
        assert bool(((noisy >= least) & (noisy <= most)).all())
    inside = (strong > least) & (strong < most)
    drawn = (strong - x)[inside] / 0.3
    both = inside & (weak > least) & (weak < most)
    torch.testing.assert_close(((weak - x) / 0.1)[both], ((strong - x) / 0.3)[both], rtol=1e-3, atol=1e-4)
    assert 0.2 < float(drawn.std()) < 1
    wide = torch.zeros(2, 1, 100, 100, dtype=torch.uint8)
    wide[..., 0, 0], wide[..., 1:, :] = 255, 128
    spy = Spying()
    Noise((0.05,), wide, torch.zeros(2, dtype=torch.int64))(spy)
    assert float((spy.seen[0] - brightness(wide))[..., 1:, :].std()) == pytest.approx(0.05, rel=0.05)


def test_the_smallest_change_of_a_linear_network_is_known():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    images = 0.3 + 0.4 * torch.rand(40, 1, 6, 6)
    logits = net(images)
    labels = logits.argmax(1)
    labels[:5] = 1 - labels[:5]
    weight = net[1].weight.detach()
    due = ((logits[:, 0] - logits[:, 1]).abs() / (weight[0] - weight[1]).abs().sum()).detach()
    found = smallest_changes(net, images, labels, 60)
    assert torch.equal(found[:5], torch.zeros(5))
    reached = due[5:] < 0.25  # where no pixel meets its bounds on the way
    assert int(reached.sum()) > 20
    torch.testing.assert_close(found[5:][reached], due[5:][reached], rtol=0.05, atol=5e-4)
    assert bool((found[5:] >= due[5:] - 1e-4).all())
    constant = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    nn.init.zeros_(constant[1].weight)
    with torch.no_grad():
        constant[1].bias.copy_(torch.tensor([1.0, 0.0]))
    assert torch.equal(smallest_changes(constant, images, torch.zeros(40, dtype=torch.int64), 5), torch.ones(40))


def test_agreement_is_the_correlation_with_targets_on_held_out_stimuli(material: Material):
    subject = learner(material, "neural")
    for _ in range(5):
        subject.step(*batch(material))
    seen = Examiner(SMALL, material)(subject, full=False)
    found = material.population
    subject.net.eval()
    with torch.no_grad():
        taps = subject.net.taps(brightness(found.stimuli[found.held_out]))
    weights = subject.regulariser.logits.detach().softmax(0)
    alike = sum(
        weight * F.cosine_similarity(rows[:, None], rows[None], dim=-1)
        for weight, rows in zip(weights, ((h - h.mean((0, 2, 3), keepdim=True)).flatten(1) for h in taps), strict=True)
    )
    i, j = torch.triu_indices(30, 30, 1)
    for name, rows in (("neural", found.neural), ("pixel", found.pixel)):
        due = (rows[found.held_out] @ rows[found.held_out].T)[i, j]
        r = torch.corrcoef(torch.stack((alike[i, j], due)))[0, 1]  # type: ignore[index]
        assert seen[f"{name}_agreement"] == pytest.approx(float(r), abs=1e-4)
    assert "least" not in seen
    assert subject.net.training or not math.isnan(seen["clean"])


def test_attacks_leave_statistics_and_mode_as_they_were(material: Material):
    subject = learner(material, "none")
    subject.step(*batch(material))
    before = {name: value.clone() for name, value in subject.net.state_dict().items()}
    seen = Examiner(SMALL, material)(subject, full=True)
    assert {"clean", "noise_0.2", "fgsm_0.05", "pgd_0.05", "least"} <= seen.keys()
    assert all(torch.equal(value, before[name]) for name, value in subject.net.state_dict().items())
    assert subject.net.training
    assert all(parameter.requires_grad for parameter in subject.net.parameters())
