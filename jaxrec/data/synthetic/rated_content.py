"""Users who rate items by what both are, each more or less generously: ratings that can be learned."""

from __future__ import annotations

import numpy as np

from jaxrec.data.tables.rating_tasks import RatedContent


def rated_content(
    num_users: int = 60,
    num_items: int = 80,
    *,
    num_ratings: int = 30,
    share_new: float = 0.3,
    seed: int = 0,
) -> RatedContent:
    """Ratings 1..5 that follow an item's tags and its class, and the user's group and generosity.

    num_ratings: different items that each user rates. share_new: of users and of items. The states are those
    of MeLU. Columns: group and place of users; class, and one to three tags of items.

    Raises:
      ValueError: a share outside (0, 1), fewer items than ratings, no user.
    """
    if not 0 < share_new < 1:
        raise ValueError(f"share_new={share_new}: must be in (0, 1)")
    if num_users < 1 or not 1 <= num_ratings <= num_items:
        raise ValueError(
            f"num_users={num_users}, num_ratings={num_ratings}: must be at least 1, and at most as many "
            f"ratings as num_items={num_items}"
        )
    rng = np.random.default_rng(seed)
    group, place = rng.integers(1, 4, num_users), rng.integers(1, 9, num_users)
    kind = rng.integers(1, 4, num_items)
    tags = np.argsort(rng.random((num_items, 6)), axis=1)[:, :3] + 1
    tags *= np.arange(3) >= rng.integers(0, 3, num_items)[:, None]  # one to three, 0 in front
    taste, of_kind = rng.normal(size=(3, 7)), rng.normal(size=4)
    generous = rng.normal(0.0, 0.7, num_users)
    quality = taste[group[:, None, None] - 1, tags[None]] * (tags != 0)
    liked = 3.2 + quality.sum(-1) / (tags != 0).sum(-1) + 0.5 * of_kind[kind] + generous[:, None]
    chosen = np.argsort(rng.random((num_users, num_items)), axis=1)[:, :num_ratings]
    user = np.repeat(np.arange(num_users), num_ratings)
    item = chosen.ravel()
    rating = np.clip(np.rint(liked[user, item] + rng.normal(0.0, 0.3, user.size)), 1, 5)
    new_user = np.arange(num_users) >= round((1 - share_new) * num_users)
    new_item = np.arange(num_items) >= round((1 - share_new) * num_items)

    def column(values: np.ndarray) -> np.ndarray:
        return np.concatenate([np.zeros_like(values[:1]), values]).astype(np.int32)

    return RatedContent(
        f"rated-content-{num_users}x{num_items}",
        (user + 1).astype(np.int32),
        (item + 1).astype(np.int32),
        rating.astype(np.float32),
        (new_user[user] + 2 * new_item[item]).astype(np.int8),
        ("warm", "user-cold", "item-cold", "both-cold"),
        users={"group": column(group), "place": column(place)},
        items={"class": column(kind), "tag": column(tags)},
        values={
            "group": np.arange(1, 4),
            "place": np.array([f"place {i}" for i in range(1, 9)]),
            "class": np.arange(1, 4),
            "tag": np.array([f"tag {i}" for i in range(1, 7)]),
        },
        user_ids=np.array([f"u{i}" for i in range(1, num_users + 1)]),
        item_ids=np.arange(1, num_items + 1),
    )
