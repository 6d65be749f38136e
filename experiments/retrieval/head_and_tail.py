"""Metrics of head and tail items, of an even test, and of what lists show, for `popularity_bias`."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import metrics
from jaxrec.data.events.held_out import HeldOut
from jaxrec.data.events.relevant_items import evenly_by_item, only_relevant
from jaxrec.protocols import Beyond, retrieval
from jaxrec.types import Array, Context, Protocol, Tested, Variables

LISTS = ("tail_share", "popularity_lift", "gini", "coverage")  # of what lists show
KINDS = ("recall", "ndcg")  # metrics of a part of the relevant items


class Setting(NamedTuple):
    """A matrix, its parts by relevant items, and the popularity of training.

    parts: {"head", "tail", "even"}: the same training with other relevant items. counts: users of training of
    each item, [V + 1]. head: bool [V + 1]. share: of the items that are the head.
    """

    data: retrieval.Data
    parts: dict[str, retrieval.Data]
    counts: np.ndarray
    head: np.ndarray
    share: float


def setting(split: HeldOut, share: float, even: int) -> Setting:
    """The head and the parts of a split. share: of the items that are the head; even: of `evenly_by_item`."""
    events = split.training_events()
    counts = metrics.users_of_items(events.group, events.item, num_items=split.sequences.num_items)
    head = metrics.head_items(counts, share=share)
    of_head = head[split.sequences.items]
    masks = {"head": of_head, "tail": ~of_head, "even": evenly_by_item(split, most=even)}
    parts = {name: retrieval.resident(only_relevant(split, mask, rule=name)) for name, mask in masks.items()}
    return Setting(retrieval.resident(split), parts, np.asarray(counts), head, share)


def test(
    model: retrieval.Ranked,
    found: Setting,
    protocol: Protocol,
    variables: Variables,
    columns: Context,
    num_devices: int,
) -> Tested:
    """The test of all relevant items, with metrics of the parts, `head_recall@20` and so on, and of lists."""
    k = protocol.ks[-1]
    options: dict[str, Any] = {"columns": columns, "num_devices": num_devices}
    whole = retrieval.run_test(
        model, found.data, protocol, variables, beyond=Beyond(ks=(k,), head=found.share), **options
    )
    merged = [
        {name: value for name, value in of_seed.items() if _shown(name, protocol)}
        for of_seed in whole.metrics
    ]
    for part, data in found.parts.items():
        measured = retrieval.run_test(model, data, protocol, variables, **options)
        for of_seed, values in zip(merged, measured.metrics, strict=True):
            of_seed |= {f"{part}_{name}@{k}": values[f"{name}@{k}"] for name in KINDS}
    return whole._replace(metrics=merged)


def _shown(name: str, protocol: Protocol) -> bool:
    kind, _, cut = name.partition("@")
    return (kind in KINDS and cut in map(str, protocol.ks)) or (kind in LISTS and "/" not in cut)


def probe(model: Any, variables: Variables, found: Setting, tested: Tested) -> Tested:
    """Adds how well a linear regression finds an item's log count in its attribute and in its popularity."""
    ids = jnp.arange(1, found.data.num_items + 1)

    def parts(variables: Variables) -> tuple[Array, Array]:
        return model.apply(variables, ids, method="item_parts")

    both = jax.jit(jax.vmap(parts))(variables)
    logs = np.log1p(found.counts[1:])
    shares = [[r_squared(np.asarray(of_seed), logs) for of_seed in part] for part in both]
    merged = [
        {**of_seed, "probe_attribute": a, "probe_popularity": p}
        for of_seed, a, p in zip(tested.metrics, *shares, strict=True)
    ]
    return tested._replace(metrics=merged)


def r_squared(features: np.ndarray, target: np.ndarray, *, ridge: float = 1e-3) -> float:
    """The share of the target's variance that a ridge regression explains in the half it did not read."""
    x = np.concatenate([features, np.ones((len(features), 1))], axis=1).astype(np.float64)
    fit, rest = np.arange(len(x)) % 2 == 0, np.arange(len(x)) % 2 == 1
    penalty = ridge * fit.sum() * np.eye(x.shape[1]) * np.append(np.ones(x.shape[1] - 1), 0.0)
    solution = np.linalg.solve(x[fit].T @ x[fit] + penalty, x[fit].T @ target[fit])
    error = target[rest] - x[rest] @ solution
    return float(1 - (error**2).sum() / ((target[rest] - target[rest].mean()) ** 2).sum())
