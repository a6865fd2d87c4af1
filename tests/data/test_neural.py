"""Recordings: the layout on the disk, what is refused, and what trainers compute from responses."""

import io
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from neurokernels import data
from neurokernels.data import Recording

IMAGES, NEURONS, REPEATS = 12, 3, 4


def picture(brightness: int, size: tuple[int, int] = (20, 16), kind: str = "JPEG", mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new("L", size, brightness).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def brightness(number: int) -> int:
    return 20 * number


def raw(seed: int = 0) -> np.ndarray:
    """Single repeats ``[neurons, images, repeats]``; some images have one fewer."""
    values = np.random.default_rng(seed).poisson(5.0, (NEURONS, IMAGES, REPEATS)).astype(np.float64)
    values[:, ::3, -1] = np.nan
    return values


def archive(folder: Path, members: dict[str, bytes], session: str = "a") -> None:
    (folder / "images").mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / "images" / f"images_{session}.zip", "w") as packed:
        for name, content in members.items():
            packed.writestr(name, content)


def array(folder: Path, kind: str, values: np.ndarray, session: str = "a", pickles: bool = False) -> None:
    (folder / kind).mkdir(exist_ok=True)
    np.save(folder / kind / f"responses_{session}.npy", values, allow_pickle=pickles)


#: Neither the order of the archive nor that of the names is the order of the numbers.
MEMBERS = {f"image{n}.jpg": picture(brightness(n)) for n in reversed(range(1, IMAGES + 1))}
AVERAGED, RAW = "responses_repeat_averaged", "responses_raw"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for at, session in enumerate("ab"):
        archive(tmp_path, MEMBERS, session)
        array(tmp_path, AVERAGED, np.nanmean(raw(at), -1), session)
    array(tmp_path, RAW, raw())
    return tmp_path


def numbers(recording: Recording) -> list[int]:
    """Which image each one is, by its brightness."""
    return [round(float(image.float().mean()) / brightness(1)) for image in recording.images]


def test_images_and_responses_belong_together_by_number(folder: Path):
    (found, other) = data.recordings(folder)
    assert (found.name, other.name) == ("a", "b")
    assert found.images.shape == (IMAGES, 3, 16, 20)
    assert found.images.dtype == torch.uint8
    assert numbers(found) == list(range(1, IMAGES + 1))
    assert sorted(MEMBERS) != [f"image{n}.jpg" for n in range(1, IMAGES + 1)], "by name the order would be another"
    assert found.responses.dtype == torch.float32
    np.testing.assert_allclose(found.responses, np.nanmean(raw(), -1).T, rtol=1e-6)
    np.testing.assert_array_equal(found.repeats, raw().transpose(1, 0, 2).astype(np.float32))
    np.testing.assert_allclose(other.responses, np.nanmean(raw(1), -1).T, rtol=1e-6)
    assert other.repeats is None


def test_sessions_come_as_asked(folder: Path):
    assert [one.name for one in data.recordings(folder, ["b", "a"])] == ["b", "a"]
    assert [one.name for one in data.recordings(str(folder), "b")] == ["b"]


def test_images_are_resized_with_antialiasing(folder: Path):
    stripes = np.zeros((16, 20, 3), np.uint8)
    stripes[:, ::2] = 255
    buffer = io.BytesIO()
    Image.fromarray(stripes).save(buffer, "PNG")
    archive(folder, {f"image{n}.png": buffer.getvalue() for n in range(1, IMAGES + 1)})
    (found,) = data.recordings(folder, "a", size=5)
    assert found.images.shape == (IMAGES, 3, 5, 5)
    middle = found.images[:, :, :, 1:-1].float()  # nearest neighbours would be black or white
    assert float(middle.min()) > 90
    assert float(middle.max()) < 165


def test_grey_images_and_what_file_managers_leave_are_taken(folder: Path):
    members = {"in/": b"", "__MACOSX/in/._image1.png": b"x", "in/.DS_Store": b"x"}
    members |= {f"in/image{n:04}.PNG": picture(brightness(n), kind="PNG", mode="L") for n in range(1, IMAGES + 1)}
    archive(folder, members)
    assert numbers(data.recordings(folder, "a")[0]) == list(range(1, IMAGES + 1))


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def written(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content)  # type: ignore[return-value]


def members(**change: bytes | None) -> Callable[[Path], None]:
    names = {name.replace("__", "."): content for name, content in change.items()}
    merged = {name: content for name, content in (MEMBERS | names).items() if content is not None}
    return lambda folder: archive(folder, merged)


def averages(values: np.ndarray, pickles: bool = False) -> Callable[[Path], None]:
    return lambda folder: array(folder, AVERAGED, values, pickles=pickles)


def singles(values: np.ndarray) -> Callable[[Path], None]:
    return lambda folder: array(folder, RAW, values)


def other(values: np.ndarray, at: tuple[int, ...], value: float) -> np.ndarray:
    changed = values.copy()
    changed[at] = value
    return changed


MEAN = np.nanmean(raw(), -1)
ZIP, NPY, SINGLE = "images/images_a.zip", f"{AVERAGED}/responses_a.npy", f"{RAW}/responses_a.npy"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (without(ZIP), f"there is no .*{ZIP}"),
        (written(ZIP, b"no zip"), f"{ZIP} cannot be read: "),
        (members(image7__jpg=None), f"{ZIP} holds 11 images for 12 responses: no image 7"),
        (members(image13__jpg=picture(0)), f"{ZIP} holds 13 images for 12 responses: an image 13"),
        (members(image0__jpg=picture(0), image12__jpg=None), "holds 12 images for 12 responses: an image 0"),
        (members(image0007__jpg=picture(0)), f"{ZIP} holds image 7 twice"),
        (members(notes__txt=b"hello"), f"expected image0001.jpg and so on in .*{ZIP}, got notes.txt"),
        (members(image3__jpg=b"no picture"), f"image3.jpg in .*{ZIP} is no image that can be read: "),
        (members(image3__jpg=picture(9)[:-300]), f"image3.jpg in .*{ZIP} is no image that can be read: "),
        (members(image3__jpg=picture(9, (9, 9))), f"{ZIP} holds images of 9 x 9, 16 x 20 pixels: give one size="),
        (written(NPY, b"no array"), f"{NPY} cannot be read: "),
        (averages(MEAN.astype(object), pickles=True), f"{NPY} cannot be read: .*allow_pickle=False"),
        (averages(MEAN[0]), rf"expected floats \[neurons, images\] in .*{NPY}, got float64 \[12\]"),
        (averages(MEAN.astype(int)), rf"expected floats \[neurons, images\] in .*{NPY}, got int64 \[3, 12\]"),
        (averages(MEAN[:0]), rf"{NPY} holds no responses, shape \[0, 12\]"),
        (averages(MEAN[:, :-1]), f"{ZIP} holds 12 images for 11 responses: an image 12"),
        (averages(other(MEAN, (1, 4), np.nan)), f"{NPY} holds nan for neuron 1, image 5"),
        (averages(other(MEAN, (2, 0), np.inf)), f"{NPY} holds inf for neuron 2, image 1"),
        (singles(raw()[:2]), rf"expected \[3, 12, repeats\] as the averaged responses in .*{SINGLE}, got \[2, 12, 4\]"),
        (singles(raw()[:, ::-1]), f"{SINGLE} averages to .* for neuron 0, image 1, expected .* \\({AVERAGED}\\)"),
        (singles(other(raw(), (1, 4, 0), np.inf)), f"{SINGLE} averages to inf for neuron 1, image 5"),
        (singles(other(raw(), (1, 4), np.nan)), f"{SINGLE} averages to nan for neuron 1, image 5"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_folder_is_said(folder: Path, damage: Callable[[Path], None], says: str):
    data.recordings(folder, "a")
    damage(folder)
    with pytest.raises(data.DataError, match=f"^recordings: .*{says}|^recordings: {says}"):
        data.recordings(folder, "a")


def test_one_size_makes_all_images_equal(folder: Path):
    members(image3__jpg=picture(brightness(3), (9, 9)))(folder)
    assert numbers(data.recordings(folder, "a", size=8)[0]) == list(range(1, IMAGES + 1))


def test_an_unknown_session_lists_those_there_are(folder: Path, tmp_path: Path):
    with pytest.raises(data.DataError, match=f"session must be one of a, b in {folder}, got 'c'"):
        data.recordings(folder, ["a", "c"])
    with pytest.raises(data.DataError, match="no session in .*nowhere: expected responses_repeat_averaged/responses_"):
        data.recordings(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="recordings: size must be an integer >= 1, got 0"):
        data.recordings(folder, size=0)


def test_a_member_that_would_fill_the_memory_is_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("neurokernels.data.neural._LARGEST", len(MEMBERS["image1.jpg"]))
    data.recordings(folder, "a")
    members(image3__jpg=MEMBERS["image3.jpg"] + b"0")(folder)
    with pytest.raises(data.DataError, match="image3.jpg in .* has .* bytes, expected .* at most"):
        data.recordings(folder, "a")


def test_nothing_is_unpacked(folder: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("an archive was extracted")

    for method in ("extract", "extractall"):
        monkeypatch.setattr(zipfile.ZipFile, method, refuse)
    outside = {f"../../image{n}.jpg": picture(brightness(n)) for n in range(1, IMAGES + 1)}
    archive(folder, outside)
    before = sorted(folder.parent.rglob("*"))
    assert numbers(data.recordings(folder, "a")[0]) == list(range(1, IMAGES + 1))
    assert sorted(folder.parent.rglob("*")) == before


def test_without_pillow_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(data.DataError, match=r"images need PIL: pip install 'neurokernels\[train\]'"):
        data.recordings(folder)


def recording(images: int, neurons: int, repeats: torch.Tensor | None = None) -> Recording:
    pixels = torch.zeros(images, 1, 2, 2, dtype=torch.uint8)
    return Recording("r", pixels, torch.zeros(images, neurons), repeats)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"images": torch.zeros(4, 1, 2, 2)}, r"images must be uint8 \[N, C, H, W\], got torch.float32 \[4, 1, 2, 2\]"),
        ({"images": torch.zeros(4, 2, 2, dtype=torch.uint8)}, r"images must be uint8 \[N, C, H, W\], got torch.uint8"),
        ({"responses": torch.zeros(3, 5)}, r"responses must be \[4, neurons\], got \[3, 5\]"),
        ({"repeats": torch.zeros(4, 4, 2)}, r"repeats must be \[4, 5, R\], got \[4, 4, 2\]"),
    ],
)
def test_shapes_that_do_not_agree_are_refused(change: dict[str, torch.Tensor], says: str):
    with pytest.raises(ValueError, match=f"^Recording: {says}"):
        replace(recording(4, 5), **change)


def test_a_split_is_a_partition_that_its_seed_decides():
    one = recording(40, 1)
    train, test = one.split(0.25, 3)
    assert (len(train), len(test)) == (30, 10)
    assert sorted([*train.tolist(), *test.tolist()]) == list(range(40))
    assert all(torch.equal(part, part.sort().values) for part in (train, test))
    again, another = one.split(0.25, 3), one.split(0.25, 4)
    assert torch.equal(again[1], test)
    assert not torch.equal(another[1], test)
    for share in (0.001, 0.999, 0, 1):
        with pytest.raises(ValueError, match="split: test must be a share that leaves images on both sides of 40"):
            one.split(share)
    with pytest.raises(ValueError, match=r"split: test must be in \[0, 1\], got 8"):
        one.split(8)


def test_halves_share_out_all_repeats():
    values = 2.0 ** torch.arange(7).expand(50, 2, 7).clone()  # every subset has a sum of its own
    values[:20, :, 5:] = torch.nan
    values[48, 0, 1:] = torch.nan
    first, second = recording(50, 2, values).halves(1)
    for images, half, rest, total in ((slice(20), 2, 3, 31), (slice(20, 48), 3, 4, 127)):
        a, b = first[images] * half, second[images] * rest
        torch.testing.assert_close(a + b, torch.full_like(a, total))
        assert all(int(x).bit_count() == half for x in a.round().flatten())
    assert torch.equal(first[:48, 0], first[:48, 1]), "neurons recorded together share the split"
    assert first[:48, 0].unique().numel() > 10, "images do not"
    assert first[48].isnan().tolist() == second[48].isnan().tolist() == [True, False]
    assert not torch.equal(first, recording(50, 2, values).halves(2)[0])


def noisy(seed: int = 0) -> tuple[Recording, torch.Tensor]:
    """Repeats of neurons with ever more noise, and the true reliability of their mean."""
    images, repeats = 3000, 6
    generator = torch.Generator().manual_seed(seed)
    noise = torch.tensor([0.0, 1.0, 2.0, 4.0])
    signal = torch.randn(images, 4, 1, generator=generator)
    values = signal + noise[:, None] * torch.randn(images, 4, repeats, generator=generator)
    return recording(images, 4, values), 1 / (1 + noise.square().double() / repeats)


def test_reliability_is_that_of_the_mean_over_all_repeats():
    found, truth = noisy()
    reliability = found.reliability(seed=1)
    torch.testing.assert_close(reliability, truth, atol=0.03, rtol=0)
    uncorrected = torch.stack(
        [torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(*(h.T for h in found.halves()), strict=True)]
    )
    assert float((uncorrected.double() - truth)[1:].abs().min()) > 0.06, "the halves alone are less reliable"
    assert torch.equal(reliability, found.reliability(seed=1))
    assert not torch.equal(reliability, found.reliability(seed=2))


def test_reliability_leaves_out_what_was_not_repeated_and_keeps_what_is_not_finite():
    found, truth = noisy()
    values = found.repeats.clone()
    values[::2, :, 1:] = torch.nan  # leaves half of the images
    values[1::2, 2, 3:] = torch.nan  # and three repeats of one neuron
    values[1, 3, 0] = torch.inf
    reliability = replace(found, repeats=values).reliability()
    assert reliability[3].isnan()
    expected = torch.stack([truth[0], truth[1], 1 / (1 + torch.tensor(4.0).double() / 3)])
    torch.testing.assert_close(reliability[:3], expected, atol=0.06, rtol=0)


def test_reliability_needs_repeats():
    with pytest.raises(ValueError, match="^reliability: recording r has no single repeats, only their mean$"):
        recording(4, 2).reliability()
    with pytest.raises(ValueError, match="^halves: recording r has no single repeats"):
        recording(4, 2).halves()
    constant = recording(4, 2, torch.ones(4, 2, 3)).reliability()
    assert constant.isnan().all()


@pytest.fixture
def responses() -> tuple[torch.Tensor, torch.Tensor]:
    """Responses whose other images lie elsewhere than the training ones, and the training images."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(60, 5, generator=generator) @ torch.randn(5, 5, generator=generator) + 3
    train = torch.arange(0, 60, 2)
    values[1::2] = 4 * values[1::2] - 7
    return values, train


def standardised(values: torch.Tensor) -> bool:
    zeros, ones = torch.zeros(5), torch.ones(5)
    return torch.allclose(values.mean(0), zeros, atol=1e-5) and torch.allclose(values.std(0, correction=0), ones)


def test_zscores_know_the_training_images_only(responses: tuple[torch.Tensor, torch.Tensor]):
    values, train = responses
    scored = data.zscore(values, train)
    assert scored.dtype == torch.float32
    assert standardised(scored[train])
    assert not standardised(data.zscore(values)[train]), "with all images it would be"
    mean, deviation = values[train].mean(0), values[train].std(0, correction=0)
    torch.testing.assert_close(scored[1::2], (values[1::2] - mean) / deviation)
    assert standardised(data.zscore(values))


def test_principal_components_are_fitted_on_the_training_images(responses: tuple[torch.Tensor, torch.Tensor]):
    from sklearn.decomposition import PCA

    values, train = responses
    found = data.principal_components(values, 3, train)
    assert found.dtype == torch.float32
    peer = PCA(3).fit(values[train].double().numpy())
    weights = torch.from_numpy(peer.components_)
    signs = weights.gather(1, weights.abs().argmax(1, keepdim=True)).sign()[:, 0]
    expected = torch.from_numpy(peer.transform(values.double().numpy())) * signs
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    everywhere = data.principal_components(values, 3)
    assert not torch.allclose(everywhere[train].abs(), found[train].abs(), atol=0.1)
    assert float(everywhere.mean(0).abs().max()) < 1e-5


@pytest.mark.parametrize(
    ("call", "kind", "says"),
    [
        (lambda v, t: data.zscore(v[:, :0].new_ones(60, 2), t), ValueError, r"zscore: .*drop the others.*\[0, 1\]"),
        (lambda v, t: data.zscore(v.long(), t), TypeError, "zscore: responses must be float32"),
        (lambda v, t: data.zscore(v[0]), ValueError, r"zscore: responses must be \[N, neurons\], got \[5\]"),
        (lambda v, t: data.zscore(v, t[:1]), ValueError, "zscore: train must be at least two images, got 1"),
        (lambda v, t: data.principal_components(v / 0, 2), ValueError, "must be finite on the training images"),
        (lambda v, t: data.principal_components(v, 6, t), ValueError, "dims must be at most 5, the rank of 30 "),
        (lambda v, t: data.principal_components(v, 4, t[:4]), ValueError, "dims must be at most 3, the rank of 4 "),
        (lambda v, t: data.principal_components(v[:, [0, 0, 1]], 3), ValueError, "dims must be at most 2, the rank"),
        (lambda v, t: data.principal_components(v, 0), ValueError, "dims must be an integer >= 1, got 0"),
    ],
)
def test_what_cannot_be_fitted_is_refused(responses, call, kind: type[Exception], says: str):
    with pytest.raises(kind, match=says):
        call(*responses)
