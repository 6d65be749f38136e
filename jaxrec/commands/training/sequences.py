"""Encoders of users' sequences: the next event of each user is ranked among all items."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import baselines
from jaxrec.commands.training.options import recipe_of
from jaxrec.commands.training.prepared import BaselineRow, Prepared, Shapes, recommend_command
from jaxrec.commands.training.source import (
    Source,
    as_file_name,
    load_sequences,
    sha256_of,
    split_sequences,
)
from jaxrec.data import load_item_vectors
from jaxrec.data.events.split import Split, format_repeats, seen_before
from jaxrec.nn.sequential.item_vectors import VECTORS, WithItemVectors
from jaxrec.protocols import Beyond, next_item
from jaxrec.recipes.trainable import SequenceModel
from jaxrec.serve.run_folder import Histories
from jaxrec.tasks import interests
from jaxrec.tasks.encoder import reads_times
from jaxrec.train.trial import Trial
from jaxrec.tuning.reads import optimiser
from jaxrec.types import Protocol, Variables

KS = (5, 10, 20)
METRIC = "ndcg@10"  # of validation


class Events(NamedTuple):
    """Events of users and frozen vectors of their items, float32 [V, E] with zeros for padding, or None."""

    data: next_item.Data
    vectors: np.ndarray | None


def read(options: Any, source: Source) -> Events:
    """Reads and splits the events of a file, and the vectors of its items."""
    data = next_item.resident(split_sequences(load_sequences(source, options), options.split))
    return Events(data, read_vectors(options, next_item.vocabulary(data)["item"]))


def read_vectors(options: Any, item_ids: np.ndarray) -> np.ndarray | None:
    """The vector of each item from the file of `--item-vectors`; None without one.

    Raises:
      ValueError: there are ids of rows and no file of vectors; as `load_item_vectors`.
    """
    if not options.item_vectors:
        if options.item_vector_ids:
            raise ValueError(
                f"item_vector_ids={options.item_vector_ids!r}: names the items of --item-vectors, which is "
                "not given; give that, too, or leave this out"
            )
        return None
    path = Path(options.item_vectors)
    sha256_of("item_vectors", path)
    ids = options.item_vector_ids or None
    return load_item_vectors(path, item_ids, item=options.item, ids=ids)


def prepare(
    name: str, entry: SequenceModel, options: Any, events: Events, *, trial: Trial | None = None
) -> Prepared:
    """Builds an encoder and what it is trained by. trial: of a search of settings."""
    recipe = entry.settle(recipe_of(options, entry.recipe), options.loss)
    data, split = events.data, events.data.split
    sequences = split.sequences
    encoder, ranked = _encoder(name, entry, recipe, events)
    objective = entry.objectives[options.loss](data, recipe)
    if reads_times(encoder) and sequences.times is None:
        raise ValueError(
            f"{sequences.name}: has no times, which {name} reads; name their column by --time, or train it "
            "without by --no-times"
        )
    protocol = Protocol(
        split=split.rule,
        seen="keep" if options.keep_seen else "exclude",
        ks=KS,
        loss=objective.description,
        selection=METRIC,
    )
    beyond = Beyond(ks=options.beyond) if options.beyond else None
    test = functools.partial(next_item.run_test, beyond=beyond, num_devices=options.num_devices)
    vocabulary = next_item.vocabulary(data)

    def test_baselines() -> list[BaselineRow]:
        untrained = protocol._replace(loss="", selection="none")
        found = []
        for make in (baselines.random, baselines.popularity):
            made = make(data)
            metrics = test(made, data, untrained, made.for_seeds(options.seeds))
            found.append(BaselineRow(made.name, metrics, untrained))
        return found

    return Prepared(
        name=row_name(name, objective.name, events.vectors),
        dataset=as_file_name(sequences.name),
        module=encoder,
        protocol=protocol,
        train=functools.partial(
            entry.train, encoder, objective, data, protocol, optimiser(entry.optimiser, recipe, trial), recipe
        ),
        test=lambda variables: test(ranked, data, protocol, variables),
        baselines=test_baselines,
        kept={
            "kind": "multi-interest" if entry.multi_interest else "sequence",
            "columns": {options.user: "user", options.item: "item"},
            "vocabulary": vocabulary,
            "histories": Histories(sequences.items, sequences.offsets, sequences.times),
            "counts": baselines.popularity(data).variables["count"].astype(np.int64),
        },
        vocabularies={"item": vocabulary["item"]},
        shapes=shapes_of(entry, data.num_items, recipe, events.vectors),
        constants=constants_of(events.vectors),
        notes=[
            describe_split(split),
            *([format_repeats(split)] if split.repeats.test else []),
            *little_evidence(split, protocol.seen),
        ],
        next_command=recommend_command(vocabulary["user"][split.test.user[0]]),
    )


def _encoder(name: str, entry: SequenceModel, recipe: Any, events: Events) -> tuple[Any, Any]:
    """The module, and what is ranked: itself, or the retriever of a model of several interests."""
    module = entry.encoder(events.data.num_items, recipe)
    if not entry.multi_interest:
        encoder = with_vectors(module, events.vectors)
        return encoder, encoder
    if events.vectors is not None:
        raise ValueError(f"item_vectors: {name} reads ids of items alone; leave out --item-vectors")
    return module, interests.retriever(module)


def with_vectors(encoder: Any, vectors: np.ndarray | None) -> Any:
    """An encoder that also reads frozen vectors of items, if there are any."""
    return encoder if vectors is None else WithItemVectors(encoder, width=vectors.shape[1])


def constants_of(vectors: np.ndarray | None) -> dict[str, Any]:
    """The variables of an encoder `with_vectors` that are given."""
    return {} if vectors is None else {"constants": {VECTORS: vectors}}


def shapes_of(entry: SequenceModel, num_items: int, recipe: Any, vectors: np.ndarray | None) -> Shapes:
    """Shapes of an encoder's variables by the number of items."""

    def shapes(more: Mapping[str, int]) -> Variables:
        encoder = with_vectors(entry.encoder(num_items + more.get("item", 0), recipe), vectors)
        items = jnp.zeros((1, encoder.max_len), jnp.int32)
        init = functools.partial(encoder.init, train=False)
        found: Variables = jax.eval_shape(init, jax.random.key(0), items)
        return found

    return shapes


def describe_split(split: Split) -> str:
    """How many users, items and queries there are."""
    sequences = split.sequences
    left_out = f", {split.left_out:,} left out for want of a history" if split.left_out else ""
    return (
        f"{sequences.name}: {sequences.num_users:,} users, {sequences.num_items:,} items, "
        f"{len(sequences.items):,} events; {split.rule}: {len(split.validation.user):,} validation and "
        f"{len(split.test.user):,} test queries{left_out}"
    )


def little_evidence(split: Split, seen: str) -> list[str]:
    """Notes where test metrics say little: of one user, or of targets without another candidate."""
    sequences, queries, notes = split.sequences, split.test, []
    if sequences.num_users < 2:
        notes.append(f"{sequences.name}: has one user, so the metrics say nothing of others")
    if seen == "exclude" and sequences.lengths.max() >= sequences.num_items - 1:
        pairs = sequences.event_users * np.int64(sequences.num_items + 1) + sequences.items
        new = np.zeros(len(pairs), np.int64)
        new[np.unique(pairs, return_index=True)[1]] = 1  # a user's first event of an item
        before = np.concatenate([[0], np.cumsum(new)])
        first = sequences.offsets[queries.user]
        distinct = before[first + queries.length] - before[first]
        alone = int((distinct == sequences.num_items - 1)[~seen_before(sequences, queries)].sum())
        if alone:
            notes.append(
                f"{sequences.name}: {alone:,} of {len(queries.user):,} test targets are the only candidate, "
                "since their user has seen every other item: any model ranks them first"
            )
    return notes


def row_name(name: str, loss: str, vectors: np.ndarray | None) -> str:
    """The model's name, with its loss unless that is a part of it, and with "+vectors" if it reads some."""
    named = name if f"-{loss}-" in f"-{name}-" else f"{name}-{loss}"
    return named if vectors is None else f"{named}+vectors"
