"""Which of a run's seeds answers: one of them, or the mean of their scores.

By default it is the best one on validation: the scores, vectors and exported function of a run are then
those of one set of parameters, whose metrics are in run.json. The mean of all is often a little better, but
takes as many times the work, and was not measured by the run; it is used on request.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.index import chunked
from jaxrec.report.words import lower_is_better
from jaxrec.serve.run_folder import Kept
from jaxrec.types import Array, Context, Retriever, Scorer, Variables

Seed = int | Literal["mean"]


def choose_seed(kept: Kept, seed: Seed | None) -> tuple[Seed, str]:
    """A seed and why it was chosen.

    Raises:
      ValueError: the run has no such seed.
    """
    all_seeds = ", ".join(map(str, kept.seeds))
    if seed == "mean":
        return seed, f"scores of {all_seeds}, as requested"
    if seed is not None:
        if seed not in kept.seeds:
            raise ValueError(f"seed={seed!r}: the run has {all_seeds}; give one of them, or 'mean'")
        return seed, f"of {all_seeds}, as requested"
    if len(kept.seeds) == 1:
        return kept.seeds[0], "the only one"
    metric = kept.protocol.selection
    values = kept.validation.get(metric)
    if values is None:
        return kept.seeds[0], f"the first of {all_seeds}: the run was not selected on validation"
    best = int(np.argmin(values) if lower_is_better(metric) else np.argmax(values))
    return kept.seeds[best], f"the best of {all_seeds} by {metric} on validation, {values[best]:.4f}"


def variables_of(kept: Kept, seed: Seed) -> Variables:
    """The variables of one seed, on the device; of "mean" all of them with their axis of seeds."""
    if seed == "mean":
        return jax.tree.map(jnp.asarray, dict(kept.variables))
    index = kept.seeds.index(seed)
    return jax.tree.map(lambda array: jnp.asarray(array[index]), dict(kept.variables))


def mean_model(model: Retriever | Scorer, *, several: bool = False) -> Retriever | Scorer:
    """A model of variables with an axis of S seeds, whose scores are the means of the seeds' scores.

    Those of a `Retriever` are products of vectors of width S * D: the queries of all seeds side by side,
    divided by S, and the items of all seeds.

    several: whether a query has several vectors. The mean of what they give in each seed is no product of
    vectors: such a model becomes a `Scorer`, with the scores of all items in memory.

    Raises:
      ValueError (while tracing): a query has several vectors, which was not said.
    """
    if isinstance(model, Retriever) and several:
        model = _scorer_of(model)
    if isinstance(model, Scorer):
        scores = jax.vmap(model.scores, in_axes=(0, None, None))
        some = None if model.some is None else jax.vmap(model.some, in_axes=(0, None, None, None))
        return Scorer(
            lambda variables, queries, context: scores(variables, queries, context).mean(axis=0),
            None if some is None else lambda *asked: some(*asked).mean(axis=0),
        )
    of_queries, of_items = jax.vmap(model.query, in_axes=(0, None, None)), jax.vmap(model.items)

    def query(variables: Variables, queries: Mapping[str, Array], context: Context) -> Array:
        found = of_queries(variables, queries, context)  # [S, B, D]
        if found.ndim != 3:
            raise ValueError(f"queries of shape {list(found.shape[1:])}: the mean of several is a Scorer's")
        return jnp.concatenate(list(found / found.shape[0]), axis=-1)

    return Retriever(query, lambda variables: jnp.concatenate(list(of_items(variables)), axis=-1))


def _scorer_of(model: Retriever) -> Scorer:
    """The scores of a retriever's items, all at once."""

    def scores(variables: Variables, queries: Mapping[str, Array], context: Context) -> Array:
        table = model.items(variables)
        query = model.query(variables, queries, context)
        return chunked.merged(query, lambda one: one @ table.T, model.merge)

    return Scorer(scores)
