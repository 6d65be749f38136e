"""Leave-one-out over known items: which users and candidates remain, and what becomes of other targets."""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import data
from jaxrec.data.catalogue import find_entry
from jaxrec.data.events.interactions import Sequences
from jaxrec.data.events.split import Split, leave_one_out
from jaxrec.metrics import MISS
from jaxrec.protocols import next_item
from jaxrec.protocols.known_items import TRAINED, known_items
from jaxrec.types import Baseline, Protocol, Ranks, Retriever

# item 5 is a target of validation and of the test, 6 and 7 of the test alone; a set of items is 1 to 4
USERS = [[1, 2, 3, 4], [2, 1, 5, 6], [3, 4, 1, 5], [4, 2, 3, 1], [1, 4, 2, 7]]
PROTOCOL = Protocol(candidates=TRAINED, ks=(1,), selection="none")


def split_of(users: list[list[int]]) -> Split:
    return leave_one_out(Sequences.from_lists("made", users))


def test_users_candidates_and_misses() -> None:
    plain = next_item.resident(split_of(USERS))
    known = known_items(plain)
    assert known.split.test.user.tolist() == [0, 2, 3]  # the others' targets are in no event before
    assert known.split.left_out == 2 and known.split.rule == "leave-one-out, test targets known before"
    assert np.flatnonzero(known.columns[TRAINED]).tolist() == [1, 2, 3, 4]
    assert known.split.validation is plain.split.validation and TRAINED not in plain.columns
    model = Retriever(lambda v, q, c: jnp.ones((len(q["user"]), 1)), lambda v: v["items"])
    baseline = Baseline("by id", model, {"items": np.arange(8, dtype=np.float32)[:, None]})
    tested = next_item.run_test(model, known, PROTOCOL, baseline.for_seeds([0]))
    assert isinstance(tested.values, Ranks)
    assert tested.values.rank[0].tolist() == [1, MISS, 1]  # of 4 among 4, of 5 among 2, of 1 among 1
    everything = next_item.run_test(model, plain, Protocol(ks=(1,)), baseline.for_seeds([0]))
    assert isinstance(everything.values, Ranks)
    assert everything.values.rank[0].tolist() == [4, 2, 3, 4, 1]


def test_data_without_a_known_target_are_refused() -> None:
    split = split_of([[1, 2, 3, 4], [1, 2, 3, 5]])
    with pytest.raises(ValueError, match="no test target has an event in training or validation"):
        known_items(next_item.resident(split))


@pytest.mark.parametrize(
    ("name", "users", "items", "misses"),
    [
        ("coserec/Beauty", 22_311, 12_068, 86),
        ("coserec/Sports_and_Outdoors", 35_539, 18_284, 258),
        ("coserec/Toys_and_Games", 19_365, 11_876, 232),
    ],
)
def test_published_numbers_of_users_and_candidates(
    name: str, users: int, items: int, misses: int, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the statistics of the benchmark's code."""
    monkeypatch.setenv("JAXREC_DATA_DIR", str(data_dir))
    if find_entry(name).state != "in JAXREC_DATA_DIR":
        pytest.skip(f"{name} is not in JAXREC_DATA_DIR")
    known = known_items(next_item.resident(leave_one_out(data.load(name))))
    mask = known.columns[TRAINED]
    target = known.split.test.target
    assert (len(target), int(mask.sum()), int((~mask[target]).sum())) == (users, items, misses)
