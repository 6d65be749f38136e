"""Events with what users did: the next item is ranked, and the action on an item is predicted."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import baselines
from jaxrec.commands.training.options import recipe_of
from jaxrec.commands.training.prepared import BaselineRow, Prepared, recommend_command
from jaxrec.commands.training.sequences import KS, METRIC
from jaxrec.commands.training.source import Source, as_file_name, load_interactions
from jaxrec.protocols import Beyond, actions, next_item
from jaxrec.recipes.trainable_rankings import ActionModel
from jaxrec.serve.run_folder import Histories
from jaxrec.tasks import generative
from jaxrec.train.trial import Trial
from jaxrec.tuning.reads import optimiser
from jaxrec.types import Protocol, Tested, Variables

WEIGHTS: Mapping[actions.Question, float] = {"ranking": 1.0, "retrieval": 1.0}  # of the two losses
LOSS = " + ".join(WEIGHTS)
MOST = 1000  # actions: more are rather a column of something else, such as times


def read(options: Any, source: Source) -> actions.Data:
    """Reads and splits the events of a file and their actions.

    Raises:
      ValueError: no action is positive or all are, there are no times, values are no actions, or a part has
        no event of a positive action.
    """
    if not options.positive:
        raise ValueError(
            f"positive=(): name the actions of the column {options.value!r} whose items are worth "
            "recommending, such as --positive 4 5"
        )
    if not options.time:
        raise ValueError("time='': the events are split by time; name the column of times by --time")
    found = load_interactions(source, options, value=options.value, k_core=options.k_core)
    if found.value is not None and found.value.max() > MOST:
        raise ValueError(
            f"value={options.value!r}: has {found.value.max():g}; actions are whole numbers from 1 to {MOST} "
            "at most, such as ratings: number yours so, or name another column"
        )
    data = actions.resident(found, positive=options.positive)
    if np.isin(data.actions, data.positive).all():
        raise ValueError(
            f"positive={options.positive}: are all actions that occur, so there is nothing to tell apart; "
            "name fewer, or train hstu, which reads no actions"
        )
    return data


def prepare(
    name: str, entry: ActionModel, options: Any, data: actions.Data, *, trial: Trial | None = None
) -> Prepared:
    """Builds a model and what it is trained by. trial: of a search of settings."""
    recipe = recipe_of(options, entry.recipe)
    if recipe.every < 1:
        raise ValueError(f"every={recipe.every}: must be at least 1")
    split = data.retrieval.split
    sequences, module, objective = split.sequences, entry.module(data, recipe), entry.objective(data, recipe)
    generative.generative(module, objective, positive=data.positive)  # an error of the model is raised here
    protocol = Protocol(split=split.rule, ks=KS, loss=LOSS, selection=METRIC)
    dataset, vocabulary = as_file_name(sequences.name), next_item.vocabulary(data.retrieval)
    beyond = Beyond(ks=options.beyond) if options.beyond else None
    where: dict[str, Any] = {"num_devices": options.num_devices}
    train = functools.partial(
        actions.train,
        module,
        objective,
        data,
        WEIGHTS,
        "retrieval",
        protocol,
        optimiser(entry.optimiser, recipe, trial),
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        every=min(recipe.every, recipe.epochs),
        patience=recipe.patience or None,
    )

    def test(variables: Variables) -> Tested:
        return actions.run_test(module, data, "retrieval", protocol, variables, beyond=beyond, **where)

    def of_actions(variables: Variables) -> list[BaselineRow]:
        asked = _of_actions(data, protocol)
        found = actions.run_test(module, data, "ranking", asked, variables, **where)
        return [BaselineRow(name, found, asked, f"{dataset}-actions")]

    return Prepared(
        name=name,
        dataset=dataset,
        module=module,
        protocol=protocol,
        train=train,
        test=test,
        also=of_actions,
        baselines=functools.partial(_floors, data, options, protocol, dataset),
        kept={
            "kind": "actions",
            "columns": {options.user: "user", options.item: "item"},
            "vocabulary": vocabulary,
            "histories": Histories(sequences.items, sequences.offsets, sequences.times, data.actions),
            "counts": baselines.popularity(data.retrieval).variables["count"].astype(np.int64),
            "outputs": {str(action): action - 1 for action in data.positive},
        },
        vocabularies={"item": vocabulary["item"]},
        shapes=functools.partial(_shapes_of, module),
        notes=[describe_actions(data)],
        next_command=recommend_command(vocabulary["user"][split.test.user[0]]),
    )


def _shapes_of(module: Any, more: Mapping[str, int]) -> Variables:
    larger = module.clone(num_items=module.num_items + more.get("item", 0))
    some = jnp.ones((1, module.max_len), jnp.int32)
    init = functools.partial(larger.init, train=False)
    found: Variables = jax.eval_shape(init, jax.random.key(0), some, some)
    return found


def _of_actions(data: actions.Data, protocol: Protocol) -> Protocol:
    """Of the question whether the action of an event is positive."""
    return Protocol(data.rule, "impressions", "keep", "half", (), protocol.loss, protocol.selection)


def _floors(data: actions.Data, options: Any, protocol: Protocol, dataset: str) -> list[BaselineRow]:
    """Random and popularity for the next item; shares of positive actions for the action."""
    untrained = protocol._replace(loss="", selection="none")
    beyond = Beyond(ks=options.beyond) if options.beyond else None
    found = []
    for make in (baselines.random, baselines.popularity):
        made = make(data.retrieval)
        tested = next_item.run_test(
            made,
            data.retrieval,
            untrained,
            made.for_seeds(options.seeds),
            beyond=beyond,
            num_devices=options.num_devices,
        )
        found.append(BaselineRow(made.name, tested, untrained))
    rates = actions.rates_test(data, len(options.seeds))
    return [*found, BaselineRow("rates", rates, _of_actions(data, untrained), f"{dataset}-actions")]


def describe_actions(data: actions.Data) -> str:
    """How many users, items, events and queries there are, and how many actions are positive."""
    split = data.retrieval.split
    sequences, share = split.sequences, float(np.isin(data.actions, data.positive).mean())
    queries = {part: (len(getattr(split, part).user), len(data.ranking[part].user)) for part in data.ranking}
    shown = "; ".join(
        f"{part}: {next_items:,} next items and {events:,} actions"
        for part, (next_items, events) in queries.items()
    )
    return (
        f"{sequences.name}: {sequences.num_users:,} users, {sequences.num_items:,} items, "
        f"{len(sequences.items):,} events with actions 1 to {data.num_actions}, {share:.1%} of them "
        f"positive; {split.rule}; {shown}"
    )
