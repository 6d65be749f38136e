import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxrec.augment import operators as ops
from jaxrec.augment.similarity import SimilarItems
from jaxrec.augment.views import (
    View,
    augment,
    enumerated_pairs,
    operators_by_initials,
    plan_in_blocks,
    random_pairs,
    unaugmented_users,
)
from tests.augment import python_operators as twin

WIDTH = 40
ROWS = twin.lists(longest=WIDTH, count=96)
ITEMS, TIMES, LENGTH = twin.arrays(ROWS, WIDTH)
SIMILAR = twin.similar()
FIVE = {
    "crop": ops.ti_crop(0.4),
    "mask": ops.ti_mask(0.7),
    "reorder": ops.ti_reorder(0.5),
    "insert": ops.ti_insert(0.5),
    "substitute": ops.ti_substitute(0.2),
}
RANDOM = View(tuple(FIVE.values()), operators_by_initials("SIM", **FIVE), 12, window=20, widths=(8, 16))
PLAIN = dataclasses.replace(RANDOM, widths=())  # the same at full width
compiled, plain = jax.jit(RANDOM), jax.jit(PLAIN)


@functools.cache
def program(operator: ops.Operator, window: int | None) -> Any:
    return jax.jit(functools.partial(augment, operator, window=window, widths=()))


def apply(operator: ops.Operator, *arrays: Any, window: int | None = None) -> Any:
    """An operator at full width: compiled once."""
    return program(operator, window)(*arrays)


@functools.cache
def result() -> Any:
    return jax.tree.map(np.asarray, compiled(jax.random.key(0), ITEMS, TIMES, LENGTH, SIMILAR))


def test_compiled_at_small_widths_equals_eager_at_full_width() -> None:
    eager = PLAIN(jax.random.key(0), ITEMS, TIMES, LENGTH, SIMILAR)
    jax.tree.map(np.testing.assert_array_equal, eager, result())


def test_vmap_over_keys_equals_one_key_after_another() -> None:
    keys = jax.random.split(jax.random.key(0), 2)
    both = jax.jit(jax.vmap(lambda key: RANDOM(key, ITEMS, TIMES, LENGTH, SIMILAR)))(keys)
    for i in range(2):
        one = compiled(keys[i], ITEMS, TIMES, LENGTH, SIMILAR)
        jax.tree.map(lambda a, b, i=i: np.testing.assert_array_equal(a[i], b), both, one)


def test_same_key_same_views_and_another_key_others() -> None:
    again = compiled(jax.random.key(0), ITEMS, TIMES, LENGTH, SIMILAR)
    other = compiled(jax.random.key(1), ITEMS, TIMES, LENGTH, SIMILAR)
    np.testing.assert_array_equal(again[0], result()[0])
    assert np.any(other[0] != result()[0])


def test_a_row_depends_on_its_own_key_alone() -> None:
    keys = jax.random.split(jax.random.key(0), len(ROWS))
    whole = plain(keys, ITEMS, TIMES, LENGTH, SIMILAR)
    part = plain(keys[50:60], ITEMS[50:60], TIMES[50:60], LENGTH[50:60], SIMILAR)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[50:60], b), whole, part)


def test_planned_beforehand_from_a_flat_column_gives_the_same() -> None:
    plan = jax.jit(lambda: plan_in_blocks(PLAIN, TIMES, LENGTH, width=WIDTH, block=40))()
    flat = jnp.asarray([item for items, _ in ROWS for item in items], jnp.int32)
    end = jnp.cumsum(LENGTH)
    order = np.random.default_rng(0).permutation(len(ROWS))
    keys = jax.random.split(jax.random.key(0), len(ROWS))
    got = jax.jit(functools.partial(PLAIN.apply, width=WIDTH))(
        keys[order],
        jax.tree.map(lambda x: np.asarray(x)[order], plan),
        flat,
        LENGTH[order],
        SIMILAR,
        end=end[order],
    )
    want = plain(keys, ITEMS, TIMES, LENGTH, SIMILAR)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[order]), got, want)


def test_wider_padding_changes_nothing() -> None:
    wide = jnp.pad(ITEMS, ((0, 0), (5, 0))), jnp.pad(TIMES, ((0, 0), (5, 0)))
    jax.tree.map(np.testing.assert_array_equal, plain(jax.random.key(0), *wide, LENGTH, SIMILAR), result())


def test_what_padding_holds_changes_nothing() -> None:
    real = jnp.arange(WIDTH) >= WIDTH - LENGTH[:, None]
    stamped = jnp.arange(WIDTH + 1) >= WIDTH - LENGTH[:, None]
    rubbish = jnp.where(real, ITEMS, 77), jnp.where(stamped, TIMES, 123456)
    got = compiled(jax.random.key(0), *rubbish, LENGTH, SIMILAR)
    jax.tree.map(np.testing.assert_array_equal, got, result())


def test_short_rows_get_the_short_set_and_long_rows_all() -> Any:
    def names(mine: Any, items: Any) -> Any:
        new = [item for item in mine if item > twin.STAND_IN]
        if 0 in mine:
            return {"mask"}
        if new:
            return {"insert"} if len(mine) > len(items) else {"substitute"}
        return {"crop"} if len(mine) < len(items) else {"reorder"}

    seen: dict[bool, set[str]] = {True: set(), False: set()}
    view = dataclasses.replace(PLAIN, window=80)
    step = jax.jit(view)
    for seed in range(8):
        got = twin.as_lists(step(jax.random.key(seed), ITEMS, TIMES, LENGTH, SIMILAR))
        for mine, (items, _) in zip(got, ROWS, strict=True):
            if len(items) > 5 and mine != items:
                seen[len(items) > 12] |= names(mine, items)
    assert seen == {True: set(FIVE), False: {"substitute", "insert", "mask"}}


@pytest.mark.parametrize("length, options", [(3, 3), (20, 5)])
def test_choice_is_uniform(length: Any, options: Any) -> None:
    rows = 8192
    keys = jax.random.split(jax.random.key(3), 2)
    seeds = [jax.random.bits(key, (rows,)) for key in keys]
    first, second = (np.asarray(RANDOM._choose(word, jnp.full(rows, length))) for word in seeds)
    assert stats.chisquare(np.unique(first, return_counts=True)[1]).pvalue > 1e-4
    joint = np.unique(np.stack([first, second]), axis=1, return_counts=True)[1]
    assert len(joint) == options**2
    assert stats.chisquare(joint).pvalue > 1e-4  # the two views of a pair choose independently


def test_the_last_events_are_kept_after_the_whole_row_was_augmented() -> None:
    for name in ("insert", "mask", "crop"):
        key = jax.random.key(0)
        whole = twin.as_lists(apply(FIVE[name], key, ITEMS, TIMES, LENGTH, SIMILAR, window=2 * WIDTH))
        cut = twin.as_lists(apply(FIVE[name], key, ITEMS, TIMES, LENGTH, SIMILAR, window=7))
        assert cut == [row[-7:] for row in whole]


@pytest.mark.parametrize("name", FIVE)
def test_reorder_and_others_cut_to_one_event(name: Any) -> None:
    items, length = apply(FIVE[name], jax.random.key(0), ITEMS, TIMES, LENGTH, SIMILAR, window=1)
    assert items.shape == (len(ROWS), 1)
    np.testing.assert_array_equal(length, np.minimum(LENGTH, 1))


@pytest.mark.parametrize("zero", [False, True])
def test_unaugmented_rows_stay_or_become_empty(zero: Any) -> None:
    view = dataclasses.replace(PLAIN, zero=zero)
    left = jnp.arange(len(ROWS)) % 3 == 0
    step = jax.jit(lambda left: view(jax.random.key(0), ITEMS, TIMES, LENGTH, SIMILAR, unaugmented=left))
    got = twin.as_lists(step(left))
    others = twin.as_lists(result())
    for row, (items, _) in enumerate(ROWS):
        assert got[row] == (([] if zero else items[-20:]) if row % 3 == 0 else others[row])


def test_items_without_neighbour_get_one_of_the_pool_drawn_anew() -> None:
    size = 300
    pool = jnp.zeros(size, jnp.int32).at[:3].set(jnp.asarray([250, 260, 270]))
    zero = jnp.float32(0)
    alone = SimilarItems(jnp.zeros(size, jnp.int32), jnp.zeros(size), zero, zero, pool, jnp.int32(3))
    step = jax.jit(lambda key: apply(ops.ti_substitute(1.0), key, ITEMS, TIMES, LENGTH, alone))
    drawn = []
    for seed in range(2):
        items, length = map(np.asarray, step(jax.random.key(seed)))
        real = (np.arange(WIDTH) >= WIDTH - length[:, None]) & (length[:, None] > 1)
        drawn.append(items[real])
    values, frequency = np.unique(drawn[0], return_counts=True)
    assert values.tolist() == [250, 260, 270]
    assert stats.chisquare(frequency).pvalue > 1e-4
    assert np.any(drawn[0] != drawn[1])


def test_no_operator_but_mask_ever_yields_padding_inside_a_row() -> None:
    for name in ("crop", "reorder", "insert", "substitute"):
        rows = twin.as_lists(apply(FIVE[name], jax.random.key(0), ITEMS, TIMES, LENGTH, SIMILAR))
        assert all(0 not in row for row in rows)


def test_random_operators_need_no_times() -> None:
    for make in (ops.crop, ops.mask, ops.reorder, ops.substitute, ops.insert):
        operator, key = make(0.4), jax.random.key(0)
        with_times = apply(operator, key, ITEMS, TIMES, LENGTH, SIMILAR)
        without = apply(operator, key, ITEMS, None, LENGTH, SIMILAR)
        jax.tree.map(np.testing.assert_array_equal, without, with_times)


def test_pairs() -> None:
    assert random_pairs(RANDOM) == ((RANDOM, RANDOM),)
    assert len(random_pairs(RANDOM, 4)) == 6
    pairs = enumerated_pairs(tuple(FIVE.values()), 3, window=9)
    crop, mask, reorder = (FIVE[name] for name in ("crop", "mask", "reorder"))
    assert [(a.operators, b.operators) for a, b in pairs] == [
        ((crop,), (mask,)),
        ((crop,), (reorder,)),
        ((mask,), (reorder,)),
    ]


def test_letters_name_operators() -> None:
    assert operators_by_initials("SIM", **FIVE) == (FIVE["substitute"], FIVE["insert"], FIVE["mask"])
    with pytest.raises(ValueError, match="letters='SX'"):
        operators_by_initials("SX", **FIVE)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"operators": ()}, "at least one operator"),
        ({"operators": tuple(FIVE.values()), "threshold": 12}, "0 for short"),
        ({"operators": tuple(FIVE.values()), "short": (FIVE["crop"],)}, "1 for short"),
        ({"operators": tuple(FIVE.values()), "threshold": 0}, "threshold=0"),
        ({"operators": tuple(FIVE.values()), "window": 0}, "window=0"),
    ],
)
def test_senseless_views_are_refused(arguments: Any, message: Any) -> None:
    with pytest.raises(ValueError, match=message):
        View(**arguments)


def test_missing_substitutes_are_refused() -> None:
    with pytest.raises(ValueError, match="similar=None"):
        RANDOM(jax.random.key(0), ITEMS, TIMES, LENGTH)


def test_intended_users_are_those_of_lowest_rank() -> None:
    rank = np.array([3, 0, 4, 1, 2])
    assert unaugmented_users(rank, 0.4).tolist() == [False, True, False, True, False]
    assert not unaugmented_users(rank, 0.0).any()
    assert unaugmented_users(rank, 1.0).all()


def test_official_users_are_those_whose_line_number_is_the_id_of_a_first_user() -> None:
    rank, ids = np.array([3, 0, 4, 1, 2]), np.array([1, 2, 3, 4, 5])
    # Lines 0 and 1 belong to users 2 and 4: the code leaves out the users on lines 2 and 4.
    assert unaugmented_users(rank, 0.4, user_ids=ids, official_bug=True).tolist() == [
        False,
        False,
        True,
        False,
        True,
    ]


def test_official_users_of_beauty(data_dir: Any) -> None:
    with np.load(data_dir / "ticoserec/Beauty/var_rank_user_order.npz") as file:
        order = file["user_order"]
    ids = np.sort(order)
    rank = np.empty(len(order), np.int64)
    rank[np.searchsorted(ids, order)] = np.arange(len(order))
    intended = unaugmented_users(rank, 0.15)
    official = unaugmented_users(rank, 0.15, user_ids=ids, official_bug=True)
    assert (intended.sum(), (intended & official).sum()) == (3354, 209)
