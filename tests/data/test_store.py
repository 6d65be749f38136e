import gzip
import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from jaxrec.data import store
from jaxrec.data.store import File, Route, Source

CONTENT = b"1 2 3\n2 3 4\n" * 50
SOURCE = Source("toy", "Toy data", "https://example.org", "CC0", "Be kind.")


def toy(*routes: Route) -> File:
    return File("toy/events.txt", hashlib.sha256(CONTENT).hexdigest(), len(CONTENT), routes)


@pytest.fixture
def folder(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that JAXREC_DATA_DIR names, with the place of the toy file in it."""
    monkeypatch.setenv("JAXREC_DATA_DIR", str(tmp_path / "data"))
    (tmp_path / "data" / "toy").mkdir(parents=True)
    return tmp_path / "data" / "toy"


def put(path: Path) -> None:
    path.write_bytes(CONTENT)


def files_in(cache: Path) -> list[str]:
    return sorted(str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file())


def test_a_plain_file_in_the_data_folder_is_read(folder: Path, cache: Path) -> None:
    (folder / "events.txt").write_bytes(CONTENT)
    assert store.read_file(toy()) == CONTENT
    assert store.file_state(toy()) == "in JAXREC_DATA_DIR"
    assert not cache.exists()


def test_a_packed_file_has_the_checksum_of_its_content(folder: Path) -> None:
    (folder / "events.txt.gz").write_bytes(gzip.compress(CONTENT))
    assert store.read_file(toy()) == CONTENT


@pytest.mark.parametrize(
    "content, how", [(CONTENT[:-1], "truncated"), (CONTENT[:-1] + b"x", "corrupt"), (b"", "truncated")]
)
def test_a_damaged_file_in_the_data_folder_is_an_error(folder: Path, content: bytes, how: str) -> None:
    (folder / "events.txt").write_bytes(content)
    with pytest.raises(ValueError, match=f"{how}.*replace it by an intact copy") as caught:
        store.read_file(toy())
    assert str(folder / "events.txt") in str(caught.value)
    assert hashlib.sha256(content).hexdigest() in str(caught.value)
    assert toy().sha256 in str(caught.value)


@pytest.mark.parametrize("cut", [5, 20, -1])
def test_a_truncated_archive_is_an_error_that_names_it(folder: Path, cut: int) -> None:
    (folder / "events.txt.gz").write_bytes(gzip.compress(CONTENT)[:cut])
    with pytest.raises(ValueError, match=r"events\.txt\.gz: truncated or corrupt gzip file"):
        store.read_file(toy())


def test_a_file_that_is_no_archive_is_an_error(folder: Path) -> None:
    (folder / "events.txt.gz").write_bytes(CONTENT)
    with pytest.raises(ValueError, match="truncated or corrupt gzip file"):
        store.read_file(toy())


def test_a_data_folder_that_does_not_exist_is_an_error(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXREC_DATA_DIR", "/no/such/folder")
    with pytest.raises(ValueError, match="JAXREC_DATA_DIR=/no/such/folder: is not a folder"):
        store.read_file(toy())


def test_a_file_is_downloaded_once(cache: Path, served: Any) -> None:
    served.files["events.txt"] = CONTENT
    file = toy(store.http(served.url("events.txt")))
    assert store.file_state(file) == "to download"
    assert store.read_file(file) == CONTENT
    assert store.file_state(file) == "cached"
    assert store.read_file(file) == CONTENT
    assert served.requests == ["events.txt"]
    assert files_in(cache) == ["toy/events.txt"]


def test_a_file_missing_from_the_data_folder_is_downloaded(folder: Path, cache: Path, served: Any) -> None:
    served.files["events.txt"] = CONTENT
    assert store.read_file(toy(store.http(served.url("events.txt")))) == CONTENT
    assert files_in(cache) == ["toy/events.txt"]


def test_a_checksum_mismatch_leaves_nothing(cache: Path, served: Any) -> None:
    served.files["events.txt"] = CONTENT + b"more"
    with pytest.raises(FileNotFoundError, match="the source has changed or the transfer broke"):
        store.read_file(toy(store.http(served.url("events.txt"))))
    assert files_in(cache) == []


def test_a_broken_transfer_leaves_nothing(cache: Path, served: Any) -> None:
    served.files["events.txt"] = CONTENT[:100]
    served.promised["events.txt"] = len(CONTENT)
    with pytest.raises(FileNotFoundError, match="could not be downloaded"):
        store.read_file(toy(store.http(served.url("events.txt"))))
    assert files_in(cache) == []


def test_a_file_appears_whole_or_not_at_all(cache: Path) -> None:
    def interrupted(path: Path) -> None:
        path.write_bytes(CONTENT[:100])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.read_file(toy(Route("interrupted", interrupted)))
    assert files_in(cache) == []


def test_a_killed_download_leaves_no_file_that_would_be_read(cache: Path) -> None:
    script = (
        "import hashlib, os, pathlib\n"
        "from jaxrec.data import store\n"
        "def die(path):\n"
        "    path.write_bytes(b'half')\n"
        "    os._exit(9)\n"
        "store.read_file(store.File('toy/events.txt', '0' * 64, 600, (store.Route('dies', die),)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=False)
    assert done.returncode == 9
    assert store.find_file(toy()) is None
    assert store.read_file(toy(Route("whole", put))) == CONTENT


def test_the_next_route_is_tried_when_one_fails(cache: Path, served: Any) -> None:
    served.files["mirror"] = CONTENT
    file = toy(store.http(served.url("gone")), store.http(served.url("mirror")))
    assert store.read_file(file) == CONTENT
    assert served.requests == ["gone", "mirror"]


def test_a_file_that_can_not_be_had_names_every_route_and_the_remedy(cache: Path, served: Any) -> None:
    file = toy(store.http(served.url("a")), store.http(served.url("b")))
    with pytest.raises(FileNotFoundError) as caught:
        store.read_file(file)
    message = str(caught.value)
    for part in (served.url("a"), served.url("b"), "404", str(cache / "toy/events.txt"), "JAXREC_DATA_DIR"):
        assert part in message


def test_a_file_without_an_address_says_so(cache: Path) -> None:
    assert store.file_state(toy()) == "not available"
    with pytest.raises(FileNotFoundError, match="it has no public address"):
        store.read_file(toy())


def test_a_damaged_file_in_the_cache_is_reported_and_replaced(
    cache: Path, served: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    served.files["events.txt"] = CONTENT
    (cache / "toy").mkdir(parents=True)
    (cache / "toy/events.txt").write_bytes(CONTENT[:50])
    assert store.read_file(toy(store.http(served.url("events.txt")))) == CONTENT
    assert "truncated" in capsys.readouterr().err
    assert (cache / "toy/events.txt").read_bytes() == CONTENT


def test_the_state_of_alternatives_is_that_of_the_first_found(folder: Path) -> None:
    (folder / "events.txt").write_bytes(CONTENT)
    elsewhere = File("toy/other.txt", "", 0)
    assert store.file_state(elsewhere, toy()) == "in JAXREC_DATA_DIR"


def test_a_relative_cache_home_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert store.cache_dir() == tmp_path / ".cache" / "jaxrec"


def test_a_member_of_an_archive_is_read_through_the_store(cache: Path, tmp_path: Path, served: Any) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("events.txt", CONTENT)
    packed = (tmp_path / "a.zip").read_bytes()
    served.files["a.zip"] = packed
    digest = hashlib.sha256(packed).hexdigest()
    outer = File("toy/a.zip", digest, len(packed), (store.http(served.url("a.zip")),))

    def extract(content: bytes) -> bytes:
        assert content == packed
        return CONTENT

    assert store.read_file(toy(store.archive_member(outer, "events.txt", extract))) == CONTENT
    assert files_in(cache) == ["toy/a.zip", "toy/events.txt"]


class Pip:
    """Stands in for a run of pip: leaves a wheel in the folder named by --dest, or fails."""

    def __init__(self, content: bytes | None) -> None:
        self.content = content
        self.command: list[str] = []

    def __call__(self, command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        self.command = command
        if self.content is None:
            return subprocess.CompletedProcess(command, 1, "", "ERROR: No matching distribution")
        (Path(command[command.index("--dest") + 1]) / "toy-1.0-py3-none-any.whl").write_bytes(self.content)
        return subprocess.CompletedProcess(command, 0, "", "")


def test_a_wheel_comes_without_dependencies(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip = Pip(CONTENT)
    monkeypatch.setattr(subprocess, "run", pip)
    assert store.read_file(toy(store.wheel("toy", "1.0"))) == CONTENT
    assert pip.command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:", "toy==1.0"} <= set(pip.command)


def test_a_wheel_of_other_content_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", Pip(b"something else"))
    with pytest.raises(FileNotFoundError, match="package index: toy==1.0: truncated: sha256"):
        store.read_file(toy(store.wheel("toy", "1.0")))
    assert files_in(cache) == []


def test_a_failing_pip_is_quoted(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", Pip(None))
    with pytest.raises(FileNotFoundError, match="ended with code 1: ERROR: No matching distribution"):
        store.read_file(toy(store.wheel("toy", "1.0")))


def test_terms_are_printed_once(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store.show_terms(SOURCE)
    assert capsys.readouterr().err == "jaxrec: Toy data (https://example.org): CC0. Be kind.\n"
    store.show_terms(SOURCE)
    assert capsys.readouterr().err == ""


def test_changed_terms_are_printed_again(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store.show_terms(SOURCE)
    store.show_terms(SOURCE._replace(terms="Be kinder."))
    assert "Be kinder." in capsys.readouterr().err


def test_terms_are_printed_where_the_cache_can_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    store.show_terms(SOURCE)
    assert "Be kind." in capsys.readouterr().err
