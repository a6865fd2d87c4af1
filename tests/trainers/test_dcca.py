"""The DCCA trainer: networks, losses and controls are what the paper says, and held-out means held out."""

import math
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import neurokernels as nk
from neurokernels import data
from neurokernels.trainers.dcca import stimuli
from neurokernels.trainers.dcca.alignment import correlations, on_both
from neurokernels.trainers.dcca.network import Areas, build
from neurokernels.trainers.dcca.settings import Run, Settings
from neurokernels.trainers.dcca.stimuli import Material, session
from neurokernels.trainers.dcca.trainer import Examiner, Learner, augmented
from neurokernels.trainers.evaluation import Images, brightness

SMALL = Settings(
    network="small", data="digits", hidden=(24,), dims=4, pairs=40, stimuli=200, neurons=30, learning_rate=0.05,
    device="cpu", mix=0.3, dropout=0.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def material() -> Material:
    return stimuli.prepare(SMALL)


def learner(material: Material, arm: str, settings: Settings = SMALL, seed: int = 0) -> Learner:
    run = Run(arm, seed)  # type: ignore[arg-type]
    torch.manual_seed(seed)
    net = build("small", material.images.shape, 10, seed=seed)
    found = [session(recording, run, settings) for recording in material.recordings] if run.loss else []
    return Learner(net, settings, run, found, 100, torch.Generator().manual_seed(seed))


def batch(material: Material, count: int = 64) -> tuple[Tensor, Tensor]:
    return brightness(material.images.train_images[:count]), material.images.train_labels[:count]


# The networks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "weights", "sides", "features"),
    [
        ("cornet-z", [(64, 3, 7, 7), (128, 64, 3, 3), (256, 128, 3, 3), (512, 256, 3, 3)], [8, 4, 2, 1], 512),
        ("small", [(32, 3, 5, 5), (64, 32, 3, 3), (128, 64, 3, 3)], [8, 4, 2], 512),
    ],
)
def test_the_networks_are_those_described(
    network: str, weights: list[tuple[int, ...]], sides: list[int], features: int
):
    net = build(network, (3, 32, 32), 100)
    found = [p for name, p in net.named_parameters() if name.endswith("conv.weight")]
    assert [tuple(w.shape) for w in found] == weights
    assert net.readout.weight.shape == (100, features)
    for weight in (*found, net.readout.weight):
        glorot = math.sqrt(6 / (weight[0].numel() + weight.shape[0] * weight[0, 0].numel()))
        assert 0.9 * glorot < float(weight.detach().abs().max()) <= glorot
    assert not any(p.any() for name, p in net.named_parameters() if name.endswith("bias"))
    images = torch.rand(2, 3, 32, 32)
    names = [name for name, _ in net.blocks.named_children()]
    assert [tuple(net.until(name, images).shape[1:]) for name in names] == [
        (weight.shape[0], side, side) for weight, side in zip(found, sides, strict=True)
    ]
    assert float(net.until("V1", images).detach().min()) >= 0
    assert torch.equal(net(images), build(network, (3, 32, 32), 100)(images))
    assert not torch.equal(net.readout.weight, build(network, (3, 32, 32), 100, seed=1).readout.weight)
    wide = build(network, (3, 32, 32), 100, stem_stride=1)
    assert wide.until("V1", images).shape[2:] == (16, 16)


def test_a_block_is_convolution_relu_pool_of_centred_pixels():
    net = build("small", (3, 32, 32), 10)
    images = torch.rand(3, 3, 32, 32)
    conv = net.blocks.V1.conv
    due = F.max_pool2d(F.conv2d((images - 0.5) * 4, conv.weight, conv.bias, 2, 2).relu(), 3, 2, 1)
    torch.testing.assert_close(net.until("V1", images), due)
    assert not torch.allclose(
        net.until("V1", images), F.max_pool2d(F.conv2d(images, conv.weight, None, 2, 2).relu(), 3, 2, 1)
    )
    whole = net.until("V4", images)
    torch.testing.assert_close(net(images), net.readout(whole.flatten(1)))


def test_what_a_block_makes_of_an_image_does_not_depend_on_the_others():
    net = build("small", (3, 32, 32), 10).train()
    images = torch.rand(6, 3, 32, 32)
    torch.testing.assert_close(net(images)[:2], net(images[:2]))


def test_the_setting_is_the_published_one():
    default = Settings()
    assert (default.network, default.data, default.block) == ("cornet-z", "cifar100", "V1")
    assert (default.epochs, default.batch, default.pairs, default.learning_rate) == (100, 128, 50, 0.01)
    assert (default.mix, default.dims, default.hidden) == (0.5, 10, (1024, 1024, 1024))
    assert (default.dropout, default.weight_decay, default.components) == (1e-4, 1e-5, 800)
    assert default.seeds == (0, 1, 2, 3, 4)
    assert set(default.arms) == {"none", "real", "shuffled", "vicreg"}
    assert default.schedule == "constant"
    assert not default.augment


# A step ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arm", ["real", "shuffled", "vicreg", "vicreg-shuffled"])
def test_a_step_is_lambda_alignment_and_the_rest_cross_entropy(material: Material, arm: str):
    images, labels = batch(material)
    subject, twin = learner(material, arm), learner(material, arm)
    (source,) = twin.sessions
    regulariser = twin.regularisers[0]
    assert regulariser.kind == ("vicreg" if "vicreg" in arm else "dcca")
    assert regulariser.strength == (0.25 if "vicreg" in arm else 1)
    order = torch.randperm(len(source.train), generator=torch.Generator().manual_seed(0))[:40]
    chosen = source.train[order]
    alignment = regulariser(twin.net.until("V1", brightness(source.stimuli[chosen])), source.responses[chosen])
    task = F.cross_entropy(twin.net(images), labels)

    def gradients(loss: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(loss, list(twin.net.parameters()), retain_graph=True))

    seen = subject.step(images, labels)
    assert float(seen["loss"]) == pytest.approx(task.item(), rel=1e-5)
    assert float(seen["alignment"]) == pytest.approx(alignment.item(), rel=1e-4)
    found = [parameter.grad for parameter in subject.net.parameters()]
    torch.testing.assert_close(found, gradients(0.3 * alignment + 0.7 * task), rtol=1e-3, atol=1e-5)
    for wrong in (0.7 * alignment + 0.3 * task, 0.3 * alignment + task, 0.7 * task - 0.3 * alignment):
        assert not torch.allclose(found[0], gradients(wrong)[0], rtol=1e-2, atol=1e-4)
    if arm in ("real", "shuffled"):  # the loss against plain linear algebra
        u, v = (part.double() for part in regulariser.project(
            twin.net.until("V1", brightness(source.stimuli[chosen])), source.responses[chosen]
        ))  # fmt: skip
        assert alignment.item() == pytest.approx(-plain_correlations(u, v).sum().item(), rel=1e-4)


def plain_correlations(u: Tensor, v: Tensor, ridge: float = 1e-4) -> Tensor:
    """Canonical correlations as the textbook has them, through symmetric roots."""
    u, v, n = u - u.mean(0), v - v.mean(0), len(u) - 1

    def root(x: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(x.T @ x / n + ridge * torch.eye(x.shape[1], dtype=x.dtype))
        return vectors @ torch.diag(values.rsqrt()) @ vectors.T

    return torch.linalg.svdvals(root(u) @ (u.T @ v / n) @ root(v))


def test_arms_without_responses_learn_from_cross_entropy_alone(material: Material):
    images, labels = batch(material)
    plain, scaled, real = (learner(material, arm) for arm in ("none", "scaled", "real"))
    for subject in (plain, scaled, real):
        assert ("alignment" in subject.step(images, labels)) == (subject is real)
    fresh = build("small", material.images.shape, 10)
    due = torch.autograd.grad(F.cross_entropy(fresh(images), labels), list(fresh.parameters()))
    for found, factor in ((plain, 1.0), (scaled, 0.7)):
        for parameter, gradient in zip(found.net.parameters(), due, strict=True):
            torch.testing.assert_close(parameter.grad, factor * gradient, rtol=1e-4, atol=1e-6)
    assert len(plain.optimiser.param_groups) == 1
    for name, parameter in real.net.named_parameters():  # what comes after the block is pulled by nothing
        other = dict(scaled.net.named_parameters())[name].grad
        assert torch.allclose(parameter.grad, other, rtol=1e-3, atol=1e-6) != name.startswith("blocks.V1")


def test_weight_decay_is_on_the_projections_alone(material: Material):
    subject = learner(material, "real")
    of_net, of_projections = subject.optimiser.param_groups
    assert (of_net["weight_decay"], of_projections["weight_decay"]) == (0, 1e-5)
    assert {id(p) for p in of_net["params"]} == {id(p) for p in subject.net.parameters()}
    assert {id(p) for p in of_projections["params"]} == {id(p) for p in subject.regularisers.parameters()}
    assert {group["momentum"] for group in subject.optimiser.param_groups} == {0.9}


def test_cosine_falls_to_zero_and_constant_does_not(material: Material):
    images, labels = batch(material, 8)
    for schedule, due in (("constant", [0.05] * 3), ("cosine", [0.05, 0.025, 0.0])):
        subject = learner(material, "none", replace(SMALL, schedule=schedule))
        rates = []
        for at in range(101):
            rates.append(subject.optimiser.param_groups[0]["lr"])
            if at < 100:
                subject.step(images, labels)
        assert [rates[at] for at in (0, 50, 100)] == pytest.approx(due)


def test_sessions_take_turns_and_show_training_stimuli_alone(material: Material):
    (one,) = material.recordings
    two = replace(one, name="other", responses=one.responses[:, :20] + 1, repeats=None)
    both = replace(material, recordings=[one, two])
    subject = learner(both, "real")
    shown: list[tuple[int, Tensor]] = []
    for index, regulariser in enumerate(subject.regularisers):
        regulariser.register_forward_hook(lambda module, given, out, index=index: shown.append((index, given[1])))
    for _ in range(6):
        subject.step(*batch(material, 8))
    assert [index for index, _ in shown] == [0, 1, 0, 1, 0, 1]
    assert [seen.shape for _, seen in shown[:2]] == [(40, 30), (40, 20)]
    for index, seen in shown:
        source = subject.sessions[index]
        same = (seen[:, None] == source.responses[None]).all(-1)
        assert (same.sum(1) == 1).all()
        rows = same.int().argmax(1)
        assert len(rows.unique()) == 40
        assert set(rows.tolist()) <= set(source.train.tolist())
    assert not torch.equal(shown[0][1], shown[2][1])


# Stimuli and responses ------------------------------------------------------------------------------------------------


def test_a_session_learns_its_statistics_from_training_stimuli(material: Material):
    recording = material.recordings[0]
    found = session(recording, Run("real", 3), SMALL)
    assert sorted([*found.train.tolist(), *found.held_out.tolist()]) == list(range(200))
    assert len(found.held_out) == 30
    assert found.responses.shape == (200, 30)
    known = found.responses[found.train]
    torch.testing.assert_close(known.mean(0), torch.zeros(30), rtol=0, atol=1e-5)
    assert float(known.square().mean(0).sum()) == pytest.approx(30, rel=1e-4)  # of 30 standardised neurons
    assert (known.var(0).diff() < 1e-5).all()
    responses = recording.responses.clone()
    responses[found.held_out] *= 3
    other = session(replace(recording, responses=responses), Run("real", 3), SMALL)
    torch.testing.assert_close(other.responses[found.train], known)
    assert not torch.allclose(other.responses[found.held_out], found.responses[found.held_out])
    assert session(recording, Run("real", 3), replace(SMALL, components=7)).responses.shape == (200, 7)
    assert not torch.equal(session(recording, Run("real", 4), SMALL).train, found.train)


def test_shuffled_responses_are_the_same_ones_to_other_images(material: Material):
    recording = material.recordings[0]
    marked = replace(recording, responses=torch.arange(200.0).unsqueeze(1), repeats=None)
    real, shuffled = (session(marked, Run(arm, 3), SMALL) for arm in ("real", "shuffled"))
    again, other = session(marked, Run("vicreg-shuffled", 3), SMALL), session(marked, Run("shuffled", 4), SMALL)
    assert torch.equal(real.train, shuffled.train)
    assert torch.equal(real.stimuli, shuffled.stimuli)
    rank = shuffled.responses[:, 0].argsort().argsort()
    assert torch.equal(real.responses[:, 0].abs().argsort().sort().values, torch.arange(200))
    assert sorted(rank.tolist()) == list(range(200))
    steps = (rank - torch.arange(200)).abs()
    assert int((steps == 0).sum()) < 6
    assert torch.equal(again.responses, shuffled.responses)
    assert not torch.equal(other.responses, shuffled.responses)


def test_what_the_synthetic_population_saw_is_not_learned(material: Material):
    whole = data.load("digits")
    assert len(material.images.train_images) == len(whole.train_images) - 200
    (recording,) = material.recordings
    kept = torch.cat([material.images.train_images, recording.images]).flatten(1)
    assert torch.equal(_sorted(kept), _sorted(whole.train_images.flatten(1)))
    assert len(stimuli.prepare(replace(SMALL, arms=("none",))).images.train_images) == len(whole.train_images) - 200
    few = stimuli.prepare(replace(SMALL, images=100)).images
    assert torch.equal(few.train_images, material.images.train_images[torch.arange(100) * 1237 // 100])


def _sorted(rows: Tensor) -> Tensor:
    return torch.from_numpy(np.array(sorted(rows.tolist())))


def test_recordings_come_in_the_size_and_colours_of_the_images(monkeypatch: pytest.MonkeyPatch):
    colours = torch.randint(0, 256, (2, 40, 3, 8, 8)).to(torch.uint8)
    asked: list[object] = []

    def two(*what: object, size: int) -> list[data.Recording]:
        asked.append((*what, size))
        return [data.Recording(f"s{at}", images, torch.rand(40, 5)) for at, images in enumerate(colours)]

    monkeypatch.setattr(stimuli, "recordings", two)
    settings = replace(SMALL, responses=Path("some/v9"), sessions=("s0", "s1"))
    assert settings.population == "v9"
    found = stimuli.prepare(settings)
    assert asked == [(Path("some/v9"), ("s0", "s1"), 8)]
    assert len(found.images.train_images) == 1437
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    for seen, coloured in zip(found.recordings, colours, strict=True):
        assert seen.images.shape == (40, 1, 8, 8)
        assert float((seen.images - (coloured * weights).sum(1, keepdim=True)).abs().max()) <= 0.51
    stimuli.prepare(replace(settings, sessions=()))
    assert asked[1] == (Path("some/v9"), None, 8)


def test_augmented_images_are_shifted_and_mirrored():
    images = torch.randint(0, 256, (2, 3, 7, 9)).to(torch.uint8)
    padded = F.pad(images.float(), (2,) * 4, mode="reflect").to(torch.uint8)
    generator, seen = torch.Generator().manual_seed(0), set()
    for _ in range(100):
        for at, found in enumerate(augmented(images, generator)):
            same = {
                (down, right, flip)
                for down, right, flip in product(range(5), range(5), (False, True))
                if torch.equal(found.flip(-1) if flip else found, padded[at, :, down : down + 7, right : right + 9])
            }
            assert len(same) == 1
            seen |= same
    assert len(seen) == 50
    assert torch.equal(
        augmented(images, torch.Generator().manual_seed(5)), augmented(images, torch.Generator().manual_seed(5))
    )


# Correlations and accuracy --------------------------------------------------------------------------------------------


def views(count: int, noise: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shared, mixed, own = (torch.randn(count, 6, generator=generator, dtype=torch.float64) for _ in range(3))
    return shared @ torch.diag(torch.arange(1.0, 7, dtype=torch.float64)), (shared + noise * own) @ (mixed[:6] + 3)


@pytest.mark.parametrize("known", [40, 2000])
def test_directions_are_fitted_to_training_stimuli_alone(known: int):
    x, y = views(4000, 0.5)
    parts = torch.arange(known), torch.arange(2000, 4000)
    fitted, held_out = on_both(x, y, *parts, (1e-4, 1e-4))
    torch.testing.assert_close(fitted, plain_correlations(x[:known], y[:known]), rtol=1e-8, atol=1e-10)
    assert bool((fitted.diff() <= 0).all())
    planted = 1 / math.sqrt(1 + 0.25)
    assert float(held_out.mean()) == pytest.approx(planted, abs=0.02 if known == 2000 else 0.15)
    unrelated = y[torch.randperm(4000, generator=torch.Generator().manual_seed(1))]
    fitted, held_out = on_both(x, unrelated, *parts, (1e-4, 1e-4))
    assert abs(float(held_out.mean())) < 0.03
    if known == 40:  # what any fit to few samples finds, on held-out stimuli too
        assert float(fitted.mean()) > 0.25
        assert float(plain_correlations(x[2000:2040], unrelated[2000:2040]).mean()) > 0.25


def test_held_out_correlations_are_pearsons_without_the_ridge():
    x, y = views(500, 1.0)
    train, held_out = torch.arange(300), torch.arange(300, 500)
    _, found = on_both(x, y, train, held_out, (0.0, 0.0))
    u, v = x[train] - x[train].mean(0), y[train] - y[train].mean(0)
    left, _, right = torch.linalg.svd(torch.linalg.qr(u)[0].T @ torch.linalg.qr(v)[0])
    a = torch.linalg.solve(torch.linalg.qr(u)[1], left)
    b = torch.linalg.solve(torch.linalg.qr(v)[1], right.T)
    due = np.corrcoef((x[held_out] @ a).T, (y[held_out] @ b).T)[:6, 6:].diagonal()
    np.testing.assert_allclose(found, due, rtol=1e-8)


def test_projections_that_collapse_or_break_down_are_seen():
    x, y = views(100, 0.5)
    parts = torch.arange(60), torch.arange(60, 100)
    fitted, held_out = on_both(torch.ones_like(x), y, *parts, (1e-4, 1e-4))
    assert float(fitted.abs().max()) == float(held_out.abs().max()) == 0
    for broken in (torch.nan, torch.inf):
        x[70, 2] = broken
        assert all(bool(found.isnan().all()) for found in on_both(x, y, *parts, (1e-4, 1e-4)))


def test_correlations_are_those_of_the_projections_without_dropout(material: Material):
    settings = replace(SMALL, dropout=0.5)
    subject = learner(material, "real", settings)
    (source,), regulariser = subject.sessions, subject.regularisers[0]
    found = correlations(subject.net, "V1", regulariser, source)
    assert regulariser.training
    with torch.no_grad():
        h = subject.net.until("V1", brightness(source.stimuli))
        u, v = regulariser.eval().project(h, source.responses)
    due = nk.canonical_correlations(u[source.train].double(), v[source.train].double(), reg=1e-4)
    torch.testing.assert_close(found[0], due, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(found[0], found[1], atol=1e-3)


class _Always(Areas):
    """Answers with the brightness of some pixels."""

    def __init__(self) -> None:
        nn.Module.__init__(self)

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :4]


def test_super_class_accuracy_counts_the_super_class():
    pixels = torch.eye(4, dtype=torch.uint8).mul(255)[[0, 1, 2, 3, 0]].reshape(5, 1, 2, 2)
    labels = torch.tensor([0, 0, 3, 1, 2])  # right; right kind; right kind; wrong; wrong
    digits = data.Dataset("some", pixels, labels, pixels, labels, tuple("abcd"))
    images, settings = Images(digits, torch.device("cpu")), replace(SMALL, attack_samples=3)
    subject = type("Subject", (), {"net": _Always(), "regularisers": [], "sessions": []})()
    examine = Examiner(settings, images, torch.tensor([0, 0, 1, 1]))
    seen, found = examine(subject, full=False)
    assert seen == {"clean": 1 / 5, "super": 3 / 5}
    assert found == {}
    assert torch.equal(examine.labels, labels[torch.tensor([0, 1, 3])])
    assert set(Examiner(settings, images, None)(subject, full=False)[0]) == {"clean"}
    assert set(examine(subject, full=True)[0]) == {"clean", "super"} | {
        f"{attack}_{size:g}" for attack in ("fgsm", "pgd") for size in getattr(settings, attack)
    }
