"""A module as JSON and back: its class by import path, and its fields.

    describe(SASRec(num_items=100))  ->  {"object": "jaxrec.nn.sequential.sasrec:SASRec", "fields": {…}}
    build(…)                         ->  SASRec(num_items=100)

Numbers, text, None, lists, tuples, mappings and types of arrays are kept as they are; functions and classes
by import path; NamedTuples, dataclasses, nested modules, `Factory` and `functools.partial` with their parts.
JAX's initialisers are closures, and kept as the call that made them. Building imports the modules that a
description names, which runs their code: build what you or someone you trust has kept.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import functools
import hashlib
import importlib
import inspect
import math
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

# Public modules whose functions are defined in private ones, which move between releases.
PUBLIC = ("jax.nn", "jax.numpy", "jax.nn.initializers", "jax.lax", "flax.linen", "flax.linen.initializers")
UNKEPT = ("parent", "name")  # fields of every module that say where it stands, not what it is


def describe(value: Any, where: str = "module") -> Any:
    """A module, or the value of a field, in JSON types.

    where: the field's place, for messages.

    Raises:
      ValueError: a part can't be found again by an import path, such as a lambda, or is an array.
    """
    if isinstance(value, enum.Enum):
        return {"enum": _path(type(value), where), "name": value.name}
    if value is None or type(value) in (bool, str, int):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, np.generic):
        return {"number": value.dtype.name, "value": describe(value.item(), where)}
    if isinstance(value, np.dtype):
        return {"dtype": value.name}
    if isinstance(value, Mapping):
        return {"dict": [[describe(k, where), describe(v, f"{where}[{k!r}]")] for k, v in value.items()]}
    if isinstance(value, list):
        return [describe(part, f"{where}[{i}]") for i, part in enumerate(value)]
    if isinstance(value, tuple):
        return _tuple(value, where)
    if isinstance(value, functools.partial):
        return {
            "partial": _path(type(value), where),
            "function": describe(value.func, f"{where}.func"),
            "args": [describe(part, f"{where}.args[{i}]") for i, part in enumerate(value.args)],
            "keywords": {name: describe(part, f"{where}.{name}") for name, part in value.keywords.items()},
        }
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _object(value, where)
    if isinstance(value, (np.ndarray, jax.Array)):
        raise ValueError(
            f"{where}: an array of shape {value.shape} is a field; keep it as a variable of the module "
            "(self.variable) or give its values as a tuple"
        )
    return _initialiser(value, where) or {"import": _path(value, where)}


def _tuple(value: tuple[Any, ...], where: str) -> dict[str, Any]:
    names = getattr(value, "_fields", None)
    if names is None:
        return {"tuple": [describe(part, f"{where}[{i}]") for i, part in enumerate(value)]}
    fields = {name: describe(getattr(value, name), f"{where}.{name}") for name in names}
    return {"named_tuple": _path(type(value), where), "fields": fields}


def _object(value: Any, where: str) -> dict[str, Any]:
    """A module or another dataclass. A field that is its class's own default may be anything."""
    found: dict[str, Any] = {"object": _path(type(value), where), "fields": {}}
    defaults = []
    for field in _fields(type(value)):
        part = getattr(value, field.name)
        try:
            found["fields"][field.name] = describe(part, f"{where}.{field.name}")
        except ValueError:
            if part is not field.default:
                raise
            defaults.append(field.name)
    if defaults:
        found["defaults"] = defaults
    name = getattr(value, "name", None) if isinstance(value, nn.Module) else None
    return found if name is None else found | {"name": name}


def _fields(kind: type) -> list[dataclasses.Field[Any]]:
    unkept = UNKEPT if issubclass(kind, nn.Module) else ()
    return [field for field in dataclasses.fields(kind) if field.init and field.name not in unkept]


def _initialiser(value: Any, where: str) -> dict[str, Any] | None:
    """The call that made one of JAX's initialisers, such as normal(stddev=0.02); None for anything else."""
    if not inspect.isfunction(value) or value.__closure__ is None:
        return None
    maker = getattr(jax.nn.initializers, value.__qualname__.partition(".<locals>.")[0], None)
    if not inspect.isfunction(maker) or maker.__code__.co_filename != value.__code__.co_filename:
        return None
    known = inspect.signature(maker).parameters
    cells = zip(value.__code__.co_freevars, value.__closure__, strict=True)
    found = {name: cell.cell_contents for name, cell in cells}
    if not set(found) <= set(known):
        return None
    keywords = {name: describe(part, f"{where}.{name}") for name, part in found.items()}
    return {"initializer": maker.__name__, "keywords": keywords}


def _path(value: Any, where: str) -> str:
    """`module:name` of a function or class, by which it is found again."""
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
    module = getattr(value, "__module__", None)
    shown = f"{where}={name or repr(value)}"
    if not isinstance(name, str) or not isinstance(module, str):
        raise ValueError(
            f"{shown}: a {type(value).__name__} can't be kept with the run; keep numbers, text, tuples, "
            "modules, and functions or classes of a file"
        )
    if "<lambda>" in name or "<locals>" in name:
        raise ValueError(
            f"{shown} of {module}: a lambda, or what is defined inside a function, has no import path, so "
            "the run could not be loaded again; define it at the top of a file, with its settings as fields "
            "(Factory or functools.partial bind them)"
        )
    for public in PUBLIC:
        if getattr(importlib.import_module(public), name, None) is value:
            return f"{public}:{name}"
    if module == "__main__":
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        if spec is None:
            raise ValueError(
                f"{shown}: is defined in the program itself, which can't be imported; move it to a file of "
                "its own and import it from there"
            )
        module = spec.name
    elif _attribute(sys.modules.get(module), name) is not value:
        raise ValueError(
            f"{shown}: {module}:{name} is another object; keep what can be imported under its own name"
        )
    return f"{module}:{name}"


def _attribute(module: Any, name: str) -> Any:
    return functools.reduce(lambda found, part: getattr(found, part, None), name.split("."), module)


# --- building ----------------------------------------------------------------------------------------


def build(described: Any, where: str = "module") -> Any:
    """What `describe` described.

    Warns (UserWarning) where a class has a new field, which then has its default.

    Raises:
      ValueError: a class or function can't be imported any more, or the fields of a class are no longer those
        that were kept; the message names it and what to do.
    """
    if isinstance(described, list):
        return [build(part, f"{where}[{i}]") for i, part in enumerate(described)]
    if not isinstance(described, Mapping):
        return described
    for kind, builder in _BUILDERS.items():
        if kind in described:
            return builder(described, where)
    raise ValueError(f"{where}: {sorted(described)} is no description; the file was changed or is newer")


def _build_object(described: Mapping[str, Any], where: str) -> Any:
    path = described["object"]
    kind = find(path, where)
    if not isinstance(kind, type) or not dataclasses.is_dataclass(kind):
        raise ValueError(f"{where}: {path} is no longer a module or dataclass; restore the class of the run")
    known = {field.name: field for field in _fields(kind)}
    stored = described["fields"]
    defaults = described.get("defaults", ())
    gone = sorted({*stored, *defaults} - set(known))
    new = [name for name in known if name not in stored and name not in defaults]
    required = [name for name in (*new, *defaults) if name in known and _needs_value(known[name])]
    if gone or required:
        changes = [f"no longer has {', '.join(gone)}"] * bool(gone)
        changes += [f"now needs {', '.join(required)}"] * bool(required)
        raise ValueError(
            f"{where}: {path} {' and '.join(changes)}: its fields are not those of the run; restore the "
            "class as it was, or train again"
        )
    if new:
        shown = ", ".join(f"{name}={known[name].default!r}" for name in new)
        warnings.warn(f"{path} has fields that the run did not keep; they are {shown}", stacklevel=2)
    values = {name: _build_field(known[name], part, f"{where}.{name}") for name, part in stored.items()}
    return kind(**values, **({"name": described["name"]} if "name" in described else {}))


def _build_field(field: dataclasses.Field[Any], described: Any, where: str) -> Any:
    """A field's value: the very default of the class where it is described alike, since no two partials are
    equal.
    """
    if isinstance(described, Mapping) and field.default is not dataclasses.MISSING:
        with contextlib.suppress(ValueError):
            if describe(field.default, where) == described:
                return field.default
    return build(described, where)


def _needs_value(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _build_named_tuple(described: Mapping[str, Any], where: str) -> Any:
    kind = find(described["named_tuple"], where)
    if not (isinstance(kind, type) and issubclass(kind, tuple)):
        raise ValueError(f"{where}: {described['named_tuple']} is no longer a NamedTuple; restore it")
    values = {name: build(part, f"{where}.{name}") for name, part in described["fields"].items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"{where}: {described['named_tuple']}: {error}; its fields have changed") from None


def _build_partial(described: Mapping[str, Any], where: str) -> Any:
    kind = find(described["partial"], where)
    if not (isinstance(kind, type) and issubclass(kind, functools.partial)):
        raise ValueError(f"{where}: {described['partial']} is no functools.partial")
    keywords = {name: build(part, f"{where}.{name}") for name, part in described["keywords"].items()}
    return kind(build(described["function"], where), *build(described["args"], where), **keywords)


def _build_initialiser(described: Mapping[str, Any], where: str) -> Any:
    maker = getattr(jax.nn.initializers, described["initializer"], None)
    if maker is None:
        raise ValueError(f"{where}: jax.nn.initializers has no {described['initializer']} any more")
    return maker(**{name: build(part, where) for name, part in described["keywords"].items()})


def _build_enum(described: Mapping[str, Any], where: str) -> Any:
    kind, name = find(described["enum"], where), described["name"]
    if not (isinstance(kind, type) and issubclass(kind, enum.Enum)) or name not in kind.__members__:
        raise ValueError(f"{where}: {described['enum']} has no member {name!r} any more; restore it")
    return kind[name]


def _build_dict(described: Mapping[str, Any], where: str) -> dict[Any, Any]:
    return {build(key, where): build(part, f"{where}[{key!r}]") for key, part in described["dict"]}


_BUILDERS: Mapping[str, Callable[[Mapping[str, Any], str], Any]] = {
    "object": _build_object,
    "named_tuple": _build_named_tuple,
    "partial": _build_partial,
    "initializer": _build_initialiser,
    "enum": _build_enum,
    "dict": _build_dict,
    "tuple": lambda described, where: tuple(build(described["tuple"], where)),
    "import": lambda described, where: find(described["import"], where),
    "float": lambda described, where: float(described["float"]),
    "number": lambda described, where: np.dtype(described["number"]).type(build(described["value"])),
    "dtype": lambda described, where: jnp.dtype(described["dtype"]),
}


def find(path: str, where: str = "module", *, named: bool = False) -> Any:
    """The class or function of an import path `module:name`; the working directory is searched too.

    named: a user has just typed the path, so that the error lists the classes of the module; otherwise a kept
    run names it, and the class was there once.

    Raises:
      ValueError: there is no such module, or nothing of this name in it.
    """
    module, _, name = path.partition(":")
    try:
        try:
            imported = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if not module.startswith(str(error.name)) or os.getcwd() in sys.path:
                raise
            sys.path.append(os.getcwd())  # a console script has its own folder there instead
            importlib.invalidate_caches()
            imported = importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"{where}: {path} can't be imported ({error}); put its folder on PYTHONPATH, start from the "
            "folder that has it, or install its package"
        ) from None
    found = _attribute(imported, name)
    if found is None:
        if named:
            known = [n for n, v in vars(imported).items() if isinstance(v, type) and v.__module__ == module]
            shown = f"; it has {', '.join(known)}" if known else ""
            raise ValueError(f"{where}: {module} has no {name}{shown}")
        raise ValueError(
            f"{where}: {module} has no {name} any more; restore it under this name, or train again"
        )
    return found


def code_of(module: str) -> str:
    """SHA-256 of the file of an importable module, in hex digits; "" where it has none."""
    path = getattr(importlib.import_module(module), "__file__", None)
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() if path else ""
