"""The models of `jaxrec.recipes`, listed without importing them, and found by name or import path."""

from __future__ import annotations

import ast
import difflib
import functools
import importlib
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parents[2] / "recipes"
KINDS = {
    "SequenceModel": "events of users or sessions",
    "ItemModel": "events of users in order, ranked by the items of a history",
    "RankedModel": "events of users in order, ranked by scores of their own",
    "ActionModel": "events of users in order, with what they did",
    "SuccessorModel": "events of users in order, without gradient descent",
    "SemanticIdModel": "events of users in order, items found by codes",
    "TransferModel": "events and classes of users, from a run of another model",
    "TableModel": "labelled rows",
    "RetrievalModel": "the items of each user, in no order",
    "CountingModel": "the items of each user, in no order, without gradient descent",
    "RatingModel": "explicit ratings",
    "ClickModel": "events, each with a sampled item that was not clicked",
}


class Listed(NamedTuple):
    """A model in a file of recipes. kind: the type of its entry; family: the file's title."""

    name: str
    kind: str
    module: str
    family: str


@functools.cache
def listed() -> dict[str, Listed]:
    """All models by name, read from the keys of `MODELS` in the files of recipes.

    Raises:
      ValueError: two files have a model of one name, or the keys of a dictionary are not literals.
    """
    found: dict[str, Listed] = {}
    for path, tree in _files():
        title = " ".join((ast.get_docstring(tree) or "").split("\n\n")[0].split())
        names, kind = _literal_keys(tree, path, "MODELS")
        for name in names:
            if name in found:
                raise ValueError(f"{path.name}: the model {name!r} is in {found[name].module}, too")
            found[name] = Listed(name, kind, f"jaxrec.recipes.{path.stem}", title)
    return found


@functools.cache
def not_trained() -> dict[str, str]:
    """{model: module} of the models that need other data than these commands read, the keys of `NEEDS`."""
    return {
        name: f"jaxrec.recipes.{path.stem}"
        for path, tree in _files()
        for name in _literal_keys(tree, path, "NEEDS")[0]
    }


def _files() -> list[tuple[Path, ast.Module]]:
    return [(path, ast.parse(path.read_text(encoding="utf-8"))) for path in sorted(FOLDER.glob("*.py"))]


def _literal_keys(tree: ast.Module, path: Path, dictionary: str) -> tuple[list[str], str]:
    """The keys of a dictionary at the top of a file, and the annotated type of its values."""
    for node in tree.body:
        if not isinstance(node, ast.AnnAssign) or ast.unparse(node.target) != dictionary:
            continue
        keys = node.value.keys if isinstance(node.value, ast.Dict) else [None]
        names = [key.value for key in keys if isinstance(key, ast.Constant)]
        if len(names) < len(keys):
            raise ValueError(f"{path.name}: {dictionary} must be a dictionary whose keys are literals")
        kind = ast.unparse(node.annotation).partition("[")[2].rpartition(", ")[2].rstrip("]")
        return [str(name) for name in names], kind
    return [], ""


def find(name: str) -> Any:
    """The entry of a model: one of the types of `recipes.trainable`.

    Raises:
      ValueError: there is none of this name (the message names the nearest), or it needs other data.
    """
    models = listed()
    if name in not_trained():
        needs = importlib.import_module(not_trained()[name]).NEEDS[name]
        raise ValueError(f"{name}: is not trained by this command: it needs {needs}")
    if name not in models:
        nearest = difflib.get_close_matches(name, models, n=1, cutoff=0.0)[0]
        raise ValueError(
            f"no model {name!r}: the nearest is {nearest!r}; `jaxrec train --help` lists all, and a module "
            "of your own is named by its import path, my_package.models:MyModel"
        )
    return importlib.import_module(models[name].module).MODELS[name]


def shown() -> str:
    """The models by what they are trained on, with the title of their file, a line each family."""
    lines = []
    for kind, what in KINDS.items():
        lines += ["", f"trained on {what}:"]
        families: dict[str, list[str]] = {}
        for model in listed().values():
            if model.kind == kind:
                families.setdefault(model.family, []).append(model.name)
        lines += [f"  {', '.join(names)}\n      {title}" for title, names in families.items()]
    return "\n".join(lines)
