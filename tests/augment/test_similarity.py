import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.augment import similarity


def flat(lists: Any) -> Any:
    """Items and offsets of users, each with three more events that are held out."""
    whole = [[*items, 9, 9, 9] for items in lists]
    return np.concatenate(whole).astype(np.int32), np.cumsum([0, *map(len, whole)])


def slow_item_cf(lists: Any, weigh: Any) -> Any:
    """Nested dictionaries in order of first sight; of equal scores the first in that order."""
    together: dict[int, dict[int, float]] = {}
    users: dict[int, int] = {}
    for items in lists:
        distinct = dict.fromkeys(items)
        for i in distinct:
            users[i] = users.get(i, 0) + 1
            for j in distinct:
                if i != j:
                    row = together.setdefault(i, {})
                    row[j] = row.get(j, 0.0) + weigh(len(distinct))
    scores = {
        i: {j: c / math.sqrt(users[i] * users[j]) for j, c in row.items()} for i, row in together.items()
    }
    return scores, {i: max(row, key=row.__getitem__) for i, row in scores.items()}


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("block", [4, 1000])
def test_item_cf_equals_the_twin_ties_included(inverse: Any, block: Any) -> None:
    rng = np.random.default_rng(0)
    lists = [rng.integers(1, 31, rng.integers(0, 9)).tolist() for _ in range(60)]
    scores, best = slow_item_cf(lists, lambda n: 1 / math.log(1.0 + n) if inverse else 1.0)
    got = similarity.item_cf(*flat(lists), num_items=40, inverse_user_frequency=inverse, block=block)
    assert {i: int(j) for i, j in enumerate(got.item) if j} == best
    assert all(got.item[i] == 0 for i in range(31, 41))
    for i, j in best.items():
        assert float(got.score[i]) == pytest.approx(scores[i][j], rel=1e-6)
    every = [score for row in scores.values() for score in row.values()]
    assert (float(got.low), float(got.high)) == pytest.approx((min(every), max(every)), rel=1e-6)
    assert set(got.pool[: int(got.pool_size)].tolist()) == set(best)


def test_items_bought_alone_have_no_neighbour_and_are_not_in_the_pool() -> None:
    got = similarity.item_cf(*flat([[1, 2], [3], [], [3, 3]]), num_items=9)
    assert got.item.tolist() == [0, 2, 1, 0, 0, 0, 0, 0, 0, 0]
    assert got.pool[: int(got.pool_size)].tolist() == [1, 2]


def test_no_pairs_at_all() -> None:
    got = similarity.item_cf(*flat([[1], [2]]), num_items=9)
    assert not got.item.any()
    assert np.isfinite(np.asarray(similarity.normalise(got).score)).all()


def test_ids_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must lie in 1\.\.num_items=3"):
        similarity.item_cf(*flat([[1, 2]]), num_items=3)


def test_random_draws_from_all_training_items() -> None:
    got = similarity.random_items(*flat([[1, 2], [4]]), num_items=9)
    assert not got.item.any()
    drawn = got.draw(jax.random.bits(jax.random.key(0), (200,)))
    assert set(drawn.tolist()) == {1, 2, 4}


@pytest.mark.long
def test_item2vec_finds_the_companion() -> None:
    rng = np.random.default_rng(0)
    pairs = [(2 * k + 1, 2 * k + 2) for k in range(8)]
    lists = [list(itertools.chain(*(pairs[k] for k in [rng.integers(8)] * 3))) for _ in range(200)]
    items, offsets = flat([[i + 9 if i >= 9 else i for i in row] for row in lists])
    got = similarity.item2vec(
        jax.random.key(0), items, offsets, num_items=30, dim=8, epochs=15, batch_size=256
    )
    companion = {a: b for pair in pairs for a, b in (pair, pair[::-1])}
    shift = lambda i: i + 9 if i >= 9 else i  # noqa: E731
    assert {i: int(j) for i, j in enumerate(got.item) if j} == {
        shift(a): shift(b) for a, b in companion.items()
    }
    assert float(got.high) <= 1 + 1e-5
    assert float(got.low) >= -1 - 1e-5


def test_item2vec_of_single_events_has_no_neighbours() -> None:
    got = similarity.item2vec(jax.random.key(0), *flat([[1], [2]]), num_items=9)
    assert not got.item.any()
    assert got.pool[: int(got.pool_size)].tolist() == [1, 2]


@pytest.mark.parametrize("inverted", [False, True])
def test_online_equals_numpy_in_any_blocks(inverted: Any) -> None:
    table = np.random.default_rng(0).normal(size=(37, 5)).astype(np.float32)
    product = table @ table.T
    np.fill_diagonal(product, np.inf if inverted else -np.inf)
    want = product[1:].argmin(1) if inverted else product[1:, 1:].argmax(1) + 1
    for block in (8, 37, 64):
        got = jax.jit(similarity.online, static_argnames=("inverted", "block"))(
            jnp.asarray(table), inverted=inverted, block=block
        )
        np.testing.assert_array_equal(got.item, [0, *want])
        np.testing.assert_allclose(got.score[1:], (table @ table.T)[np.arange(1, 37), want], rtol=1e-5)
    first = 0 if inverted else 1
    inside = (table @ table.T)[1:, first:]
    np.testing.assert_allclose([got.low, got.high], [inside.min(), inside.max()], rtol=1e-5)


def test_online_never_yields_padding_or_the_item_itself() -> None:
    table = jnp.ones((6, 3)).at[0].set(100.0)  # padding would be the most similar of all
    got = similarity.online(table)
    assert (got.item[1:] > 0).all()
    assert (got.item[1:] != jnp.arange(1, 6)).all()


def tables(first: Any, second: Any) -> Any:
    def one(item: Any, score: Any) -> Any:
        pool = jnp.arange(3, dtype=jnp.int32)
        return similarity.SimilarItems(
            jnp.asarray(item), jnp.asarray(score), jnp.float32(1), jnp.float32(3), pool, jnp.int32(2)
        )

    return one(*first), one(*second)


def test_normalised_scores() -> None:
    one, _ = tables(([0, 2, 1], [0.0, 1.5, 3.0]), ([0, 2, 1], [0.0, 0.0, 0.0]))
    assert similarity.normalise(one).score.tolist() == [0, 0.25, 1]
    assert similarity.normalise(one, inverted=True).score.tolist() == [0, 0.75, 0]


def test_hybrid_takes_the_larger_score_and_the_offline_item_where_they_tie() -> None:
    offline, online = tables(
        ([0, 5, 6, 7, 0], [0.0, 2.0, 3.0, 1.5, 0.0]), ([0, 1, 2, 3, 4], [0.0, 2.0, 2.0, 2.5, 2.0])
    )
    assert similarity.hybrid(offline, online).item.tolist() == [0, 5, 6, 3, 4]
    assert similarity.hybrid(offline, online, inverted=True).item.tolist() == [0, 5, 2, 7, 4]
