"""Provenance of a result: commit, hashes of the source code, settings of JAX, library versions, device.

A run stores it with its checkpoints, so that a result names the code that trained it, not the code that read
the checkpoint later.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "chex", "numpy", "scipy")
PACKAGE_FOLDER = Path(__file__).resolve().parent
# Fields of a configuration that say where files are written, not what is measured.
FOLDER_FIELDS = ("results", "workdir")
# Settings of JAX that change numbers, with their defaults. The first four determine a run's random bits and
# float types, so they are part of its identity.
JAX_SETTINGS: Mapping[str, Any] = {
    "jax_enable_x64": False,
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
    "jax_random_seed_offset": 0,
    "jax_default_matmul_precision": None,
}
IDENTIFYING_SETTINGS = tuple(JAX_SETTINGS)[:4]


def manifest() -> dict[str, Any]:
    """What a result depends on besides its configuration, in JSON types.

    commit: None without git or outside a checkout; sources: see `source_hashes`; settings: see
    `jax_settings`. The code is read once per process, since that is the code that runs.
    """
    devices = jax.devices()
    return {
        **_code_identity(),
        "settings": jax_settings(),
        "versions": library_versions(),
        "python": platform.python_version(),
        "device": {
            "platform": devices[0].platform,
            "kind": devices[0].device_kind,
            "count": len(devices),
        },
        "host": {"system": platform.system(), "processor": processor_name(), "cores": os.cpu_count()},
    }


@functools.cache
def _code_identity() -> dict[str, Any]:
    return {"commit": commit(), "sources": source_hashes()}


def code_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Differences of the sources and library versions of two manifests, each as `name: before, now`."""
    found = []
    for part in ("sources", "versions"):
        old, new = before.get(part) or {}, now.get(part) or {}
        for name in sorted({*old, *new}):
            if old.get(name) != new.get(name):
                label = f"sources of {name}" if part == "sources" else name
                found.append(f"{label}: {old.get(name)}, now {new.get(name)}")
    return found


def source_hashes() -> dict[str, str]:
    """Hashes of the code of this process: `jaxrec`, all files of the package; `program`, the loaded modules
    that are neither installed nor Python's own, such as the experiment and its helpers, if there are any.
    """
    found = {"jaxrec": hash_files(PACKAGE_FOLDER.rglob("*.py"), PACKAGE_FOLDER)}
    program = _program_files()
    if program:
        found["program"] = hash_files(program, Path(os.path.commonpath([path.parent for path in program])))
    return found


def _program_files() -> list[Path]:
    """Source files of the loaded modules outside jaxrec and outside Python's installation."""
    names = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    paths = {Path(name).resolve() for name in names if isinstance(name, str) and name.endswith(".py")}
    return sorted(
        path
        for path in paths
        if path.is_file() and not path.is_relative_to(PACKAGE_FOLDER) and not _installed(path)
    )


def _installed(path: Path) -> bool:
    """Whether a file belongs to Python or to an installed library."""
    inside = any(path.is_relative_to(folder) for folder in _installation())
    return inside or bool({"site-packages", "dist-packages"} & set(path.parts))


@functools.cache
def _installation() -> frozenset[Path]:
    """The folders of Python's installation; found once, since asking for them takes longer than the rest."""
    names = ("stdlib", "platstdlib", "purelib", "platlib", "scripts")
    return frozenset(Path(folder).resolve() for folder in map(sysconfig.get_path, names) if folder)


def raised_outside_libraries(error: BaseException) -> bool:
    """Whether an error was raised by jaxrec itself or the program, not by a library that they call."""
    trace = error.__traceback__
    if trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    path = Path(trace.tb_frame.f_code.co_filename).resolve()
    return path.is_relative_to(PACKAGE_FOLDER) or (path.is_file() and not _installed(path))


def hash_files(files: Iterable[Path], folder: Path) -> str:
    """Hash, 16 hex digits, of the names, relative to a folder, and contents of files, sorted by name."""
    digest = hashlib.sha256()
    for name, path in sorted((path.relative_to(folder).as_posix(), path) for path in files):
        content = path.read_bytes()
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


def jax_settings() -> dict[str, Any]:
    """The settings of JAX that change numbers, and `XLA_FLAGS`, by name."""
    values = {name: getattr(jax.config, name) for name in JAX_SETTINGS}
    return {**values, "XLA_FLAGS": os.environ.get("XLA_FLAGS", "")}


def non_default_settings(found: Mapping[str, Any], names: Iterable[str] = JAX_SETTINGS) -> dict[str, Any]:
    """The named settings that differ from JAX's defaults."""
    return {name: found[name] for name in names if name in found and found[name] != JAX_SETTINGS[name]}


def library_versions() -> dict[str, str]:
    """Installed versions of the libraries that numbers depend on, without those that are not installed."""
    versions = {}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def commit(source: Path = Path(__file__)) -> str | None:
    """Hash of the current commit if `source` is tracked, with `-dirty` if jaxrec/ or experiments/ differ."""

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(source.parent), *words], capture_output=True, text=True, timeout=20
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # An installed copy may be inside another project's checkout: check that the file itself is tracked.
    if git("ls-files", "--error-unmatch", source.name) is None:
        return None
    head = git("rev-parse", "HEAD")
    changed = git("status", "--porcelain", "--", ":/jaxrec", ":/experiments")
    return f"{head}-dirty" if head and changed else head


def processor_name() -> str:
    """Name of the host's processor, as far as the operating system reports it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
