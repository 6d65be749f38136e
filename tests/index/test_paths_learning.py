"""Streaming scores and coordinate descent against loops on the host, and what each has to guarantee."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.index.paths_learning import (
    PathScores,
    assign,
    draw_paths,
    merge,
    no_scores,
    observe,
    penalty_step,
    surrogate,
)

ITEMS, S, P, J = 12, 6, 9, 2
ASSIGN = jax.jit(assign, static_argnames=("num_paths", "alpha", "sweeps", "capacity"))


def test_a_score_changes_by_the_list_that_a_path_is_in() -> None:
    found = merge(
        jnp.array([4, 7, 2]), jnp.array([5.0, 3.0, 1.0]), jnp.array([7, 9, -1]), jnp.array([2.0, 2.5, 9.0]),
        decay=0.5,
    )  # fmt: skip
    # both: 0.5 · 3 + 2; only new: 0.5 · 1 + 2.5; only old: 0.5 · 5 and 0.5 · 1, of which the last falls out
    assert found.paths.tolist() == [7, 9, 4]
    np.testing.assert_allclose(found.scores, [3.5, 3.0, 2.5])


def test_the_least_score_of_a_list_with_room_is_zero() -> None:
    found = merge(
        jnp.array([4, -1, -1]),
        jnp.array([5.0, 0.0, 0.0]),
        jnp.array([7, -1]),
        jnp.array([2.0, 9.0]),
        decay=1.0,
    )
    assert found.paths.tolist() == [4, 7, -1]
    np.testing.assert_allclose(found.scores, [5.0, 2.0, 0.0])


def examples(count: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    items = rng.choice(4, count) * (rng.random(count) < 0.9)  # some are padding, many repeat
    chosen = np.stack([rng.choice(P, width, replace=False) for _ in range(count)])
    return items.astype(np.int32), chosen.astype(np.int32), rng.random((count, width)).astype(np.float32)


@pytest.mark.parametrize("decay", [1.0, 0.9])
def test_a_batch_counts_as_its_examples_one_by_one(decay: float) -> None:
    items, chosen, scores = examples(30, 3)
    lists: dict[int, dict[int, float]] = {item: {} for item in range(4)}
    for item, paths, values in zip(items, chosen, scores, strict=True):
        known = lists[item]
        least = min(known.values()) if len(known) == S else 0.0
        new = {path: decay * score for path, score in known.items()}
        for path, value in zip(paths.tolist(), values.tolist(), strict=True):
            new[path] = value + (new[path] if path in new else decay * least)
        if item:
            lists[item] = dict(sorted(new.items(), key=lambda pair: -pair[1])[:S])
    update = jax.jit(functools.partial(observe, decay=decay))
    found = no_scores(4, S)
    for part in (slice(0, 20), slice(20, 30)):
        found = update(found, items[part], chosen[part], scores[part])
    for item in range(4):
        expected = list(lists[item].items())
        assert [p for p in found.paths[item].tolist() if p >= 0] == [path for path, _ in expected]
        np.testing.assert_allclose(found.scores[item][: len(expected)], [s for _, s in expected], rtol=1e-5)
    assert (found.paths[0] == -1).all()


def test_complete_lists_without_decay_are_sums() -> None:
    items, _, scores = examples(25, P)
    chosen = np.broadcast_to(np.arange(P, dtype=np.int32), scores.shape)
    found = observe(no_scores(4, P), items, chosen, scores, decay=1.0)
    for item in range(1, 4):
        sums = scores[items == item].sum(axis=0)
        np.testing.assert_allclose(found.scores[item], np.sort(sums)[::-1], rtol=1e-5)
        assert found.paths[item].tolist() == np.argsort(-sums).tolist()


def drawn_scores(seed: int = 0, complete: bool = False) -> tuple[PathScores, np.ndarray]:
    """Lists of random paths, and how many examples each item has."""
    rng = np.random.default_rng(seed)
    size = P if complete else S
    chosen = np.stack([rng.choice(P, size, replace=False) for _ in range(ITEMS + 1)]).astype(np.int32)
    values = -np.sort(-(rng.random((ITEMS + 1, size)).astype(np.float32) ** 3), axis=1)
    counts = rng.integers(1, 20, ITEMS + 1)
    return PathScores(jnp.asarray(chosen), jnp.asarray(values)), counts


def start(seed: int = 0, paths_per_item: int = J) -> jax.Array:
    return draw_paths(jax.random.key(seed), num_items=ITEMS, paths_per_item=paths_per_item, num_paths=P)


def dense(known: PathScores) -> np.ndarray:
    """Scores of all paths, [V, P]."""
    found = np.zeros((ITEMS + 1, P))
    np.put_along_axis(found, np.asarray(known.paths), np.asarray(known.scores), axis=1)
    return found


def descent(
    known: PathScores, counts: np.ndarray, paths: np.ndarray, alpha: float, sweeps: int
) -> np.ndarray:
    """Coordinate descent in plain Python."""
    paths, scores = paths.copy(), dense(known)
    load = np.bincount(paths[1:].reshape(-1), minlength=P)
    for _ in range(sweeps):
        for item in range(1, ITEMS + 1):
            own = paths[item].tolist()
            load[own] -= 1
            among, part, taken = [*known.paths[item].tolist(), *own], 0.0, []
            for _ in own:

                def gain(path: int, part: float = part, item: int = item) -> float:
                    grown = counts[item] * np.log(max(part + scores[item, path], 1e-30))
                    n = load[path]
                    return grown - alpha * ((n + 1) ** 4 - n**4) / 4

                best = max((path for path in among if path not in taken), key=gain)
                taken.append(best)
                part += scores[item, best]
            paths[item] = taken
            load[taken] += 1
    return paths


@pytest.mark.parametrize("alpha", [0.0, 0.02, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_descent_is_a_loop_over_items(alpha: float, seed: int) -> None:
    known, counts = drawn_scores(seed)
    found = ASSIGN(known, counts, start(seed), num_paths=P, alpha=alpha, sweeps=2)
    assert found.paths[1:].tolist() == descent(known, counts, np.asarray(start(seed)), alpha, 2)[1:].tolist()


@pytest.mark.parametrize("capacity", [None, 4])
@pytest.mark.parametrize("alpha", [0.0, 0.1])
def test_every_item_keeps_distinct_paths_and_no_path_is_too_full(alpha: float, capacity: int | None) -> None:
    known, counts = drawn_scores()
    found = ASSIGN(known, counts, start(), num_paths=P, alpha=alpha, sweeps=3, capacity=capacity)
    rows = np.asarray(found.paths[1:])
    assert all(len(set(row)) == J for row in rows.tolist()) and (rows >= 0).all() and (rows < P).all()
    np.testing.assert_array_equal(found.load, np.bincount(rows.reshape(-1), minlength=P))
    assert found.load.sum() == ITEMS * J and found.load.max() <= (capacity or ITEMS)
    assert (found.paths[0] == -1).all()


def test_without_a_penalty_each_item_takes_its_most_probable_path() -> None:
    known, counts = drawn_scores()
    found = ASSIGN(known, counts, start(paths_per_item=1), num_paths=P, alpha=0.0, sweeps=1)
    assert found.paths[1:, 0].tolist() == known.paths[1:, 0].tolist()


def test_a_larger_penalty_lowers_the_fullest_path() -> None:
    one = PathScores(
        jnp.broadcast_to(jnp.arange(S, dtype=jnp.int32), (ITEMS + 1, S)),
        jnp.broadcast_to(jnp.linspace(1.0, 0.5, S), (ITEMS + 1, S)),
    )
    fullest = [
        int(ASSIGN(one, np.full(ITEMS + 1, 5), start(), num_paths=P, alpha=alpha, sweeps=4).load.max())
        for alpha in (0.0, 1e-3, 1e-2, 1.0)
    ]
    assert fullest[0] == ITEMS and fullest == sorted(fullest, reverse=True) and fullest[-1] <= 5


@pytest.mark.parametrize("seed", range(4))
def test_a_sweep_of_one_path_an_item_never_lowers_the_surrogate(seed: int) -> None:
    known, counts = drawn_scores(seed, complete=True)
    paths, values = start(seed, 1), []
    for _ in range(4):
        found = ASSIGN(known, counts, paths, num_paths=P, alpha=0.05, sweeps=1)
        paths, value = found.paths, surrogate(known, counts, found, alpha=0.05)
        values.append(float(value))
    assert all(b >= a - 1e-4 for a, b in itertools.pairwise(values))
    by_hand = sum(
        counts[v] * np.log(dense(known)[v, np.asarray(paths)[v]].sum()) for v in range(1, ITEMS + 1)
    )
    load = np.bincount(np.asarray(paths)[1:].reshape(-1), minlength=P)
    np.testing.assert_allclose(values[-1], by_hand - 0.05 * (load.astype(float) ** 4).sum() / 4, rtol=1e-5)


def test_an_item_without_examples_stays() -> None:
    known, counts = drawn_scores()
    known = PathScores(known.paths.at[3].set(-1), known.scores.at[3].set(0.0))
    counts[3] = 0
    found = ASSIGN(known, counts, start(), num_paths=P, alpha=0.01, sweeps=2)
    assert set(found.paths[3].tolist()) == set(start()[3].tolist())
    assert (found.paths[1:] != start()[1:]).any()


def test_the_penalty_of_one_more_item() -> None:
    n = np.arange(6.0)
    np.testing.assert_allclose(penalty_step(jnp.arange(6)), ((n + 1) ** 4 - n**4) / 4)
    assert penalty_step(jnp.arange(2)).tolist() == [1 / 4, 15 / 4]


def test_items_begin_on_distinct_paths_that_are_evenly_full() -> None:
    found = np.asarray(start(paths_per_item=4))
    assert found.shape == (ITEMS + 1, 4) and (found[0] == -1).all()
    assert all(len(set(row)) == 4 for row in found[1:].tolist())
    load = np.bincount(found[1:].reshape(-1), minlength=P)
    assert load.max() - load.min() <= 1
    assert (found != np.asarray(start(seed=1, paths_per_item=4))).any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: start(paths_per_item=P + 1), "paths_per_item=10: must lie in 1..9"),
        (lambda: no_scores(0, 3), "vocab_size=0"),
        (lambda: no_scores(3, 0), "size=0"),
        (lambda: assign(*drawn_scores(), start(), num_paths=P, alpha=-1.0), "alpha=-1.0: must be 0 or more"),
        (lambda: assign(*drawn_scores(), start(), num_paths=P, alpha=0.1, sweeps=0), "sweeps=0"),
    ],
)
def test_wrong_numbers_are_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
