"""HSTU over items and actions in turn: what each head may see, against HSTU's own layers on tokens."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from jaxrec.nn.layers.pointwise_attention import following
from jaxrec.nn.sequential.hstu_generative import GenerativeHSTU, in_turn
from tests.nn.drawn import drawn

LENGTH, NUM_ITEMS, NUM_ACTIONS = 5, 20, 4
MODEL: Any = GenerativeHSTU(
    NUM_ITEMS, NUM_ACTIONS, dim=6, num_layers=1, num_heads=2, key_dim=3, value_dim=4, max_len=LENGTH,
    spare_slots=1, head_dim=7, block=3,
)  # fmt: skip
ITEMS = np.array(
    [[1, 2, 3, 4, 5], [0, 0, 9, 2, 9], [9, 2, 9, 0, 0], [0, 0, 0, 0, 7], [0, 0, 0, 0, 0]], np.int32
)
ACTIONS = np.array(
    [[1, 2, 3, 4, 1], [0, 0, 4, 1, 2], [4, 1, 2, 0, 0], [0, 0, 0, 0, 3], [0, 0, 0, 0, 0]], np.int32
)
TIMES = np.cumsum(np.random.default_rng(0).integers(1, 90_000, ITEMS.shape), axis=1).astype(np.int32)
TIMES[2] = np.roll(TIMES[1], -2)
TIMES[2, 3:] = TIMES[2, 2]  # the last event of a row or segment is asked about at its own time
VARIABLES = drawn(MODEL, ITEMS, ACTIONS)
COMPILED = jax.jit(MODEL.apply)


def run(items: np.ndarray = ITEMS, actions: np.ndarray = ACTIONS, **parts: Any) -> dict[str, np.ndarray]:
    found = COMPILED(VARIABLES, items, actions, **{"times": TIMES, **parts})
    return {name: np.asarray(value) for name, value in found.items()}


def changed(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> dict[str, list[bool]]:
    """Which events of row 0 have another output."""
    return {name: (np.abs(after[name] - before[name])[0].max(axis=-1) > 1e-5).tolist() for name in before}


@pytest.mark.parametrize("event", [0, 2, 4])
def test_an_action_is_predicted_without_itself_and_from_its_item(event: int) -> None:
    """Another action reaches later events alone; another item its own prediction too (target-aware)."""
    before = run()
    earlier, later = [False] * event, [True] * (LENGTH - event - 1)
    actions, items = ACTIONS.copy(), ITEMS.copy()
    actions[0, event], items[0, event] = 1 + actions[0, event] % NUM_ACTIONS, 17
    assert changed(before, run(actions=actions)) == {
        "action": [*earlier, False, *later],
        "hidden": [*earlier, True, *later],
    }
    assert changed(before, run(items=items)) == {name: [*earlier, True, *later] for name in before}


def test_times_of_later_events_reach_the_state_that_asks_for_the_next_one() -> None:
    """The next event's time is when an item is asked for; an action is asked for at its item's time."""
    times = TIMES.copy()
    times[0, 3:] += 10**7
    assert changed(run(), run(times=times)) == {
        "action": [False, False, False, True, True],
        "hidden": [False, False, True, True, True],
    }


def test_the_time_of_the_prediction_is_that_which_is_asked_for() -> None:
    """With `target_times` what stands behind the last event is not read, and it moves its own state alone."""
    target_times = np.concatenate([TIMES[:, 1:], TIMES[:, -1:] + 500], axis=1)
    items, actions, times = ITEMS.copy(), ACTIONS.copy(), TIMES.copy()
    items[0, -1] = actions[0, -1] = 0
    before = run(items, actions, target_times=target_times)
    times[0, -1] += 10**7
    assert not any(
        any(rows)
        for rows in changed(before, run(items, actions, times=times, target_times=target_times)).values()
    )
    target_times[0, 3] += 10**7
    assert changed(before, run(items, actions, target_times=target_times)) == {
        "action": [False] * 5,
        "hidden": [False, False, False, True, False],
    }


def test_without_asked_it_is_the_time_in_the_next_slot() -> None:
    for name, value in run(target_times=np.asarray(following(TIMES))).items():
        np.testing.assert_array_equal(value, run()[name])


def test_an_unknown_action_has_no_token() -> None:
    """A candidate's logits are those with its action known; nothing is retrieved from it."""
    actions = ACTIONS.copy()
    actions[:, -1] = 0
    known, unknown = run(), run(actions=actions)
    np.testing.assert_allclose(unknown["action"], known["action"], atol=1e-6)
    np.testing.assert_allclose(unknown["hidden"][:, :-1], known["hidden"][:, :-1], atol=1e-6)
    assert (unknown["hidden"][:, -1] == 0).all()


def test_padding_on_either_side_changes_nothing_and_gives_zeros() -> None:
    found = run()
    for name, value in found.items():
        np.testing.assert_allclose(value[1, 2:], value[2, :3], atol=1e-6, err_msg=name)
        assert (value[ITEMS == 0] == 0).all()
    np.testing.assert_allclose(np.linalg.norm(found["hidden"][ITEMS > 0], axis=-1), 1, rtol=1e-5)


def test_actions_of_padding_are_not_read() -> None:
    actions = np.where(ITEMS == 0, 3, ACTIONS)
    for name, value in run(actions=actions).items():
        np.testing.assert_array_equal(value, run()[name])


def test_users_that_share_a_row_do_not_see_each_other() -> None:
    parts = [(3, slice(4, 5)), (1, slice(2, 5)), (0, slice(0, 5))]
    packed = [
        np.concatenate([*(column[part] for part in parts), [0]]).astype(np.int32)[None]
        for column in (ITEMS, ACTIONS, TIMES)
    ]
    segments = np.array([[1, 2, 2, 2, 3, 3, 3, 3, 3, 0]], np.int32)
    together, alone = run(*packed[:2], times=packed[2], segments=segments), run()
    for name, value in together.items():
        np.testing.assert_allclose(
            value[0, :9], np.concatenate([alone[name][part] for part in parts]), atol=3e-6, err_msg=name
        )
        assert (value[0, 9] == 0).all()


def test_gradients_of_both_heads_reach_every_parameter() -> None:
    weight = {name: np.random.default_rng(1).normal(size=value.shape) for name, value in run().items()}

    def total(variables: Any) -> Any:
        found = MODEL.apply(variables, ITEMS, ACTIONS, times=TIMES)
        return sum((found[name] * weight[name]).sum() for name in found)

    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(total))(VARIABLES)):
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 0, path


@pytest.mark.parametrize(
    ("fields", "parts", "message"),
    [
        ({"num_actions": 0}, {}, "num_actions=0"),
        ({"max_len": 3}, {}, "sequences of length 5: max_len \\+ spare_slots = 4"),
        ({"time_bias": False}, {"times": TIMES}, "does not read them"),
        ({}, {"target_times": TIMES}, "target_times: needs times"),
        ({}, {"times": TIMES.astype(np.float32)}, "times: float32 would lose seconds"),
        ({}, {"times": TIMES, "target_times": TIMES / 1.0}, "target_times: float64 would lose seconds"),
    ],
)
def test_what_is_refused(fields: dict[str, Any], parts: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: MODEL.clone(**fields).init(jax.random.key(0), ITEMS, ACTIONS, **parts))


def test_tokens_stand_in_turn() -> None:
    tokens = np.asarray(in_turn(ITEMS, ACTIONS))
    np.testing.assert_array_equal(tokens[0], [1, 1, 2, 2, 3, 3, 4, 4, 5, 1])
