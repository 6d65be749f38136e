"""The shape of the code base, read from its source: who imports whom, and what stands in its files."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from jaxrec.report import tables

ROOT = Path(__file__).parent.parent

# Imports point from a higher floor to a lower one, never along a floor.
FLOORS = {
    **dict.fromkeys(("types", "provenance"), 0),
    **dict.fromkeys(("packing", "segments"), 1),
    "data": 2,
    **dict.fromkeys(("augment", "calibration", "losses", "metrics", "sampling", "nn", "optim", "report"), 3),
    "index": 4,
    **dict.fromkeys(("tasks", "train", "convert"), 5),
    **dict.fromkeys(("protocols", "tuning"), 6),
    "baselines": 7,
    **dict.fromkeys(("launch", "recipes", "serve"), 8),
    "commands": 9,
    "__main__": 10,
}
# Further than that: a task takes a module as an argument, and the loop knows neither model nor data source.
FORBIDDEN = {("tasks", "nn"), ("train", "nn"), ("train", "data.sources"), ("train", "augment")}
FAMILIES = ("ranking", "multitask", "sequential", "retrieval")  # of nn, none of which imports another
CONFIG = "config"  # the command line: for experiments, commands and __main__ modules only
HOST_ONLY = ("jax", "flax", "optax")  # what jaxrec/data does without


def modules() -> list[Path]:
    """Every Python file of the package."""
    return sorted((ROOT / "jaxrec").rglob("*.py"))


def imported(source: str, module: str, is_package: bool = False) -> set[str]:
    """Dotted names that a module's source imports, wherever in it: `from a import b` gives `a.b`.

    Args:
      source: Python text.
      module: the module's dotted name, against which relative imports are resolved.
      is_package: whether the text is that of an `__init__.py`.
    """
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".") + ["__init__"] * is_package
                base = ".".join([*parts[: -node.level], *([node.module] if node.module else [])])
            names |= {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func).rsplit(".", 1)[-1]
            first = node.args[0] if node.args else None
            if called in ("import_module", "__import__") and isinstance(first, ast.Constant):
                names.add(str(first.value))
    return names


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> set[str]:
    return imported(path.read_text(encoding="utf-8"), dotted(path), path.name == "__init__.py")


def violations(module: str, names: set[str]) -> Iterator[str]:
    """Imports of one module of the package that the design does not allow, each as a sentence."""
    room = module.split(".")[1] if "." in module else ""
    for name in sorted(names):
        parts = name.split(".")
        if parts[0] in ("experiments", "tests"):
            yield f"{module} imports {name}: the package knows nothing above it"
        if parts[0] != "jaxrec":
            continue
        target = parts[1] if len(parts) > 1 else ""
        if target == CONFIG:
            if not module.endswith(".__main__") and room != "commands":
                yield f"{module} imports {name}: only commands and __main__ modules read a command line"
        elif room in ("", CONFIG) and target != "provenance":  # what made a number: below everything
            yield f"{module} imports {name}: it stands outside the rooms"
        elif room == target == "nn":
            own, other = (path[2] if len(path) > 2 else "" for path in (module.split("."), parts))
            if other in FAMILIES and other != own:
                yield f"{module} imports {name}: what families share is in nn.layers, or passed in"
        elif target != room and room != CONFIG:
            if room not in FLOORS or target not in FLOORS:
                yield f"{module} imports {name}: give the new room a floor in this test"
            elif FLOORS[target] >= FLOORS[room]:
                yield f"{module} imports {name}: imports point downwards"
            elif any(room == a and name.startswith(f"jaxrec.{b}") for a, b in FORBIDDEN):
                yield f"{module} imports {name}: it takes that as an argument"


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_imports_point_one_way(path: Path) -> None:
    assert list(violations(dotted(path), imports_of(path))) == []


def test_every_room_has_a_floor() -> None:
    here = {path.stem if path.is_file() else path.name for path in (ROOT / "jaxrec").iterdir()}
    assert here - set(FLOORS) - {"__init__", "__pycache__", "py", CONFIG} == set()


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("jaxrec.nn.din", "from jaxrec import losses"),
        ("jaxrec.losses", "import jaxrec.metrics"),
        ("jaxrec.tasks.ctr", "from jaxrec.train import fit"),
        ("jaxrec.tasks.ctr", "from jaxrec.nn.ranking.din import DIN"),
        ("jaxrec.tasks.ctr", "def f():\n    from ..train import fit"),
        ("jaxrec.report.tables", "from jaxrec.convert import s3rec"),
        ("jaxrec.report.tables", "from jaxrec import config"),
        ("jaxrec.config", "from jaxrec.types import Array"),
        ("jaxrec.train.fit", "from jaxrec.data.sources import movielens"),
        ("jaxrec.data.store", "import experiments.sequential.ticoserec"),
        ("jaxrec.newroom.a", "from jaxrec import types"),
        ("jaxrec.nn.retrieval.a", "from jaxrec.nn.sequential.sasrec import SASRec"),
        ("jaxrec.nn.layers.a", "from jaxrec.nn import multitask"),
        ("jaxrec.nn.ranking.a", "from ..multitask import mmoe"),
        ("jaxrec.serve.load", "from jaxrec.commands import train"),
    ],
)
def test_the_rule_sees_a_wrong_import(module: str, source: str) -> None:
    assert list(violations(module, imported(source, module))) != []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("jaxrec.nn.din", "from jaxrec.types import Array\nfrom jaxrec.nn.layers import mlp"),
        ("jaxrec.tasks.ctr", "from jaxrec import losses, sampling"),
        ("jaxrec.train.fit", "from jaxrec import packing\nfrom . import state"),
        ("jaxrec.convert.s3rec", "from jaxrec.nn.sequential.sasrec import SASRec"),
        ("jaxrec.report.__main__", "from jaxrec import config"),
        ("jaxrec.commands.train", "from jaxrec import config, recipes, serve"),
        ("jaxrec.nn.multitask.ple", "from jaxrec.nn.multitask.cgc import Extraction"),
    ],
)
def test_the_rule_lets_a_right_import_pass(module: str, source: str) -> None:
    assert list(violations(module, imported(source, module))) == []


@pytest.mark.parametrize("source", ["import torch.nn", "from torch import nn", "__import__('torch')"])
def test_imported_sees_torch_in_every_form(source: str) -> None:
    assert {name.split(".")[0] for name in imported(source, "jaxrec.a")} == {"torch"}


def test_nothing_imports_torch() -> None:
    """But for the peers of benchmarks, scripts that run in an environment of their own."""
    peers = ROOT / "experiments" / "benchmarks" / "peers"
    ours = [path for path in (ROOT / "experiments").rglob("*.py") if peers not in path.parents]
    files = [*modules(), *ours]
    users = [dotted(path) for path in files if any(n.split(".")[0] == "torch" for n in imports_of(path))]
    assert users == []


def test_data_does_without_accelerator_libraries() -> None:
    users = {
        dotted(path): sorted(name for name in imports_of(path) if name.split(".")[0] in HOST_ONLY)
        for path in (ROOT / "jaxrec/data").rglob("*.py")
    }
    assert {module: names for module, names in users.items() if names} == {}


def test_one_file_knows_pmap_and_shard_map() -> None:
    users = set()
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "name", "")
            if name in ("pmap", "shard_map") or getattr(node, "id", "") in ("pmap", "shard_map"):
                users.add(dotted(path))
    assert users <= {"jaxrec.train.parallel"}


# --- files ----------------------------------------------------------------------------------------

MACHINE_PATH = re.compile(r"(?<![\w.~$}-])/(?:home|root|Users|work|mnt|scratch)/\w")


def texts() -> list[Path]:
    """Text files of the project that people read or programs run."""
    folders = ("jaxrec", "experiments", "tests", "results", ".ci")
    inside = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    kinds = {".py", ".md", ".json", ".toml", ".sh", ""}
    top = [path for path in ROOT.iterdir() if path.is_file() and path.name != ".git"]  # of a worktree
    return [
        path for path in sorted([*top, *inside]) if path.suffix in kinds and "__pycache__" not in path.parts
    ]


def test_no_file_holds_a_path_of_one_machine() -> None:
    found = {
        path.relative_to(ROOT).as_posix(): MACHINE_PATH.findall(path.read_text(encoding="utf-8"))
        for path in texts()
    }
    assert {name: paths for name, paths in found.items() if paths} == {}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("open('/" + "home/ann/x')", True),
        ("/" + "root/a", True),
        ("https://a.org/home/x", False),
        ("~/work/x", False),
    ],
)
def test_machine_path_pattern(text: str, holds: bool) -> None:
    assert bool(MACHINE_PATH.search(text)) is holds


def makefile_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))


@pytest.mark.parametrize("name", ["README.md", "BUILD_NOTES.md", "Makefile", ".ci/run"])
def test_every_make_command_that_is_written_down_exists(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    in_line = re.findall(r"[`']make ([a-z]+)", text)
    on_its_own = re.findall(r"^make ([a-z]+) *(?:#|$)", text, flags=re.MULTILINE)
    assert {*in_line, *on_its_own} != set()
    assert {*in_line, *on_its_own} <= makefile_targets()


def test_readme_starts_with_the_two_commands() -> None:
    first_block = (ROOT / "README.md").read_text(encoding="utf-8").split("```")[1]
    assert re.findall(r"^make \w+", first_block, flags=re.MULTILINE) == ["make reproduce", "make test"]


def test_files_that_the_readme_names_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert links != []
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_generated_tables_are_not_stale() -> None:
    stale = tables.stale_pages(ROOT / "results", ROOT / "README.md")
    assert [path.name for path in stale] == [], "run `make tables`"
