"""Semantic ids: residual k-means, the last digit, the trie, and beam search over it."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from jaxrec.index import beam, semantic_ids
from jaxrec.index.beam import Masking

ITEMS, K, LEVELS = 60, 6, 2
RNG = np.random.default_rng(0)
POINTS = RNG.normal(size=(ITEMS, 5)).astype(np.float32)
CODES = RNG.integers(0, K, (ITEMS, LEVELS))


@functools.cache
def ids() -> semantic_ids.SemanticIds:
    return semantic_ids.build(CODES, num_codes=K)


@functools.cache
def learned() -> semantic_ids.Quantised:
    return semantic_ids.residual_k_means(POINTS, num_codes=K, levels=3, rounds=8, key=jax.random.key(1))


# --- residual k-means --------------------------------------------------------------------------------


def test_residual_k_means_is_greedy_nearest_codes_and_errors_decrease() -> None:
    left, errors = POINTS.astype(np.float64), [np.mean(np.sum(POINTS**2, axis=1))]
    for level in range(3):
        table = np.asarray(learned().codebooks[level], np.float64)
        nearest = ((left[:, None] - table) ** 2).sum(axis=2).argmin(axis=1)
        np.testing.assert_array_equal(learned().codes[:, level], nearest)
        left = left - table[nearest]
        errors.append(np.mean(np.sum(left**2, axis=1)))
    np.testing.assert_allclose(learned().errors, errors, rtol=1e-4)
    assert (np.diff(errors) < 0).all()


def test_as_many_codes_as_points_are_all_used() -> None:
    found = semantic_ids.residual_k_means(POINTS[:K], num_codes=K, levels=1, rounds=3)
    assert sorted(found.codes[:, 0].tolist()) == list(range(K))
    assert float(found.errors[1]) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_codes": ITEMS + 1}, "at least num_codes=61 rows"),
        ({"levels": 0}, "levels=0: must be at least 1"),
        ({"rounds": 0}, "rounds=0: must be at least 1"),
        ({"points": np.where(np.arange(ITEMS)[:, None] == 7, np.nan, POINTS)}, "row 7 is not finite"),
    ],
)
def test_points_that_cannot_be_quantised_are_refused(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"points": POINTS, "num_codes": K, "levels": 1, **change}
    with pytest.raises(ValueError, match=message):
        semantic_ids.residual_k_means(given.pop("points"), **given)


# --- tuples and items --------------------------------------------------------------------------------


def test_tuple_and_item_are_one_to_one() -> None:
    tuples = np.asarray(ids().codes)[1:]
    assert len(np.unique(tuples, axis=0)) == ITEMS
    np.testing.assert_array_equal(tuples[:, :LEVELS], CODES)
    np.testing.assert_array_equal(semantic_ids.items_of(ids(), jnp.asarray(tuples)), 1 + np.arange(ITEMS))


def test_every_other_tuple_is_no_item() -> None:
    every = np.stack(np.meshgrid(*[np.arange(K)] * (LEVELS + 1), indexing="ij"), axis=-1)
    found = np.asarray(jax.jit(semantic_ids.items_of)(ids(), jnp.asarray(every)))
    known = {tuple(row): item for item, row in enumerate(np.asarray(ids().codes)[1:].tolist(), 1)}
    expected = [known.get(tuple(row), 0) for row in every.reshape(-1, LEVELS + 1).tolist()]
    np.testing.assert_array_equal(found.reshape(-1), expected)
    outside = jnp.array([[-1, 0, 0], [0, K, 0]])
    assert semantic_ids.items_of(ids(), outside).tolist() == [0, 0]


def test_the_last_digit_counts_items_of_the_same_codes_by_id() -> None:
    tuples = semantic_ids.with_last_digit([[1, 2], [0, 0], [1, 2], [1, 2], [0, 1]], num_codes=3)
    assert tuples[:, 2].tolist() == [0, 0, 1, 2, 0]


def test_another_order_of_items_changes_the_last_digit_alone() -> None:
    order = np.random.default_rng(3).permutation(ITEMS)
    moved = np.asarray(semantic_ids.build(CODES[order], num_codes=K).codes)[1:]
    own = np.asarray(ids().codes)[1:][order]
    np.testing.assert_array_equal(moved[:, :LEVELS], own[:, :LEVELS])
    assert (moved[:, LEVELS] != own[:, LEVELS]).any()
    assert sorted(map(tuple, moved.tolist())) == sorted(map(tuple, own.tolist()))


def test_the_trie_has_a_node_for_each_beginning() -> None:
    for level, table in enumerate(ids().children):
        beginnings = len(np.unique(np.asarray(ids().codes)[1:, :level], axis=0)) if level else 1
        after = len(np.unique(np.asarray(ids().codes)[1:, : level + 1], axis=0))
        assert table.shape == (beginnings, K) and (np.asarray(table) != -1).sum() == after
    assert (ids().depth, ids().num_codes) == (LEVELS + 1, K)


def test_a_digit_that_is_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match=r"4 items have the codes \[1, 1\] of item 2, and .* num_codes=3"):
        semantic_ids.build([[0, 0], *[[1, 1]] * 4], num_codes=3)
    with pytest.raises(ValueError, match=r"item 1 has \[0, 3\]: must lie in 0..2"):
        semantic_ids.build([[0, 3]], num_codes=3)
    with pytest.raises(ValueError, match="must be integers"):
        semantic_ids.build(np.zeros((2, 2)), num_codes=3)


def test_usage_is_by_its_formulas() -> None:
    found = semantic_ids.usage(semantic_ids.build([[0, 1], [0, 1], [0, 2], [3, 1]], num_codes=4))
    assert found["used_codes/1"] == 2 and found["used_codes/2"] == 2
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert found["perplexity/1"] == pytest.approx(np.exp(entropy))
    assert found["collisions"] == 0.5 and found["largest_bucket"] == 2


def test_random_codes_are_of_their_seed() -> None:
    one, again = (semantic_ids.random_codes(9, num_codes=4, levels=2, seed=5) for _ in range(2))
    np.testing.assert_array_equal(one, again)
    assert one.shape == (9, 2) and one.min() >= 0 and one.max() < 4


# --- beam search -------------------------------------------------------------------------------------

B = 4
FIRST = RNG.normal(size=(B, K)).astype(np.float32)
AFTER = RNG.normal(size=(LEVELS, K, K)).astype(np.float32)


def step(state: Any, codes: Any, level: int) -> Any:
    """Logits by the code before. The state is the sum of codes so far, which moves with its beginning."""
    if codes is None:
        return jnp.asarray(FIRST)[:, None], state
    return jnp.asarray(AFTER)[level - 1][codes] * (1 + state), state + codes[..., None]


def search(k: int, width: int, masking: Masking = "after") -> Any:
    return jax.jit(
        lambda trie: beam.search(trie, step, jnp.zeros((B, 1, 1)), k=k, width=width, masking=masking)
    )(ids())


def slow(masking: Masking) -> np.ndarray:
    """Scores of all items, one after the other, [B, ITEMS]."""
    tuples = np.asarray(ids().codes)[1:]
    scores = np.zeros((B, ITEMS))
    for query in range(B):
        for item, row in enumerate(tuples):
            for level, code in enumerate(row):
                state = 1 + row[: max(level - 1, 0)].sum()
                logits = FIRST[query] if level == 0 else AFTER[level - 1][row[level - 1]] * state
                if masking == "before":
                    there = np.unique(tuples[(tuples[:, :level] == row[:level]).all(axis=1), level])
                    logits = np.where(np.isin(np.arange(K), there), logits, -np.inf)
                scores[query, item] += log_softmax(logits)[code]
    return scores


@pytest.mark.parametrize("masking", ["after", "before"])
def test_a_beam_of_all_items_is_exhaustive(masking: Masking) -> None:
    found, expected = search(ITEMS, ITEMS, masking), slow(masking)
    order = np.argsort(-expected, axis=1, kind="stable")
    np.testing.assert_allclose(found.scores, np.take_along_axis(expected, order, axis=1), rtol=1e-5)
    by_id = np.take_along_axis(expected, np.asarray(found.ids) - 1, axis=1)
    np.testing.assert_allclose(found.scores, by_id, rtol=1e-5)
    for row in found.ids.tolist():
        assert sorted(row) == list(range(1, ITEMS + 1))
    assert found.finite.all()
    assert (found.scored == sum(int((np.asarray(table) != -1).sum()) for table in ids().children)).all()


def test_masks_before_and_after_the_softmax_are_two_rankings() -> None:
    total = np.exp(search(ITEMS, ITEMS, "before").scores).sum(axis=1)
    np.testing.assert_allclose(total, 1.0, rtol=1e-5)  # all that is left, renormalised
    assert (np.exp(search(ITEMS, ITEMS).scores).sum(axis=1) < 0.9).all()
    assert (search(ITEMS, ITEMS, "before").ids != search(ITEMS, ITEMS).ids).any()


def test_a_narrow_beam_finds_items_each_once_with_their_true_scores() -> None:
    found, every = search(5, 5), slow("after")
    for query, row in enumerate(found.ids.tolist()):
        assert len(set(row)) == 5 and min(row) >= 1
        np.testing.assert_allclose(found.scores[query], every[query, np.array(row) - 1], rtol=1e-5)
    assert (np.diff(found.scores, axis=1) <= 0).all()


def test_a_beam_wider_than_the_items_ends_in_free_places() -> None:
    found = search(ITEMS + 3, ITEMS + 9)
    assert (found.ids[:, -3:] == 0).all() and (found.ids[:, :-3] > 0).all()
    assert (found.scores[:, -3:] == -jnp.inf).all()


def test_logits_that_are_no_numbers_are_noticed() -> None:
    def broken(state: Any, codes: Any, level: int) -> Any:
        logits, state = step(state, codes, level)
        return logits.at[1].set(jnp.nan), state

    found = beam.search(ids(), broken, jnp.zeros((B, 1, 1)), k=3, width=3)
    assert found.finite.tolist() == [True, False, True, True]


@pytest.mark.parametrize(("k", "width"), [(0, 3), (4, 3)])
def test_a_beam_narrower_than_the_list_is_refused(k: int, width: int) -> None:
    with pytest.raises(ValueError, match=f"k={k}, width={width}: "):
        beam.search(ids(), step, jnp.zeros((B, 1, 1)), k=k, width=width)


def test_an_unknown_masking_is_refused() -> None:
    with pytest.raises(ValueError, match="masking='never'"):
        beam.search(ids(), step, jnp.zeros((B, 1, 1)), k=1, width=1, masking="never")  # type: ignore[arg-type]
