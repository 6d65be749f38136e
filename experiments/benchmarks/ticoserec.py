"""The TiCoSeRec experiment on Beauty: width 64, batches of 256 users, sequences of 50.

One epoch of SASRec with binary cross-entropy, of that with contrastive views (flat: as the official code
compares them), a full ranking of all users, and augmentation of training sequences by each operator.
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

from experiments.benchmarks.timing import Figure, time_epoch, timed
from experiments.sequential import ticoserec as paper
from experiments.sequential.ticoserec_recipes import Recipe
from jaxrec import losses
from jaxrec.augment.views import View
from jaxrec.data.events.split import leave_one_out
from jaxrec.index.rank import make_rank
from jaxrec.nn.layers.dropout import counter_bits
from jaxrec.nn.sequential.sasrec import SASRec
from jaxrec.optim.loss_weighting import static
from jaxrec.protocols import next_item as ranking
from jaxrec.tasks.combine import combine
from jaxrec.tasks.next_item import next_item, retriever
from jaxrec.tasks.objectives import sampled
from jaxrec.types import Protocol

AUGMENTED_BATCH = 512


def figures(repeats: int, tiny: bool) -> Iterator[Figure]:
    """The figures of the TiCoSeRec experiment on Beauty."""
    setting = paper.Config(dataset="Beauty", tiny=tiny, seeds=(0,))
    recipe = paper.recipe_of(setting, "ticoserec-bce")
    if not tiny:
        recipe = dataclasses.replace(recipe, dim=64, batch_size=256)
    data = ranking.resident(leave_one_out(paper.load(setting)))
    model = SASRec(
        num_items=data.num_items,
        dim=recipe.dim,
        inner_dim=recipe.inner_dim,
        max_len=recipe.max_len,
        dropout=recipe.dropout,
        attention_dropout=recipe.attention_dropout,
        bits=counter_bits,
    )
    objective = sampled(losses.bce, data.num_items, data.excluded_width)
    rows = ranking.training_rows(data, recipe.batch_size, recipe.max_len, 1)
    packed = ranking.training_plan(data, recipe.batch_size, recipe.max_len, rows)
    padded = ranking.training_plan(data, recipe.batch_size, recipe.max_len, None)
    plain = next_item(model, objective, packed=rows)
    alone = static({"next_item": 1.0})
    yield from time_epoch("ticoserec/epoch_plain", plain, alone, packed, data.columns, repeats)
    unpacked = next_item(model, objective)
    yield from time_epoch("ticoserec/epoch_plain_padded", unpacked, alone, padded, data.columns, repeats)

    view = paper.view_of(recipe, setting)
    data.columns.update(paper.augmentation_columns(data, recipe, setting, view))
    both = static({"next_item": 1.0, "contrastive": recipe.weight})
    flat_setting = dataclasses.replace(setting, form="flat")
    for form_setting, official in ((setting, model), (flat_setting, model.clone(mask_value=-1e4))):
        views = paper.contrastive_task(official, data, recipe, form_setting, view)
        task = combine(next_item=next_item(official, objective, packed=rows), contrastive=views)
        name = f"ticoserec/epoch_contrastive_{'flat' if form_setting is flat_setting else 'packed'}"
        yield from time_epoch(name, task, both, packed, data.columns, repeats)

    ranked = ranking.ranking(data.split.validation, recipe.max_len)
    rank = make_rank(
        retriever(model, ranked.rows), Protocol(), num_items=data.num_items, history=data.history
    )
    context = jax.tree.map(jnp.asarray, data.columns)
    variables = plain.init(jax.random.key(0), {"items": jnp.zeros((1, recipe.max_len), jnp.int32)})
    queries = jax.tree.map(jnp.asarray, ranked.queries)
    evaluate = jax.jit(rank)
    yield from timed("ticoserec/evaluate", lambda: evaluate(variables, queries, context), repeats)
    yield from augmentation(data, view, recipe, setting, repeats)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
    yield Figure("ticoserec/peak_memory", "MiB", peak, peak, peak, 1)


def augmentation(
    data: ranking.Data, view: View, recipe: Recipe, setting: paper.Config, repeats: int
) -> Iterator[Figure]:
    """Each operator, and the random choice among them, over all training sequences in batches."""
    length = jnp.asarray(data.inputs, jnp.int32)
    users = -(-len(data.inputs) // AUGMENTED_BATCH) * AUGMENTED_BATCH
    order = np.random.default_rng(0).permutation(np.arange(users) % len(data.inputs)).astype(np.int32)
    batches = jnp.asarray(order.reshape(-1, AUGMENTED_BATCH))
    single = {
        name: paper.view_of(recipe, dataclasses.replace(setting, operators=letter))
        for name, letter in zip(("crop", "mask", "reorder", "insert", "substitute"), "CMRIS", strict=True)
    }
    for name, chosen_view in [*single.items(), ("random", view)]:
        columns = {**data.columns, **paper.augmentation_columns(data, recipe, setting, chosen_view)}
        context = jax.tree.map(jnp.asarray, columns)

        def augment(key: jax.Array, context: Any, chosen_view: View = chosen_view) -> jax.Array:
            def batch(total: jax.Array, user: jax.Array) -> tuple[jax.Array, None]:
                items, _ = chosen_view.apply(
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
        yield from timed(f"ticoserec/augment_{name}", run, repeats, count=users)
