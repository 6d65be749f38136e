"""Interaction matrices divided by items: no user has a cold item in training.

Models read the training interactions of warm items and the content of all. A cold item is relevant for the
users who have it; what a user has of cold items is no part of any input. Interactions of warm items can be
taken out of training too, to see what serving cold items costs warm ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from jaxrec.data.events.held_out import HeldOut, from_parts
from jaxrec.data.events.interactions import Sequences

Pairs = tuple[np.ndarray, np.ndarray]  # users 0..U-1 and items 1..I of interactions
COLD, COLD_VALIDATION, COLD_TEST = "cold", "cold-validation", "cold-test"  # names of sets of items


@dataclasses.dataclass(frozen=True, eq=False)
class ItemCold:
    """One training part with the relevant items of each question, users numbered alike in all of them.

    validation: its validation part has cold items of validation. cold: its test part has cold items of test.
    warm: its test part has items of users that were taken out of training; None: none were. both: its test
    part has those of `cold` and of `warm`; without the latter it is `cold`.
    sets: masks by name, True for items, bool [I + 1]: all cold items, those of validation, those of test.
    """

    validation: HeldOut
    cold: HeldOut
    warm: HeldOut | None
    both: HeldOut
    sets: Mapping[str, np.ndarray]

    @property
    def is_warm(self) -> np.ndarray:
        """True for items of training, bool [I + 1]."""
        found = np.zeros(len(self.sets[COLD]), bool)
        found[self.cold.training_events().item] = True
        return found


def divide_items(
    sequences: Sequences,
    *,
    validation: float = 0.1,
    test: float = 0.2,
    warm: float = 0.1,
    seed: int = 0,
) -> ItemCold:
    """Draws cold items at random from those that have an event.

    A user's later events of an item that they had before are left out. validation, test: shares of the items.
    warm: share of each user's training items that are taken out, see `from_split`.

    Raises:
      ValueError: a share out of range; as `build`.
    """
    _check_shares(validation=validation, test=test)
    rng = np.random.default_rng(seed)
    present = rng.permutation(np.unique(sequences.items))
    number = [round(share * len(present)) for share in (validation, test)]
    user, item = sequences.event_users, sequences.items.astype(np.int64)
    _, first = np.unique(user * (sequences.num_items + 1) + item, return_index=True)
    first.sort()
    user, item = user[first], item[first]
    part = np.zeros(sequences.num_items + 1, np.int64)
    part[present[: number[0]]] = 1
    part[present[number[0] : sum(number)]] = 2
    return build(
        sequences.name,
        tuple((user[part[item] == p], item[part[item] == p]) for p in range(3)),
        num_items=sequences.num_items,
        rule=f"{validation:.0%} and {test:.0%} of the items, at random, are cold, of validation and test",
        user_ids=np.asarray(sequences.user_ids),
        item_ids=np.asarray(sequences.item_ids),
        warm=warm,
        seed=seed,
    )


def from_split(split: HeldOut, *, warm: float = 0.1, seed: int = 0) -> ItemCold:
    """The division of a data set that is divided by items already.

    warm: share of each user's training items that are taken out, at random, never all, and none that leaves
    an item without training interaction; 0: none are.

    Raises:
      ValueError: as `build`.
    """
    sequences, user = split.sequences, split.sequences.event_users
    part = (~split.in_training).astype(np.int64)
    for number, sets in ((1, split.validation), (2, split.test)):
        place = np.arange(len(user)) - sequences.offsets[user]
        first, count = np.zeros((2, sequences.num_users), np.int64)
        first[sets.user], count[sets.user] = sets.length, sets.number
        part[(place >= first[user]) & (place < (first + count)[user])] = number
    return build(
        sequences.name,
        tuple((user[part == p], sequences.items[part == p]) for p in range(3)),
        num_items=sequences.num_items,
        rule=split.rule,
        user_ids=np.asarray(sequences.user_ids),
        item_ids=np.asarray(sequences.item_ids),
        warm=warm,
        seed=seed,
    )


def build(
    name: str,
    parts: tuple[Pairs, ...],
    *,
    num_items: int,
    rule: str,
    user_ids: np.ndarray,
    item_ids: np.ndarray,
    warm: float = 0.0,
    seed: int = 0,
) -> ItemCold:
    """From interactions of training, with cold items of validation and with cold items of test.

    Users without a training item are left out. Arguments as of `held_out.from_parts` and `from_split`.

    Raises:
      ValueError: there is no cold item of validation or of test, one has training interactions, or one is of
        both; a share out of range; as `from_parts`.
    """
    if not 0 <= warm < 1:
        raise ValueError(f"warm={warm}: a share of training items, must be at least 0 and below 1")
    sets = _sets(name, parts, num_items, item_ids)
    trained = np.isin(np.arange(len(user_ids)), parts[0][0])
    training, validation, test = (
        (np.asarray(user)[trained[user]], np.asarray(item)[trained[user]]) for user, item in parts
    )
    taken = _taken(*training, warm, seed)
    none = (np.zeros(0, np.int64), np.zeros(0, np.int64))
    kept, out = ((training[0][mask], training[1][mask]) for mask in (~taken, taken))
    both = (np.concatenate([test[0], out[0]]), np.concatenate([test[1], out[1]]))
    counts = f"{sets[COLD_VALIDATION].sum():,} and {sets[COLD_TEST].sum():,} cold items"
    taken_out = f"; {warm:.0%} of each user's training items, at random, are taken out" if taken.any() else ""

    def one(validation: Pairs, test: Pairs, relevant: str) -> HeldOut:
        return from_parts(
            name,
            (kept, validation, test),
            num_items=num_items,
            rule=f"{rule} ({counts}){taken_out}; relevant: {relevant}",
            user_ids=user_ids,
            item_ids=item_ids,
        )

    cold = one(none, test, "cold items")
    return ItemCold(
        validation=one(validation, none, "cold items"),
        cold=cold,
        warm=one(none, out, "warm items") if taken.any() else None,
        both=one(none, both, "cold and warm items") if taken.any() else cold,
        sets=sets,
    )


def _sets(name: str, parts: tuple[Pairs, ...], num_items: int, item_ids: np.ndarray) -> dict[str, np.ndarray]:
    ids = np.arange(num_items + 1)
    training, validation, test = (np.isin(ids, item) for _, item in parts)
    for what, found in (("validation", validation), ("test", test)):
        if not found.any():
            raise ValueError(f"{name}: no cold item of {what}; hold out a larger share of the items")
        both = np.flatnonzero(found & training)
        if both.size:
            raise ValueError(
                f"{name}: cold item {item_ids[both[0] - 1]} of {what} has training interactions "
                f"({both.size:,} such items); take all interactions of a cold item out of training"
            )
    twice = np.flatnonzero(validation & test)
    if twice.size:
        raise ValueError(
            f"{name}: item {item_ids[twice[0] - 1]} is a cold item of validation and of test "
            f"({twice.size:,} such items); leave it in one of them"
        )
    return {COLD: validation | test, COLD_VALIDATION: validation, COLD_TEST: test}


def _taken(user: np.ndarray, item: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Which training interactions are taken out, bool [N]: a share of each user's, the nearest number."""
    drawn = np.random.default_rng([seed, 1]).random(len(user))
    order = np.lexsort((drawn, user))
    count = np.bincount(user)
    place = np.arange(len(user)) - (np.cumsum(count) - count)[user[order]]
    number = np.minimum(np.round(share * count), np.maximum(count - 1, 0))
    taken = np.zeros(len(user), bool)
    taken[order] = place < number[user[order]]
    left = np.bincount(item[~taken], minlength=int(item.max()) + 1)
    return taken & (left[item] > 0)


def _check_shares(**shares: float) -> None:
    for name, share in shares.items():
        if not 0 < share < 1 or sum(shares.values()) >= 1:
            raise ValueError(f"{name}={share}: shares must be above 0, and below 1 together")
