"""Click sessions: what of a split lives on the device, and how the next click is ranked among all items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxrec import metrics
from jaxrec.data.events.sessions import Part, SessionSplit
from jaxrec.index.rank import make_rank
from jaxrec.train.evaluate import seen_targets
from jaxrec.types import Baseline, Evaluation, Protocol, Retriever, Scorer, Summarise

EVALUATION_BATCH = 512
KS = (5, 10, 20)


class Data(NamedTuple):
    """A split and its resident columns."""

    split: SessionSplit
    columns: dict[str, np.ndarray]


def resident(split: SessionSplit) -> Data:
    """The columns of a split, built once."""
    return Data(split, split.columns())


def protocol(split: SessionSplit, loss: str, selection: str) -> Protocol:
    """Every item is a candidate for the next click, those of the session too."""
    return Protocol(split.rule, candidates="all", seen="keep", ks=KS, loss=loss, selection=selection)


def queries(data: Data, part: Part) -> dict[str, np.ndarray]:
    """The examples of a part in batches."""
    return data.split.batched(part, min(EVALUATION_BATCH, len(data.split.queries(part).user)))


def evaluation(
    model: Retriever | Scorer | Baseline, data: Data, protocol: Protocol, queries: Mapping[str, np.ndarray]
) -> Evaluation:
    """Ranks the next click of each query, all items in one block: that halves the products.

    Nothing seen is taken out of the candidates by this module's `protocol`; another rule reads whole
    sessions.
    """
    scored = model.model if isinstance(model, Baseline) else model
    count = data.split.num_items
    history = 1 if protocol.seen == "keep" else int(data.split.lengths.max())
    rank = make_rank(scored, protocol, num_items=count, history=history, block=count)
    return Evaluation(rank, queries, click_metrics(protocol.ks), protocol)


def click_metrics(ks: Sequence[int]) -> Summarise:
    """recall@k (the papers' P@k: is the next click among the first k) and mrr@k (1 / rank, 0 past k)."""

    def means(ranks: np.ndarray, queries: Mapping[str, np.ndarray]) -> dict[str, float]:
        rank = jnp.asarray(np.asarray(ranks)[np.asarray(queries["mask"])])
        found = {}
        for k in ks:
            for name, metric in (("recall", metrics.recall), ("mrr", metrics.mrr)):
                found[f"{name}@{k}"] = float(np.asarray(metric(rank, k=k), np.float64).mean())
        return found | seen_targets(rank)

    return means
