"""Explicit ratings: held-out ones are predicted, and items are recommended by the rating that is expected."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.baselines.biased_mf import biased_mf
from jaxrec.commands.training.counted import as_fitted, timed
from jaxrec.commands.training.options import recipe_of
from jaxrec.commands.training.prepared import BaselineRow, Prepared, recommend_command
from jaxrec.commands.training.source import Source, as_file_name, load_interactions
from jaxrec.data.events.ratings import RatingSplit, split_ratings
from jaxrec.protocols import ratings
from jaxrec.recipes.trainable import RatingModel
from jaxrec.serve.run_folder import Histories
from jaxrec.tasks.pairs import FACTORS
from jaxrec.train.fit import Fitted
from jaxrec.train.trial import Trial
from jaxrec.tuning.reads import Measured
from jaxrec.types import Baseline, Tested, Variables


def read(options: Any, source: Source) -> RatingSplit:
    """Reads the ratings of a file, and divides them."""
    found = load_interactions(source, options, value=options.value, k_core=options.k_core)
    return split_ratings(found)


def prepare(
    name: str, entry: RatingModel, options: Any, split: RatingSplit, *, trial: Trial | None = None
) -> Prepared:
    """What fits a model to ratings. trial: of a search of settings."""
    recipe = recipe_of(options, entry.recipe)
    if options.num_devices > 1:
        raise ValueError(f"num_devices={options.num_devices}: {name} is fitted on one device; leave it out")

    def fit(seeds: Sequence[int]) -> Variables:
        made = [entry.make(split.train, recipe, seed).variables for seed in seeds]
        return jax.tree.map(lambda *of_seeds: jnp.stack(of_seeds), *made)

    def train(**given: Any) -> Fitted | Measured:
        variables, seconds = timed(fit, given["seeds"])
        found = ratings.errors(variables, split, split.validation)
        if given.get("trial") is not None:
            values = [of[ratings.SELECTION] for of in found]
            return Measured(ratings.SELECTION, values, lower_is_better=True)
        return as_fitted(variables, found, ratings.SELECTION, seconds)

    def test(variables: Variables) -> Tested:
        return Tested(ratings.errors(variables, split, split.test))

    sequences = split.interactions.to_sequences()
    vocabulary = {"item": np.asarray(sequences.item_ids), "user": np.asarray(sequences.user_ids)}
    counts = np.bincount(split.train.item, minlength=split.train.num_items + 1).astype(np.int64)
    return Prepared(
        name=name,
        dataset=as_file_name(sequences.name),
        module=FACTORS,
        protocol=ratings.protocol(split),
        train=train,
        test=test,
        baselines=functools.partial(floors, split, options),
        kept={
            "kind": "factors",
            "columns": {options.user: "user", options.item: "item"},
            "vocabulary": vocabulary,
            "histories": Histories(sequences.items, sequences.offsets, None),
            "counts": counts,
        },
        vocabularies=vocabulary,
        shapes=None,
        finished=lambda variables: (FACTORS, variables),
        notes=[describe_ratings(split)],
        next_command=recommend_command(vocabulary["user"][0]),
    )


def floors(split: RatingSplit, options: Any) -> list[BaselineRow]:
    """The mean rating, and the biases of users and items."""
    train, protocol = split.train, ratings.protocol(split, selection="none")
    mean = np.full((train.num_users + 1, 1), train.value.mean(dtype=np.float64), np.float32)
    constant = {"users": jnp.asarray(mean), "items": jnp.ones((train.num_items + 1, 1))}
    made = [Baseline("mean", FACTORS, constant), biased_mf(train, dim=0)]
    return [
        BaselineRow(
            one.name, Tested(ratings.errors(one.for_seeds(options.seeds), split, split.test)), protocol
        )
        for one in made
    ]


def describe_ratings(split: RatingSplit) -> str:
    """How many users, items and ratings there are, and how they are divided."""
    found, value = split.interactions, split.train.value
    return (
        f"{found.name}: {found.num_users:,} users, {found.num_items:,} items, {found.user.size:,} ratings "
        f"from {value.min():g} to {value.max():g}; {split.rule}"
    )
