"""Retailrocket shop logs as a funnel: view, add to cart, buy (2015-05 to 2015-09).

The file, made for multi-behaviour recommendation (SSLRec, Ren et al., WSDM 2024, arXiv:2308.05697), has at
most one time of a view, a cart and a purchase for each pair of user and item. It also has one purchase
without a time for each user, of a pair without any other event. All its pairs are positives, so the negatives
of `view` are sampled: see `load_impressions`.
"""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np

from jaxrec.data.sources.dataset import LabelledTable, check_positives, find_by_name
from jaxrec.data.store import File, Source, read_file, show_terms
from jaxrec.data.tables.columns import Coded, RawColumn
from jaxrec.data.tables.features import Category, FeatureSpec, Number, encode, fit_encoders
from jaxrec.data.tables.impressions import Impressions, ImpressionSplit, split_in_time_order
from jaxrec.data.tables.unobserved_pairs import add_unobserved
from jaxrec.data.validation import as_integers

SOURCE = Source(
    "retailrocket",
    title="Retailrocket e-commerce logs, as SSLRec distributes them",
    homepage="https://github.com/HKUDS/SSLRec",
    licence="CC BY-NC-SA 4.0",
    terms="Non-commercial use, with attribution to Retailrocket; repository under Apache-2.0.",
)
_FILE = File(
    "retailrocket-multibehavior/interactions.npz",
    "3e1e5b1dca1d99efd79b4aef3f7837f009d95f579b7c02d6b8f6371d21920f5a",
    527587,
)
BEHAVIOURS = ("view", "cart", "buy")
TABLES = (LabelledTable("funnel", ((_FILE,),), {"view": 77_230, "cart": 13_228, "buy": 9_551}),)
_NO_TIME = np.iinfo(np.int64).max


def load_impressions(name: str = "funnel", *, negatives: int = 4, seed: int = 0) -> ImpressionSplit:
    """Tasks view, cart and buy on every row; buy implies cart, and cart implies view.

    Rows: every pair with a time and, for each, `negatives` items sampled uniformly among those its user has
    not interacted with up to the end of its part of the split, with the same user and time and no behaviour.
    So `view` is to distinguish observed from random pairs, for which popularity is of little use (the number
    of an item's earlier views has an AUC of 0.50 on the test rows, more than half of which are of users
    without training rows). Cart and buy among viewed rows (`as_ctr_cvr("view", "cart")`: cvr) are all
    observed.
    A pair bought without a cart (772), or with a cart but no view, counts as having passed the earlier stage.
    The purchases without a time are neither rows nor negatives.
    Split by time, 80/10/10; a row's time is its pair's earliest, and a label may become 1 later than that.

    Features: ids; hour and weekday (UTC); how often the user and the item viewed, put in a cart and bought
    before the row's time, counted in training rows and before the end of training; a row never counts itself.
    """
    table = find_by_name(TABLES, name)
    show_terms(SOURCE)
    with np.load(io.BytesIO(read_file(_FILE))) as packed:
        columns = dict(packed)
    num_users, num_items = columns["shape"].tolist()
    distinct, times = _distinct_pairs(columns, num_items)
    first = times.min(axis=0)
    user, item = distinct // num_items, distinct % num_items
    parts = split_in_time_order(first)
    end = first[parts.validation].min()
    untimed = columns["test_user"].astype(np.int64) * num_items + columns["test_item"]
    pairs = add_unobserved(
        user,
        item=item,
        num_items=num_items,
        split=parts,
        negatives_per_pair=negatives,
        seed=seed,
        excluded=untimed,
    )
    time = first[pairs.origin]
    raw: dict[str, RawColumn] = {
        "user_id": Coded(pairs.user, np.arange(num_users)),
        "item_id": Coded(pairs.item, np.arange(num_items)),
        "hour": time // 3600 % 24,
        "weekday": (time // 86_400 + 3) % 7,  # 0 is Monday; 1970-01-01 was a Thursday
    }
    for behaviour, when in zip(BEHAVIOURS, times[:, parts.train], strict=True):
        known = when < end
        for side, entity, of_row in (("user", user, pairs.user), ("item", item, pairs.item)):
            events = entity[parts.train][known]
            raw[f"{side}_{behaviour}s"] = count_before(events, when=when[known], row_entity=of_row, time=time)
    specs: list[FeatureSpec] = [
        Category("user_id", min_count=2),
        Category("item_id", min_count=2),
        Category("hour"),
        Category("weekday"),
        *(Number(column, log=True) for column in raw if column.endswith("s")),
    ]
    encoders = fit_encoders(specs, raw, pairs.split.train)
    labels = {b: _label(times[i:], pairs.origin, pairs.observed) for i, b in enumerate(BEHAVIOURS)}
    impressions = Impressions(
        f"retailrocket/{name}",
        columns=encode(encoders, raw),
        fields=encoders.fields,
        labels=labels,
        group=pairs.user.astype(np.int32),
        time=time,
    )
    check_positives(impressions, table)
    return impressions.split(*pairs.split[:3], rule=pairs.split.rule)


def count_before(
    entity: np.ndarray, when: np.ndarray, row_entity: np.ndarray, time: np.ndarray
) -> np.ndarray:
    """Number of events (entity, when) of each row's entity strictly before its time, float64 [N]."""
    start = min(when.min(), time.min())
    span = max(when.max(), time.max()) - start + 1
    events = np.sort(entity * span + (when - start))
    before = np.searchsorted(events, row_entity * span + (time - start))
    return (before - np.searchsorted(events, row_entity * span)).astype(np.float64)


def _distinct_pairs(columns: Mapping[str, np.ndarray], num_items: int) -> tuple[np.ndarray, np.ndarray]:
    """Distinct pairs user * num_items + item [P], and the time of each behaviour [3, P], or `_NO_TIME`."""
    whole = {name: as_integers(column, name) for name, column in columns.items()}
    keys = [whole[f"{b}_user"] * num_items + whole[f"{b}_item"] for b in BEHAVIOURS]
    pairs = np.unique(np.concatenate(keys))
    times = np.full((len(BEHAVIOURS), len(pairs)), _NO_TIME)
    for i, key in enumerate(keys):
        times[i, np.searchsorted(pairs, key)] = whole[f"{BEHAVIOURS[i]}_value"]
    return pairs, times


def _label(times: np.ndarray, origin: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """1 where the row is an observed pair with any of the behaviours of `times`."""
    happened = times.min(axis=0) < _NO_TIME
    return (happened[origin] & observed).astype(np.float32)
