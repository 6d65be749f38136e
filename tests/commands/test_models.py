"""Every model of the recipes is listed, found by name, and built from a user's data."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

import jaxrec.recipes
from jaxrec.commands.training import listing
from jaxrec.commands.training.kinds import kind_of
from jaxrec.commands.training.models import chosen, options_type
from jaxrec.commands.training.options import documented_fields, made
from jaxrec.commands.training.source import Source, source_of
from jaxrec.recipes import ticoserec as recipes
from jaxrec.recipes.ticoserec_views import item_cf_iuf, similar_in_training
from jaxrec.recipes.trainable import SequenceModel
from tests.commands.small_data import (
    EVENTS,
    write_actions,
    write_attributes,
    write_events,
    write_rows,
    write_vectors,
)

TABLE = {"categorical": ("city", "device"), "numeric": ("price",)}
OF_CONTENT = ("dropoutnet",)  # models that read --item-vectors
OF_RUNS = ("peterrec",)  # models that adapt a run, see test_transfer.py
SIZES = {"tiger": {"num_codes": 4, "vector_dim": 3}}  # of models whose own are above the number of items
OF_PAIRS = {"user_column": "city", "item_column": "device"}
MODELS = sorted(listing.listed())
ATTRIBUTES = "attributes.csv"  # in the working directory of tests that read it


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Source]:
    folder = tmp_path_factory.mktemp("files")
    return {
        "events": source_of(write_events(folder / "events.csv")),
        "rows": source_of(write_rows(folder / "rows.csv")),
        "actions": source_of(write_actions(folder / "actions.csv")),
    }


@pytest.fixture(autouse=True)
def attributes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_attributes(tmp_path / ATTRIBUTES)


@pytest.fixture(scope="module")
def read() -> dict[Any, Any]:
    """Data that were read already."""
    return {}


def options_of(entry: Any, **given: Any) -> Any:
    kind = options_type(entry)
    names = {field.name for field in dataclasses.fields(kind)}
    if "labels" in names:
        given = TABLE | given
        given |= {"scenario": "city"} if "scenario" in names else {}
        given |= OF_PAIRS if "user_column" in names else {}
    else:
        given = EVENTS | given
        given |= {"item_attributes": ATTRIBUTES, "attributes": ("colour",)} if "attributes" in names else {}
        given |= {"item_attributes": ATTRIBUTES, "category": "colour"} if "category" in names else {}
        given |= {"value": "ts", "time": ""} if "value" in names else {}
        given |= {**EVENTS, "value": "stars", "positive": (5,)} if "positive" in names else {}
    return made(kind, {"data": "x", "run": "y", **given})


def prepared(name: str, sources: dict[str, Source], read: dict[Any, Any], **given: Any) -> Any:
    """A model, built from data that are read once for all models of a kind."""
    entry = listing.find(name)
    options = options_of(entry, **given)
    kind, table = kind_of(entry, options), hasattr(options, "labels")
    attributed = bool(getattr(options, "item_attributes", ""))
    content = getattr(options, "item_vectors", "")
    key: Any = (kind.read, options.split, getattr(options, "labels", ()), attributed, content)
    if key not in read:
        events = "actions" if hasattr(options, "positive") else "events"
        read[key] = kind.read(options, sources["rows" if table else events])
    return kind.prepare(name, entry, options, read[key])


def labels_of(name: str) -> tuple[str, ...]:
    entry = listing.find(name)
    if isinstance(entry, SequenceModel) or not hasattr(entry, "outputs"):
        return ()
    try:
        entry.outputs(("click", "buy"))
    except ValueError:
        return ("click",)
    return ("click", "buy")


@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("esm2", *OF_RUNS)])
def test_every_model_is_built_from_a_users_file(
    name: str, sources: dict[str, Source], read: dict[Any, Any], tmp_path: Path
) -> None:
    labels = labels_of(name)
    given: dict[str, Any] = SIZES.get(name, {}) | ({"labels": labels} if labels else {})
    if name in OF_CONTENT:
        with pytest.raises(ValueError, match="give it with --item-vectors FILE"):
            prepared(name, sources, read)
        given = {"item_vectors": str(write_vectors(tmp_path / "vectors.npz")), "teacher_dim": 3}
    found = prepared(name, sources, read, **given)
    assert name in found.name
    assert found.protocol.selection in ("ndcg@10", "auc", "auc/click", "rmse")
    assert found.vocabularies


def test_a_model_that_needs_three_labels_says_so(sources: dict[str, Source], read: dict[Any, Any]) -> None:
    with pytest.raises(ValueError, match="2 labels .click, buy.: a funnel has three"):
        prepared("esm2", sources, read, labels=("click", "buy"))


@pytest.mark.parametrize("name", ["hstu", "sasrec-cosine", "ticoserec", "coserec"])
def test_a_model_of_users_is_not_trained_on_sessions(
    name: str, sources: dict[str, Source], read: dict[Any, Any]
) -> None:
    with pytest.raises(ValueError, match="reads users; name another split or model"):
        prepared(name, sources, read, split="sessions")


@pytest.mark.parametrize("name", ["gru4rec", "nextitnet", "stamp", "stmp"])
def test_a_model_of_sessions_is_built(name: str, sources: dict[str, Source], read: dict[Any, Any]) -> None:
    assert prepared(name, sources, read, split="sessions").protocol.selection == "mrr@20"


@pytest.mark.parametrize("name", ["deep", "din", "star"])
def test_models_of_one_label_refuse_two(name: str, sources: dict[str, Source], read: dict[Any, Any]) -> None:
    if name == "din":
        with pytest.raises(ValueError, match="no such option; the nearest"):
            prepared(name, sources, read, labels=("click", "buy"))
        return
    with pytest.raises(ValueError, match="predicts one label; name one, or take a model of several"):
        prepared(name, sources, read, labels=("click", "buy"))


def test_every_file_of_recipes_has_models_or_says_what_they_need() -> None:
    named = {model.module for model in listing.listed().values()} | set(listing.not_trained().values())
    folder = Path(jaxrec.recipes.__file__).parent
    files = {f"jaxrec.recipes.{path.stem}" for path in folder.glob("*.py")}
    shared = {
        "__init__",
        "trainable",
        "compute",
        "trainable_apart",
        "trainable_rankings",
        "ticoserec",
    }  # the models of the last are in ticoserec_views
    assert files - named == {f"jaxrec.recipes.{name}" for name in shared}


def test_every_name_is_that_of_the_entry() -> None:
    for name, model in listing.listed().items():
        assert type(listing.find(name)).__name__ == model.kind


@pytest.mark.parametrize("name", sorted(listing.not_trained()))
def test_models_of_other_data_are_refused_by_name_with_what_they_need(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: is not trained by this command: it needs .* see experim"):
        listing.find(name)


def test_an_unknown_model_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="no model 'sasrex': the nearest is 'sasrec'"):
        chosen("sasrex", labelled=False)


@pytest.mark.parametrize("name", MODELS)
def test_every_option_has_a_help_text(name: str) -> None:
    entry = listing.find(name)
    documented = getattr(entry, "documented", None)
    undocumented = [
        field
        for field, hint, _ in documented_fields(entry.recipe, documented)
        if not hint.__metadata__[0].help and field != "by_gaps"
    ]
    assert undocumented == []


@pytest.mark.parametrize("split", ["last", "time", "user"])
def test_similar_items_of_views_are_those_of_training_inputs(split: str, sources: dict[str, Source]) -> None:
    entry = listing.find("coserec")
    options = options_of(entry, split=split)
    data = kind_of(entry, options).read(options, sources["events"]).data
    sequences = data.split.sequences
    found = similar_in_training(data)
    if split == "last":
        expected = item_cf_iuf(sequences, recipes.Recipe(), 0)
        jax.tree.map(np.testing.assert_array_equal, found, expected)
    changed = sequences.items % sequences.num_items + 1  # another item for every event behind the inputs
    number = np.arange(len(changed)) - sequences.offsets[sequences.event_users]
    items = np.where(number < data.inputs[sequences.event_users], sequences.items, changed)
    other = SimpleNamespace(sequences=dataclasses.replace(sequences, items=items))
    changed_data: Any = SimpleNamespace(split=other, inputs=data.inputs)
    again = similar_in_training(changed_data)
    jax.tree.map(np.testing.assert_array_equal, again, found)
