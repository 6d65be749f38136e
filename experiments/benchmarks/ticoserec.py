"""The TiCoSeRec experiment on Beauty: width 64, batches of 256 users, sequences of 50.

One epoch of SASRec with binary cross-entropy, one with contrastive views too (flat: compared as in the
official code), a full ranking of all users, and augmentation of training sequences by each operator.
"""

from __future__ import annotations

import dataclasses
import functools
import resource
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import limits
from experiments.benchmarks.timing import Figure, time_calls, time_epoch
from experiments.sequential import ticoserec as paper
from experiments.sequential.ticoserec_views import FORMS
from jaxrec.augment.similarity import SimilarItems
from jaxrec.augment.views import View
from jaxrec.data.events.split import leave_one_out
from jaxrec.optim.loss_weighting import static
from jaxrec.protocols import next_item
from jaxrec.recipes import ticoserec as recipes
from jaxrec.recipes import ticoserec_views as views
from jaxrec.tasks.combine import combine
from jaxrec.tasks.next_item import next_item as next_item_task
from jaxrec.types import Protocol

AUGMENTED_BATCH = 512
ROW = "ticoserec-bce"


def figures(repeats: int, tiny: bool) -> Iterator[Figure]:
    """The figures of the TiCoSeRec experiment on Beauty."""
    setting = paper.Config(dataset="Beauty", tiny=tiny, seeds=(0,))
    recipe = paper.recipe_of(ROW, setting)
    if not tiny:
        recipe = dataclasses.replace(recipe, dim=64, batch_size=256)
    data = next_item.resident(leave_one_out(paper.load(setting)))
    without_views = dataclasses.replace(recipe, weight=0.0)
    model, objective = recipes.encoder(data.num_items, without_views), paper.ROWS[ROW].objective(data)
    packing = next_item.packing_of(data, model, recipe.batch_size)
    packed = next_item.plan(data, model, recipe.batch_size, packing)
    padded = next_item.plan(data, model, recipe.batch_size, None)
    plain = next_item_task(model, objective, packed=packing)
    alone = static({"next_item": 1.0})
    yield from time_epoch("ticoserec/epoch_plain", plain, alone, packed, data.columns, repeats)
    unpacked = next_item_task(model, objective)
    yield from time_epoch("ticoserec/epoch_plain_padded", unpacked, alone, padded, data.columns, repeats)

    similar = paper.SIMILARITIES[setting.similarity](data.split.sequences, recipe, 0)
    augmented = views.augmented(data, recipe, similar)
    both = static({"next_item": 1.0, "contrastive": recipe.weight})
    for name, form in (("packed", "mean"), ("flat", "flat")):
        compared = recipes.encoder(data.num_items, recipe, mask_value=FORMS[form].mask_value)
        contrast = FORMS[form].task(compared, augmented, recipe, 1)
        task = combine(next_item=next_item_task(compared, objective, packed=packing), contrastive=contrast)
        columns = augmented.columns
        yield from time_epoch(f"ticoserec/epoch_contrastive_{name}", task, both, packed, columns, repeats)

    evaluation = next_item.evaluation(model, data, Protocol(), "validation")
    context = jax.tree.map(jnp.asarray, data.columns)
    variables = plain.init(jax.random.key(0), {"items": jnp.zeros((1, recipe.max_len), jnp.int32)})
    queries = jax.tree.map(jnp.asarray, dict(evaluation.queries))
    evaluate = jax.jit(evaluation.measure)
    ranking = functools.partial(evaluate, variables, queries, context)
    yield from time_calls("ticoserec/evaluate", ranking, repeats, work=limits.work(ranking))
    yield from augmentation(data, recipe, similar, repeats)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
    yield Figure("ticoserec/peak_memory", "MiB", peak, peak, peak, 1)


def augmentation(
    data: next_item.Data, recipe: recipes.Recipe, similar: SimilarItems, repeats: int
) -> Iterator[Figure]:
    """Times each operator, and the random choice of one, on all training sequences in batches."""
    length = jnp.asarray(data.inputs, jnp.int32)
    users = -(-len(data.inputs) // AUGMENTED_BATCH) * AUGMENTED_BATCH
    order = np.random.default_rng(0).permutation(np.arange(users) % len(data.inputs)).astype(np.int32)
    batches = jnp.asarray(order.reshape(-1, AUGMENTED_BATCH))
    single = {
        name: dataclasses.replace(recipe, operators=letter)
        for name, letter in zip(("crop", "mask", "reorder", "insert", "substitute"), "CMRIS", strict=True)
    }
    for name, chosen in {**single, "random": recipe}.items():
        context = jax.tree.map(jnp.asarray, views.augmented(data, chosen, similar).columns)
        view = views.view(chosen)

        def augment(key: jax.Array, context: Any, view: View = view) -> jax.Array:
            def batch(total: jax.Array, user: jax.Array) -> tuple[jax.Array, None]:
                items, _ = view.apply(
                    jax.random.fold_in(key, user[0]),
                    jax.tree.map(lambda column: column[user], context["plan"]),
                    context["items"],
                    length[user],
                    context["similar"],
                    end=context["start"][user] + length[user],
                    width=data.width,
                )
                return total + items.sum(), None

            return jax.lax.scan(batch, jnp.int32(0), batches)[0]

        compiled = jax.jit(augment)
        run = functools.partial(compiled, jax.random.key(0), context)
        yield from time_calls(f"ticoserec/augment_{name}", run, repeats, count=users, work=limits.work(run))
