"""The views of CoSeRec and TiCoSeRec (see `recipes.ticoserec`): operators, similar items, compared vectors.

A new similarity of items is a `Similarity`, a new vector of a view a `Form`; experiments list both by name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrec import packing
from jaxrec.augment import operators as ops
from jaxrec.augment import similarity
from jaxrec.augment.operators import Operator
from jaxrec.augment.similarity import SimilarItems
from jaxrec.augment.views import View, operators_by_initials, plan_in_blocks, unaugmented_users
from jaxrec.data.events.interactions import Sequences, gap_variance_rank
from jaxrec.data.events.split import first_events
from jaxrec.nn.layers.dropout import counter_bits
from jaxrec.protocols.next_item import Data, Grow, packing_of, plan, selection, vocabulary
from jaxrec.recipes import ticoserec as recipes
from jaxrec.recipes import trainable
from jaxrec.recipes.ticoserec import Recipe
from jaxrec.recipes.trainable import SequenceModel
from jaxrec.tasks import contrastive
from jaxrec.tasks.encoder import Encoder
from jaxrec.tasks.next_item import next_item
from jaxrec.tasks.objectives import Objective
from jaxrec.tasks.table_dropout import drop_table
from jaxrec.train.accumulate import num_shares
from jaxrec.train.fit import Fitted
from jaxrec.train.reuse import fit_reusing
from jaxrec.types import Array, Protocol, Task


def named_operators(recipe: Recipe) -> dict[str, Operator]:
    """The five operators with their rates, by name: TiCoSeRec's (section 3.3 of its paper) or CoSeRec's."""
    if not recipe.by_gaps:
        return {
            "crop": ops.crop(recipe.crop),
            "mask": ops.mask(recipe.mask),
            "reorder": ops.reorder(recipe.reorder),
            "insert": ops.insert(recipe.insert),
            "substitute": ops.substitute(recipe.substitute),
        }
    mask_largest = recipe.mask_largest
    if mask_largest is not None:
        mask_largest = mask_largest != recipe.opposite
    return {
        "crop": ops.ti_crop(recipe.crop, largest=recipe.opposite),
        "mask": ops.ti_mask(recipe.mask, largest=mask_largest),
        "reorder": ops.ti_reorder(recipe.reorder, largest=recipe.opposite),
        "insert": ops.ti_insert(recipe.insert, largest=not recipe.opposite),
        "substitute": ops.ti_substitute(recipe.substitute, largest=recipe.opposite),
    }


def view(recipe: Recipe) -> View:
    """The random choice of an operator for each sequence."""
    named = named_operators(recipe)
    if recipe.operators:
        return View(operators_by_initials(recipe.operators, **named), window=recipe.max_len)
    return View(
        tuple(named.values()),
        operators_by_initials(recipe.short, **named),
        threshold=recipe.threshold,
        window=recipe.max_len,
    )


# (sequences, recipe, seed) -> substitutes of items
Similarity = Callable[[Sequences, Recipe, int], SimilarItems]


def item_cf_iuf(sequences: Sequences, recipe: Recipe, seed: int) -> SimilarItems:
    """Co-occurrence in which users with many items count less (IUF): the default of both papers."""
    return similarity.item_cf(
        sequences.items, sequences.offsets, num_items=sequences.num_items, inverse_user_frequency=True
    )


def item_cf(sequences: Sequences, recipe: Recipe, seed: int) -> SimilarItems:
    """Co-occurrence with equal weights of all users."""
    return similarity.item_cf(sequences.items, sequences.offsets, num_items=sequences.num_items)


def item2vec(sequences: Sequences, recipe: Recipe, seed: int) -> SimilarItems:
    """Cosine of skip-gram vectors."""
    return similarity.item2vec(
        jax.random.key(seed),
        sequences.items,
        sequences.offsets,
        num_items=sequences.num_items,
        epochs=recipe.item2vec_epochs,
    )


def random(sequences: Sequences, recipe: Recipe, seed: int) -> SimilarItems:
    """Any item."""
    return similarity.random_items(sequences.items, sequences.offsets, num_items=sequences.num_items)


def similar_in_training(data: Data) -> SimilarItems:
    """`item_cf_iuf` of the events of training inputs alone, however the split was made.

    Where the split leaves out each user's last two events, that is all but the last three, as in the
    official code.
    """
    sequences = data.split.sequences
    return similarity.item_cf(
        sequences.items[first_events(sequences, data.inputs)],
        np.concatenate([[0], np.cumsum(data.inputs)]),
        num_items=sequences.num_items,
        inverse_user_frequency=True,
        held_out=0,
    )


def augmented(data: Data, recipe: Recipe, similar: SimilarItems) -> Data:
    """The data with the columns that views read: gap plans, users that are not augmented, similar items.

    Raises:
      ValueError: the recipe augments by gaps, or excludes users of even gaps, and the data have no times.
    """
    sequences = data.split.sequences
    if sequences.times is None and recipe.reads_times:
        raise ValueError(
            f"{sequences.name}: has no times, which these views need; take CoSeRec's operators "
            "(by_gaps=False, unaugmented=0)"
        )
    length = jnp.asarray(data.inputs, jnp.int32)
    times = None
    if recipe.by_gaps:
        end = jnp.asarray(data.columns["start"]) + length
        stamps = jnp.where(length > 0, length + 1, 0)
        times = packing.window(jnp.asarray(data.columns["seconds"]), end + 1, stamps, data.width + 1)
    left = np.zeros(sequences.num_users, bool)
    if recipe.unaugmented > 0:
        rank = sequences.gap_variance_rank
        if rank is None:  # the source has no such ranks: from training events alone
            rank = gap_variance_rank(sequences, data.split.train_length)
        ids = np.asarray(sequences.user_ids)
        left = unaugmented_users(rank, recipe.unaugmented, user_ids=ids, official_bug=recipe.official_bug)
    chosen_view = view(recipe)
    columns = {
        "plan": jax.jit(lambda t, n: plan_in_blocks(chosen_view, t, n, width=data.width))(times, length),
        "unaugmented": left,
        "similar": similar,
    }
    return data._replace(columns={**data.columns, **columns})


# --- the contrastive task --------------------------------------------------------------------------


class Form(NamedTuple):
    """How two views are compared.

    task: (model, data, recipe, num_devices) -> the contrastive task. mask_value: of the encoder's attention;
    finite where states of padding count, since otherwise padding attends to nothing.
    """

    task: Callable[[Encoder, Data, Recipe, int], Task]
    mask_value: float = -np.inf


def pooled(pool: Callable[[Array, Array, Array], Array]) -> Form:
    """A weighted mean of a view's states.

    pool: (items, event, length) -> weights of the states, such as `tasks.contrastive.mean_of_events`.
    """

    def task(model: Encoder, data: Data, recipe: Recipe, num_devices: int) -> Task:
        packed = packing_of(
            data, model, recipe.batch_size, num_devices=num_devices, grow=lengths_of_views(recipe)
        )
        assert packed is not None  # these encoders read segments
        views = both_views(data, recipe)
        return contrastive.pooled(model, views, packed=packed, pool=pool, temperature=recipe.temperature)

    return Form(task)


def flat_task(model: Encoder, data: Data, recipe: Recipe, num_devices: int) -> Task:
    """The concatenated states of all slots of a padded row, as in the official code."""
    return contrastive.flat(model, both_views(data, recipe), temperature=recipe.temperature)


def both_views(data: Data, recipe: Recipe) -> contrastive.Views:
    """Two draws of the same view."""
    drawn = view(recipe)
    return contrastive.Views(drawn, drawn, data.width)


def lengths_of_views(recipe: Recipe) -> Grow:
    """Lengths of both views of a batch; only insertion, applied to its share of them, adds events."""
    letters = recipe.operators or recipe.short
    share = letters.count("I") / len(letters)

    def grow(rng: np.random.Generator, lengths: np.ndarray) -> np.ndarray:
        twice = np.tile(lengths, 2)
        inserted = np.maximum((twice * recipe.insert).astype(int), 1) * (twice > 0)
        return np.minimum(twice + inserted * (rng.random(twice.size) < share), recipe.max_len)

    return grow


# --- training ----------------------------------------------------------------------------------------


def train(
    encoder: Encoder,
    objective: Objective,
    data: Data,
    protocol: Protocol,
    tx: optax.GradientTransformation,
    recipe: Recipe,
    *,
    table_dropout: float = 0.0,
    num_devices: int,
    seeds: Any,
    **options: Any,
) -> Fitted:
    """Plain epochs, then epochs with views, whose vectors are means of events, see `ticoserec.phases`.

    A batch has at most all users: filled up with masked examples, it could overflow the packed rows of views.
    table_dropout: of the table of item vectors in all phases, see `tasks.table_dropout`.
    """
    recipe = dataclasses.replace(recipe, batch_size=min(recipe.batch_size, data.split.sequences.num_users))
    shares = num_shares(num_devices, options.get("accumulate_steps", 1))
    packed = packing_of(data, encoder, recipe.batch_size, num_devices=shares)
    columns, contrast = data, None
    if recipe.weight:
        columns = augmented(data, recipe, similar_in_training(data))
        contrast = pooled(contrastive.mean_of_events).task(encoder, columns, recipe, num_devices)
    task = next_item(encoder, objective, packed=packed)
    phases = recipes.phases(task, contrast, encoder, columns, recipe)
    return fit_reusing(
        [phase._replace(task=drop_table(phase.task, table_dropout, bits=counter_bits)) for phase in phases],
        tx,
        plan(columns, encoder, recipe.batch_size, packed),
        columns.columns,
        selection(encoder, data, protocol, patience=recipe.patience or None),
        vocabulary=vocabulary(data),
        num_devices=num_devices,
        seeds=seeds,
        **options,
    )


LOSSES: Mapping[str, trainable.MakeObjective] = {
    "bce": trainable.bce,
    "ce": trainable.ce,
    "bpr": trainable.bpr,
}


def _sequence_model(recipe: Recipe) -> SequenceModel:
    return SequenceModel(
        recipe, recipes.encoder, LOSSES, recipes.adam, documented=recipes.Changes, train=train, sessions=None
    )


MODELS: Mapping[str, SequenceModel] = {
    "ticoserec": _sequence_model(recipes.ticoserec("")),
    "coserec": _sequence_model(recipes.coserec("")),
}
