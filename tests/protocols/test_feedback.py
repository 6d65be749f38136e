"""Events of two kinds: which rating is which, and metrics of liked and disliked targets."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest

from jaxrec import baselines
from jaxrec.data.events.split import leave_last_out
from jaxrec.data.synthetic.sequences import markov_chain
from jaxrec.protocols import feedback as protocol
from jaxrec.protocols.next_item import Data, resident
from jaxrec.tasks import feedback as terms
from jaxrec.tasks.objectives import full_softmax
from jaxrec.train.evaluate import measure_queries
from jaxrec.types import Protocol
from tests.protocols.packed import rows_of_step
from tests.tasks.small import NUM_ITEMS, Averager

CHAIN = markov_chain(num_users=40, num_items=NUM_ITEMS, min_length=8, noise=0.2).sequences
KINDS = np.random.default_rng(0).integers(-1, 2, len(CHAIN.items))
PLAIN = resident(leave_last_out(CHAIN, 2))
DATA = protocol.with_kinds(PLAIN, KINDS)
RULES = Protocol(ks=(5,), selection="ndcg@5/liked")


def test_ratings_are_liked_disliked_or_neither() -> None:
    assert protocol.kinds_of_ratings(np.array([1, 2, 2.5, 3, 4, 5])).tolist() == [-1, -1, 0, 0, 1, 1]
    assert protocol.kinds_of_ratings(np.array([1, 9]), liked=9, disliked=0).tolist() == [0, 1]


def test_metrics_of_a_kind_are_those_of_its_targets() -> None:
    model = baselines.popularity(DATA)
    variables = model.for_seeds((0,))
    made = protocol.evaluation(model, DATA, RULES, "test")
    found = protocol.run_test(model, DATA, RULES, variables).metrics[0]
    ranks = measure_queries(made, variables, DATA.columns)[0].reshape(-1)
    mask = made.queries["mask"].reshape(-1)
    event = CHAIN.offsets[made.queries["user"].reshape(-1)] + made.queries["length"].reshape(-1)
    kinds = np.where(mask, KINDS[np.where(mask, event, 0)], 5)
    hits = {name: (ranks[kinds == kind] <= 5).mean() for name, kind in (("liked", 1), ("disliked", -1))}
    for name, value in hits.items():
        assert found[f"hit@5/{name}"] == pytest.approx(value)
    assert found["hit@5"] == pytest.approx((ranks[mask] <= 5).mean())
    assert found["separation@5"] == pytest.approx(hits["liked"] - hits["disliked"])


def train(folder: Path, weight: float, **options: Any) -> Any:
    return protocol.train(
        Averager(max_len=20),
        full_softmax(),
        DATA,
        RULES,
        optax.adam(1e-2),
        term=terms.pair(),
        weight=weight,
        window=3,
        epochs=2,
        batch_size=16,
        seeds=(0,),
        workdir=folder,
        description={"weight": weight},
        progress=False,
        **options,
    )


def test_packed_rows_split_into_the_parts_of_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = (
        rows_of_step(monkeypatch, protocol, functools.partial(train, tmp_path, 1.0, accumulate_steps=steps))
        for steps in (1, 7)
    )
    assert whole % 7 and parts == -(-whole // 7) * 7


def test_a_weight_of_zero_trains_the_model_without_feedback_and_another_does_not(tmp_path: Path) -> None:
    without, with_term = (train(tmp_path / str(weight), weight) for weight in (0.0, 1.0))
    assert "feedback" not in without.history[-1] and "feedback" in with_term.history[-1]
    same = jax.tree.map(lambda a, b: bool((a == b).all()), without.variables, with_term.variables)
    assert not all(jax.tree.leaves(same))


def evaluate(data: Data) -> Any:
    return protocol.evaluation(baselines.popularity(data), data, RULES, "test")


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: protocol.kinds_of_ratings(np.zeros(1), liked=2.0), r"disliked=2\.0: must be below liked"),
        (lambda: protocol.kinds_of_ratings(np.array([np.nan])), "1 are NaN"),
        (lambda: protocol.with_kinds(PLAIN, KINDS[1:]), "for each of the"),
        (lambda: protocol.with_kinds(PLAIN, KINDS + 1), "must be -1, 0 or 1"),
        (lambda: evaluate(PLAIN), "the data have no kinds; add them by with_kinds"),
        (lambda: evaluate(protocol.with_kinds(PLAIN, np.abs(KINDS))), "no test target is disliked"),
        (lambda: train(Path("unused"), -1.0), r"weight=-1\.0"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_refused(call: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call()
