"""CIFAR-10: the official format, the pictures that are converted to it, and the archive that it comes in."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from neurokernels.data import cifar10
from neurokernels.data.cifar import PIXELS, parse, records
from neurokernels.data.files import sha256
from neurokernels.data.registry import Spec, load_spec
from neurokernels.data.sources import File, SourceError, WebArchive
from tests.data.conftest import CONTENTS, FILES, IMAGES, LABELS
from tests.data.test_sources import answer, archive, served


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 32, 32), np.uint8)


def png(pixels: np.ndarray) -> bytes:
    """A row for every image, red, green and blue together."""
    buffer = io.BytesIO()
    Image.fromarray(pixels.reshape(len(pixels), 3, 1024).transpose(0, 2, 1)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("labels", [1, 2])
def test_records_are_labels_then_red_green_and_blue(labels: int):
    pixels = images(5)
    answers = np.arange(5 * labels, dtype=np.uint8).reshape(5, labels)
    content = b"".join(bytes(a) + p.tobytes() for a, p in zip(answers, pixels, strict=True))
    found, classes = parse([content, content[: 2 * (labels + PIXELS)]], labels)
    assert torch.equal(found, torch.from_numpy(np.concatenate((pixels, pixels[:2]))))
    assert classes.tolist() == [*answers.tolist(), *answers[:2].tolist()]
    assert classes.dtype == torch.int64


def test_half_a_record_is_refused():
    with pytest.raises(ValueError, match="^cifar: expected records of 3073 bytes, got a file of 3072$"):
        parse([bytes(3072)])


def test_a_picture_becomes_the_official_file():
    pixels, answers = images(4), np.array([[3], [1], [4], [1]], np.uint8)
    found, classes = parse([records(png(pixels), answers)])
    assert np.array_equal(found.numpy(), pixels)
    assert classes.tolist() == [[3], [1], [4], [1]]


@pytest.mark.parametrize(
    ("picture", "says"),
    [
        (png(images(3)), "a picture has 1024 x 3 pixels in RGB, expected one image per row"),
        (b"\x89PNG\r\n\x1a\nno", "a picture cannot be read: "),
        (b"GIF89a", "a picture cannot be read: "),
    ],
)
def test_other_pictures_are_refused(picture: bytes, says: str):
    with pytest.raises(SourceError, match=says):
        records(picture, np.zeros((4, 1), np.uint8))


def test_a_picture_that_breaks_off_is_refused():
    with pytest.raises(SourceError, match="a picture cannot be read: "):
        records(png(images(4))[:-2000], np.zeros((4, 1), np.uint8))


def test_without_pillow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    picture = png(images(1))
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(SourceError, match=r"its pictures need PIL: pip install 'neurokernels\[train\]'"):
        records(picture, np.zeros((1, 1), np.uint8))


def package(count: int) -> tuple[np.ndarray, list[int], dict[str, bytes]]:
    """What the npm package holds, with fewer images per file."""
    pixels, labels = images(6 * count), [int(label) for label in np.random.default_rng(1).integers(0, 10, 6 * count)]
    members = {
        name: png(pixels[at * count : (at + 1) * count])
        for at, name in enumerate([*(f"data_batch_{batch}.png" for batch in range(1, 6)), "test_batch.png"])
    }
    members["train_lables.json"] = json.dumps(labels[: 5 * count]).encode()
    members["test_lables.json"] = json.dumps(labels[5 * count :]).encode()
    return pixels, labels, members


def test_the_package_becomes_the_data_set(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cifar10, "_IMAGES", 3)
    pixels, labels, members = package(3)
    convert = cifar10.SPEC.sources[-1].convert
    loaded = cifar10.SPEC.decode(convert(members))
    assert np.array_equal(loaded.train_images.numpy(), pixels[:15])
    assert np.array_equal(loaded.test_images.numpy(), pixels[15:])
    assert loaded.train_labels.tolist() == labels[:15]
    assert loaded.test_labels.tolist() == labels[15:]
    grouped = {
        kind: [loaded.classes[at] for at, of in enumerate(loaded.superclass) if of == place]
        for place, kind in enumerate(loaded.superclasses)
    }
    assert grouped == {
        "animal": ["bird", "cat", "deer", "dog", "frog", "horse"],
        "vehicle": ["airplane", "automobile", "ship", "truck"],
    }
    with pytest.raises(SourceError, match="its labels cannot be read: "):
        convert(members | {"test_lables.json": b"[1, 2]"})
    with pytest.raises(SourceError, match="its labels cannot be read: "):
        convert(members | {"test_lables.json": b"[1, 2"})


def test_the_registry_names_the_official_files():
    spec = cifar10.SPEC
    assert [file.name for file in spec.files] == [*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"]
    assert {file.size for file in spec.files} == {30_730_000}
    assert len({file.sha256 for file in spec.files}) == 6
    assert set(spec.sources[-1].members) == set(package(1)[2])
    assert str(spec.sources[0]).endswith("cifar-10-binary.tar.gz")


INSIDE = {f"folder/{name}": content for name, content in CONTENTS.items()}


def test_an_archive_is_read_while_it_comes_in():
    with served({"all.tar.gz": answer(archive(INSIDE | {"folder/readme": b"x", IMAGES: b"elsewhere"}))}) as address:
        assert WebArchive(f"{address}all.tar.gz", "folder").fetch(FILES) == CONTENTS


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        (answer(archive(INSIDE)[:-40]), f"it holds no {LABELS}"),
        (answer(archive(INSIDE)[:60], 5000), "ended before|end of data|truncated"),
        (answer(b"<html>not here</html>"), "not a gzip file"),
        (b"HTTP/1.0 404 Not Found\r\n\r\n", "^HTTP Error 404: Not Found$"),
        (answer(archive({f"folder/{IMAGES}": b"1"})), f"it holds no {LABELS}"),
    ],
)
def test_an_archive_that_is_damaged_or_not_there_is_a_reason(sent: bytes, says: str):
    with served({"all.tar.gz": sent}) as address, pytest.raises(SourceError, match=says):
        WebArchive(f"{address}all.tar.gz", "folder").fetch(FILES)


def test_a_member_that_is_too_long_is_not_read_whole(tmp_path: Path):
    long = {f"folder/{IMAGES}": bytes(1_000_000), f"folder/{LABELS}": CONTENTS[LABELS]}
    with served({"all.tar.gz": answer(archive(long))}) as address:
        source = WebArchive(f"{address}all.tar.gz", "folder")
        assert len(source.fetch(FILES)[IMAGES]) == FILES[0].size + 1
        spec = Spec("tiny", FILES, (source,), lambda _: None)  # type: ignore[arg-type,return-value]
        with pytest.raises(OSError, match=f"{IMAGES} has more than {FILES[0].size} bytes"):
            load_spec(spec, tmp_path)


def test_an_unpacked_official_archive_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cifar10, "_IMAGES", 2)
    pixels, _, members = package(2)
    contents = cifar10.SPEC.sources[-1].convert(members)
    files = tuple(File(name, len(content), sha256(content)) for name, content in contents.items())
    home = tmp_path / "cifar-10-batches-bin"
    home.mkdir()
    for name, content in contents.items():
        (home / name).write_bytes(content)
    loaded = load_spec(Spec("cifar10", files, (), cifar10.SPEC.decode, cifar10.SPEC.folders), tmp_path)
    assert np.array_equal(loaded.test_images.numpy(), pixels[10:])
    assert loaded.classes[3] == "cat"
