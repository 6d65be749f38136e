"""Encoders of click sessions: the next click of later sessions is ranked among all items."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from jaxrec import baselines, data
from jaxrec.commands.training.options import recipe_of
from jaxrec.commands.training.prepared import BaselineRow, Prepared, recommend_command
from jaxrec.commands.training.sequences import (
    constants_of,
    read_vectors,
    row_name,
    shapes_of,
    with_vectors,
)
from jaxrec.commands.training.source import Source, as_file_name
from jaxrec.data.events.sessions import split_sessions
from jaxrec.protocols import Beyond, sessions
from jaxrec.recipes.trainable import SequenceModel
from jaxrec.tasks.encoder import reads_times
from jaxrec.train.accumulate import num_shares
from jaxrec.train.trial import Trial
from jaxrec.tuning import reads
from jaxrec.types import Protocol, Tested, Variables

METRIC = "mrr@20"  # of validation
VALIDATION_SHARE = 0.1  # of the training sessions, the last ones
BASELINES = (baselines.random, baselines.popularity, baselines.session_popularity, baselines.item_knn)


class Events(NamedTuple):
    """Click sessions and frozen vectors of their items, see `sequences.Events`."""

    data: sessions.Data
    vectors: np.ndarray | None


def read(options: Any, source: Source) -> Events:
    """Reads and splits the sessions of a file; those of one click are left out."""
    if options.k_core or not options.time:
        given = f"k_core={options.k_core}" if options.k_core else "time=''"
        raise ValueError(f"{given}: does not go with split='sessions', which orders whole sessions by time")
    found = data.load_sessions(
        source.given,
        session=options.user,
        item=options.item,
        time=options.time,
        short="leave out",
        real_ids=options.real_ids,
        name=source.name,
        delimiter=options.delimiter or None,
    )
    split = split_sessions(found, share=VALIDATION_SHARE, by="last")
    return Events(sessions.resident(split), read_vectors(options, np.asarray(split.item_ids)))


def prepare(
    name: str, entry: SequenceModel, options: Any, events: Events, *, trial: Trial | None = None
) -> Prepared:
    """Builds an encoder and what it is trained by. trial: of a search of settings."""
    if entry.sessions is None:
        raise ValueError(f"split='sessions': {name} reads users; name another split or model")
    recipe = entry.settle(recipe_of(options, entry.recipe), options.loss)
    found, split = events.data, events.data.split
    encoder = with_vectors(entry.encoder(split.num_items, recipe), events.vectors)
    objective = entry.objectives[options.loss](found, recipe)
    if reads_times(encoder):
        raise ValueError(f"split='sessions': {name} reads times, which sessions lack; train it by --no-times")
    shares = num_shares(options.num_devices, options.accumulate_steps)
    training = entry.sessions(encoder, objective, found, recipe, shares)
    protocol = sessions.protocol(split, objective.description, METRIC)
    optimiser = reads.optimiser(entry.session_optimiser or entry.optimiser, recipe, trial)
    item_ids = np.asarray(split.item_ids)

    def train(**fit: Any) -> Any:
        patience = recipe.patience or None
        return sessions.train(
            training, found, protocol, optimiser, epochs=recipe.epochs, patience=patience, **fit
        )

    beyond = Beyond(ks=options.beyond) if options.beyond else None

    def test(model: Any, variables: Variables, measured: Protocol = protocol) -> Tested:
        return sessions.run_test(
            model, found, measured, variables, beyond=beyond, num_devices=options.num_devices
        )

    def test_baselines() -> list[BaselineRow]:
        untrained = sessions.protocol(split, "", "none")
        made = [make(found) for make in BASELINES]
        return [
            BaselineRow(one.name, test(one, one.for_seeds(options.seeds), untrained), untrained)
            for one in made
        ]

    return Prepared(
        name=row_name(name, objective.name, events.vectors),
        dataset=as_file_name(split.name),
        module=encoder,
        protocol=protocol,
        train=train,
        test=lambda variables: test(training, variables),
        baselines=test_baselines,
        kept={
            "kind": "session",
            "columns": {options.user: "user", options.item: "item"},
            "vocabulary": {"item": item_ids},
            "counts": baselines.popularity(found).variables["count"].astype(np.int64),
        },
        vocabularies={"item": item_ids},
        shapes=shapes_of(entry, split.num_items, recipe, events.vectors),
        constants=constants_of(events.vectors),
        notes=[f"{split.name}: {split.num_train:,} training sessions, {split.rule}"],
        next_command=recommend_command(",".join(map(str, item_ids[:2])), option="--history"),
    )
