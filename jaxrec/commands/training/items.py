"""Models of items alone, and methods that count in order: the next event of each user is ranked."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxrec import baselines
from jaxrec.commands.training.attributes import with_attributes
from jaxrec.commands.training.counted import count_once, fitted
from jaxrec.commands.training.options import recipe_of
from jaxrec.commands.training.prepared import BaselineRow, Prepared, recommend_command
from jaxrec.commands.training.sequences import KS, METRIC, describe_split, little_evidence
from jaxrec.commands.training.source import Source, as_file_name, load_sequences, split_sequences
from jaxrec.data.events.split import format_repeats
from jaxrec.protocols import Beyond, items, next_item
from jaxrec.recipes.trainable import ItemModel, SuccessorModel, evaluate_every
from jaxrec.recipes.trainable_rankings import RankedModel
from jaxrec.serve.run_folder import Histories
from jaxrec.tasks import pairs
from jaxrec.tasks.item_pairs import by_history
from jaxrec.train.accumulate import num_shares
from jaxrec.train.trial import Trial
from jaxrec.tuning.reads import optimiser
from jaxrec.types import Baseline, Context, Protocol, Retriever, Scorer, Tested, Variables


def read(options: Any, source: Source) -> next_item.Data:
    """Reads and splits the events of a file, and the attributes of its items."""
    split = split_sequences(load_sequences(source, options), options.split)
    return with_attributes(next_item.resident(split), options)


def prepare(
    name: str,
    entry: ItemModel | RankedModel | SuccessorModel,
    options: Any,
    data: next_item.Data,
    *,
    trial: Trial | None = None,
) -> Prepared:
    """Builds a model and what it is trained by. trial: of a search of settings."""
    recipe = recipe_of(options, entry.recipe)
    if isinstance(entry, SuccessorModel):
        return _counted(name, entry, options, data, recipe)
    if isinstance(entry, RankedModel):
        return _ranked(name, entry, options, data, recipe, trial)
    return _trained(name, entry, options, data, recipe, trial)


def _trained(
    name: str, entry: ItemModel, options: Any, data: next_item.Data, recipe: Any, trial: Trial | None
) -> Prepared:
    module, columns = entry.module(data, recipe), entry.columns(data, recipe)
    finish, ranked = entry.finish(module, recipe), by_history(recipe.history)
    protocol = protocol_of(data, options, entry.loss)
    train = functools.partial(
        items.train,
        entry.task(module, data, recipe),
        entry.plan(data, columns, recipe),
        *(finish, ranked, data, protocol),
        columns=columns,
        **_by_steps(entry, recipe, trial),
    )

    context = {**data.columns, **columns}
    return prepared(
        name,
        options,
        data,
        protocol,
        module=ranked,
        train=train,
        test=functools.partial(
            items.run_test, finish, ranked, data, protocol, columns=columns, **asked(options)
        ),
        finished=lambda variables: (ranked, items.finished(finish, variables, context)),
    )


def _ranked(
    name: str, entry: RankedModel, options: Any, data: next_item.Data, recipe: Any, trial: Trial | None
) -> Prepared:
    module, columns = entry.module(data.num_items, recipe), entry.columns(data, recipe)
    protocol = protocol_of(data, options, entry.loss)
    ranked = entry.ranked(module, recipe, protocol.seen == "exclude")
    shares = num_shares(options.num_devices, options.accumulate_steps)
    learned = entry.learn(module, data, columns, recipe, shares)

    def finish(variables: Variables, context: Context) -> Variables:
        return {"model": variables, "columns": {column: context[column] for column in columns}}

    train = functools.partial(
        items.train,
        *(learned.task, learned.plan, finish, ranked, data, protocol),
        columns=learned.columns,
        **_by_steps(entry, recipe, trial),
    )

    return prepared(
        name,
        options,
        data,
        protocol,
        module=ranked,
        train=train,
        test=functools.partial(
            items.run_test, finish, ranked, data, protocol, columns=columns, **asked(options)
        ),
        finished=lambda variables: (ranked, pairs.with_columns(variables, columns)),
    )


def _by_steps(entry: ItemModel | RankedModel, recipe: Any, trial: Trial | None) -> dict[str, Any]:
    """The arguments of `protocols.items.train` that the recipe has."""
    return {
        "tx": optimiser(entry.optimiser, recipe, trial),
        "epochs": recipe.epochs,
        "every": evaluate_every(recipe),
        "patience": recipe.patience or None,
    }


def _counted(name: str, entry: SuccessorModel, options: Any, data: next_item.Data, recipe: Any) -> Prepared:
    count_once(name, options.seeds)
    protocol, made = protocol_of(data, options, ""), list[Retriever | Scorer]()

    def fit(seeds: Sequence[int]) -> tuple[Retriever | Scorer, Variables]:
        found = entry.make(data, recipe, seeds[0])
        return found.model, found.for_seeds(seeds)

    def measure(model: Any) -> Any:
        return next_item.evaluation(model, data, protocol, "validation")

    return prepared(
        name,
        options,
        data,
        protocol,
        module=None,
        train=functools.partial(fitted, fit, measure, data.columns, METRIC, made),
        test=lambda variables: next_item.run_test(made[-1], data, protocol, variables, **asked(options)),
        finished=lambda variables: (made[-1], {n: v for n, v in variables.items() if n != "key"}),
    )


def prepared(
    name: str,
    options: Any,
    data: next_item.Data,
    protocol: Protocol,
    *,
    module: Any,
    train: Callable[..., Any],
    test: Callable[[Variables], Tested],
    finished: Callable[[Variables], tuple[Any, Variables]],
) -> Prepared:
    """A run of a model that ranks by a history, whoever's, and is kept as a `Retriever` or `Scorer`."""
    split, vocabulary = data.split, next_item.vocabulary(data)
    sequences = split.sequences
    return Prepared(
        name=name,
        dataset=as_file_name(sequences.name),
        module=module,
        protocol=protocol,
        train=train,
        test=test,
        baselines=functools.partial(_floors, data, options, protocol),
        kept={
            "kind": "baseline",
            "columns": {options.user: "user", options.item: "item"},
            "vocabulary": vocabulary,
            "histories": Histories(sequences.items, sequences.offsets, sequences.times),
            "counts": baselines.popularity(data).variables["count"].astype(np.int64),
        },
        vocabularies=vocabulary,
        shapes=None,
        finished=finished,
        notes=[
            describe_split(split),
            *([format_repeats(split)] if split.repeats.test else []),
            *little_evidence(split, protocol.seen),
        ],
        next_command=recommend_command(vocabulary["user"][split.test.user[0]]),
    )


def _floors(data: next_item.Data, options: Any, protocol: Protocol) -> list[BaselineRow]:
    """Random and popularity, on the same queries."""
    untrained = protocol._replace(loss="", selection="none")

    def row(made: Baseline) -> BaselineRow:
        variables = made.for_seeds(options.seeds)
        return BaselineRow(
            made.name, next_item.run_test(made, data, untrained, variables, **asked(options)), untrained
        )

    return [row(make(data)) for make in (baselines.random, baselines.popularity)]


def protocol_of(data: next_item.Data, options: Any, loss: str) -> Protocol:
    """Of all items, those of the history left out or kept."""
    return Protocol(
        split=data.split.rule,
        seen="keep" if options.keep_seen else "exclude",
        ks=KS,
        loss=loss,
        selection=METRIC,
    )


def asked(options: Any) -> dict[str, Any]:
    """The arguments of a test: devices and further metrics."""
    beyond = Beyond(ks=options.beyond) if options.beyond else None
    return {"beyond": beyond, "num_devices": options.num_devices}
