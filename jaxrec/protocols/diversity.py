"""Lists that trade accuracy for diversity, measured at several balances (`index.aggregate`).

For each balance λ a user's list is the greedy one of ComiRec (Cen et al., KDD 2020, section 3.4) among the
best candidates by score, and has the metrics, each named with its ending `/balance-<λ>`:

    hit@k, ndcg@k   of the target's place in the list; with one target, recall is hit
    diversity@k     share of the pairs of the first k items that have different categories (equation 13)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import metrics
from jaxrec.index import chunked
from jaxrec.index.aggregate import aggregate
from jaxrec.index.chunked import BLOCK
from jaxrec.index.rank import read_inputs, seen_rule
from jaxrec.protocols.next_item import Data, batches
from jaxrec.tasks.encoder import can_be_packed
from jaxrec.tasks.next_item import Encoder, retriever
from jaxrec.train.evaluate import ranking_metrics
from jaxrec.types import Array, Baseline, Context, Evaluation, Protocol, Retriever, Scorer, Variables


def evaluation(
    model: Baseline | Retriever | Scorer | Encoder,
    data: Data,
    protocol: Protocol,
    *,
    categories: np.ndarray,
    balances: Sequence[float],
    candidates: int = 200,
    part: Literal["validation", "test"] = "test",
    block: int = BLOCK,
) -> Evaluation:
    """Measures lists of `max(protocol.ks)` items at each balance.

    Of equal values the item of larger score, then of smaller id comes first, whether it is the target or not;
    a target that is not in the list counts as a miss.

    categories: of each id, integers [num_items + 1]; entry 0 is not read. balances: λ, in units of scores; 0
    is the list of the best scores. candidates: items of the best scores among which a list is chosen.

    Raises:
      ValueError: there is no balance, one is negative, twice or no number, there are fewer candidates than
        the longest list has items, the categories are not one integer for each id, or the protocol is not a
        full ranking of real items.
    """
    length, values = max(protocol.ks), np.asarray(balances, np.float32)
    _check(protocol, data, np.asarray(categories), list(balances), candidates)
    queries = data.split.validation if part == "validation" else data.split.test
    scored = model.model if isinstance(model, Baseline) else model
    width = 1 if isinstance(scored, Retriever | Scorer) else scored.max_len
    made = batches(queries, width, num_items=data.num_items)
    if not isinstance(scored, Retriever | Scorer):
        scored = retriever(scored, made.packed if can_be_packed(scored) else None)
    ranked, of_items = scored, jnp.asarray(categories, jnp.int32)
    distance = metrics.distance_of_features(of_items[:, None], metrics.hamming_distance)

    def measure(variables: Variables, queries: Mapping[str, Array], context: Context) -> tuple[Array, Array]:
        read = chunked.reader(ranked, variables, num_items=data.num_items, block=block)

        def batch(queries: Mapping[str, Array]) -> tuple[Array, Array]:
            known, seen = read_inputs(
                queries, context, protocol=protocol, num_items=data.num_items, history=data.history
            )
            items = read(queries, context).every(seen_rule(seen, protocol))
            best = chunked.top_k(items, min(candidates, data.num_items))

            def at(balance: Array) -> Array:
                chosen = aggregate(best.scores, best.ids, of_items, length, balance=balance).ids
                hit = (chosen == queries["target"][:, None]) & known[:, None]
                rank = jnp.where(hit.any(axis=1), 1 + jnp.argmax(hit, axis=1), length + 1)
                shares = [metrics.list_diversity(chosen, distance, k=k) for k in protocol.ks]
                return jnp.stack([rank.astype(jnp.float32), *shares], axis=-1)

            found = jax.lax.map(at, jnp.asarray(values))  # [balances, B, 1 + ks]
            return jnp.moveaxis(found, 0, 1), jnp.sum(~(best.finite & known) & queries["mask"])

        return jax.lax.map(batch, dict(queries))

    def summarise(values: np.ndarray, queries: Mapping[str, np.ndarray]) -> dict[str, float]:
        found: dict[str, float] = {}
        mask = np.asarray(queries["mask"])
        for number, balance in enumerate(balances):
            at, ending = np.asarray(values)[:, :, number], f"/balance-{balance:g}"
            place = at[..., 0].astype(np.int32)
            rank = np.where(place > length, np.int32(metrics.MISS), place)
            for name, value in ranking_metrics(protocol.ks)(rank, queries).items():
                if "@" in name:
                    found[name + ending] = value
            for column, k in enumerate(protocol.ks, 1):
                found[f"diversity@{k}{ending}"] = float(at[..., column][mask].mean(dtype=np.float64))
        return found

    return Evaluation(measure, made.queries, summarise, protocol)


def at_balance(found: Mapping[str, float], balance: float) -> dict[str, float]:
    """The metrics of one balance, without the ending of their names."""
    ending = f"/balance-{balance:g}"
    return {name.removesuffix(ending): value for name, value in found.items() if name.endswith(ending)}


def _check(
    protocol: Protocol, data: Data, categories: np.ndarray, balances: list[float], candidates: int
) -> None:
    if protocol.candidates != "all" or protocol.seen == "zero":
        raise ValueError(
            f"protocol.candidates={protocol.candidates!r}, seen={protocol.seen!r}: lists are of all items; "
            "rank with candidates='all' and seen='exclude' or 'keep'"
        )
    endings = {f"{balance:g}" for balance in balances}
    if not balances or len(endings) < len(balances) or not all(balance >= 0 for balance in balances):
        raise ValueError(f"balances={balances}: give at least one, each once, as numbers of 0 or more")
    if candidates < max(protocol.ks):
        raise ValueError(f"candidates={candidates}: must be at least {max(protocol.ks)}, the longest list")
    if categories.shape != (data.num_items + 1,) or categories.dtype.kind not in "iu":
        raise ValueError(
            f"categories: {categories.dtype}{list(categories.shape)}: must be integers "
            f"[{data.num_items + 1}], one for each id from 0, the padding"
        )
