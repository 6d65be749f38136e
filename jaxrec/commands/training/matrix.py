"""Interaction matrices: the held-out items of each user are ranked among those not interacted with."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrec import baselines
from jaxrec.commands.training.attributes import with_attributes
from jaxrec.commands.training.counted import count_once, fitted
from jaxrec.commands.training.options import recipe_of
from jaxrec.commands.training.prepared import BaselineRow, Prepared, recommend_command
from jaxrec.commands.training.sequences import read_vectors
from jaxrec.commands.training.source import (
    Source,
    as_file_name,
    load_interactions,
    load_sequences,
    sha256_of,
)
from jaxrec.data.events.feedback_lists import clicks_of, feedback_columns
from jaxrec.data.events.held_out import HeldOut, split_items
from jaxrec.data.events.interactions import Interactions
from jaxrec.data.side_feature_files import load_side_features
from jaxrec.protocols import Beyond, retrieval
from jaxrec.recipes.item_cold import with_content
from jaxrec.recipes.trainable import CountingModel, RetrievalModel, evaluate_every, fit_seeds
from jaxrec.serve.content import Tower
from jaxrec.serve.run_folder import Histories
from jaxrec.tasks import pairs
from jaxrec.train.trial import Trial
from jaxrec.tuning.reads import optimiser
from jaxrec.types import Context, Protocol, Retriever, Scorer, Variables

KS = (5, 10, 20)
METRIC = "ndcg@10"  # of validation


def read(options: Any, source: Source) -> retrieval.Data:
    """Reads the events of a file as an interaction matrix, and features; holds items of each user out."""
    data = _matrix(options, source)
    ids = retrieval.vocabulary(data)
    found: dict[str, Any] = {}
    for side in ("user", "item"):
        file, columns = (getattr(options, f"{side}_feature{what}", "") for what in ("s", "_columns"))
        if columns and not file:
            raise ValueError(
                f"{side}_feature_columns={columns}: are columns of --{side}-features, which is not given; "
                "give that, too, or leave this out"
            )
        if file:
            sha256_of(f"{side}_features", Path(file))
            found[f"{side}s"] = load_side_features(
                Path(file),
                ids[side],
                entity=getattr(options, side),
                columns=columns or None,
                separator=options.feature_separator,
            )
    data = with_attributes(data._replace(**found), options)
    vectors = read_vectors(options, ids["item"])
    return data if vectors is None else with_content(data, vectors)


def _with_feedback(source: Source, options: Any, column: str) -> Interactions:
    """The events with their feedback. Raises ValueError, which names the option as it is called here."""
    try:
        return load_interactions(source, options, value=column, k_core=0)
    except ValueError as error:
        told = str(error).replace("name it with value=... (--value)", "name it with --feedback")
        raise ValueError(told) from None


def _matrix(options: Any, source: Source) -> retrieval.Data:
    column = getattr(options, "feedback", "")
    if not column:
        return retrieval.resident(split_items(load_sequences(source, options), by=options.split))
    events = _with_feedback(source, options, column)
    clicks = clicks_of(events)
    clicks = clicks.k_core(options.k_core) if options.k_core else clicks
    split = split_items(clicks.to_sequences(), by=options.split)
    lists = feedback_columns(events, split, until_training=options.split == "last")
    data = retrieval.resident(split)
    return data._replace(columns={**data.columns, **lists})


def prepare(
    name: str,
    entry: RetrievalModel | CountingModel,
    options: Any,
    data: retrieval.Data,
    *,
    trial: Trial | None = None,
) -> Prepared:
    """Builds a model and what it is trained by. trial: of a search of settings."""
    recipe = recipe_of(options, entry.recipe)
    _check_content(name, entry, data)
    if isinstance(entry, CountingModel):
        return _counted(name, entry, options, data, recipe)
    return _trained(name, entry, options, data, recipe, trial)


def _check_content(name: str, entry: RetrievalModel | CountingModel, data: retrieval.Data) -> None:
    """Raises ValueError for content that a model does not read, and for a model that lacks it."""
    reads, given = getattr(entry, "factors", None) is not None, "item_content" in data.columns
    if reads and not given:
        raise ValueError(f"{name}: reads the content of items; give it with --item-vectors FILE")
    if given and not reads:
        raise ValueError(
            f"item_vectors: {name} reads no content of items; leave --item-vectors out, or take dropoutnet"
        )


def _tower(
    module: Any, entry: RetrievalModel, data: retrieval.Data, recipe: Any
) -> Callable[[Variables], Tower] | None:
    if entry.factors is None:
        return None
    width, factors = data.columns["item_content"].shape[1], entry.factors(recipe)
    return lambda variables: Tower(module, variables, width, factors)


def _trained(
    name: str,
    entry: RetrievalModel,
    options: Any,
    data: retrieval.Data,
    recipe: Any,
    trial: Trial | None,
) -> Prepared:
    module = entry.module(data, recipe)
    columns = entry.columns(data, recipe)
    context = {**data.columns, **columns}
    task, plan = entry.task(module, data, recipe), entry.plan(data, recipe)
    protocol, ranked = protocol_of(data, entry.loss), entry.ranked(module, data)
    kept_as, finished = _served(entry, module, ranked, data, context)

    return Prepared(
        name=name,
        dataset=as_file_name(data.split.sequences.name),
        module=kept_as,
        protocol=protocol,
        train=functools.partial(
            retrieval.train,
            task,
            plan,
            ranked,
            data,
            protocol,
            optimiser(entry.optimiser, recipe, trial),
            epochs=recipe.epochs,
            every=evaluate_every(recipe),
            patience=recipe.patience or None,
            columns=columns,
            weighting=entry.weighting(data, recipe),
        ),
        test=functools.partial(
            retrieval.run_test, ranked, data, protocol, columns=columns, **_asked(options)
        ),
        baselines=functools.partial(floors, data, options),
        kept=_kept("baseline" if isinstance(ranked, Scorer) else "factors", options, data),
        vocabularies=retrieval.vocabulary(data),
        shapes=None,
        tower=_tower(module, entry, data, recipe),
        finished=finished,
        notes=[describe_matrix(data.split)],
        next_command=recommend_command(_first_user(data)),
    )


def _served(
    entry: RetrievalModel, module: Any, ranked: Any, data: retrieval.Data, context: Context
) -> tuple[Any, Callable[[Variables], tuple[Any, Variables]] | None]:
    """The module that a run keeps, and what makes it and its variables of those that were trained."""
    if isinstance(ranked, Scorer):
        return ranked, None
    if entry.reads:
        names = [*entry.reads, *_of_features(entry, data)]
        scorer, columns = pairs.resident_scorer(module), {name: context[name] for name in names}
        return scorer, lambda variables: (scorer, pairs.with_columns(variables, columns))
    if not pairs.has_vectors(module):
        return ranked, None

    @jax.jit
    def vectors(variables: Variables, context: Context) -> Variables:
        return jax.vmap(lambda of_seed: pairs.finished(module, of_seed, context))(variables)

    return pairs.FACTORS, lambda variables: (pairs.FACTORS, vectors(variables, context))


def _of_features(entry: RetrievalModel, data: retrieval.Data) -> list[str]:
    """The columns of ids and features of the sides of which a model reads them."""
    found = []
    for side in entry.reads_features:
        features = data.users if side == "user" else data.items
        found += [f"{side}_id", *({} if features is None else features.as_columns(f"{side}_"))]
    return found


def _counted(name: str, entry: CountingModel, options: Any, data: retrieval.Data, recipe: Any) -> Prepared:
    if not entry.drawn:
        count_once(name, options.seeds)
    protocol, made = protocol_of(data, ""), list[Retriever | Scorer]()

    def measure(model: Any) -> Any:
        return retrieval.evaluation(model, data, protocol, "validation")

    return Prepared(
        name=name,
        dataset=as_file_name(data.split.sequences.name),
        module=None,
        protocol=protocol,
        train=functools.partial(
            fitted, functools.partial(fit_seeds, entry, data, recipe), measure, data.columns, METRIC, made
        ),
        test=lambda variables: retrieval.run_test(made[-1], data, protocol, variables, **_asked(options)),
        baselines=functools.partial(floors, data, options),
        kept=_kept("factors" if entry.of_users else "baseline", options, data),
        vocabularies=retrieval.vocabulary(data),
        shapes=None,
        finished=lambda variables: (made[-1], {n: v for n, v in variables.items() if n != "key"}),
        notes=[describe_matrix(data.split)],
        next_command=recommend_command(_first_user(data)),
    )


def floors(data: retrieval.Data, options: Any) -> list[BaselineRow]:
    """Random and popularity, on the same queries."""
    protocol, found = protocol_of(data, "")._replace(selection="none"), []
    for make in (baselines.random, baselines.popularity):
        made = make(data)
        variables = made.for_seeds(options.seeds)
        tested = retrieval.run_test(made, data, protocol, variables, **_asked(options))
        found.append(BaselineRow(made.name, tested, protocol))
    return found


def _asked(options: Any) -> dict[str, Any]:
    """The arguments of a test: devices and further metrics."""
    beyond = Beyond(ks=options.beyond) if options.beyond else None
    return {"beyond": beyond, "num_devices": options.num_devices}


def protocol_of(data: retrieval.Data, loss: str) -> Protocol:
    """Of all items that a user has not interacted with."""
    return Protocol(split=data.split.rule, ks=KS, loss=loss, selection=METRIC)


def describe_matrix(split: HeldOut) -> str:
    """How many users, items and interactions there are, and how they are divided."""
    sequences = split.sequences
    return (
        f"{sequences.name}: {sequences.num_users:,} users, {sequences.num_items:,} items, "
        f"{len(sequences.items):,} interactions; {split.rule}: {len(split.validation.user):,} validation and "
        f"{len(split.test.user):,} test users"
    )


def _kept(kind: str, options: Any, data: retrieval.Data) -> dict[str, Any]:
    sequences = data.split.sequences
    return {
        "kind": kind,
        "columns": {options.user: "user", options.item: "item"},
        "vocabulary": retrieval.vocabulary(data),
        "histories": Histories(sequences.items, sequences.offsets, None),
        "counts": baselines.popularity(data).variables["count"].astype(np.int64),
    }


def _first_user(data: retrieval.Data) -> Any:
    return data.split.sequences.user_ids[data.split.test.user[0]]
