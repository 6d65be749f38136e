"""The order of an epoch, its scan over steps, and one training step."""

from __future__ import annotations

import functools
from typing import Any

import chex  # type: ignore[import-untyped]
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrec.optim.loss_weighting import static
from jaxrec.packing import Packing
from jaxrec.tasks.combine import combine
from jaxrec.train import identity
from jaxrec.train.epoch import by_group, make_epoch, shuffled
from jaxrec.train.state import TrainState, create
from jaxrec.train.step import epoch_mean, make_step
from tests.train import toy

TX = optax.adam(0.05)


def drawn(plan: Any, seed: int, context: Any = None) -> tuple[dict[str, np.ndarray], bool]:
    rows, ok = jax.jit(plan.draw)(jax.random.key(seed), context or {})
    return {name: np.asarray(column) for name, column in rows.items()}, bool(ok)


@pytest.mark.parametrize(("count", "batch_size", "steps"), [(10, 4, 3), (8, 4, 2), (3, 4, 1), (5, 1, 5)])
def test_every_example_once_and_a_masked_tail(count: int, batch_size: int, steps: int) -> None:
    rows, ok = drawn(shuffled(count, batch_size), 0)
    assert ok
    assert rows["example"].shape == rows["mask"].shape == (steps, batch_size)
    assert sorted(rows["example"][rows["mask"]]) == list(range(count))
    assert rows["mask"].ravel().tolist() == [True] * count + [False] * (steps * batch_size - count)
    order = rows["example"].ravel()
    np.testing.assert_array_equal(order[count:], np.resize(order[:count], len(order) - count))


def test_orders_differ_between_keys_and_repeat_for_a_key() -> None:
    plan = shuffled(50, 8)
    assert drawn(plan, 0)[0]["example"].tolist() == drawn(plan, 0)[0]["example"].tolist()
    assert drawn(plan, 0)[0]["example"].tolist() != drawn(plan, 1)[0]["example"].tolist()


def test_replacement_draws_each_example_independently() -> None:
    rows, _ = drawn(shuffled(50, 8, replacement=True), 0)
    assert rows["mask"].all()
    assert rows["example"].min() >= 0
    assert rows["example"].max() < 50
    assert len({*rows["example"].ravel().tolist()}) < 50  # of 56 draws about a third are repeated


def lengths(context: Any, user: Any) -> Any:
    return context["length"][user]


def test_groups_are_drawn_alike_and_members_within_them() -> None:
    sizes = np.array([1, 0, 3, 6], np.int32)
    start = (np.cumsum(sizes) - sizes).astype(np.int32)
    plan = by_group(9_999, 100, start="start", count="count")
    rows, ok = drawn(plan, 0, {"start": jnp.asarray(start), "count": jnp.asarray(sizes)})
    assert ok and plan.num_steps == 100
    assert rows["mask"].sum() == 9_999 and not rows["mask"][-1, -1]
    drawn_often = np.bincount(rows["example"].ravel(), minlength=10)
    expected = np.repeat(1 / 3 / sizes[sizes > 0], sizes[sizes > 0])
    np.testing.assert_allclose(drawn_often / 10_000, expected, atol=0.02)
    again, _ = drawn(plan, 1, {"start": jnp.asarray(start), "count": jnp.asarray(sizes)})
    assert not np.array_equal(again["example"], rows["example"])


def test_packed_batches_carry_places_that_do_not_overlap() -> None:
    context = {"length": jnp.array([3, 1, 4, 1, 5, 2, 0, 3, 2, 1])}
    rows, ok = drawn(shuffled(10, 4, lengths=lengths, packing=Packing(3, 5)), 0, context)
    assert ok
    assert sorted(rows["example"][rows["mask"]]) == list(range(10))
    for user, mask, row, slot in zip(rows["example"], rows["mask"], rows["row"], rows["slot"], strict=True):
        used = np.zeros((3, 5), int)
        for u, m, r, s in zip(user, mask, row, slot, strict=True):
            n = int(context["length"][u]) if m else 0
            used[r : r + 1, s : s + n] += 1
            assert n == 0 or (r < 3 and s + n <= 5)
        assert used.max() <= 1


def test_an_order_whose_batches_do_not_fit_is_drawn_again() -> None:
    context = {"length": jnp.array([4, 4, 1, 1])}  # both long ones in one batch of two do not fit one row
    plan = shuffled(4, 2, lengths=lengths, packing=Packing(1, 5))
    assert not all(
        (np.asarray(jax.random.permutation(jax.random.fold_in(jax.random.key(s), 0), 4)).reshape(2, 2) < 2)
        .any(axis=1)
        .all()
        for s in range(20)
    )  # some first orders put both into one batch
    for seed in range(20):
        rows, ok = drawn(plan, seed, context)
        assert ok
        assert (rows["example"] < 2).any(axis=1).all()
        assert sorted(rows["example"].ravel()) == [0, 1, 2, 3]


def test_a_plan_without_a_fitting_order_says_so() -> None:
    context = {"length": jnp.array([4, 4, 4, 4])}
    assert not drawn(shuffled(4, 2, lengths=lengths, packing=Packing(1, 5)), 0, context)[1]


@pytest.mark.parametrize(("count", "batch_size", "message"), [(0, 4, "no example"), (4, 0, "batch_size=0")])
def test_plans_are_checked(count: int, batch_size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        shuffled(count, batch_size)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lengths": lengths}, "lengths is given and packing is not: .* give packing too, or neither"),
        ({"packing": Packing(3, 5)}, "packing is given and lengths is not: .* give lengths too, or neither"),
    ],
)
def test_packed_rows_need_lengths_and_packing(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        shuffled(10, 4, **arguments)


CHOSEN = np.array([9, 2, 30, 4, 7, 11, 17])


@pytest.mark.parametrize("replacement", [False, True])
def test_chosen_examples_are_drawn_in_the_order_of_as_many(replacement: bool) -> None:
    rows, _ = drawn(shuffled(40, 3, examples=CHOSEN, replacement=replacement), 5)
    alone, _ = drawn(shuffled(len(CHOSEN), 3, replacement=replacement), 5)
    np.testing.assert_array_equal(rows["example"], CHOSEN[alone["example"]])
    np.testing.assert_array_equal(rows["mask"], alone["mask"])
    assert rows["example"].dtype == np.int32
    assert replacement or sorted(rows["example"][rows["mask"]]) == sorted(CHOSEN)


def test_chosen_examples_are_placed_by_their_own_lengths() -> None:
    context = {"length": jnp.full(40, 9).at[CHOSEN].set(jnp.array([4, 4, 1, 1, 2, 2, 3]))}
    rows, ok = drawn(shuffled(40, 4, examples=CHOSEN, lengths=lengths, packing=Packing(3, 5)), 0, context)
    assert ok
    assert (rows["row"][rows["mask"]] < 3).all()


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        (np.array([0, 40]), r"examples: 0..40: must be in 0..39"),
        (np.array([-1, 3]), r"examples: -1..3: must be in 0..39"),
        (np.array([], int), "examples: empty"),
        (np.ones(40, bool), "must be numbers of examples, integers .* of a mask give np.flatnonzero"),
        (np.zeros((2, 2), int), r"int64\[2, 2\]: must be numbers of examples"),
    ],
)
def test_chosen_examples_are_checked(examples: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        shuffled(40, 4, examples=examples)


def test_a_run_of_other_chosen_examples_is_another_run() -> None:
    """Their number is the same, so that no shape tells them apart."""
    found = [identity.steps(shuffled(40, 3, examples=chosen), {}) for chosen in (CHOSEN, CHOSEN + 1)]
    assert found[0] != found[1]
    assert found[0] == identity.steps(shuffled(40, 3, examples=CHOSEN.copy()), {})
    assert found[0] | found[1] == found[1] != identity.steps(shuffled(7, 3), {})


# --- steps and epochs --------------------------------------------------------------------------------------


@functools.cache
def initial() -> TrainState:
    rows, _ = toy.plan().draw(jax.random.key(0), toy.context())
    first = jax.tree.map(lambda x: x[0], rows)
    context = jax.tree.map(jnp.asarray, toy.context())
    new = jax.jit(lambda key: create(toy.factors(), TX, static(), key, first, context))
    return new(jax.random.key(0))


def start() -> TrainState:
    """A copy, since a donated state is gone."""
    return jax.tree.map(jnp.copy, initial())


def test_an_epoch_is_traced_once() -> None:
    chex.clear_trace_counter()
    calls: list[str] = []
    run = make_epoch(make_step(toy.factors(calls), TX, static()), toy.plan())
    compiled = jax.jit(chex.assert_max_traces(run, n=1), donate_argnums=0)
    state, context = start(), jax.tree.map(jnp.asarray, toy.context())
    state, _ = compiled(state, context, jnp.int32(0), jnp.int32(0))
    once = len(calls)
    for epoch in range(1, 4):
        state, _ = compiled(state, context, jnp.int32(epoch), jnp.int32(0))
    assert len(calls) == once > 0
    assert int(state.step) == 4 * 3


def test_donated_state_is_gone() -> None:
    state, context = start(), jax.tree.map(jnp.asarray, toy.context())
    users = state.params["model"]["users"]
    run = make_epoch(make_step(toy.factors(), TX, static()), toy.plan())
    jax.jit(run, donate_argnums=0)(state, context, jnp.int32(0), jnp.int32(0))
    assert users.is_deleted()


@pytest.mark.parametrize("calls", [2, 3, 5])
def test_an_epoch_cut_into_calls_has_the_same_bits(calls: int) -> None:
    step, context = make_step(toy.factors(), TX, static()), jax.tree.map(jnp.asarray, toy.context())
    whole, means = jax.jit(make_epoch(step, toy.plan()))(start(), context, jnp.int32(1), jnp.int32(0))
    run, state, losses = jax.jit(make_epoch(step, toy.plan(), calls=calls)), start(), []
    for call in range(calls):
        state, part = run(state, context, jnp.int32(1), jnp.int32(call))
        losses.append(float(part["loss"]))
    toy.same_bits(state, whole)
    size = -(-3 // calls)
    steps = [max(min(size, 3 - call * size), 0) for call in range(calls)]
    assert np.average(losses, weights=steps) == pytest.approx(float(means["loss"]), rel=1e-6)


def test_epochs_differ_in_order_and_noise() -> None:
    run = jax.jit(make_epoch(make_step(toy.factors(), TX, static()), toy.plan()))
    context = jax.tree.map(jnp.asarray, toy.context())
    ends = [run(start(), context, jnp.int32(epoch), jnp.int32(0))[0].params for epoch in (0, 0, 1)]
    toy.same_bits(ends[0], ends[1])
    assert not np.array_equal(ends[0]["model"]["users"], ends[2]["model"]["users"])


def test_refreshed_columns_come_from_the_variables_at_the_start_of_a_call() -> None:
    task = toy.factors()
    seen = task._replace(
        prepare=lambda key, rows, context: {
            **task.prepare(key, rows, context),
            "live": jnp.broadcast_to(context["live"], rows["example"].shape),
        }
    )
    told = seen._replace(
        losses=lambda v, batch, key, axis_name=None: (
            {**task.losses(v, batch, key)[0], "live": batch["live"].mean()}, {},
        )
    )  # fmt: skip
    run = make_epoch(
        make_step(told, TX, static({"bce": 1.0, "live": 0.0})),
        toy.plan(),
        refresh=lambda variables, context: {"live": variables["params"]["users"].sum()},
    )
    state, context = start(), jax.tree.map(jnp.asarray, toy.context())
    for epoch in range(2):
        expected = float(state.params["model"]["users"].sum())
        state, means = jax.jit(run)(state, context, jnp.int32(epoch), jnp.int32(0))
        assert float(means["live"]) == pytest.approx(expected, abs=1e-6)


def test_a_step_logs_raw_losses_and_descends_on_their_weighted_sum() -> None:
    both = combine(a=toy.factors(name="a", noise=0.0), b=toy.factors(name="b", scale=2.0, noise=0.0))
    weighting = static({"a": 1.0, "b": 0.25})
    rows, _ = toy.plan().draw(jax.random.key(0), {})
    first = jax.tree.map(lambda x: x[0], rows)
    context = jax.tree.map(jnp.asarray, toy.context())
    state = jax.jit(lambda key: create(both, optax.sgd(1.0), weighting, key, first, context))(
        jax.random.key(0)
    )
    after, logs = jax.jit(make_step(both, optax.sgd(1.0), weighting))(state, first, context)
    assert {*logs} == {"loss", "a", "b"}
    assert float(logs["loss"]) == pytest.approx(float(logs["a"]) + 0.25 * float(logs["b"]), rel=1e-6)
    assert int(after.step) == 1

    prepare_key, loss_key = jax.random.split(jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 2), 0))
    batch = both.prepare(prepare_key, first, context)

    def total(params: Any) -> Any:
        found = both.losses({"params": params}, batch, loss_key)[0]
        return found["a"] + 0.25 * found["b"]

    gradient = jax.grad(total)(state.params["model"])
    for name in gradient:
        expected = state.params["model"][name] - gradient[name]
        np.testing.assert_allclose(after.params["model"][name], expected, rtol=1e-5, atol=1e-6)


def test_padding_of_the_tail_teaches_nothing() -> None:
    rows = {"example": jnp.array([1, 2, 0, 0]), "mask": jnp.array([True, True, False, False])}
    context = jax.tree.map(jnp.asarray, toy.context())
    step = jax.jit(make_step(toy.factors(), optax.sgd(1.0), static()))
    started = jax.jit(lambda key: create(toy.factors(), optax.sgd(1.0), static(), key, rows, context))
    state = started(jax.random.key(0))
    after, _ = step(state, rows, context)
    moved = np.abs(np.asarray(after.params["model"]["users"] - state.params["model"]["users"])).sum(axis=1)
    assert (np.flatnonzero(moved) == [1, 2]).all()


def test_mean_of_the_steps_that_ran() -> None:
    logs = {"a": jnp.array([1.0, 3.0, jnp.nan])}
    assert float(epoch_mean(logs, jnp.array([True, True, False]))["a"]) == 2.0
