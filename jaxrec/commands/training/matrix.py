"""Interaction matrices: the held-out items of each user are ranked among those not interacted with."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxrec import baselines, provenance
from jaxrec.commands.training.options import recipe_of
from jaxrec.commands.training.prepared import BaselineRow, Prepared
from jaxrec.commands.training.sequences import read_vectors
from jaxrec.commands.training.source import Source, as_file_name, load_sequences
from jaxrec.data.events.held_out import HeldOut, split_items
from jaxrec.protocols import retrieval
from jaxrec.recipes.item_cold import with_content
from jaxrec.recipes.trainable import CountingModel, RetrievalModel, evaluate_every, fit_seeds
from jaxrec.serve.content import Tower
from jaxrec.serve.run_folder import Histories
from jaxrec.tasks import pairs
from jaxrec.train.evaluate import evaluate
from jaxrec.train.fit import Fitted
from jaxrec.train.trial import Trial
from jaxrec.tuning.reads import Measured, optimiser
from jaxrec.types import Context, Protocol, Retriever, Scorer, Variables

KS = (5, 10, 20)
METRIC = "ndcg@10"  # of validation


def read(options: Any, source: Source) -> retrieval.Data:
    """Reads the events of a file as an interaction matrix, holds items of each user out; reads content."""
    data = retrieval.resident(split_items(load_sequences(source, options), by=options.split))
    vectors = read_vectors(options, retrieval.vocabulary(data)["item"])
    return data if vectors is None else with_content(data, vectors)


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
    has_vectors = not isinstance(ranked, Scorer) and pairs.has_vectors(module)

    @jax.jit
    def vectors(variables: Variables, context: Context) -> Variables:
        return jax.vmap(lambda of_seed: pairs.finished(module, of_seed, context))(variables)

    return Prepared(
        name=name,
        dataset=as_file_name(data.split.sequences.name),
        module=pairs.FACTORS if has_vectors else ranked,
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
            retrieval.run_test, ranked, data, protocol, columns=columns, num_devices=options.num_devices
        ),
        baselines=functools.partial(floors, data, options),
        kept=_kept("baseline" if isinstance(ranked, Scorer) else "factors", options, data),
        vocabularies=retrieval.vocabulary(data),
        shapes=None,
        finished=(lambda variables: (pairs.FACTORS, vectors(variables, context))) if has_vectors else None,
        tower=_tower(module, entry, data, recipe),
        notes=[describe_matrix(data.split)],
        next_command=f"jaxrec recommend RUN --user {_first_user(data)} --k 10",
    )


def _tower(
    module: Any, entry: RetrievalModel, data: retrieval.Data, recipe: Any
) -> Callable[[Variables], Tower] | None:
    if entry.factors is None:
        return None
    width, factors = data.columns["item_content"].shape[1], entry.factors(recipe)
    return lambda variables: Tower(module, variables, width, factors)


def _counted(name: str, entry: CountingModel, options: Any, data: retrieval.Data, recipe: Any) -> Prepared:
    if not entry.drawn and len(options.seeds) > 1:
        raise ValueError(
            f"seeds={options.seeds}: {name} draws no random numbers, so all seeds would be equal; give one"
        )
    protocol = protocol_of(data, "")
    made: list[Retriever | Scorer] = []

    def train(**given: Any) -> Fitted | Measured:
        fitted = fit(entry, data, recipe, protocol, given["seeds"], made)
        if given.get("trial") is not None:
            return Measured(METRIC, fitted.best_value)
        return fitted

    def finished(variables: Variables) -> tuple[Any, Variables]:
        return made[-1], {key: value for key, value in variables.items() if key != "key"}

    return Prepared(
        name=name,
        dataset=as_file_name(data.split.sequences.name),
        module=None,
        protocol=protocol,
        train=train,
        test=lambda variables: retrieval.run_test(
            made[-1], data, protocol, variables, num_devices=options.num_devices
        ),
        baselines=functools.partial(floors, data, options),
        kept=_kept("factors" if entry.of_users else "baseline", options, data),
        vocabularies=retrieval.vocabulary(data),
        shapes=None,
        finished=finished,
        notes=[describe_matrix(data.split)],
        next_command=f"jaxrec recommend RUN --user {_first_user(data)} --k 10",
    )


def fit(
    entry: CountingModel,
    data: retrieval.Data,
    recipe: Any,
    protocol: Protocol,
    seeds: Sequence[int],
    made: list[Retriever | Scorer],
) -> Fitted:
    """Fits a method for each seed and measures it on the validation part; `made` receives what was fitted."""
    start = time.perf_counter()
    model, variables = fit_seeds(entry, data, recipe, seeds)
    made.append(model)
    seconds = time.perf_counter() - start
    asked = retrieval.evaluation(model, data, protocol, "validation")
    found = evaluate(asked, variables, data.columns)
    row: dict[str, Any] = {"epoch": 0, "phase": "fit", "seconds": seconds, "train_seconds": seconds}
    row |= {f"valid/{name}": [of[name] for of in found] for name in found[0]}
    return Fitted(
        variables,
        [row],
        best_epoch=[0] * len(seeds),
        best_value=[of[METRIC] for of in found],
        steps=0,
        seconds=seconds,
        compile_seconds=0.0,
        made_by=({**provenance.manifest(), "first_epoch": 0},),
    )


def floors(data: retrieval.Data, options: Any) -> list[BaselineRow]:
    """Random and popularity, on the same queries."""
    protocol, found = protocol_of(data, "")._replace(selection="none"), []
    for make in (baselines.random, baselines.popularity):
        made = make(data)
        tested = retrieval.run_test(made, data, protocol, made.for_seeds(options.seeds))
        found.append(BaselineRow(made.name, tested, protocol))
    return found


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
