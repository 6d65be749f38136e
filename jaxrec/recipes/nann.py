"""NANN (Chen et al., CIKM 2022, arXiv:2202.10226): settings, training, and what a graph is searched by.

    model, fitted = train(data, protocol, Recipe(), seeds=…, workdir=…, description=…)
        data: `protocols.next_item.Data` (the events before each target are its history) or
        `protocols.retrieval.Data` (all other training items are). fitted.variables: {"params": …} with a
        leading axis of seeds; `jax.tree.map(lambda leaf: leaf[i], fitted.variables)` are those of one.
        Selection ranks all items by s_u (`tasks.nann.scorer`).
    item_vectors(model, variables) -> e_v [V, D], padding first, of one seed's variables
        for `index.graphs.build(vectors, …)`.
    score_items(model, variables, vectors=None) -> `index.scored.ScoreItems`
        of histories int32 [B, L], right-aligned, 0 is padding, as queries. Make it within the compiled
        search: jax.jit(lambda variables, vectors, graph, histories:
            graphs.search(graph, score_items(model, variables, vectors), histories, k, width))

Widths and weights are those of the released code, for UserBehavior; sizes of batch and patience are ours.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import optax

from jaxrec import sampling
from jaxrec.nn.retrieval.nann import NANN
from jaxrec.optim.loss_weighting import static
from jaxrec.protocols import items, next_item, retrieval
from jaxrec.protocols.interests import numbered_event
from jaxrec.protocols.items import Data
from jaxrec.tasks import nann as task
from jaxrec.tasks.nann import Direction, item_vectors, score_items, scorer
from jaxrec.train.epoch import Plan, shuffled
from jaxrec.train.fit import Fitted, Phase, Selection
from jaxrec.train.reuse import fit_reusing
from jaxrec.types import Array, Context, Key, Protocol, Task

__all__ = ["Recipe", "build", "every_target", "item_vectors", "learn", "score_items", "scorer", "train"]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How NANN is trained."""

    dim: int = 64  # width of the vectors of ids
    max_len: int = 50  # most recent events read
    user_dims: tuple[int, ...] = (64, 64)  # widths of the user net
    item_dims: tuple[int, ...] = (64, 64, 64)  # widths of the item net, the last that of e_v
    score_dims: tuple[int, ...] = (128, 64, 32)  # widths of the score net's hidden layers
    products: bool = False  # whether the score net reads products of e_v with the user's vectors
    num_negatives: int = 199  # of each target, by frequency
    eps: float = 3e-4  # of the adversarial change of e_v; 0: there is no adversarial loss
    adversarial: float = 1.0  # weight of that loss
    direction: Direction = "score"  # whose gradient the change follows: "score" (paper) or "loss" (code)
    weight_decay: float = 1e-4  # of AdamW
    learning_rate: float = 3e-3  # of AdamW
    batch_size: int = 256  # targets per step
    epochs: int = 5  # epochs to train
    evaluate_every: int = 1  # epochs between evaluations on validation
    patience: int = 0  # evaluations without a better one before a seed stops; 0: never


def build(num_items: int, recipe: Recipe) -> NANN:
    """The scorer."""
    return NANN(
        num_items,
        recipe.dim,
        recipe.max_len,
        recipe.user_dims,
        recipe.item_dims,
        recipe.score_dims,
        recipe.products,
    )


def learn(model: NANN, data: Data, recipe: Recipe) -> Task:
    """What the scorer is taught: targets against negatives drawn by their frequency in training."""
    counts = np.bincount(data.split.training_events().item, minlength=data.num_items + 1)
    return task.nann(
        model,
        sampling.popularity_table(np.maximum(counts, 1), alpha=1.0),
        num_negatives=recipe.num_negatives,
        eps=recipe.eps,
        direction=recipe.direction,
        history="before" if isinstance(data, next_item.Data) else "others",
    )


def every_target(data: Data, batch_size: int) -> Plan:
    """Each training event once an epoch: of a sequence those with an event before them, of a matrix all, also
    the only one of a user, whose history is empty.

    Raises:
      ValueError: there is none.
    """
    least = 1 if isinstance(data, next_item.Data) else 0
    lengths = np.asarray(data.columns["length"], np.int64)
    number = int(np.maximum(lengths - least, 0).sum())
    if not (lengths > 1).any():
        raise ValueError("no user has two training events, so there is no target with a history")
    whole = shuffled(number, min(batch_size, number))

    def draw(key: Key, context: Context) -> tuple[Mapping[str, Array], Array]:
        drawn, ok = whole.draw(key, context)
        return {**drawn, "example": numbered_event(drawn["example"], context, least)}, ok

    return Plan(whole.num_steps, draw, {"history": "before" if least else "others"})


def train(data: Data, protocol: Protocol, recipe: Recipe, **options: Any) -> tuple[NANN, Fitted]:
    """Trains for all seeds at once; each keeps the parameters of its best evaluation on validation.

    protocol: `protocol.selection` is the metric, of all items by the scorer. options: seeds, workdir,
    description, num_devices and other arguments of `train.fit.fit`.

    Raises:
      ValueError: as `build`, `tasks.nann.nann`, `every_target` and `train.fit.fit`.
    """
    model = build(data.num_items, recipe)
    weights = {"nce": 1.0} | ({"adversarial": recipe.adversarial} if recipe.eps else {})
    every = min(recipe.evaluate_every, recipe.epochs)
    asked: Any = next_item.evaluation if isinstance(data, next_item.Data) else retrieval.evaluation
    fitted = fit_reusing(
        [Phase("train", learn(model, data, recipe), recipe.epochs, static(weights))],
        optax.adamw(recipe.learning_rate, weight_decay=recipe.weight_decay),
        every_target(data, recipe.batch_size),
        data.columns,
        Selection(
            asked(scorer(model), data, protocol, "validation"),
            protocol.selection,
            every,
            recipe.patience or None,
        ),
        vocabulary=items.vocabulary(data),
        **options,
    )
    return model, fitted


NEEDS: Mapping[str, str] = {  # what `jaxrec train` does not read
    "nann": "a proximity graph, and a search of it by the scorer: see experiments/retrieval/learned_index.py",
}
