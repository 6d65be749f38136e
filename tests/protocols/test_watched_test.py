"""The test watched during training: it equals the test itself, and the best epoch of each seed is found."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from jaxrec.data.events.split import leave_one_out
from jaxrec.data.synthetic.sequences import markov_chain
from jaxrec.nn.sequential.sasrec import SASRec
from jaxrec.protocols import next_item, watched_test
from jaxrec.train.evaluate import evaluate
from jaxrec.train.fit import Fitted
from jaxrec.types import Protocol

DATA = next_item.resident(leave_one_out(markov_chain(num_users=40, num_items=15, noise=0.1).sequences))
MODEL: Any = SASRec(DATA.num_items, 8, num_layers=1, num_heads=2, inner_dim=8, max_len=10)
PROTOCOL = Protocol(split=DATA.split.rule, selection="ndcg@10")


def test_both_parts_are_measured_as_by_themselves() -> None:
    variables = jax.vmap(lambda key: MODEL.init(key, np.ones((1, 10), np.int32), train=False))(
        jax.random.split(jax.random.key(0), 2)
    )
    found = watched_test.selection(MODEL, DATA, PROTOCOL, patience=3)
    assert (found.metric, found.every, found.patience) == ("ndcg@10", 1, 3)
    both = evaluate(found.evaluation, variables, DATA.columns)
    parts: tuple[Any, ...] = ("validation", "test")
    alone = [
        evaluate(next_item.evaluation(MODEL, DATA, PROTOCOL, part), variables, DATA.columns) for part in parts
    ]
    for seed in range(2):
        expected = alone[0][seed] | {f"test/{name}": value for name, value in alone[1][seed].items()}
        assert both[seed] == pytest.approx(expected, abs=1e-6)


def fitted(tests: list[list[float]]) -> Fitted:
    history = [
        {
            "epoch": epoch,
            "phase": "train",
            "loss": [1.0, 1.0],
            "valid/ndcg@10": [0.9 - epoch, 0.9 - epoch],
            "valid/test/ndcg@10": values,
            "valid/test/mrr": [value / 2 for value in values],
        }
        for epoch, values in enumerate(tests)
    ]
    return Fitted({}, history, [0, 0], [0.9, 0.9], steps=1, seconds=1.0, compile_seconds=1.0)


def test_the_best_epoch_is_each_seeds_own_among_every_so_many() -> None:
    run = fitted([[0.9, 0.1], [0.2, 0.3], [0.8, 0.7], [0.4, float("nan")]])
    metrics, chosen = watched_test.best_on_test(run, "ndcg@10")
    assert metrics == [{"ndcg@10": 0.9, "mrr": 0.45}, {"ndcg@10": 0.7, "mrr": 0.35}]
    assert (chosen.best_epoch, chosen.best_value) == ([0, 2], [0.9, 0.7])
    own = {"valid/ndcg@10": [0.2, 0.3], "valid/mrr": [0.1, 0.15]}
    assert chosen.history[1] == {"epoch": 1, "phase": "train", "loss": [1.0, 1.0], **own}
    assert run.best_epoch == [0, 0]
    metrics, chosen = watched_test.best_on_test(run, "ndcg@10", every=2)
    assert [own["ndcg@10"] for own in metrics] == [0.4, 0.3]
    assert chosen.best_epoch == [3, 1]


@pytest.mark.parametrize("every", [0, 5])
def test_without_such_an_epoch_there_is_no_best(every: int) -> None:
    with pytest.raises(ValueError, match=f"every={every}: must be at least 1, and one of 2 epochs"):
        watched_test.best_on_test(fitted([[0.9, 0.1], [0.2, 0.3]]), "ndcg@10", every=every)


def test_sampled_candidates_are_refused() -> None:
    with pytest.raises(ValueError, match="'sampled-5': the test queries can be watched where all items"):
        watched_test.selection(MODEL, DATA, PROTOCOL._replace(candidates="sampled-5"))
