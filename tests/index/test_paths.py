"""Beams and searches by paths against enumeration on the host; adding items; what is refused."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, logsumexp

from jaxrec.index import paths
from jaxrec.index.paths import Paths, beam_search, build, codes_of, number_paths, search
from jaxrec.types import Array

K, D, J, ITEMS, QUERIES = 3, 3, 2, 40, 4
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(D, QUERIES, K**D, K)).astype(np.float32)  # of layer, query and prefix
SCORES = RNG.integers(0, 9, size=(QUERIES, ITEMS + 1)).astype(np.float32)  # with ties
QUERY = {"row": jnp.arange(QUERIES)}


def drawn_paths(items: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    chosen = np.stack([rng.choice(K**D, J, replace=False) for _ in range(items + 1)])
    return np.asarray(codes_of(jnp.asarray(chosen), num_codes=K, depth=D))


PATHS = drawn_paths(ITEMS)


def next_code(query: Any, begun: Array) -> Array:
    logits = jnp.asarray(LOGITS)[begun.shape[-1]][query["row"][:, None], number_paths(begun, K)]
    return jax.nn.log_softmax(logits)


def scorer(query: Any, ids: Array) -> Array:
    return jnp.where(ids > 0, jnp.asarray(SCORES)[query["row"][:, None], ids], jnp.nan)  # padding is not read


@functools.cache
def index() -> Paths:
    return build(PATHS, num_codes=K)


def path_log_prob() -> np.ndarray:
    """Of all K^D paths, in the order of their numbers, [Q, K^D]."""
    found = np.zeros((QUERIES, K**D))
    for number in range(K**D):
        begun = 0
        for layer, code in enumerate(np.unravel_index(number, (K,) * D)):
            found[:, number] += log_softmax(LOGITS[layer, :, begun], axis=-1)[:, code]
            begun = begun * K + int(code)
    return found


@functools.partial(jax.jit, static_argnames=("k", "width", "score", "follow"))
def searched(
    index: Paths, query: Any, k: int, width: int, score: Any = scorer, follow: Any = next_code
) -> Any:
    return search(index, score, query, k, width, next_code=follow)


@functools.partial(jax.jit, static_argnames=("follow", "width"))
def beam_of(follow: Any, query: Any, width: int) -> Any:
    return beam_search(follow, query, num_codes=K, depth=D, width=width)


def test_numbers_and_codes_of_paths_are_each_others_inverse() -> None:
    numbers = jnp.arange(K**D)
    codes = codes_of(numbers, num_codes=K, depth=D)
    assert codes.tolist() == [list(map(int, np.unravel_index(i, (K,) * D))) for i in range(K**D)]
    assert number_paths(codes, K).tolist() == numbers.tolist()


@pytest.mark.parametrize("width", [K ** (D - 1), K**D, 100])
def test_a_beam_of_all_prefixes_finds_the_most_probable_paths(width: int) -> None:
    beam = beam_of(next_code, QUERY, width)
    every, count = path_log_prob(), min(width, K**D)
    numbers = np.asarray(number_paths(beam.paths, K))
    assert numbers.shape == (QUERIES, count) and (np.diff(numbers) > 0).all() and beam.finite.all()
    for row in range(QUERIES):
        assert set(numbers[row]) == set(np.argsort(-every[row])[:count])
        np.testing.assert_allclose(beam.log_prob[row], every[row, numbers[row]], rtol=1e-5)


def test_probabilities_of_all_paths_sum_to_one() -> None:
    beam = beam_of(next_code, QUERY, K**D)
    np.testing.assert_allclose(jnp.exp(beam.log_prob).sum(axis=1), 1.0, rtol=1e-5)


def test_of_equal_paths_the_first_are_kept() -> None:
    beam = beam_of(lambda query, begun: jnp.zeros((*begun.shape[:2], K)), QUERY, 4)
    assert number_paths(beam.paths, K).tolist() == [[0, 1, 2, 3]] * QUERIES


def twin(width: int, k: int) -> list[tuple[list[int], list[float], int]]:
    """A beam, a union of lists and a sort, in plain Python."""
    found = []
    for row in range(QUERIES):
        beam: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
        for layer in range(D):
            longer = []
            for begun, log_prob in beam:
                place = functools.reduce(lambda a, b: a * K + b, begun, 0)
                step = log_softmax(LOGITS[layer, row, place].astype(np.float64))
                longer += [((*begun, code), log_prob + step[code]) for code in range(K)]
            beam = sorted(longer, key=lambda pair: -pair[1])[:width]
        chosen = {path for path, _ in beam}
        items = [i for i in range(1, ITEMS + 1) if chosen & {tuple(path) for path in PATHS[i].tolist()}]
        best = sorted(items, key=lambda i: (-SCORES[row, i], i))[:k]
        found.append((best, [float(SCORES[row, i]) for i in best], len(items)))
    return found


@pytest.mark.parametrize("width", [1, 3, 7])
def test_a_search_scores_the_items_of_the_beam_each_once(width: int) -> None:
    k = min(6, width * index().capacity)
    found = searched(index(), QUERY, k, width)
    for row, (best, scores, scored) in enumerate(twin(width, k)):
        missing = k - len(best)
        assert found.ids[row].tolist() == best + [0] * missing
        assert found.scores[row].tolist() == scores + [-np.inf] * missing
        assert found.scored[row] == scored and found.finite[row]


def test_all_paths_are_an_exact_search() -> None:
    found = searched(index(), QUERY, ITEMS, K**D)
    order = np.lexsort((np.broadcast_to(np.arange(1, ITEMS + 1), (QUERIES, ITEMS)), -SCORES[:, 1:]))
    assert found.ids.tolist() == (order + 1).tolist()
    assert (found.scored == ITEMS).all()


def test_items_by_the_likelihood_of_their_paths() -> None:
    def log_prob(query: Any, chosen: Array) -> Array:
        every = jnp.asarray(path_log_prob(), jnp.float32)
        return jnp.take_along_axis(every, number_paths(chosen, K), axis=1)

    score = paths.by_paths(index(), log_prob)
    found = searched(index(), QUERY, ITEMS, K**D, score)
    numbers = np.asarray(number_paths(jnp.asarray(PATHS), K))
    by_hand = logsumexp(path_log_prob()[:, numbers], axis=-1)
    for row in range(QUERIES):
        np.testing.assert_allclose(found.scores[row], by_hand[row, found.ids[row]], rtol=1e-5)
        assert (np.diff(found.scores[row]) <= 0).all()


def test_an_id_that_is_no_item_has_no_likelihood() -> None:
    score = paths.by_paths(index(), lambda query, chosen: jnp.zeros(chosen.shape[:2]))
    ids = jnp.array([[-1, 0, 1, ITEMS, ITEMS + 1, 10**6]])
    found = score({"row": jnp.zeros(1, jnp.int32)}, ids)
    assert np.isnan(found).tolist() == [[True, False, False, False, True, True]]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_query_with_a_score_that_is_no_number_is_marked(bad: float) -> None:
    def broken(query: Any, ids: Array) -> Array:
        return jnp.where((query["row"][:, None] == 1) & (ids == 7), bad, scorer(query, ids))

    found = searched(index(), QUERY, 3, K**D, broken)
    assert found.finite.tolist() == [True, False, True, True]

    def unsure(query: Any, begun: Array) -> Array:
        return jnp.where(query["row"][:, None, None] == 2, bad, next_code(query, begun))

    found = searched(index(), QUERY, 3, 2, follow=unsure)
    assert found.finite.tolist() == [True, True, False, True]


def test_what_scores_minus_infinity_is_in_no_list_but_was_scored() -> None:
    found = searched(index(), QUERY, 3, K**D, lambda query, ids: jnp.where(ids == 7, 1.0, -jnp.inf))
    assert found.ids.tolist() == [[7, 0, 0]] * QUERIES and (found.scored == ITEMS).all()


def test_paths_that_cannot_be_lead_to_nothing() -> None:
    def only_first(query: Any, begun: Array) -> Array:
        return jnp.broadcast_to(jnp.where(jnp.arange(K) == 0, 0.0, -jnp.inf), (*begun.shape[:2], K))

    found = searched(index(), QUERY, 5, 4, follow=only_first)
    first = [i for i in range(1, ITEMS + 1) if [0, 0, 0] in PATHS[i].tolist()]
    assert all(set(row.tolist()) - {0} == set(first) for row in found.ids) and found.finite.all()


@pytest.mark.parametrize("first", [1, 20, 39])
def test_an_index_with_added_items_is_that_of_all(first: int) -> None:
    grown = paths.add(build(PATHS[: first + 1], num_codes=K, capacity=20), PATHS[first + 1 :])
    whole = build(PATHS, num_codes=K, capacity=20)
    for ours, theirs in zip(jax.tree.leaves(grown), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert int(grown.count) == ITEMS


def test_many_added_items_need_more_room() -> None:
    more = drawn_paths(299, seed=1)
    grown = paths.add(build(PATHS, num_codes=K, capacity=100), more)
    assert grown.paths.shape[0] == 512 and int(grown.count) == 340
    assert (searched(grown, {"row": jnp.arange(1)}, 5, K**D).scored == 340).all()


def test_the_overflow_is_counted() -> None:
    load = np.bincount(np.asarray(number_paths(jnp.asarray(PATHS[1:]), K)).reshape(-1))
    for capacity in (1, 2, int(load.max())):
        found = paths.invert(jnp.asarray(PATHS), num_codes=K, capacity=capacity, count=ITEMS)
        assert int(found.overflow) == np.maximum(load - capacity, 0).sum()
    assert index().capacity == load.max()


def with_row(row: Any) -> np.ndarray:
    changed = PATHS.copy()
    changed[5] = row
    return changed


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (with_row([[0, 1, 3], [0, 0, 0]]), {}, r"row 5 is .*codes must lie in 0..2 \(num_codes=3\)"),
        (with_row(-1), {}, "row 5 is .*give each item its paths, 2 of 3 codes"),
        (with_row([[0, 1, 2], [0, 1, 2]]), {}, "row 5 is .*the paths of an item must be distinct"),
        (PATHS, {"capacity": 1}, "capacity=1: .* of 80 places of items lie beyond it"),
        (PATHS, {"capacity": 0}, "capacity=0: must be at least 1"),
        (PATHS[:1], {}, "of one item at least"),
        (PATHS.astype(np.float32), {}, "float32.*must be integers"),
        (PATHS[:, 0], {}, "must be integers"),
        (np.zeros((3, 1, 5), np.int32), {"num_codes": 100}, "num_codes=100, depth=5"),
    ],
)
def test_paths_that_are_none_are_refused(given: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(given, **{"num_codes": K, **options})


def test_added_items_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be \[A, 2, 3\], as in the index"):
        paths.add(index(), PATHS[:, :1])
    with pytest.raises(ValueError, match="places of items lie beyond it"):
        paths.add(index(), PATHS[1:])
    with pytest.raises(ValueError, match="row 1 is .*codes must lie in 0..2"):
        paths.add(index(), with_row(K)[4:7])


@pytest.mark.parametrize(
    ("k", "width", "message"),
    [(0, 2, "k=0: must be at least 1"), (1, 0, "width=0"), (99, 1, "k=99: 1 paths have room for .* items")],
)
def test_searches_that_mean_nothing_are_refused(k: int, width: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        searched(index(), QUERY, k, width)


def test_a_structure_of_other_codes_is_refused() -> None:
    with pytest.raises(ValueError, match="next_code of .*expected .*a log-probability for each code"):
        search(
            index(),
            scorer,
            QUERY,
            1,
            2,
            next_code=lambda query, begun: jnp.zeros((*begun.shape[:2], K + 1)),
        )
