import gzip
import io
import os
import shutil
import socket
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from neurokernels.data.sources import File, Folder, Installed, Npm, SourceError, Web
from tests.data.conftest import CONTENTS, FILES, IMAGES, LABELS

MEMBERS = {f"data/{file.name}": file.size for file in FILES}


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("rename", [False, True])
def test_a_folder_serves_plain_and_packed_files_under_any_name_they_go_by(tmp_path: Path, suffix: str, rename: bool):
    files = [File(f.name, f.size, f.sha256, aliases=(f.name.replace("-", "."),)) for f in FILES]
    for file in files:
        name = (file.aliases[0] if rename else file.name) + suffix
        content = CONTENTS[file.name]
        (tmp_path / name).write_bytes(gzip.compress(content) if suffix else content)
    assert Folder((tmp_path / "no such folder", tmp_path)).fetch(files) == CONTENTS


def test_a_folder_says_where_it_looked(tmp_path: Path):
    with pytest.raises(SourceError, match=f"^no {IMAGES} in {tmp_path / 'a'} or {tmp_path / 'b'}$"):
        Folder((tmp_path / "a", tmp_path / "b")).fetch(FILES)


def test_a_packed_file_that_ends_early_is_named(tmp_path: Path):
    (tmp_path / f"{IMAGES}.gz").write_bytes(gzip.compress(CONTENTS[IMAGES])[:-9])
    with pytest.raises(SourceError, match=f"{IMAGES}.gz cannot be read: "):
        Folder((tmp_path,)).fetch(FILES)


def test_an_archive_that_unpacks_to_too_much_is_not_unpacked_whole(tmp_path: Path):
    (tmp_path / f"{IMAGES}.gz").write_bytes(gzip.compress(bytes(10_000_000)))
    (tmp_path / LABELS).write_bytes(CONTENTS[LABELS])
    served = Folder((tmp_path,)).fetch(FILES)
    assert len(served[IMAGES]) == FILES[0].size + 1
    with pytest.raises(SourceError, match=f"{IMAGES} has more than {FILES[0].size} bytes, expected {FILES[0].size}"):
        FILES[0].check(served[IMAGES])


def test_one_flipped_bit_is_noticed():
    FILES[0].check(CONTENTS[IMAGES])
    broken = bytearray(CONTENTS[IMAGES])
    broken[-1] ^= 1
    with pytest.raises(SourceError, match=f"{IMAGES} has sha256 .*…, expected {FILES[0].sha256[:16]}…"):
        FILES[0].check(bytes(broken))


@contextmanager
def served(answers: dict[str, bytes]) -> Iterator[str]:
    """A web server on this machine that sends these raw answers by path and hangs up."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                path = connection.recv(4096).split()[1].decode().rpartition("/")[2]
                connection.sendall(answers.get(path, b"HTTP/1.0 404 Not Found\r\n\r\n"))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/data/"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def answer(body: bytes, length: int | None = None) -> bytes:
    return b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(body) if length is None else length) + body


def test_the_web_serves_packed_files():
    with served({f"{name}.gz": answer(gzip.compress(content)) for name, content in CONTENTS.items()}) as address:
        assert Web(address).fetch(FILES) == CONTENTS


def test_a_download_that_breaks_off_is_named():
    packed = gzip.compress(CONTENTS[IMAGES])
    with (
        served({f"{IMAGES}.gz": answer(packed[:20], len(packed))}) as address,
        pytest.raises(SourceError, match=f"^{IMAGES}.gz: "),
    ):
        Web(address).fetch(FILES)


def test_a_missing_page_is_named():
    with served({}) as address, pytest.raises(SourceError, match=f"^{IMAGES}.gz: HTTP Error 404: Not Found$"):
        Web(address).fetch(FILES)


def test_no_network_is_a_reason():
    with pytest.raises(SourceError, match=f"^{IMAGES}.gz: .*refused"):
        Web("http://127.0.0.1:1").fetch(FILES)


def archive(members: dict[str, bytes], link: str | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        if link:
            entry = tarfile.TarInfo(link)
            entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/hostname"
            tar.addfile(entry)
    return buffer.getvalue()


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes | None, str], None]:
    """Puts a program called npm in front of the path, which leaves this archive where it runs or fails."""

    def install(content: bytes | None, script: str = "exit 1") -> None:
        folder = tmp_path / "bin"
        folder.mkdir()
        (folder / "package").write_bytes(content or b"")
        program = folder / "npm"
        program.write_text(f"#!/bin/sh\n{script if content is None else f'cp {folder}/package tiny-1.0.0.tgz'}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    return install


def test_a_package_serves_its_members(npm):
    npm(archive({f"package/data/{name}": content for name, content in CONTENTS.items()} | {"package/x.js": b"1"}))
    assert Npm("tiny@1.0.0", MEMBERS).fetch(FILES) == CONTENTS


def test_a_package_in_another_format_is_converted(npm):
    npm(archive({"package/both": CONTENTS[IMAGES] + CONTENTS[LABELS]}))

    def convert(found: dict[str, bytes]) -> dict[str, bytes]:
        return {IMAGES: found["both"][: FILES[0].size], LABELS: found["both"][FILES[0].size :]}

    assert Npm("tiny@1.0.0", {"both": 1000}, convert).fetch(FILES) == CONTENTS


@pytest.mark.parametrize("outside", ["../data/", "/data/", "package/../../data/"])
def test_nothing_in_a_package_is_written_anywhere(npm, tmp_path: Path, outside: str, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("an archive was extracted")

    for method in ("extract", "extractall"):
        monkeypatch.setattr(tarfile.TarFile, method, refuse)
    npm(archive({f"{outside}{IMAGES}": b"evil", f"package/data/{LABELS}": CONTENTS[LABELS]}))
    with pytest.raises(SourceError, match=f"it holds no {IMAGES}"):
        Npm("tiny@1.0.0", MEMBERS | {f"data/{IMAGES}": 4}).fetch(FILES)


def test_a_link_in_a_package_is_not_followed(npm):
    npm(archive({f"package/data/{LABELS}": CONTENTS[LABELS]}, link=f"package/data/{IMAGES}"))
    with pytest.raises(SourceError, match=f"it holds no {IMAGES}"):
        Npm("tiny@1.0.0", MEMBERS).fetch(FILES)


def test_a_damaged_package_is_a_reason(npm):
    npm(archive({f"package/data/{name}": content for name, content in CONTENTS.items()})[:-30])
    with pytest.raises(SourceError, match="the package archive is damaged: "):
        Npm("tiny@1.0.0", MEMBERS).fetch(FILES)


def test_what_npm_says_is_handed_on(npm):
    npm(None, "echo 'npm error code ENOTFOUND' >&2; exit 3")
    with pytest.raises(SourceError, match="^npm ended with 3: npm error code ENOTFOUND$"):
        Npm("tiny@1.0.0", MEMBERS).fetch(FILES)


def test_an_npm_that_hangs_is_left(npm):
    npm(None, "exec sleep 60")
    with pytest.raises(SourceError, match="timed out"):
        Npm("tiny@1.0.0", MEMBERS, timeout=0.2).fetch(FILES)


def test_no_npm_is_a_reason(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SourceError, match="^npm is not installed$"):
        Npm("tiny@1.0.0", MEMBERS).fetch(FILES)


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed here")
def test_no_script_of_a_package_is_run(tmp_path: Path):
    """The real npm: packing a folder would run its prepack script."""
    package, mark = tmp_path / "tiny", tmp_path / "ran"
    (package / "data").mkdir(parents=True)
    scripts = ", ".join(f'"{name}": "touch {mark}"' for name in ("prepare", "prepack", "postpack", "install"))
    (package / "package.json").write_text(f'{{"name": "tiny", "version": "1.0.0", "scripts": {{{scripts}}}}}')
    for name, content in CONTENTS.items():
        (package / "data" / name).write_bytes(content)
    assert Npm(str(package), MEMBERS).fetch(FILES) == CONTENTS
    assert not mark.exists()


def test_an_installed_package_is_read_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package = tmp_path / "carries_data"
    package.mkdir()
    (package / "__init__.py").write_text("raise AssertionError('imported')")
    (package / "i.gz").write_bytes(gzip.compress(CONTENTS[IMAGES]))
    (package / "l").write_bytes(CONTENTS[LABELS])
    monkeypatch.syspath_prepend(tmp_path)
    assert Installed("carries_data", {IMAGES: "i.gz", LABELS: "l"}).fetch(FILES) == CONTENTS
    with pytest.raises(SourceError, match="No such file"):
        Installed("carries_data", {IMAGES: "gone", LABELS: "l"}).fetch(FILES)


def test_a_package_that_is_not_installed_is_a_reason():
    with pytest.raises(SourceError, match="^not_installed_at_all is not installed$"):
        Installed("not_installed_at_all", {}).fetch(FILES)
