"""Requests with candidates, made of events and unseen items, for `preranking`."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from experiments.ranking.din import encode_values, user_columns
from jaxrec import data, metrics
from jaxrec.data.events.interactions import Sequences
from jaxrec.data.sources import movielens
from jaxrec.data.synthetic.sequences import markov_chain
from jaxrec.data.tables.columns import Ragged, RawColumn
from jaxrec.data.tables.features import Buckets, Category, FeatureSpec, Tags, encode, fit_encoders
from jaxrec.data.tables.impressions import Impressions, ImpressionSplit, SplitIndices
from jaxrec.data.tables.unobserved_pairs import add_unobserved
from jaxrec.nn.ranking.cold import Cost

HISTORY, NOISE = "history", "noise"
CROSS = "_genres"  # ends the names of crossed fields


class Requests(NamedTuple):
    """Impressions with the label `click`; each test request has `candidates` of them, one after the other.

    user, item, cross: names of the fields of each side, and of both.
    """

    split: ImpressionSplit
    candidates: int
    user: tuple[str, ...]
    item: tuple[str, ...]
    cross: tuple[str, ...]


def load(tiny: bool, *, negatives: int, candidates: int, length: int, seed: int = 0) -> Requests:
    """MovieLens-100K, or generated events of the same columns."""
    if tiny:
        sequences = markov_chain(40, 20, min_length=5, max_length=9).sequences
        users = {"age": np.arange(41) % 3 + 1, "gender": np.arange(41) % 2 + 1}
        items = {"genres": np.arange(21) % 3 + 1}
        return of_events(
            sequences, users, items, negatives=negatives, candidates=candidates, length=length, seed=seed
        )
    movies = movielens.load_movies("ml-100k")
    items = {"genres": encode_values(movies.genres), "year": encode_values(movies.year)}
    return of_events(
        data.load("movielens/ml-100k"), user_columns(), items,
        negatives=negatives, candidates=candidates, length=length, seed=seed,
    )  # fmt: skip


def of_events(
    sequences: Sequences,
    users: Mapping[str, np.ndarray],
    items: Mapping[str, np.ndarray],
    *,
    negatives: int,
    candidates: int,
    length: int,
    seed: int,
) -> Requests:
    """Each event with an earlier one is a click, its user's last one of the test part, the one before of the
    validation part.

    Args:
      users, items: columns by number, entry 0 for padding; items have `genres`.
      negatives: unseen items for each click of training and validation. candidates: of a test request, the
        click and unseen items. length: of the histories.
    """
    place = np.arange(len(sequences.items)) - np.repeat(sequences.offsets[:-1], np.diff(sequences.offsets))
    targets = np.flatnonzero(place > 0)
    user, item = sequences.event_users.astype(np.int64), sequences.items.astype(np.int64) - 1
    after = sequences.offsets[1:][user[targets]] - 1 - targets
    train, validation, test = (np.flatnonzero(kept) for kept in (after > 1, after == 1, after == 0))
    parts = SplitIndices(train, validation, test, rule="last event")
    first = user[place == 0] * sequences.num_items + item[place == 0]  # no targets, but seen
    found = [
        add_unobserved(
            user[targets], item[targets], sequences.num_items, parts, negatives_per_pair=count, seed=seed,
            excluded=first,
        )
        for count in (negatives, candidates - 1)
    ]  # fmt: skip
    in_order = [
        found[i].split[part][np.argsort(found[i].origin[found[i].split[part]], kind="stable")]
        for part, i in ((0, 0), (1, 0), (2, 1))
    ]
    event, shown, click = (
        np.concatenate([column(found[i])[rows] for rows, i in zip(in_order, (0, 0, 1), strict=True)])
        for column in (lambda p: targets[p.origin], lambda p: p.item + 1, lambda p: p.observed)
    )
    bounds = np.cumsum([0, *(len(rows) for rows in in_order)])
    split = [np.arange(a, b) for a, b in itertools.pairwise(bounds)]
    raw, sides = columns(sequences, event, shown, users, items, place, length, seed)
    specs: list[FeatureSpec] = [
        Category(name, vocabulary="item_id" if name in ("item_id", "last_item") else "")
        for side in sides for name in side if name != "same_genres"
    ]  # fmt: skip
    specs += [Buckets("same_genres", num_buckets=6), Tags(HISTORY, vocabulary="item_id", max_values=length)]
    encoders = fit_encoders(specs, raw, split[0])
    table = Impressions(
        sequences.name,
        encode(encoders, raw),
        encoders.fields,
        labels={"click": click.astype(np.float32)},
        group=event.astype(np.int32),
    )
    rule = f"last event; {negatives} unobserved for each, {candidates - 1} in test, seed {seed}"
    return Requests(table.split(*split, rule=rule), candidates, *sides)


def columns(
    sequences: Sequences,
    event: np.ndarray,
    shown: np.ndarray,
    users: Mapping[str, np.ndarray],
    items: Mapping[str, np.ndarray],
    place: np.ndarray,
    length: int,
    seed: int,
) -> tuple[dict[str, RawColumn], tuple[tuple[str, ...], ...]]:
    """Raw columns of candidates `shown` before an `event`, and the names of those of each side."""
    user = sequences.event_users[event] + 1
    last, genres = sequences.items[event - 1], items["genres"]
    of_user = {"user_id": user, **{name: column[user] for name, column in users.items()}}
    of_user |= {"last_item": last, "last_genres": genres[last]}
    of_item = {"item_id": shown, **{name: column[shown] for name, column in items.items()}}
    size = int(genres.max()) + 1
    cross = {
        f"{name}{CROSS}": np.asarray(column, np.int64) * size + genres[shown]
        for name, column in of_user.items()
        if name != "last_item"
    }
    begin = np.maximum(event - length, event - place[event])
    counts = event - begin
    at = np.arange(counts.sum()) + np.repeat(begin - (np.cumsum(counts) - counts), counts)
    owner = np.repeat(np.arange(len(event)), counts)
    same = genres[sequences.items[at]] == genres[shown][owner]
    of_both = {
        **cross,
        "same_genres": np.bincount(owner, same, minlength=len(event)),
        NOISE: np.random.default_rng([seed, 1]).integers(0, 50, len(event)),
    }
    raw = {
        **of_user,
        **of_item,
        **of_both,
        HISTORY: Ragged(sequences.items[at], np.append(0, np.cumsum(counts))),
    }
    return raw, (tuple(of_user), tuple(of_item), tuple(of_both))


def by_request(
    scores: np.ndarray, ranked: np.ndarray, *, keep: int, shown: int, cost: Cost | None
) -> list[dict[str, float]]:
    """What each seed keeps for the ranker, and what a candidate costs: scores [S, R, C], the click's first.

    ranked: scores of the ranker, [seeds, R, C], of which a row of one seed reads the first.
    """
    own, best = jnp.asarray(scores), jnp.asarray(ranked[: len(scores)])
    click = (jnp.arange(scores.shape[-1]) == 0) * jnp.ones_like(own)
    hit = metrics.recall_of_ranker(own, click, keep=keep, shown=1).mean(axis=1)
    kept = metrics.recall_of_ranker(own, best, keep=keep, shown=shown).mean(axis=1)
    of_cost = {}
    if cost is not None:
        of_cost = {"kiloflops": cost.candidate_flops / 1e3, "bytes": float(cost.candidate_bytes)}
    return [
        {f"hit@{keep}": float(a), "recall_of_ranker": float(b), **of_cost}
        for a, b in zip(hit, kept, strict=True)
    ]
