"""Latent Cross: what multiplies states, when, and which context it is."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.nn.sequential.latent_cross import GAPS, LatentCross, cross, gap_ids, gaps_before
from jaxrec.packing import Packing
from jaxrec.tasks.encoder import check_encoder, reads_times

RNG = np.random.default_rng(0)
ITEMS = np.array([[0, 0, 4, 9, 2], [1, 2, 3, 4, 5], [0, 7, 0, 7, 3]], np.int32)  # the last has a masked item
TIMES = np.cumsum(RNG.integers(0, 5000, ITEMS.shape), axis=1).astype(np.int32)
AFTER = np.concatenate([TIMES[:, 1:], TIMES[:, -1:] + 77], axis=1).astype(np.int32)
SIZES: dict[str, Any] = {"num_items": 9, "dim": 4, "hidden_dim": 6, "context_dim": 3, "max_len": 5}
MODEL = LatentCross(**SIZES)


def drawn(model: LatentCross, scale: float = 0.5) -> Any:
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), ITEMS, train=False))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: scale * rng.normal(size=leaf.shape).astype(np.float32), shapes)


VARIABLES = drawn(MODEL)


@jax.jit
def run(variables: Any, items: Any, times: Any, after: Any) -> Any:
    return MODEL.apply(variables, items, times=times, target_times=after, train=False)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def slow(items: np.ndarray, times: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Outputs for one row, slot by slot, in float64."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), VARIABLES["params"])
    state, found = np.zeros(6), np.zeros((len(items), 4))

    def bucket(seconds: int) -> int:
        return 1 + len(f"{seconds:b}") if seconds else 1

    for t, item in enumerate(items):
        if not item:
            continue
        before = bucket(int(times[t] - times[t - 1])) if t and items[t - 1] else 0
        ahead = bucket(int(after[t] - times[t]))
        x = np.concatenate([p["item_embedding"][item], p["context_before"][before]])
        x = np.maximum(x @ p["inner"]["kernel"] + p["inner"]["bias"], 0) * (1 + p["pre_context"][before])
        i = np.split(x @ p["gru"]["input_kernel"] + p["gru"]["input_bias"], 3)
        h = np.split(state @ p["gru"]["hidden_kernel"] + p["gru"]["hidden_bias"], 3)
        r, z = sigmoid(i[0] + h[0]), sigmoid(i[1] + h[1])
        state = (1 - z) * np.tanh(i[2] + r * h[2]) + z * state
        crossed = np.concatenate([state * (1 + p["post_context"][ahead]), p["context_after"][ahead]])
        found[t] = crossed @ p["output"]["kernel"] + p["output"]["bias"]
    return found


def test_it_equals_a_loop() -> None:
    found = run(VARIABLES, ITEMS, TIMES, AFTER)
    expected = np.stack([slow(*row) for row in zip(ITEMS, TIMES, AFTER, strict=True)])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_contexts_are_summed_and_not_multiplied() -> None:
    h, a, b = RNG.normal(size=(3, 4))
    np.testing.assert_allclose(cross(h, a, b), h * (1 + a + b), rtol=1e-6)
    assert not np.allclose(cross(h, a, b), h * (1 + a) * (1 + b))
    np.testing.assert_allclose(cross(h, a, -a), h, rtol=1e-6)
    np.testing.assert_array_equal(cross(h, -np.ones(4)), np.zeros(4))
    np.testing.assert_array_equal(cross(h), h)


def test_gaps_double_and_have_a_row_each() -> None:
    seconds = np.array([-5, 0, 1, 2, 3, 4, 7, 8, 2**31 - 1], np.int32)
    assert gap_ids(seconds).tolist() == [1, 1, 2, 3, 3, 4, 4, 5, 32]
    assert int(gap_ids(seconds).max()) < GAPS


def test_a_first_event_has_no_gap_before_it() -> None:
    found = np.asarray(gaps_before(TIMES, ITEMS, None))
    assert (found[ITEMS == 0] == 0).all()
    assert found[0, 2] == 0 and found[1, 0] == 0 and found[2, 1] == 0 and found[2, 3] == 0
    packed = np.array([[1, 1, 2, 2, 2]])
    assert (np.asarray(gaps_before(TIMES[1:2], ITEMS[1:2], packed))[0] > 0).tolist() == [
        False, True, False, True, True,
    ]  # fmt: skip


def test_contexts_of_zeros_are_the_base_model_to_the_bit() -> None:
    base = LatentCross(**SIZES, pre=False, post=False, concat=False)
    crossed = LatentCross(**SIZES, concat=False)
    params = dict(drawn(crossed)["params"])
    zeros = {name: np.zeros_like(params[name]) for name in ("pre_context", "post_context")}
    plain = {name: leaf for name, leaf in params.items() if name not in zeros}
    found = crossed.apply({"params": params | zeros}, ITEMS, times=TIMES, target_times=AFTER, train=False)
    np.testing.assert_array_equal(found, base.apply({"params": plain}, ITEMS, train=False))
    np.testing.assert_array_equal(  # without times nothing is known, and nothing multiplied
        crossed.apply({"params": params | zeros}, ITEMS, train=False), found
    )


def test_after_the_gru_the_context_does_not_change_what_it_stores() -> None:
    """Another time of the target at one slot changes the output there alone."""
    changed = AFTER.copy()
    changed[1, 2] += 100_000
    before, after = (
        np.asarray(run(VARIABLES, ITEMS, TIMES, AFTER)),
        np.asarray(run(VARIABLES, ITEMS, TIMES, changed)),
    )
    moved = np.abs(after - before).max(axis=-1) > 1e-6
    assert moved.tolist() == [[False] * 5, [False, False, True, False, False], [False] * 5]


def test_before_the_gru_it_does() -> None:
    """A later first event changes the gap that the second reads, and all outputs from there on."""
    changed = TIMES.copy()
    changed[1, 0] -= 100_000
    moved = np.abs(np.asarray(run(VARIABLES, ITEMS, changed, AFTER) - run(VARIABLES, ITEMS, TIMES, AFTER)))
    assert (moved[1].max(axis=-1) > 1e-6).all()  # at the first slot by the gap until the next event


def test_masked_events_leave_the_state_alone_whatever_their_time() -> None:
    changed = np.where(ITEMS == 0, TIMES + 9999, TIMES).astype(np.int32)
    np.testing.assert_array_equal(run(VARIABLES, ITEMS, changed, AFTER), run(VARIABLES, ITEMS, TIMES, AFTER))


def test_times_of_targets_are_by_default_those_of_the_events_after() -> None:
    real = np.ones_like(ITEMS)
    ahead = np.concatenate([TIMES[:, 1:], TIMES[:, -1:]], axis=1)
    found = MODEL.apply(VARIABLES, real, times=TIMES, train=False)
    np.testing.assert_allclose(found, run(VARIABLES, real, TIMES, ahead), atol=1e-6)


@pytest.mark.parametrize("parts", [("pre",), ("post",), ("concat",), ("pre", "post", "concat")])
def test_it_keeps_to_the_contract_of_encoders(parts: tuple[str, ...]) -> None:
    chosen = {name: name in parts for name in ("pre", "post", "concat")}
    model = LatentCross(**SIZES, **chosen)
    assert reads_times(model)
    check_encoder(model, Packing(rows=2, width=8))


def test_the_gradient_of_a_context_at_zero_is_the_state_times_that_of_the_output() -> None:
    h, slope = RNG.normal(size=(2, 4))
    found = jax.grad(lambda w: jnp.sum(cross(jnp.asarray(h), w) * slope))(jnp.zeros(4))
    np.testing.assert_allclose(found, h * slope, rtol=1e-5)


def test_without_context_it_refuses_times() -> None:
    base = LatentCross(**SIZES, pre=False, post=False, concat=False)
    assert not reads_times(base)
    with pytest.raises(ValueError, match="does not read them"):
        base.init(jax.random.key(0), ITEMS, times=TIMES, train=False)
