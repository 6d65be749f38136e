"""Retailrocket shop logs as a funnel: view, add to cart, buy (2015-05 to 2015-09).

The file, made for multi-behaviour recommendation (SSLRec, Ren et al., WSDM 2024, arXiv:2308.05697), holds for
a pair of user and item at most one time of a view, of a cart and of a purchase. Apart from these it holds one
purchase of each user without a time, of a pair that has no other event there. Every pair in it is positive
for something, so the negatives of `view` are drawn: see `load_impressions`.
"""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np

from jaxrec.data.sources.dataset import Table, check_table, pick
from jaxrec.data.store import File, Source, read_file, show_terms
from jaxrec.data.tables.columns import Coded, RawColumn
from jaxrec.data.tables.features import Category, FeatureSpec, Number, encode, fit_encoders
from jaxrec.data.tables.impressions import Impressions, ImpressionSplit, split_in_time_order
from jaxrec.data.tables.unobserved_pairs import add_unobserved
from jaxrec.data.validation import as_integers

SOURCE = Source(
    "retailrocket",
    "Retailrocket e-commerce logs, as SSLRec distributes them",
    "https://github.com/HKUDS/SSLRec",
    "CC BY-NC-SA 4.0",
    "Non-commercial use, with attribution to Retailrocket; repository under Apache-2.0.",
)
_FILE = File(
    "retailrocket-multibehavior/interactions.npz",
    "3e1e5b1dca1d99efd79b4aef3f7837f009d95f579b7c02d6b8f6371d21920f5a",
    527587,
)
BEHAVIOURS = ("view", "cart", "buy")
TABLES = (Table("funnel", ((_FILE,),), {"view": 77_230, "cart": 13_228, "buy": 9_551}),)
_NEVER = np.iinfo(np.int64).max


def load_impressions(name: str = "funnel", *, negatives: int = 4, seed: int = 0) -> ImpressionSplit:
    """Tasks view, cart and buy on every row, each implying the one before.

    Rows: every pair with a time, and for each `negatives` items drawn uniformly among those its user has not
    been seen with up to its part of the split; they have that pair's user and time and no behaviour at all.
    So view tells pairs that happened from pairs drawn at random, of which popularity tells little (the number
    of an item's earlier views has an area under the curve of 0.50 in the test rows, more than half of which
    are of users that no training row has). Cart and buy among viewed rows (`as_ctr_cvr("view", "cart")`: cvr)
    are observed throughout.
    A pair bought without a cart (772), or with a cart but no view, counts as having passed the stage before.
    The purchases without a time are no rows, and no negatives either.
    Split by time, 80/10/10; a row's time is its pair's earliest, and a label may come true later than that.

    Features: ids; hour and weekday (UTC); how often the user and the item were viewed, put in a cart and
    bought before the row's time, in training rows and before the end of training: a row never counts itself.
    """
    table = pick(TABLES, name)
    show_terms(SOURCE)
    with np.load(io.BytesIO(read_file(_FILE))) as packed:
        columns = dict(packed)
    num_users, num_items = columns["shape"].tolist()
    pairs, times = _pairs(columns, num_items)
    first = times.min(axis=0)
    user, item = pairs // num_items, pairs % num_items
    parts = split_in_time_order(first)
    end = first[parts.validation].min()
    untimed = columns["test_user"].astype(np.int64) * num_items + columns["test_item"]
    rows = add_unobserved(
        user, item, num_items, parts, negatives_per_pair=negatives, seed=seed, excluded=untimed
    )
    time = first[rows.origin]
    raw: dict[str, RawColumn] = {
        "user_id": Coded(rows.user, np.arange(num_users)),
        "item_id": Coded(rows.item, np.arange(num_items)),
        "hour": time // 3600 % 24,
        "weekday": (time // 86_400 + 3) % 7,  # 0 is Monday; 1970-01-01 was a Thursday
    }
    for behaviour, when in zip(BEHAVIOURS, times[:, parts.train], strict=True):
        known = when < end
        for side, entity, of_row in (("user", user, rows.user), ("item", item, rows.item)):
            events = entity[parts.train][known]
            raw[f"{side}_{behaviour}s"] = count_before(events, when[known], of_row, time)
    specs: list[FeatureSpec] = [
        Category("user_id", min_count=2),
        Category("item_id", min_count=2),
        Category("hour"),
        Category("weekday"),
        *(Number(column, log=True) for column in raw if column.endswith("s")),
    ]
    encoders = fit_encoders(specs, raw, rows.split.train)
    labels = {b: _label(times[i:], rows.origin, rows.observed) for i, b in enumerate(BEHAVIOURS)}
    impressions = Impressions(
        f"retailrocket/{name}",
        encode(encoders, raw),
        encoders.fields,
        labels,
        group=rows.user.astype(np.int32),
        time=time,
    )
    check_table(impressions, table)
    return impressions.split(*rows.split[:3], rule=rows.split.rule)


def count_before(entity: np.ndarray, when: np.ndarray, of_row: np.ndarray, time: np.ndarray) -> np.ndarray:
    """How many events (entity, when) have a row's entity and lie strictly before its time: float64 [rows]."""
    start = min(when.min(), time.min())
    span = max(when.max(), time.max()) - start + 1
    events = np.sort(entity * span + (when - start))
    before = np.searchsorted(events, of_row * span + (time - start))
    return (before - np.searchsorted(events, of_row * span)).astype(np.float64)


def _pairs(columns: Mapping[str, np.ndarray], num_items: int) -> tuple[np.ndarray, np.ndarray]:
    """Distinct pairs, user * num_items + item, and the time of each behaviour, `_NEVER` where none."""
    whole = {name: as_integers(column, name) for name, column in columns.items()}
    keys = [whole[f"{b}_user"] * num_items + whole[f"{b}_item"] for b in BEHAVIOURS]
    pairs = np.unique(np.concatenate(keys))
    times = np.full((len(BEHAVIOURS), len(pairs)), _NEVER)
    for i, key in enumerate(keys):
        times[i, np.searchsorted(pairs, key)] = whole[f"{BEHAVIOURS[i]}_value"]
    return pairs, times


def _label(times: np.ndarray, origin: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """1 where a pair has any of the behaviours `times`, and the row is that pair."""
    happened = times.min(axis=0) < _NEVER
    return (happened[origin] & observed).astype(np.float32)
