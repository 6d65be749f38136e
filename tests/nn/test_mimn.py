"""The memory of MIMN: a slow twin of every step, padding, online updates, gradients, and its regulariser."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses
from jaxrec.nn.layers.activation_unit import ActivationUnit
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.features import Categorical, FeatureEmbedding
from jaxrec.nn.layers.history import WithHistory
from jaxrec.nn.layers.memory import USAGE_SCALE, InterestMemory, MemoryState
from jaxrec.nn.layers.mlp import MLP
from jaxrec.nn.ranking.mimn import MIMN, answer, remember
from tests.nn.drawn import drawn

B, L, D, H, M = 4, 6, 3, 2, 5
rng = np.random.default_rng(3)
EVENTS = rng.normal(size=(B, L, D)).astype(np.float32)
TARGET = rng.normal(size=(B, D)).astype(np.float32)
MASK = np.arange(L) >= np.array([[0], [2], [L], [L - 1]])  # whole, padded, empty, one event

PAPER = InterestMemory(M, H, induction=2)
CODE = InterestMemory(M, H, 1, "shift", strength=True, key_memory=True)
SHARES = InterestMemory(M, None, 0, "utilisation", shares=True, chunk=4)
PLAIN = InterestMemory(M, H, M, None, chunk=3)
FULL = CODE.clone(
    reset_first=True, gate_bias=1.0, sharpness=1.5, max_shift=2, counted_twice=True, clip=0.8, output_dim=4
)  # the public code in all its parts, though with other numbers
VARIANTS = {"paper": PAPER, "code": CODE, "shares": SHARES, "plain": PLAIN, "full": FULL}


def both(memory: InterestMemory, history: Any, mask: Any, target: Any, state: Any = None) -> Any:
    after = memory(history, mask, state)
    return after, memory.read(target, after), memory.balance(after)


@functools.cache
def weights(variant: str) -> Any:
    shapes = jax.eval_shape(lambda: VARIANTS[variant].init(jax.random.key(0), EVENTS, MASK))
    draws = np.random.default_rng(1)
    return jax.tree.map(lambda x: (0.7 * draws.normal(size=x.shape)).astype(np.float32), dict(shapes))


@functools.partial(jax.jit, static_argnums=0)
def applied(variant: str, variables: Any, history: Any, mask: Any, state: Any) -> Any:
    return VARIANTS[variant].apply(variables, history, mask, TARGET, state, method=both)


def run(variant: str, history: Any, mask: Any, state: Any = None) -> Any:
    return applied(variant, weights(variant), history, mask, state)


# --- a slow twin -----------------------------------------------------------------------------------


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def softplus(x: Any) -> Any:
    return np.log1p(np.exp(x))


def softmax(x: Any) -> Any:
    return np.exp(x - x.max()) / np.exp(x - x.max()).sum()


def gru(x: Any, h: Any, kernel: Any, bias: Any, hidden_kernel: Any, hidden_bias: Any = None) -> Any:
    """Without a bias of the state the reset gate acts first."""
    (wr, wu, wn), (ur, uu, un) = np.split(kernel, 3, axis=1), np.split(hidden_kernel, 3, axis=1)
    br, bu, bn = np.split(bias, 3)
    if hidden_bias is None:
        r, u = sigmoid(x @ wr + h @ ur + br), sigmoid(x @ wu + h @ uu + bu)
        return (1 - u) * np.tanh(x @ wn + (r * h) @ un + bn) + u * h
    cr, cu, cn = np.split(hidden_bias, 3)
    r, u = sigmoid(x @ wr + br + h @ ur + cr), sigmoid(x @ wu + bu + h @ uu + cu)
    return (1 - u) * np.tanh(x @ wn + bn + r * (h @ un + cn)) + u * h


class Twin:
    """One user, one step and one slot at a time."""

    def __init__(self, module: InterestMemory, params: Any) -> None:
        self.module, self.p = module, {k: np.asarray(v, np.float64) for k, v in params.items()}
        self.memory = np.tanh(self.p["memory"])
        self.h, self.r = np.zeros(module.hidden_dim or D), np.tanh(self.p["read"])
        self.usage, self.channels, self.total = np.zeros(M), np.zeros((M, D)), np.zeros(D)

    def read_usage(self) -> Any:
        return self.usage / max(self.usage.sum(), 1) if self.module.shares else self.usage

    def shifted(self, weights: Any, rest: Any) -> Any:
        reach = self.module.max_shift
        moves = softmax(rest[-2 * reach - 2 : -1])  # from the farthest back to the farthest forth
        moved = [sum(s * weights[(i + reach - k) % M] for k, s in enumerate(moves)) for i in range(M)]
        sharp = np.array(moved) ** (2 * self.module.sharpness * (softplus(rest[-1]) + 1))
        return sharp / sharp.sum()

    def clip(self, x: Any) -> Any:
        return x if self.module.clip is None else np.clip(x, -self.module.clip, self.module.clip)

    def address(self, key: Any, strength: Any) -> Any:
        def cosine(a: Any, b: Any) -> Any:
            return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

        scores = np.array([cosine(key, slot) for slot in self.memory])
        if self.module.key_memory:
            scores = (scores + [cosine(key, np.tanh(k)) for k in self.p["keys"]]) / 2
        return softmax(strength * scores)

    def look(self, x: Any) -> Any:
        p = self.p
        self.h = gru(
            np.append(x, self.r),
            self.h,
            p["controller_kernel"],
            p["controller_bias"],
            p["hidden_kernel"],
            p.get("hidden_bias"),
        )
        seen = self.h
        if self.module.rebalance == "shift":
            seen = np.append(self.h, self.usage / USAGE_SCALE)
        asked = self.clip(seen @ p["heads_kernel"] + p["heads_bias"])
        read_key, write_key, erase, add = np.split(asked[: 4 * D], 4)
        rest = asked[4 * D :]
        beta = self.module.sharpness * (softplus(rest[:2]) + 1) if self.module.strength else np.ones(2)
        w_read, w_write = self.address(np.tanh(read_key), beta[0]), self.address(np.tanh(write_key), beta[1])
        if self.module.rebalance == "utilisation":
            product = w_write * softmax(self.read_usage() @ p["utilisation_kernel"])
            w_write = product / product.sum()
        counted = w_write
        if self.module.rebalance == "shift":
            w_write = self.shifted(w_write, rest)
            counted = self.shifted(w_write, rest) if self.module.counted_twice else w_write
        return w_read, w_write, counted, sigmoid(erase), np.tanh(add)

    def step(self, x: Any) -> None:
        w_read, w_write, counted, erase, add = self.look(x)
        self.r = sum(w * slot for w, slot in zip(w_read, self.memory, strict=True))
        for i in np.argsort(-w_read)[: self.module.induction]:
            self.channels[i] = gru(
                np.append(x, self.memory[i]),
                self.channels[i],
                self.p["channel_kernel"],
                self.p["channel_bias"],
                self.p["channel_hidden_kernel"],
                self.p.get("channel_hidden_bias"),
            )
        self.memory = np.stack(
            [(1 - w * erase) * slot + w * add for w, slot in zip(w_write, self.memory, strict=True)]
        )
        self.usage, self.total = self.usage + counted, self.total + x

    def answer(self, x: Any) -> Any:
        w_read, *_ = self.look(x)
        answered = np.append(self.h, w_read @ self.memory) @ self.p["output_kernel"] + self.p["output_bias"]
        return self.clip(answered)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_step_equals_a_slow_twin_of_the_real_events(variant: str) -> None:
    state, answers, balance = run(variant, EVENTS, MASK)
    for row in range(B):
        twin = Twin(VARIANTS[variant], weights(variant)["params"])
        for event in EVENTS[row][MASK[row]]:
            twin.step(event)
        kept = (twin.memory, twin.h, twin.r, twin.usage, twin.channels, twin.total)
        for name, theirs, ours in zip(MemoryState._fields, kept, state, strict=True):
            np.testing.assert_allclose(ours[row], theirs, atol=2e-5, err_msg=name)
        np.testing.assert_allclose(balance[row], twin.read_usage(), atol=2e-5)
        np.testing.assert_allclose(answers[row], twin.answer(TARGET[row]), atol=2e-5)
    np.testing.assert_allclose(state.usage.sum(axis=1), MASK.sum(axis=1), rtol=1e-5)


# --- padding, online, slots ------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_padding_on_either_side_changes_nothing_and_no_event_leaves_the_start(variant: str) -> None:
    def at(first: int) -> Any:
        """The state after L - 2 events that stand from slot `first` on."""
        events, mask = np.full_like(EVENTS, 9.0), np.zeros((B, L), bool)
        events[:, first : first + L - 2], mask[:, first : first + L - 2] = EVENTS[:, 2:], True
        return run(variant, events, mask)[0]

    left, right = at(2), at(0)
    for a, b in zip(left, right, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    empty = run(variant, EVENTS, np.zeros_like(MASK))[0]
    memory = np.tanh(weights(variant)["params"]["memory"])
    for row in range(B):
        np.testing.assert_allclose(empty.memory[row], memory, atol=1e-6)
    assert all((np.asarray(x) == 0).all() for x in (empty.usage, empty.channels, empty.total))


@pytest.mark.parametrize("variant", ["paper", "shares"])
def test_events_a_few_at_a_time_give_the_state_of_the_whole_sequence(variant: str) -> None:
    whole, answers, _ = run(variant, EVENTS, MASK)
    state = None
    for first in range(0, L, 2):
        now = (np.arange(L) >= first) & (np.arange(L) < first + 2)
        state, later, _ = run(variant, EVENTS, MASK & now, state)
    for ours, theirs in zip(state, whole, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    np.testing.assert_allclose(later, answers, atol=1e-6)


def test_the_order_of_slots_is_of_no_matter() -> None:
    order = np.array([3, 0, 4, 1, 2])
    params = dict(weights("paper")["params"])
    params["memory"] = params["memory"][order]
    params["utilisation_kernel"] = params["utilisation_kernel"][np.ix_(order, order)]
    other, answers, _ = applied("paper", {"params": params}, EVENTS, MASK, None)
    state, expected, _ = run("paper", EVENTS, MASK)
    np.testing.assert_allclose(answers, expected, atol=1e-6)
    for name in ("memory", "usage", "channels"):
        np.testing.assert_allclose(getattr(other, name), getattr(state, name)[:, order], atol=1e-6)


def test_as_many_channels_as_asked_for_change_at_an_event() -> None:
    before, *_ = run("paper", EVENTS, MASK)
    after, *_ = run("paper", EVENTS, np.tile(np.arange(L) == 3, (B, 1)), before)
    changed = np.any(np.asarray(after.channels) != np.asarray(before.channels), axis=-1)
    assert changed.sum(axis=1).tolist() == [PAPER.induction] * B


def test_padding_gets_no_gradient_and_the_first_event_gets_some() -> None:
    def total(variables: Any, events: Any, rows: Any, chunk: int | None) -> Any:
        module = InterestMemory(M, H, induction=2, chunk=chunk)
        answers: Any = module.apply(variables, events, MASK, TARGET, method=both)[1]
        return jnp.sum(rows[:, None] * answers**2)

    grads = jax.jit(jax.grad(total, argnums=(0, 1)), static_argnums=3)
    everyone, nobody_met = np.ones(B), (np.arange(B) == 2) * 1.0
    kept = grads(weights("paper"), EVENTS, everyone, None)
    sizes = np.abs(kept[1]).sum(axis=-1)
    np.testing.assert_array_equal(sizes > 0, MASK)
    assert np.isfinite(sizes).all()
    again = grads(weights("paper"), EVENTS, everyone, 4)
    for ours, theirs in zip(jax.tree.leaves(again), jax.tree.leaves(kept), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)  # states computed once more are the same
    of_weights, of_events = grads(weights("paper"), EVENTS, nobody_met, None)
    assert not np.asarray(of_events).any()
    assert np.abs(of_weights["params"]["memory"]).sum() > 0  # what a user without history reads is learned


def test_a_one_hot_write_that_erases_all_puts_its_vector_in_the_place_of_a_slot() -> None:
    params = jax.tree.map(np.zeros_like, weights("code")["params"])
    params |= {"memory": weights("code")["params"]["memory"], "keys": np.eye(M, D, dtype=np.float32) * 9}
    bias = np.zeros_like(params["heads_bias"])
    key, erase, add = (slice(i * D, (i + 1) * D) for i in (1, 2, 3))
    bias[key], bias[erase], bias[add] = [9, 0, 0], 30.0, [1.0, 2.0, -1.0]
    bias[4 * D + 1], bias[4 * D + 3], bias[-1] = 60.0, 40.0, 20.0  # strength, no shift, sharpening
    params["heads_bias"] = bias
    state: Any = CODE.apply({"params": params}, EVENTS[:1, :1], np.ones((1, 1), bool))
    before = np.tanh(params["memory"])
    slot = int(np.argmax(state.usage[0]))
    np.testing.assert_allclose(state.usage[0], np.eye(M)[slot], atol=1e-5)
    np.testing.assert_allclose(state.memory[0, slot], np.tanh([1.0, 2.0, -1.0]), atol=1e-5)
    np.testing.assert_allclose(np.delete(state.memory[0], slot, 0), np.delete(before, slot, 0), atol=1e-5)


def test_biases_of_gates_start_where_they_are_told() -> None:
    """TensorFlow's start at 1, for reset and update, not for the new state."""
    for module, start in ((CODE, 0.0), (CODE.clone(gate_bias=1.0), 1.0), (FULL, 1.0)):
        params = jax.jit(module.init)(jax.random.key(0), EVENTS, MASK)["params"]
        for name, width in (("controller_bias", H), ("channel_bias", D)):
            np.testing.assert_array_equal(params[name], [start] * 2 * width + [0.0] * width)
        assert ("hidden_bias" in params) is not module.reset_first
        assert not any(params.get(name, np.zeros(1)).any() for name in ("hidden_bias", "channel_hidden_bias"))
    model = MIMN(dims=(), memory=InterestMemory(M, gate_bias=1.0))
    variables = jax.jit(model.init)(jax.random.key(0), TARGET, TARGET, EVENTS, MASK)
    assert (variables["params"]["memory"]["controller_bias"][: 2 * D] == 1.0).all()


@pytest.mark.parametrize("variant", ["code", "full"])
def test_access_tells_how_an_event_is_read_and_written(variant: str) -> None:
    module, variables = VARIANTS[variant], weights(variant)
    before = run(variant, EVENTS, MASK & (np.arange(L) < L - 1))[0]
    event = EVENTS[:, -1]
    found: Any = jax.jit(functools.partial(module.apply, method=module.access))(variables, event, before)
    after = run(variant, EVENTS, MASK & (np.arange(L) == L - 1), before)[0]
    written = MASK[:, -1]
    kept = 1.0 - found.write_weights[..., None] * found.erase[:, None]
    memory = kept * before.memory + found.write_weights[..., None] * found.add[:, None]
    np.testing.assert_allclose(after.memory[written], memory[written], atol=1e-5)
    read = jnp.einsum("bm,bmd->bd", found.read_weights, before.memory)
    np.testing.assert_allclose(after.read[written], read[written], atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"slots": 0}, "slots=0"),
        ({"slots": 2, "induction": 3}, "slots=2, induction=3: at least 1 slot, and 0 to all"),
        ({"rebalance": "mur"}, "rebalance='mur'"),
        ({"chunk": 0}, "chunk=0"),
        ({"max_shift": 0}, "max_shift=0, clip=None: a shift reaches at least 1 slot"),
        ({"clip": 0.0}, r"max_shift=1, clip=0\.0"),
    ],
)
def test_fields_that_mean_nothing_are_refused(fields: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InterestMemory(**fields)


# --- the model -------------------------------------------------------------------------------------

MODEL = MIMN(
    dims=(4,),
    memory=InterestMemory(M),
    attention=ActivationUnit((3,), softmax=True),
    sum_pooling=True,
    mlp=Factory(MLP, activation=jnp.tanh),
)
SERVED = WithHistory(
    FeatureEmbedding(
        (Categorical("item", 9, D), Categorical("age", 4, 2), Categorical("history_item", 9, D, "item"))
    ),
    MODEL,
    targets=("item",),
    histories=("history_item",),
)
HISTORY = np.where(MASK, rng.integers(1, 9, (B, L)), 0).astype(np.int32)
BATCH = {
    "item": np.array([1, 2, 3, 4], np.int32),
    "age": np.array([1, 2, 3, 1], np.int32),
    "history_item": HISTORY,
}
SERVING = drawn(SERVED, BATCH)


def test_a_served_state_answers_as_the_whole_history_does() -> None:
    whole = jax.jit(SERVED.apply)(SERVING, BATCH)
    state: Any = None
    keep = jax.jit(functools.partial(SERVED.apply, method=remember))
    for part in range(0, L, 3):
        state = keep(SERVING, {"history_item": HISTORY[:, part : part + 3]}, state)
    target = {name: BATCH[name] for name in ("item", "age")}
    logits = jax.jit(functools.partial(SERVED.apply, method=answer))(SERVING, target, state)
    assert logits.shape == (B,)
    np.testing.assert_allclose(logits, whole, atol=1e-5)


def test_in_training_it_gives_the_usage_that_is_regularised() -> None:
    outputs, sown = jax.jit(
        functools.partial(SERVED.apply, train=True, mutable=["batch_stats", "intermediates"])
    )(SERVING, BATCH)
    usage = sown["intermediates"]["model"]["state"][0].usage
    np.testing.assert_array_equal(outputs["usage"], usage)
    assert set(outputs) == {"click", "usage"}
    assert outputs["click"].shape == (B,)


def test_memory_utilisation_is_its_formula_over_real_rows() -> None:
    usage = rng.random((B, M)).astype(np.float32) * 9
    where = np.array([True, False, True, True])
    slow = np.mean([sum((g - row.mean()) ** 2 for g in row) for row in usage[where]])
    assert float(losses.memory_utilisation(usage, where=where)) == pytest.approx(slow, rel=1e-5)
    assert float(losses.memory_utilisation(np.full((B, M), 3.0))) == 0.0
    assert float(losses.memory_utilisation(usage, where=np.zeros(B, bool))) == 0.0
    gradient = jax.grad(lambda u: losses.memory_utilisation(u, where=where))(usage)
    expected = 2 * (usage - usage.mean(axis=1, keepdims=True)) * where[:, None] / where.sum()
    np.testing.assert_allclose(gradient, expected, atol=1e-5)
    shares = jax.vmap(lambda u, w: losses.memory_utilisation(u, where=w, axis_name="d"), axis_name="d")(
        usage.reshape(2, 2, M), where.reshape(2, 2)
    )
    assert float(shares.sum()) == pytest.approx(slow, rel=1e-5)
