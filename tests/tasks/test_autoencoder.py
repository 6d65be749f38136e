"""The task of auto-encoders: rows made of histories, losses, noise, devices, and the scorer."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrec import losses
from jaxrec.nn.layers.dropout import counter_bits
from jaxrec.nn.retrieval.macridvae import MacridVAE
from jaxrec.nn.retrieval.multivae import MultDAE, MultVAE
from jaxrec.optim.loss_weighting import by_schedule, static
from jaxrec.tasks.autoencoder import autoencoder, history_rows, scorer
from jaxrec.train.epoch import make_epoch, shuffled
from jaxrec.train.state import create
from jaxrec.train.step import make_step
from tests.lowering import repeated_float_adds
from tests.nn.drawn import applied, drawn

NUM_ITEMS, V, WIDTH = 8, 9, 4
HISTORIES = [[3, 1, 3], [], [8, 2, 5, 7], [4], [1, 6], [2, 2, 2], [5, 6, 7, 8], [1]]  # one repeats an item
COLUMNS: dict[str, Any] = {
    "items": np.array([item for row in HISTORIES for item in row] + [7], np.int32),  # the last is held out
    "start": np.cumsum([0, *map(len, HISTORIES[:-1])]).astype(np.int32),
    "length": np.array([len(row) for row in HISTORIES], np.int32),
}
EXAMPLES = {"example": np.array([0, 1, 2, 7], np.int32), "mask": np.array([True, True, True, False])}
MODELS: dict[str, Any] = {
    "multvae": MultVAE(NUM_ITEMS, hidden_dims=(6,), latent_dim=3, bits=counter_bits),
    "multdae": MultDAE(NUM_ITEMS, latent_dim=3, bits=counter_bits),
    "macridvae": MacridVAE(NUM_ITEMS, num_concepts=2, dim=4, hidden_dims=(), bits=counter_bits),
}
SIZES = {"num_items": NUM_ITEMS, "width": WIDTH}
every_model = pytest.mark.parametrize("name", MODELS)


def variables_of(name: str) -> Any:
    return drawn(MODELS[name], np.zeros((1, V), np.float32), train=False)


def rows(*histories: list[int]) -> np.ndarray:
    found = np.zeros((len(histories), V), np.float32)
    for row, history in zip(found, histories, strict=True):
        row[history] = 1.0
    return found


# --- rows ---


def test_rows_are_the_items_of_a_history_each_once() -> None:
    user = np.arange(8)
    made = jax.jit(lambda columns: history_rows(user, columns["length"], columns, **SIZES))(COLUMNS)
    np.testing.assert_array_equal(made, rows(*HISTORIES))
    part = history_rows(np.array([2]), np.array([2]), COLUMNS, **SIZES)  # the first two events
    np.testing.assert_array_equal(part, rows([8, 2]))


def test_a_history_beyond_the_width_and_an_unknown_id_make_the_row_nan() -> None:
    made = history_rows(np.arange(4), COLUMNS["length"][:4], COLUMNS, num_items=NUM_ITEMS, width=3)
    assert np.isnan(made).all(axis=1).tolist() == [False, False, True, False]
    made = history_rows(np.arange(4), COLUMNS["length"][:4], COLUMNS, num_items=7, width=WIDTH)
    assert np.isnan(made).all(axis=1).tolist() == [False, False, True, False]
    negative = {**COLUMNS, "items": -COLUMNS["items"]}
    assert np.isnan(history_rows(np.arange(1), np.ones(1, np.int32), negative, **SIZES)).all()


# --- the task ---


@every_model
def test_losses_are_means_over_real_users(name: str) -> None:
    model = MODELS[name].clone(dropout=0.0)
    task, variables = autoencoder(model, **SIZES), variables_of(name)
    batch = task.prepare(jax.random.key(0), EXAMPLES, COLUMNS)
    np.testing.assert_array_equal(batch["x"], rows(*HISTORIES[:3], []))
    key = jax.random.key(1)

    def noisy(variables: Any, batch: Any) -> Any:
        made = model.apply(variables, batch["x"], train=True, rows=batch["row"], rngs={"dropout": key})
        return task.losses(variables, batch, key)[0], made, task.predict(variables, batch)

    found, made, served = jax.jit(noisy)(variables, batch)
    made = jax.tree.map(lambda leaf: leaf[:3], made)
    np.testing.assert_allclose(
        found["reconstruction"], losses.multinomial(made.scores, batch["x"][:3]), rtol=1e-5
    )
    assert ("kl" in found) == (name != "multdae")
    if made.kl is not None:
        np.testing.assert_allclose(found["kl"], np.mean(made.kl), rtol=1e-5)
    expected = applied(MODELS[name], variables, batch["x"], train=False).scores
    np.testing.assert_allclose(served, expected, rtol=1e-5)


def test_the_penalty_is_of_weights_and_not_of_biases() -> None:
    variables = variables_of("multdae")
    batch = {"x": rows([1, 2]), "mask": np.ones(1, bool), "row": np.zeros(1, np.int32)}
    task = autoencoder(MODELS["multdae"], **SIZES, l2=0.5)
    found, _ = task.losses(variables, batch, jax.random.key(0))
    kernels = [layer["kernel"] for layer in variables["params"]["layers"].values()]
    np.testing.assert_allclose(found["l2"], 0.5 * sum(np.sum(kernel**2) for kernel in kernels), rtol=1e-5)


def test_the_padding_row_of_the_softmax_is_an_option() -> None:
    variables, batch = (
        variables_of("multdae"),
        {"x": rows([1]), "mask": np.ones(1, bool), "row": np.zeros(1, int)},
    )
    model = MODELS["multdae"].clone(dropout=0.0)
    scores = applied(model, variables, batch["x"], train=False).scores
    for include in (False, True):
        task = autoencoder(model, **SIZES, include_padding=include)
        found = task.losses(variables, batch, jax.random.key(0))[0]["reconstruction"]
        np.testing.assert_allclose(found, losses.multinomial(scores, batch["x"], include_padding=include))


@every_model
def test_devices_change_nothing(name: str) -> None:
    """With dropout, draws and a penalty: one step of two devices is that of one."""
    task = autoencoder(MODELS[name], **SIZES, l2=0.01)
    tx, weighting = optax.sgd(0.1), static()
    state = jax.jit(functools.partial(create, task, tx, weighting))(jax.random.key(0), EXAMPLES, COLUMNS)

    def step(axis: str | None) -> Any:
        return make_step(task, tx, weighting, axis)

    one, logs = jax.jit(step(None))(state, EXAMPLES, COLUMNS)
    both, shared = jax.jit(jax.vmap(step("d"), in_axes=(None, None, None), axis_name="d", axis_size=2))(
        state, EXAMPLES, COLUMNS
    )
    for a, b in zip(jax.tree.leaves((one.params, logs)), jax.tree.leaves((both.params, shared)), strict=True):
        np.testing.assert_allclose(b, np.broadcast_to(a, b.shape), rtol=1e-5, atol=1e-6)


@every_model
def test_steps_lower_the_loss(name: str) -> None:
    task = autoencoder(MODELS[name].clone(dropout=0.0), **SIZES)
    terms = {
        "reconstruction": 1.0,
        **({"kl": optax.linear_schedule(0.0, 0.2, 30)} if name != "multdae" else {}),
    }
    weighting, tx, plan = by_schedule(terms), optax.adam(0.03), shuffled(len(HISTORIES), 4)
    examples = {"example": np.arange(4), "mask": np.ones(4, bool)}
    state = jax.jit(functools.partial(create, task, tx, weighting))(jax.random.key(0), examples, COLUMNS)
    epoch = jax.jit(make_epoch(make_step(task, tx, weighting), plan))
    means = []
    for i in range(20):
        state, logs = epoch(state, COLUMNS, jnp.int32(i), jnp.int32(0))
        means.append(float(logs["reconstruction"]))
    assert means[-1] < 0.8 * means[0]


@every_model
def test_the_program_of_a_step_adds_no_floats_at_repeated_ids_on_cuda(name: str) -> None:
    task, weighting, tx = autoencoder(MODELS[name], **SIZES, l2=0.1), static(), optax.adam(1e-3)
    init = functools.partial(create, task, tx, weighting)
    state = jax.eval_shape(init, jax.random.key(0), EXAMPLES, COLUMNS)
    traced = jax.jit(make_step(task, tx, weighting)).trace(state, EXAMPLES, COLUMNS)
    assert repeated_float_adds(traced, "cuda") == []
    traced.lower(lowering_platforms=("tpu",))


# --- the scorer ---


@every_model
def test_scores_are_of_the_items_before_the_target(name: str) -> None:
    """Of histories of any length, each item once."""
    queries = {"user": np.array([2, 1, 0]), "length": np.array([2, 0, 3])}
    scores = jax.jit(scorer(MODELS[name], num_items=NUM_ITEMS).scores)
    found = scores(variables_of(name), queries, COLUMNS)
    expected = applied(MODELS[name], variables_of(name), rows([8, 2], [], [3, 1]), train=False).scores
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_scores_of_a_history_with_an_unknown_id_are_nan() -> None:
    """Whatever follows; padding is no item."""
    context = {"items": np.array([9, 1, 2, -1, 0, 3], np.int32), "start": np.array([0, 3, 4])}
    queries = {"user": np.arange(3), "length": np.array([3, 1, 2])}
    found = scorer(MODELS["multdae"], num_items=NUM_ITEMS).scores(variables_of("multdae"), queries, context)
    assert np.isnan(found).all(axis=1).tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width=0: must be at least 1"),
        ({"l2": -1.0}, "l2=-1.0"),
        ({"l2": float("nan")}, "l2=nan"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        autoencoder(MODELS["multdae"], **{**SIZES, **options})
