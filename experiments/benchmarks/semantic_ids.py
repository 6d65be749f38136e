"""TIGER: an epoch on the first users of Amazon Beauty, padded and with histories in packed rows.

Sizes are those of `experiments.retrieval.tiger`, codes are random. `semantic-ids/epoch_packed:speedup` is the
ratio of the two.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from experiments.benchmarks.timing import Figure, ratio, time_epoch
from jaxrec import data
from jaxrec.data.events.interactions import Sequences
from jaxrec.data.events.split import leave_one_out
from jaxrec.data.synthetic.sequences import markov_chain
from jaxrec.index.semantic_ids import build, random_codes
from jaxrec.optim.loss_weighting import static
from jaxrec.protocols import next_item
from jaxrec.recipes import tiger as recipes
from jaxrec.tasks import semantic_ids as task

USERS = 300
TINY = recipes.Recipe(
    num_codes=16, levels=2, dim=8, num_heads=2, head_dim=4, inner_dim=16, num_layers=1, num_users=5,
    batch_size=64,
)  # fmt: skip


def figures(repeats: int, tiny: bool) -> Iterator[Figure]:
    """Seconds of an epoch of each form."""
    recipe = TINY if tiny else recipes.Recipe()
    sequences = markov_chain(96, 40, noise=0.1).sequences if tiny else data.load("coserec/Beauty")
    columns = next_item.resident(leave_one_out(first_users(sequences, USERS), short="train"))
    codes = random_codes(columns.num_items, num_codes=recipe.num_codes, levels=recipe.levels)
    ids = build(codes, num_codes=recipe.num_codes)
    model = recipes.tiger(ids, recipe, num_users=recipe.num_users)
    columns = recipes.with_ids(columns, ids)
    found = {}
    for form in ("padded", "packed"):
        packed = recipes.packing_of(columns, model, recipe.batch_size) if form == "packed" else None
        timed = time_epoch(
            f"semantic-ids/epoch_{form}",
            task.semantic_ids(model, packed),
            static(),
            recipes.plan(columns, model, recipe.batch_size, packed),
            columns.columns,
            repeats,
            tx=recipes.adamw(recipe),
        )
        for figure in timed:
            found[figure.name] = figure
            yield figure
    names = ("semantic-ids/epoch_padded", "semantic-ids/epoch_packed")
    yield ratio(f"{names[1]}:speedup", *(found[name] for name in names))


def first_users(sequences: Sequences, number: int) -> Sequences:
    """The sequences of so many users, or of all; items stay."""
    offsets = sequences.offsets[: number + 1]
    return dataclasses.replace(
        sequences,
        items=sequences.items[: offsets[-1]],
        times=None,
        offsets=offsets,
        user_ids=sequences.user_ids[: len(offsets) - 1],
        gap_variance_rank=None,
    )
