"""UltraGCN: what infinitely many layers of a graph would converge to, as weights of a loss of pairs.

Mao et al., CIKM 2021, arXiv:2110.15114. The model is matrix factorisation (`nn.retrieval.mf`), or any other
of pairs: the graph is in the loss alone. Context columns in addition to those of `tasks.pairs`:
`data.events.co_occurrence.constraint_columns`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrec import losses
from jaxrec.tasks import pairs
from jaxrec.tasks.encoder import numbered
from jaxrec.tasks.pairs import PairModel, Sampler
from jaxrec.types import SHARED, Array, Batch, Context, Key, Task, Variables


class Weights(NamedTuple):
    """Of a term of the loss with user u and item i: base + slope · β_ui. Defaults: the authors' for Gowalla.

    observed, sampled: (base, slope) of either kind of pair. negatives: of the mean over sampled pairs.
    near: λ, of the items near the observed one.
    """

    observed: tuple[float, float] = (1e-6, 1.0)
    sampled: tuple[float, float] = (1e-6, 1.0)
    negatives: float = 300.0
    near: float = 5e-4


GOWALLA = Weights()


def ultragcn(
    model: PairModel,
    *,
    sampler: Sampler,
    negatives: int = 1500,
    weights: Weights = GOWALLA,
    batch_size: int | None = None,
) -> Task:
    """The task of UltraGCN; predict gives the scores of observed items [B].

    Losses, means over examples: "pairs", the weighted binary cross-entropy of the observed item and the mean
    over its negatives; "near", λ Σ_j ω_ij softplus(-s_uj) over the items j near the observed i. The penalty
    γ/2 ‖θ‖² of the paper is left to the optimiser (`optax.add_decayed_weights(γ)` on the gradient of the sum
    over examples, which the paper and the authors' code have).

    batch_size: losses are sums over examples divided by it, also where a batch has fewer, so that the
    gradient times it is the sum's; None: means over the examples of each batch.

    Raises:
      ValueError: negatives or a weight is out of range. When variables are made: the model has some other
        than parameters.
    """
    plain = pairs.pairwise(model, sampler=sampler, negatives=negatives)
    for name, weight in weights._asdict().items():
        if min(weight if isinstance(weight, tuple) else (weight,)) < 0:
            raise ValueError(f"weights.{name}={weight}: must be at least 0")

    def prepare(key: Key, examples: Mapping[str, Array], context: Context) -> Batch:
        batch = plain.prepare(key, examples, context)
        own = context["user_factor"][batch["user"]]
        beta = own * context["item_factor"][batch["item"]]
        other = own[:, None] * context["item_factor"][batch["negatives"]]
        return {
            **batch,
            "observed_weight": weights.observed[0] + weights.observed[1] * beta,
            "sampled_weight": weights.sampled[0] + weights.sampled[1] * other,
            "near": context["near_item"][batch["item"]],
            "near_weight": context["near_weight"][batch["item"]],
        }

    def value(
        variables: Variables, batch: Batch, key: Key, axis_name: str | None = None
    ) -> tuple[dict[str, Array], Variables]:
        items = jnp.concatenate([batch["item"][:, None], batch["negatives"], batch["near"]], axis=1)
        options = numbered(model, batch["row"])
        rngs = {"dropout": key}
        scores = model.apply(variables, batch["user"], items, batch[SHARED], train=True, rngs=rngs, **options)
        pos, neg, near = scores[:, 0], scores[:, 1 : 1 + negatives], scores[:, 1 + negatives :]
        pushed = jnp.mean(batch["sampled_weight"] * jax.nn.softplus(neg), axis=1)
        terms = batch["observed_weight"] * jax.nn.softplus(-pos) + weights.negatives * pushed
        drawn = weights.near * jnp.sum(batch["near_weight"] * jax.nn.softplus(-near), axis=1)
        where = batch["mask"]
        full = losses.fullness(where, batch_size, axis_name)
        return {
            "pairs": full * losses.masked_mean(terms, where, axis_name),
            "near": full * losses.masked_mean(drawn, where, axis_name),
        }, {}

    return plain._replace(prepare=prepare, losses=value)
