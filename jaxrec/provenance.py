"""What made a number: commit, hash of the sources, settings of JAX, library versions, device.

A run keeps this beside its checkpoints, so that a result names the code that trained it and not the code that
happened to read the checkpoint later.
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
PACKAGE = Path(__file__).resolve().parent
# Settings of JAX that change numbers, with their defaults. The first four decide what random bits and floats
# a run has, so they are part of what identifies it.
SETTINGS: Mapping[str, Any] = {
    "jax_enable_x64": False,
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
    "jax_random_seed_offset": 0,
    "jax_default_matmul_precision": None,
}
IDENTIFYING = tuple(SETTINGS)[:4]


def manifest() -> dict[str, Any]:
    """What a result depends on besides its settings, in JSON types.

    commit: None where there is no git or the code does not lie in a checkout; sources: see `sources`;
    settings: see `settings`. Code is read once in a process, since that is what the process runs.
    """
    devices = jax.devices()
    return {
        **_code(),
        "settings": settings(),
        "versions": library_versions(),
        "python": platform.python_version(),
        "device": {
            "platform": devices[0].platform,
            "kind": devices[0].device_kind,
            "count": len(devices),
        },
        "host": {"system": platform.system(), "processor": processor(), "cores": os.cpu_count()},
    }


@functools.cache
def _code() -> dict[str, Any]:
    return {"commit": commit(), "sources": sources()}


def code_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """How the sources and the library versions of two manifests differ, each as `name: before, now`."""
    found = []
    for part in ("sources", "versions"):
        old, new = before.get(part) or {}, now.get(part) or {}
        for name in sorted({*old, *new}):
            if old.get(name) != new.get(name):
                label = f"sources of {name}" if part == "sources" else name
                found.append(f"{label}: {old.get(name)}, now {new.get(name)}")
    return found


def sources() -> dict[str, str]:
    """Hashes of the code of this process: `jaxrec`, all files of the package; `program`, if there is any, the
    loaded modules that are neither installed nor Python's own, such as the experiment and its helpers.
    """
    found = {"jaxrec": hash_of(PACKAGE.rglob("*.py"), PACKAGE)}
    program = _program()
    if program:
        found["program"] = hash_of(program, Path(os.path.commonpath([path.parent for path in program])))
    return found


def _program() -> list[Path]:
    """Source files of the loaded modules that stand outside jaxrec and outside Python's installation."""
    names = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    paths = {Path(name).resolve() for name in names if isinstance(name, str) and name.endswith(".py")}
    return sorted(
        path for path in paths if path.is_file() and not path.is_relative_to(PACKAGE) and not _installed(path)
    )


def _installed(path: Path) -> bool:
    """Whether a file belongs to Python or to an installed library."""
    folders = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib", "scripts")}
    inside = any(folder and path.is_relative_to(Path(folder).resolve()) for folder in folders)
    return inside or bool({"site-packages", "dist-packages"} & set(path.parts))


def raised_outside_libraries(error: BaseException) -> bool:
    """Whether jaxrec itself or the program raised an error, and not a library that they called."""
    trace = error.__traceback__
    if trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    path = Path(trace.tb_frame.f_code.co_filename).resolve()
    return path.is_relative_to(PACKAGE) or (path.is_file() and not _installed(path))


def hash_of(files: Iterable[Path], folder: Path) -> str:
    """16 hex digits over the names, relative to a folder, and the contents of files, in the order of
    names."""
    digest = hashlib.sha256()
    for name, path in sorted((path.relative_to(folder).as_posix(), path) for path in files):
        content = path.read_bytes()
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


def settings() -> dict[str, Any]:
    """The settings of JAX that change numbers, by their names, and `XLA_FLAGS`."""
    values = {name: getattr(jax.config, name) for name in SETTINGS}
    return {**values, "XLA_FLAGS": os.environ.get("XLA_FLAGS", "")}


def changed_settings(found: Mapping[str, Any], names: Iterable[str] = SETTINGS) -> dict[str, Any]:
    """Those of the named settings that are not JAX's defaults."""
    return {name: found[name] for name in names if name in found and found[name] != SETTINGS[name]}


def library_versions() -> dict[str, str]:
    """Installed versions of the libraries that numbers depend on; an absent one is left out."""
    versions = {}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def commit(source: Path = Path(__file__)) -> str | None:
    """Hash of the commit that `source` is tracked in; `-dirty` after it if jaxrec/ or experiments/ differ."""

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(source.parent), *words], capture_output=True, text=True, timeout=20
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # An installed copy may lie inside some other project's checkout: ask about the file itself.
    if git("ls-files", "--error-unmatch", source.name) is None:
        return None
    head = git("rev-parse", "HEAD")
    changed = git("status", "--porcelain", "--", ":/jaxrec", ":/experiments")
    return f"{head}-dirty" if head and changed else head


def processor() -> str:
    """The host processor's name, as far as the operating system tells."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
