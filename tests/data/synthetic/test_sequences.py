from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from jaxrec.data.events.split import leave_one_out
from jaxrec.data.synthetic.sequences import independent, markov_chain


def pairs(sequences: Any) -> tuple[np.ndarray, np.ndarray]:
    inner = np.setdiff1d(np.arange(sequences.items.size), sequences.offsets)
    return sequences.items[inner - 1], sequences.items[inner]


def test_without_noise_the_successor_always_follows() -> None:
    chain = markov_chain(50, 20)
    last, following = pairs(chain.sequences)
    assert np.array_equal(chain.successor[last], following)
    assert chain.best_hit == 1.0


def test_the_successors_form_one_cycle() -> None:
    chain = markov_chain(1, 12)
    seen, item = set(), 1
    for _ in range(12):
        seen.add(item)
        item = int(chain.successor[item])
    assert seen == set(range(1, 13))
    assert item == 1
    assert chain.successor[0] == 0


def test_noise_lowers_the_best_hit_as_stated() -> None:
    chain = markov_chain(2000, 10, noise=0.3)
    last, following = pairs(chain.sequences)
    hit = (chain.successor[last] == following).mean()
    assert chain.best_hit == 1 - 0.3 + 0.3 / 10
    assert abs(hit - chain.best_hit) < 4 * np.sqrt(chain.best_hit * (1 - chain.best_hit) / last.size)


def test_draws_follow_their_probabilities() -> None:
    draws = independent(2000, 5, exponent=1.0)
    weight = 1 / np.arange(1, 6)
    assert np.allclose(draws.probability[1:], weight / weight.sum())
    share = np.bincount(draws.sequences.items, minlength=6) / draws.sequences.items.size
    assert np.allclose(share, draws.probability, atol=0.015)
    assert draws.best_hit == draws.probability[1]


@pytest.mark.parametrize("make", [markov_chain, independent])
def test_a_seed_gives_the_same_set_and_another_seed_another(make: Callable[..., Any]) -> None:
    one, same, other = make(seed=3).sequences, make(seed=3).sequences, make(seed=4).sequences
    assert np.array_equal(one.items, same.items)
    assert np.array_equal(one.times, same.times)
    assert not np.array_equal(one.items[:50], other.items[:50])


@pytest.mark.parametrize("make", [markov_chain, independent])
def test_sets_can_be_split_and_ranked(make: Callable[..., Any]) -> None:
    sequences = make(30, 10, min_length=4, max_length=6).sequences
    assert sequences.lengths.min() >= 4
    assert sequences.lengths.max() <= 6
    assert leave_one_out(sequences).test.user.size == 30
    assert sequences.gap_variance_rank is not None
    assert (
        sequences.gap_variance_rank[1::2].max() < sequences.gap_variance_rank[0::2].max()
    )  # odd users have equal gaps


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_users": 0}, "num_users=0"),
        ({"num_items": 0}, "num_items=0"),
        ({"min_length": 0}, "min_length=0"),
        ({"min_length": 5, "max_length": 4}, "max_length=4"),
        ({"noise": 1.5}, "noise=1.5: must lie in 0..1"),
        ({"noise": float("nan")}, "noise=nan"),
    ],
)
def test_bad_sizes_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        markov_chain(**arguments)


def test_a_negative_exponent_is_refused() -> None:
    with pytest.raises(ValueError, match="exponent=-1"):
        independent(exponent=-1)
