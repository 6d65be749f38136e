"""The task with explicit feedback: its windows against a loop over raw sequences, and what its terms read."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses
from jaxrec.packing import Packing
from jaxrec.tasks import feedback
from jaxrec.tasks.feedback import next_item_with_feedback
from jaxrec.tasks.next_item import next_item
from jaxrec.tasks.objectives import full_softmax
from jaxrec.types import Task
from tests.tasks.small import MAX_LEN, Averager, columns, split, training_events
from tests.tasks.test_next_item import MASK, PACKED, USERS, both, inputs_of, rows_of

WINDOW = 3
KINDS = np.random.default_rng(5).integers(-1, 2, len(split().sequences.items)).astype(np.int32)
TERMS = {"pair": feedback.pair(), "margins": feedback.margins(), "reject": feedback.not_to_recommend(block=7)}


def task_of(term: Any, packed: Packing | None = PACKED, **options: Any) -> Task:
    return next_item_with_feedback(Averager(), full_softmax(), term, window=WINDOW, packed=packed, **options)


@functools.cache
def prepared(packed: Packing | None, past: bool = False) -> Mapping[str, np.ndarray]:
    task = task_of(None, packed, past=past)
    batch = jax.jit(task.prepare)(jax.random.key(1), rows_of(packed), columns() | {"kind": KINDS})
    return {name: np.asarray(column) for name, column in batch.items()}


def kinds_of(user: int) -> list[int]:
    first = split().sequences.offsets[user]
    return KINDS[first : first + len(training_events(user))].tolist()


@both
@pytest.mark.parametrize("past", [False, True])
def test_a_window_holds_training_events_after_the_state_or_up_to_it(
    packed: Packing | None, past: bool
) -> None:
    batch = prepared(packed, past)
    for index, user in enumerate(USERS):
        mine = batch["segments"] == index + 1
        events, kinds = training_events(user) if MASK[index] else [], kinds_of(user)
        count = len(inputs_of(index)[0])
        for place, (items, found) in enumerate(
            zip(batch["window"][mine], batch["window_kind"][mine], strict=True)
        ):
            state = len(events) - 1 - count + place
            read = range(state, state - WINDOW, -1) if past else range(state + 1, state + 1 + WINDOW)
            inside = [event for event in read if 0 <= event < len(events)]
            none = [0] * (WINDOW - len(inside))
            assert items.tolist() == [*(events[event] for event in inside), *none]
            assert found.tolist() == [*(kinds[event] for event in inside), *none]
        targets = kinds[1:][-MAX_LEN:] if MASK[index] else []
        assert batch["kind"][mine].tolist() == targets


@both
def test_slots_without_an_event_have_no_window(packed: Packing | None) -> None:
    batch = prepared(packed)
    empty = batch["segments"] == 0
    assert empty.any()
    for name in ("kind", "window", "window_kind"):
        assert not batch[name][empty].any()


@functools.cache
def computed(name: str, packed: Packing | None, **options: Any) -> tuple[Any, Any]:
    """Losses and the gradient of their sum, of the variables that the task draws."""
    term = TERMS.get(name)
    task = (
        next_item(Averager(), full_softmax(), packed=packed)
        if name == "base"
        else task_of(term, packed, **options)
    )
    rows, context = jax.tree.map(jnp.asarray, (rows_of(packed), columns() | {"kind": KINDS}))

    @jax.jit
    def run(key: Any) -> Any:
        batch = task.prepare(key, rows, context)
        variables = jax.jit(task.init)(jax.random.key(2), batch)

        def total(v: Any) -> Any:
            found, _ = task.losses(v, batch, key)
            return sum(found.values()), found

        (_, found), gradient = jax.value_and_grad(total, has_aux=True)(variables)
        return found, gradient["params"]

    return run(jax.random.key(1))  # type: ignore[no-any-return]


def test_without_a_term_it_is_next_item_bit_for_bit() -> None:
    jax.tree.map(np.testing.assert_array_equal, computed("none", PACKED), computed("base", PACKED))


@pytest.mark.parametrize("name", TERMS)
def test_packed_and_padded_losses_agree(name: str) -> None:
    for ours, theirs in zip(
        jax.tree.leaves(computed(name, PACKED)), jax.tree.leaves(computed(name, None)), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", TERMS)
def test_the_second_loss_is_that_of_the_window(name: str) -> None:
    found, _ = computed(name, None)
    batch, task = prepared(None), task_of(None, None)
    variables = jax.jit(task.init)(jax.random.key(2), batch)
    hidden = np.asarray(jax.jit(task.predict)(variables, batch))
    table = np.asarray(variables["params"]["items"])
    if name == "reject":
        where = (batch["targets"] != 0) & (batch["kind"] < 0)
        expected = losses.not_to_recommend(*map(jnp.asarray, (hidden, table, batch["targets"])), where=where)
    else:
        loss = losses.feedback_pair if name == "pair" else losses.feedback_margins
        real, kind = batch["items"] != 0, batch["window_kind"][batch["items"] != 0]
        vectors = table[batch["window"][real]]
        expected = loss(hidden[real], vectors, vectors, liked_where=kind > 0, disliked_where=kind < 0)
    assert found["feedback"] > 0
    np.testing.assert_allclose(found["feedback"], expected, rtol=1e-5)


def test_the_objective_leaves_out_targets_of_a_smaller_kind() -> None:
    for least in (-1, 0, 1):
        found, _ = computed("pair", None, least_kind=least)
        batch, objective = prepared(None), full_softmax()
        task = task_of(None, None)
        variables = jax.jit(task.init)(jax.random.key(2), batch)
        hidden = jax.jit(task.predict)(variables, batch)
        kept = np.where(batch["kind"] >= least, batch["targets"], 0)
        expected = objective.loss(hidden, variables["params"]["items"], {"targets": jnp.asarray(kept)}, None)
        np.testing.assert_allclose(found["next_item"], expected, rtol=1e-5)


def test_items_of_the_past_are_constants_of_the_term() -> None:
    """With a term alone, the table has a gradient through the states only: none for items that none read."""

    def gradient(past: bool) -> np.ndarray:
        task = task_of(TERMS["pair"], past=past)
        batch = jax.tree.map(jnp.asarray, prepared(PACKED, past))
        batch = batch | {"items": jnp.where(batch["items"] == 0, 0, 1)}  # states read item 1
        variables = jax.jit(task.init)(jax.random.key(2), batch)
        of_term = jax.grad(lambda v: task.losses(v, batch, jax.random.key(0))[0]["feedback"])
        return np.asarray(jax.jit(of_term)(variables)["params"]["items"])

    assert gradient(past=False)[2:].any()
    assert not gradient(past=True)[2:].any()


@pytest.mark.parametrize(
    ("options", "match"),
    [({"window": 0}, "window=0"), ({"least_kind": 2}, "least_kind=2")],
)
def test_settings_out_of_range_are_refused(options: dict[str, int], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        next_item_with_feedback(Averager(), full_softmax(), None, **options)


def test_data_without_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no column 'kind': add it with protocols\.feedback\.with_kinds"):
        task_of(None).prepare(jax.random.key(0), rows_of(PACKED), columns())


def test_liked_and_disliked_clusters_come_apart_and_the_main_loss_does_not_rise() -> None:
    """Users like items 1..10 and reject 11..20: with the term, states separate what comes next of the two."""

    def descend(weight: float) -> tuple[float, float]:
        task = task_of(feedback.pair(), None)
        kinds = np.where(split().sequences.items <= 10, 1, -1).astype(np.int32)
        rows, context = jax.tree.map(jnp.asarray, (rows_of(None), columns() | {"kind": kinds}))

        @jax.jit
        def run(key: Any) -> Any:
            batch = task.prepare(key, rows, context)

            def total(v: Any) -> Any:
                found, _ = task.losses(v, batch, key)
                return found["next_item"] + weight * found["feedback"], found

            def step(_: int, v: Any) -> Any:
                return jax.tree.map(lambda p, g: p - 0.3 * g, v, jax.grad(total, has_aux=True)(v)[0])

            v = jax.lax.fori_loop(0, 400, step, task.init(jax.random.key(2), batch))
            hidden, table = task.predict(v, batch), v["params"]["items"]
            vectors, kind = table[batch["window"]], batch["window_kind"]
            (near, liked), (far, disliked) = (
                losses.list_cosines(hidden, vectors, kind == number) for number in (1, -1)
            )
            apart = losses.masked_mean(near - far, liked & disliked & (batch["items"] != 0))
            return apart, total(v)[1]["next_item"]

        apart, loss = run(jax.random.key(1))
        return float(apart), float(loss)

    (apart, with_term), (plain, without) = descend(1.0), descend(0.0)
    assert apart > 0.5 and apart > plain
    assert with_term < without + 0.3
