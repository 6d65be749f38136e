"""Command lines of experiments and programs: the options are the fields of a frozen dataclass.

Only experiments and `__main__` modules use this file: nothing below them reads a command line or checks the
machine's devices.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import math
import os
import platform
import sys
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import jax
import tyro
from jax._src import xla_bridge  # nothing public says whether a backend has started

from jaxrec import provenance
from jaxrec.provenance import FOLDER_FIELDS, library_versions, processor_name
from jaxrec.provenance import commit as commit
from jaxrec.provenance import manifest as manifest

T = TypeVar("T")

TPU_PCI_DEVICES = {"0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076"}  # v2 to 7x
GOOGLE_PCI_VENDOR = "0x1ae0"
DETERMINISTIC = (
    "--xla_gpu_deterministic_ops"  # without atomics, and without choosing algorithms by their time
)


def cli(
    config_type: type[T],
    *,
    prog: str | None = None,
    description: str | None = None,
    args: Sequence[str] | None = None,
) -> T:
    """Reads a frozen dataclass from the command line.

    Every field is an option (`max_len` is `--max-len` or `--max_len`) with the field's default, and the
    field's comment as help. `--help` prints them and exits with 0. Errors exit with 2 and a message on
    stderr, never a traceback: an unknown option (the message names the nearest one), a value of the wrong
    type, or a `ValueError` from the dataclass' `__post_init__`.

    Args:
      config_type: a dataclass whose fields all have defaults.
      prog: the program's name in messages; None takes it from the command line.
      description: the first lines of `--help`; None takes the dataclass' docstring.
      args: the arguments; None reads `sys.argv[1:]`.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Options:
    ...     '''An example.'''
    ...     max_len: int = 50  # most recent events kept
    >>> cli(Options, args=["--max-len", "20"])
    Options(max_len=20)
    """
    prog = prog or _prog()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # for terminals without UTF-8
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            parsed = tyro.cli(
                config_type, prog=prog, description=description, args=args, return_unknown_args=True
            )
    except ValueError as error:  # from __post_init__
        _fail(prog, str(error))
    except SystemExit as stop:  # newer releases of tyro print and exit on a ValueError from __post_init__
        if isinstance(stop.__context__, ValueError):
            _fail(prog, str(stop.__context__))
        sys.stderr.write(errors.getvalue())
        raise
    config, unknown = parsed
    if unknown:
        _fail(prog, _unknown(unknown, list(_options(config_type))))
    return config


def _prog() -> str:
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is None:
        return Path(sys.argv[0]).name
    return "python -m " + spec.name.removesuffix(".__main__")


def _fail(prog: str, message: str) -> NoReturn:
    print(f"{prog}: error: {message}", file=sys.stderr)
    raise SystemExit(2)


def _unknown(words: Sequence[str], options: Sequence[str]) -> str:
    option = next((word.partition("=")[0] for word in words if word.startswith("-")), None)
    if option is None:
        return f"unexpected argument {words[0]!r}: every setting is an option, --help lists them"
    nearest = difflib.get_close_matches(option.replace("_", "-"), options, n=1, cutoff=0.0)
    hint = f"the nearest option is {nearest[0]}" if nearest else "there are no options"
    return f"unknown option {option}: {hint}; --help lists all"


def _options(config_type: type, prefix: str = "--") -> Iterator[str]:
    hints = typing.get_type_hints(config_type)
    for field in dataclasses.fields(config_type):
        name, hint = field.name.replace("_", "-"), hints[field.name]
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            yield from _options(hint, f"{prefix}{name}.")
            continue
        yield prefix + name
        if hint is bool:
            yield f"{prefix}no-{name}"


def format_settings(config: Any) -> str:
    """The values of a configuration, one `name = value` per line, with the default where it differs.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Options:
    ...     seed: int = 0
    ...     max_len: int = 50
    >>> print(format_settings(Options(max_len=20)))
    seed    = 0
    max_len = 20  (default 50)
    """
    values = _flatten(config)
    defaults = _flatten(type(config)())
    width = max(map(len, values), default=0)
    lines = []
    for name, value in values.items():
        known = name in defaults and defaults[name] == value
        note = "" if known else f"  (default {defaults.get(name, 'absent')!r})"
        lines.append(f"{name:<{width}} = {value!r}{note}")
    return "\n".join(lines)


def _flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            flat |= _flatten(value, f"{prefix}{field.name}.")
        else:
            flat[prefix + field.name] = value
    return flat


def run_program(
    config_type: type[T],
    run: Callable[[T], Any],
    *,
    description: str | None = None,
    args: Sequence[str] | None = None,
) -> None:
    """Runs a program: reads its options, prints its first lines, calls `run`.

    Errors that a user can correct exit with 2 and one line on stderr: a `ValueError` that this project
    raises, or a file that cannot be read or written. An error from inside a library keeps its traceback,
    since it is a bug. Ctrl-C exits with 130; checkpoints written before remain, so the same command continues
    from there.
    """
    prog = _prog()
    config = cli(config_type, prog=prog, description=description, args=args)
    try:
        start_program(config)
        run(config)
    except KeyboardInterrupt:
        # Threads of the runtime may abort the process while Python shuts down, so it exits here.
        print(f"\n{prog}: interrupted; run the same command to continue", file=sys.stderr)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(130)
    except OSError as error:
        _fail(prog, str(error))
    except ValueError as error:
        if not provenance.raised_outside_libraries(error):
            raise
        _fail(prog, str(error))


def start_program(config: Any) -> None:
    """Prints settings, device, and what is unusual about them; turns on the compilation cache."""
    if getattr(config, "deterministic", False):
        make_deterministic()
    print(format_settings(config))
    print(device_line())
    changed = provenance.non_default_settings(provenance.jax_settings())
    if changed:
        shown = ", ".join(f"{name}={value}" for name, value in changed.items())
        print(f"settings of JAX that change numbers and are not its defaults: {shown}")
    idle = idle_accelerator_warning()
    if idle:
        print(idle, file=sys.stderr)
    enable_compilation_cache()


def make_deterministic() -> None:
    """Lets equal programs give equal bits on a GPU, by XLA's flag, which is kept with results (`XLA_FLAGS`).

    It costs speed. Runs on a CPU or a TPU give equal bits without it.

    Raises:
      ValueError: JAX's backend has read its flags already, or they say the opposite.
    """
    flags = os.environ.get("XLA_FLAGS", "").split()
    given = [flag for flag in flags if flag.partition("=")[0] == DETERMINISTIC]
    if given and given[-1].partition("=")[2].lower() in ("", "true", "1"):
        return
    if given:
        raise ValueError(f"deterministic=True: XLA_FLAGS has {given[-1]}; take it out, or leave this out")
    if xla_bridge.backends_are_initialized():
        raise ValueError(
            "deterministic=True: JAX's backend has started and reads its flags no more; start Python with "
            f"XLA_FLAGS={DETERMINISTIC}=true"
        )
    os.environ["XLA_FLAGS"] = " ".join([*flags, f"{DETERMINISTIC}=true"])


def check_run(config: Any) -> None:
    """Checks the settings that all runs have, before anything is read, trained or stored.

    Raises:
      ValueError: a setting is NaN; `results` or `workdir` cannot be a folder; there are fewer devices than
        `num_devices`.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        numbers = value if isinstance(value, tuple) else (value,)
        if any(isinstance(number, float) and math.isnan(number) for number in numbers):
            raise ValueError(f"{field.name}={value}: must be a number")
        if field.name in FOLDER_FIELDS:
            check_folder(field.name, value)
    check_devices(getattr(config, "num_devices", 1))


def check_folder(name: str, folder: str | Path) -> None:
    """Raises ValueError if a folder cannot be created or written to. Creates nothing.

    name: the option's name, for the message.
    """
    if not str(folder):
        raise ValueError(f"{name}='': name a folder")
    path = Path(folder).absolute()
    found = next(part for part in (path, *path.parents) if part.exists() or part.is_symlink())
    if not found.is_dir():
        raise ValueError(
            f"{name}={str(folder)!r}: {found} is a file, so no folder can be there; name another"
        )
    if not os.access(found, os.W_OK | os.X_OK):
        raise ValueError(f"{name}={str(folder)!r}: {found} may not be written to; name another")


def check_devices(num_devices: int) -> None:
    """Raises ValueError unless num_devices is at least 1 and at most those of this process, or of all that
    run together."""
    available = jax.device_count()
    if not 1 <= num_devices <= available:
        who = "this process has" if jax.process_count() == 1 else "the processes together have"
        raise ValueError(
            f"num_devices={num_devices}: {who} {available} ({jax.default_backend()}); "
            f"give {'1' if available == 1 else f'1 to {available}'}"
        )


def device_line() -> str:
    """A line on backend, devices, host processor and versions. Starts JAX's backend."""
    devices = jax.devices()
    versions = library_versions()
    shown = ", ".join(f"{name} {versions[name]}" for name in ("jax", "flax", "optax") if name in versions)
    plural = "device" if len(devices) == 1 else "devices"
    return (
        f"running on {jax.default_backend()}: {len(devices)} {plural} ({devices[0].device_kind}), "
        f"host {processor_name()} with {os.cpu_count()} cores; {shown}, Python {platform.python_version()}"
    )


def idle_accelerator_warning(root: Path = Path("/")) -> str | None:
    """A warning if the machine has a GPU or TPU but JAX runs on the CPU, else None.

    Args:
      root: the folder that has `dev` and `sys`.
    """
    if jax.default_backend() != "cpu":
        return None
    present = find_accelerators(root)
    if not present:
        return None
    name = present[0]
    extra = {"NVIDIA GPU": "cuda", "TPU": "tpu"}.get(name)
    remedy = (
        f"install the extra ('pip install -e .[{extra}]', or 'make ... ACCELERATOR={extra}')"
        if extra
        else "install JAX for it (docs.jax.dev, installation)"
    )
    forced = os.environ.get("JAX_PLATFORMS", "")
    reason = f"JAX_PLATFORMS={forced} asks for that; to use it, unset it and " if "cpu" in forced else ""
    return f"warning: this machine has a {name}, but JAX runs on the CPU: {reason}{remedy}"


def find_accelerators(root: Path = Path("/")) -> list[str]:
    """Kinds of accelerators that the operating system reports, usable by JAX or not (Linux only)."""
    found = []
    if any((root / "dev" / name).exists() for name in ("nvidia0", "nvidiactl", "dxg")):  # dxg: WSL
        found.append("NVIDIA GPU")
    if (root / "dev/kfd").exists():
        found.append("AMD GPU")
    for vendor in sorted((root / "sys/bus/pci/devices").glob("*/vendor")):
        device = vendor.with_name("device")
        with contextlib.suppress(OSError):
            is_tpu = device.read_text().strip() in TPU_PCI_DEVICES
            if is_tpu and vendor.read_text().strip() == GOOGLE_PCI_VENDOR:
                found.append("TPU")
                break
    return found


def enable_compilation_cache() -> Path | None:
    """Keeps compiled programs between runs in `$XDG_CACHE_HOME/jaxrec/xla` (default `~/.cache`).

    `JAXREC_XLA_CACHE=0` turns it off; `JAX_COMPILATION_CACHE_DIR`, JAX's own variable, names another folder.
    Returns the folder, or None if it is off or cannot be written (noted on stderr; runs work without it).
    """
    if os.environ.get("JAXREC_XLA_CACHE", "1").lower() in ("0", "off", "false", "no"):
        return None
    named = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    folder = Path(named) if named else cache_dir() / "xla"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"note: no compilation cache: {error}", file=sys.stderr)
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    return folder


def cache_dir() -> Path:
    """The folder of jaxrec's caches: `$XDG_CACHE_HOME/jaxrec`, or `~/.cache/jaxrec`."""
    home = os.environ.get("XDG_CACHE_HOME", "")  # a relative path is ignored, as XDG requires
    return (Path(home) if os.path.isabs(home) else Path.home() / ".cache") / "jaxrec"
