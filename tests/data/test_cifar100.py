"""CIFAR-100: the official format with two labels an image, and the superclasses."""

from pathlib import Path

import numpy as np
import pytest
import torch

from neurokernels import data
from neurokernels.data import cifar100
from neurokernels.data.cifar import PIXELS
from neurokernels.data.files import sha256
from neurokernels.data.registry import Spec, load_spec
from neurokernels.data.sources import File, WebArchive
from tests.data.test_cifar10 import images
from tests.data.test_sources import answer, archive, served

#: Superclass of every class, as Keras and others list it.
COARSE = (
    4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11, 6, 11, 5, 10, 7, 6, 13, 15, 3, 15, 0, 11, 1, 10,
    12, 14, 16, 9, 11, 5, 5, 19, 8, 8, 15, 13, 14, 17, 18, 10, 16, 4, 17, 4, 2, 0, 17, 4, 18, 17, 10, 3, 2, 12, 12, 16,
    12, 1, 9, 19, 2, 10, 0, 1, 16, 12, 9, 13, 15, 13, 16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14,
    13,
)  # fmt: skip


def content(pixels: np.ndarray, labels: list[int], superclasses: list[int] | None = None) -> bytes:
    """An official file with fewer images."""
    coarse = [COARSE[label] for label in labels] if superclasses is None else superclasses
    return b"".join(bytes((c, f)) + p.tobytes() for c, f, p in zip(coarse, labels, pixels, strict=True))


TRAIN, TEST = list(range(100)), [99, 0, 41, 0]
CONTENTS = {"train.bin": content(images(100), TRAIN), "test.bin": content(images(4, 1), TEST)}
FILES = tuple(File(name, len(found), sha256(found)) for name, found in CONTENTS.items())


def test_classes_belong_to_the_official_superclasses():
    loaded = cifar100.SPEC.decode(CONTENTS)
    assert loaded.superclass == COARSE
    assert loaded.classes == tuple(sorted(loaded.classes))
    assert loaded.superclasses == tuple(sorted(loaded.superclasses))
    assert len(set(loaded.classes)) == 100
    assert np.bincount(loaded.superclass).tolist() == [5] * 20
    assert [loaded.classes[at] for at in (0, 41, 99)] == ["apple", "lawn_mower", "worm"]
    assert [loaded.superclasses[at] for at in (4, 19, 13)] == [
        "fruit_and_vegetables", "vehicles_2", "non-insect_invertebrates",
    ]  # fmt: skip


def test_the_second_label_is_the_class():
    loaded = cifar100.SPEC.decode(CONTENTS)
    assert loaded.train_labels.tolist() == TRAIN
    assert loaded.test_labels.tolist() == TEST
    assert loaded.train_labels.dtype == torch.int64
    assert loaded.train_labels.is_contiguous()
    assert np.array_equal(loaded.train_images.numpy(), images(100))
    assert np.array_equal(loaded.test_images.numpy(), images(4, 1))


@pytest.mark.parametrize(
    ("labels", "superclasses", "says"),
    [
        ([5, 8], [6, 17], "cifar100: expected superclass 18 of bicycle in test.bin, got 17 at image 1"),
        ([8, 5], [8, 5], "cifar100: expected superclass 18 of bicycle in test.bin, got 8 at image 0"),
        ([0, 100], [4, 4], "cifar100: expected labels below 100 in test.bin, got 100"),
    ],
)
def test_labels_that_cannot_be_are_refused(labels: list[int], superclasses: list[int], says: str):
    wrong = CONTENTS | {"test.bin": content(images(2), labels, superclasses)}
    with pytest.raises(ValueError, match=f"^{says}$"):
        cifar100.SPEC.decode(wrong)


def test_the_registry_names_the_official_files():
    spec = cifar100.SPEC
    assert {file.name: file.size for file in spec.files} == {
        "train.bin": 50_000 * (2 + PIXELS),
        "test.bin": 10_000 * (2 + PIXELS),
    }
    assert len({file.sha256 for file in spec.files}) == 2
    assert str(spec.sources[0]).endswith("/cifar-100-binary.tar.gz")


def test_an_unpacked_official_archive_is_found(tmp_path: Path):
    home = tmp_path / "cifar-100-binary"
    home.mkdir()
    for name, found in CONTENTS.items():
        (home / name).write_bytes(found)
    loaded = load_spec(Spec("cifar100", FILES, (), cifar100.SPEC.decode, cifar100.SPEC.folders), tmp_path)
    assert loaded.test_labels.tolist() == TEST


def test_the_archive_as_it_is_published_is_read(tmp_path: Path):
    inside = {f"cifar-100-binary/{name}": found for name, found in CONTENTS.items()}
    packed = archive({"cifar-100-binary/fine_label_names.txt": b"apple\n"} | inside)
    with served({"cifar-100-binary.tar.gz": answer(packed)}) as address:
        source = WebArchive(f"{address}cifar-100-binary.tar.gz", cifar100.SPEC.sources[0].folder)
        loaded = load_spec(Spec("cifar100", FILES, (source,), cifar100.SPEC.decode), tmp_path)
    assert loaded.test_labels.tolist() == TEST
    assert (tmp_path / "cifar100" / "train.bin").read_bytes() == CONTENTS["train.bin"]


def test_files_of_the_right_size_that_are_not_the_official_ones_are_refused(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: (_ for _ in ()).throw(OSError("no network")))
    for file in cifar100.SPEC.files:
        with (tmp_path / file.name).open("wb") as stream:
            stream.truncate(file.size)
    with pytest.raises(data.DataError, match=r"train.bin has sha256 [0-9a-f]{16}…, expected f31298fc616915fa…"):
        data.load("cifar100", tmp_path)
