"""Labelled rows with columns that are known too late to serve, for `distillation`."""

from __future__ import annotations

import jax
import numpy as np

from jaxrec import metrics
from jaxrec.data.events.interactions import Interactions
from jaxrec.data.sources import movielens
from jaxrec.data.synthetic.post_click import DWELL as DWELL
from jaxrec.data.synthetic.post_click import PostClick, post_click
from jaxrec.data.tables.columns import Coded, RawColumn
from jaxrec.data.tables.features import Category, FeatureSpec, Number, encode, fit_encoders
from jaxrec.data.tables.impressions import Impressions, ImpressionSplit, split_in_time_order

PRIVILEGED = ("next_rating", "seconds_to_next")
_auc = jax.jit(metrics.auc)


def generated(num_examples: int, noise: float, seed: int) -> PostClick:
    """Clicks with a conversion and a time after the click."""
    small = num_examples < 5_000
    sizes = {"num_users": 30, "num_items": 20, "rate": 0.3} if small else {}
    return post_click(num_examples, noise=noise, seed=seed, **sizes)  # type: ignore[arg-type]


def best_auc(made: PostClick) -> dict[str, float]:
    """The AUC on test rows of who knows the true probabilities, at serving and with privileged columns."""
    rows = made.split.test
    label = made.split.impressions.labels["conversion"][rows]

    def auc(p: np.ndarray) -> float:
        return round(float(_auc(np.float32(np.log(p[rows]) - np.log1p(-p[rows])), label)), 4)

    return {"best_auc": auc(made.best), "best_auc_privileged": auc(made.informed)}


def ratings() -> ImpressionSplit:
    """MovieLens-100K, whether a rating is 4 or 5: see `of_ratings`."""
    users, movies = movielens.load_users("ml-100k"), movielens.load_movies("ml-100k")
    of_users = {"age": users.age // 10, "gender": users.gender, "occupation": users.occupation}
    _, genres = np.unique(movies.genres, axis=0, return_inverse=True)
    of_items = {"genres": genres.reshape(-1), "year": movies.year // 5}
    return of_ratings(movielens.load_interactions("ml-100k"), of_users, of_items)


def small_ratings() -> ImpressionSplit:
    """Generated ratings of the same columns."""
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, 20, 600), rng.integers(0, 15, 600)
    mood = rng.normal(size=20)[user] + rng.normal(size=15)[item]
    found = Interactions.from_raw(
        "small", user=user, item=item, time=np.sort(rng.integers(0, 10_000, 600)),
        value=np.clip(np.rint(3.5 + mood + rng.normal(size=600)), 1, 5).astype(np.float32), order="sorted",
    )  # fmt: skip
    return of_ratings(found, {"age": np.arange(20) % 4}, {"genres": np.arange(15) % 3})


def of_ratings(
    ratings: Interactions, users: dict[str, np.ndarray], items: dict[str, np.ndarray]
) -> ImpressionSplit:
    """Ratings with the label `liked`, 4 or 5, split by time, 80/10/10.

    Privileged: the rating that the user gives next, and the seconds until then. Both are of the same part of
    the split, so that no part tells of another; where there is none they are missing, and 0.
    """
    assert ratings.time is not None and ratings.value is not None
    parts = split_in_time_order(ratings.time)
    following = np.zeros(len(ratings.user), np.int64)
    seconds = np.zeros(len(ratings.user))
    for part in parts[:3]:
        order = part[np.lexsort((part, ratings.time[part], ratings.user[part]))]
        same = ratings.user[order[1:]] == ratings.user[order[:-1]]
        now, then = order[:-1][same], order[1:][same]
        following[now] = ratings.value[then]
        seconds[now] = ratings.time[then] - ratings.time[now]
    raw: dict[str, RawColumn] = {
        "user_id": Coded(ratings.user - 1, ratings.user_ids),
        "item_id": Coded(ratings.item - 1, ratings.item_ids),
        **{name: column[ratings.user - 1] for name, column in users.items()},
        **{name: column[ratings.item - 1] for name, column in items.items()},
        "next_rating": following,
        "seconds_to_next": seconds,
    }
    specs: list[FeatureSpec] = [Category(name) for name in raw if name not in PRIVILEGED]
    specs += [Category("next_rating", missing=(0,)), Number("seconds_to_next", log=True)]
    encoders = fit_encoders(specs, raw, parts.train)
    table = Impressions(
        ratings.name,
        encode(encoders, raw),
        encoders.fields,
        labels={"liked": (ratings.value >= 4).astype(np.float32)},
        group=ratings.user.astype(np.int32),
        time=ratings.time,
    )
    return table.split(*parts[:3], rule=parts.rule)
