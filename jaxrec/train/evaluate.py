"""Evaluation on the device: ranking by counting, in blocks of users and items, and scores of impressions.

rank = 1 + the number of other candidates that score at least as high as the target. Nothing of size
users × items is held: a block of queries is scored against a block of items at a time, and where there
are several blocks of items the target's score is taken from the very product that the others come from,
so that equal items tie to the bit.

On sampled candidates: their metrics are not those of the full ranking and may order models differently
(Krichene and Rendle, KDD 2020); they exist here to compare with papers that used them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import metrics, packing
from jaxrec.types import Array, Batch, Context, Protocol, Retriever, Variables

# (variables, queries [batches, B], context) -> (a value per query [batches, B, …], the number of real queries
# whose scores are NaN or infinite [batches])
Measure = Callable[[Variables, Mapping[str, Array], Context], tuple[Array, Array]]
# (values of one seed [batches, B, …], queries on the host) -> named numbers
Summarise = Callable[[np.ndarray, Mapping[str, np.ndarray]], dict[str, float]]


def make_rank(
    retriever: Retriever, protocol: Protocol, *, num_items: int, history: int, block: int = 16384
) -> Measure:
    """rank(variables, queries, context) -> (ranks [batches, B], non-finite scores seen [batches]).

    queries: columns of `data.batching.batched_queries`, with leading axis batches; for sampled
    candidates also `candidates` [batches, B, N], ids of which the target is none.
    num_items: candidates are 1..num_items; under the "zero" rule all rows of the item table are.
    history: longest input of any query; context: items [N], start [U].
    block: items scored at a time.

    Raises:
      ValueError: the protocol names a rule that does not exist.
    """
    if protocol.seen not in ("exclude", "zero", "keep"):
        raise ValueError(f"protocol.seen={protocol.seen!r}: expected 'exclude', 'zero' or 'keep'")
    if protocol.ties not in ("pessimistic", "optimistic"):
        raise ValueError(f"protocol.ties={protocol.ties!r}: expected 'pessimistic' or 'optimistic'")
    sampled = protocol.candidates != "all"

    def among_all(
        query: Array, table: Array, queries: Mapping[str, Array], context: Context
    ) -> tuple[Array, Array]:
        first_id, count = (0, table.shape[0]) if protocol.seen == "zero" else (1, num_items)
        target = queries["target"]
        end = context["start"][queries["user"]] + queries["length"]
        seen = packing.window(context["items"], end, queries["length"], history)
        size = min(block, count)
        blocks = -(-count // size)
        rows = jnp.pad(table[first_id : first_id + count], ((0, blocks * size - count), (0, 0)))
        rows = rows.reshape(blocks, size, -1)
        first = first_id + size * jnp.arange(blocks)

        def scores_of(block_rows: Array, block_first: Array) -> tuple[Array, Array]:
            scores = query @ block_rows.T
            finite = jnp.isfinite(scores).all(axis=1)
            marks = metrics.seen_mask(seen, size, first=block_first)
            return metrics.apply_seen(scores, marks, protocol.seen, target=target, first=block_first), finite

        def target_in(scores: Array, block_first: Array) -> Array:
            column = jnp.clip(target - block_first, 0, size - 1)
            value = jnp.take_along_axis(scores, column[:, None], axis=1)[:, 0]
            return jnp.where((target >= block_first) & (target < block_first + size), value, 0)

        def above(scores: Array, block_first: Array, target_score: Array) -> Array:
            ids = block_first + jnp.arange(size)
            others = (ids < first_id + count) & (ids != target[:, None])
            return metrics.count_above(scores, target_score, where=others, ties=protocol.ties)

        if blocks == 1:
            scores, finite = scores_of(rows[0], first[0])
            return 1 + above(scores, first[0], target_in(scores, first[0])), finite
        target_score = jax.lax.map(lambda b: target_in(scores_of(*b)[0], b[1]), (rows, first)).sum(axis=0)

        def count_block(b: tuple[Array, Array]) -> tuple[Array, Array]:
            scores, finite = scores_of(*b)
            return above(scores, b[1], target_score), finite

        counts, finite = jax.lax.map(count_block, (rows, first))
        return 1 + counts.sum(axis=0), finite.all(axis=0)

    def among_sampled(query: Array, table: Array, queries: Mapping[str, Array]) -> tuple[Array, Array]:
        ids = jnp.concatenate([queries["target"][:, None], queries["candidates"]], axis=1)
        scores = jnp.einsum("bd,bnd->bn", query, table[ids])
        return metrics.rank_of_target(
            scores, jnp.zeros(ids.shape[0], jnp.int32), ties=protocol.ties
        ), jnp.isfinite(scores).all(axis=1)

    def rank(variables: Variables, queries: Mapping[str, Array], context: Context) -> tuple[Array, Array]:
        table = retriever.items(variables)

        def batch(queries: Mapping[str, Array]) -> tuple[Array, Array]:
            query = retriever.query(variables, queries, context)
            if sampled:
                ranks, finite = among_sampled(query, table, queries)
            else:
                ranks, finite = among_all(query, table, queries, context)
            return ranks, jnp.sum(~finite & queries["mask"])

        return jax.lax.map(batch, dict(queries))

    return rank


def summarise(ranks: np.ndarray, mask: np.ndarray, ks: tuple[int, ...]) -> dict[str, float]:
    """Means over real queries, summed in float64: hit@k and ndcg@k for each k, and mrr.

    ranks, mask: any one shape.
    """
    rank = jnp.asarray(np.asarray(ranks)[np.asarray(mask)])

    def mean(values: Array) -> float:
        return float(np.asarray(values, np.float64).mean())

    found = {}
    for k in ks:
        found[f"hit@{k}"] = mean(metrics.hit(rank, k=k))
        found[f"ndcg@{k}"] = mean(metrics.ndcg(rank, k=k))
    return found | {"mrr": mean(metrics.mrr(rank))}


def ranking_metrics(ks: tuple[int, ...] = (5, 10, 20)) -> Summarise:
    """Means of hit@k, ndcg@k and mrr over the ranks of real queries."""
    return lambda ranks, queries: summarise(ranks, queries["mask"], ks)


def make_scores(
    predict: Callable[[Variables, Batch], Array], expand: Callable[[Batch, Context], Batch] | None = None
) -> Measure:
    """Scores of impressions: predict(variables, batch) -> [B, …], on each batch of the columns.

    expand: makes the batch that the model reads of columns and resident context, such as histories.
    """

    def measure(variables: Variables, queries: Batch, context: Context) -> tuple[Array, Array]:
        def batch(columns: Batch) -> tuple[Array, Array]:
            scores = predict(variables, columns if expand is None else expand(columns, context))
            finite = jnp.isfinite(scores.reshape(scores.shape[0], -1)).all(axis=1)
            return scores, jnp.sum(~finite & columns["mask"])

        return jax.lax.map(batch, dict(queries))

    return measure


def impression_metrics(
    tasks: Sequence[str],
    *,
    errors: Sequence[str] = (),
    group: str | None = None,
    calibration: bool = False,
) -> Summarise:
    """Metrics of each task over its sample space, all impressions at once.

    The scores of task t are values[..., t], logits against the column `label/<task>` where `mask` and, if
    there is one, `space/<task>` hold: `auc/<task>`, `log_loss/<task>` and, with a `group` column of users,
    `gauc/<task>`; with `calibration` also `ece/<task>`, of ten bins, and `calibration_ratio/<task>`. A task
    among `errors` is a regression: `mse/<task>`. Where there are several, `auc` and `mse` are means over
    tasks.

    Raises (when called):
      ValueError: an area is not defined, because the rows hold one class only.
    """

    def summarise(values: np.ndarray, queries: Mapping[str, np.ndarray]) -> dict[str, float]:
        found = {}
        for t, task in enumerate(tasks):
            real = np.asarray(queries["mask"] & queries.get(f"space/{task}", True)).reshape(-1)
            label = np.asarray(queries[f"label/{task}"], np.float32).reshape(-1)
            score = np.asarray(values[..., t]).reshape(-1)
            if task in errors:
                found[f"mse/{task}"] = float(np.mean(np.square(score[real] - label[real]), dtype=np.float64))
                continue
            found[f"auc/{task}"] = float(_auc(score, label, where=real))
            found[f"log_loss/{task}"] = float(_log_loss(score, label, where=real))
            if calibration:
                found[f"ece/{task}"] = float(_ece(score, label, where=real))
                found[f"calibration_ratio/{task}"] = float(_calibration_ratio(score, label, where=real))
            if group is not None:
                users = np.asarray(queries[group]).reshape(-1)
                metrics.check_group(users)
                found[f"gauc/{task}"] = float(_gauc(score, label, users, where=real).gauc)
        for kind in ("auc", "mse"):
            of_kind = [value for name, value in found.items() if name.startswith(f"{kind}/")]
            if len(of_kind) > 1:
                found[kind] = float(np.mean(of_kind))
        for name, value in found.items():
            if not np.isfinite(value):
                raise ValueError(
                    f"{name} is {value}: the evaluated rows of this task are empty or of one class; "
                    "evaluate on more rows"
                )
        return found

    return summarise


_auc, _gauc, _log_loss = jax.jit(metrics.auc), jax.jit(metrics.gauc), jax.jit(metrics.log_loss)
_ece, _calibration_ratio = jax.jit(metrics.expected_calibration_error), jax.jit(metrics.calibration_ratio)


def check_finite(bad: np.ndarray, what: str) -> None:
    """Raises if any query had a score that is NaN or infinite: such a ranking means nothing."""
    if np.any(bad):
        raise ValueError(
            f"{what}: {int(np.sum(bad))} queries have NaN or infinite scores, so they have no rank; "
            "training diverged (lower the learning rate) or the parameters are damaged"
        )
