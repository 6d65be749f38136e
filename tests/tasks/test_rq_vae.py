"""Codebooks begin at k-means of the first batch; the losses fall, and each level lowers the error."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrec.nn.retrieval.rq_vae import RQVAE
from jaxrec.tasks import rq_vae as task
from tests.lowering import repeated_float_adds

K, LEVELS, N = 8, 3, 48
CENTRES = np.random.default_rng(0).normal(size=(12, 6))
VECTORS = np.repeat(CENTRES, 4, axis=0) + 0.3 * np.random.default_rng(1).normal(size=(N, 6))
COLUMNS = {"vectors": jnp.asarray(VECTORS, jnp.float32)}
MODEL: Any = RQVAE(6, (16,), 4, LEVELS, K)
EXAMPLES = {"example": jnp.arange(N), "mask": jnp.ones(N, bool)}
LEARN = task.rq_vae(MODEL)


@functools.cache
def begun() -> Any:
    batch = LEARN.prepare(jax.random.key(0), EXAMPLES, COLUMNS)
    return batch, jax.jit(LEARN.init)(jax.random.key(0), batch)


@functools.cache
def trained() -> Any:
    """Parameters and the history of losses of 200 steps of the whole set."""
    batch, variables = begun()
    tx = optax.adagrad(0.1)

    @jax.jit
    def run(params: Any) -> Any:
        def step(state: Any, _: None) -> Any:
            params, opt = state

            def total(params: Any) -> Any:
                named = LEARN.losses({"params": params}, batch, jax.random.key(0))[0]
                return sum(named.values()), named

            (_, named), gradient = jax.value_and_grad(total, has_aux=True)(params)
            updates, opt = tx.update(gradient, opt)
            return (optax.apply_updates(params, updates), opt), named

        (params, _), history = jax.lax.scan(step, (params, tx.init(params)), None, length=200)
        return params, history

    return run(variables["params"])


def test_every_code_of_every_level_is_used_by_the_first_batch() -> None:
    batch, variables = begun()
    codes = np.asarray(MODEL.apply(variables, batch["vectors"], method="codes"))
    for level in range(LEVELS):
        assert len(np.unique(codes[:, level])) == K


def test_drawn_codebooks_leave_codes_unused() -> None:
    """Why they begin at k-means."""
    batch, _ = begun()
    codes = np.asarray(
        MODEL.apply(MODEL.init(jax.random.key(0), batch["vectors"]), batch["vectors"], method="codes")
    )
    assert min(len(np.unique(codes[:, level])) for level in range(LEVELS)) < K


def test_a_batch_smaller_than_a_codebook_is_refused() -> None:
    batch = {name: column[: K - 1] for name, column in begun()[0].items()}
    with pytest.raises(ValueError, match="batch of 7 vectors: must have at least num_codes=8"):
        LEARN.init(jax.random.key(0), batch)


def test_losses_are_means_over_real_vectors_on_any_devices() -> None:
    batch, variables = begun()
    batch = {**batch, "mask": jnp.arange(N) < 30}
    halves = jax.tree.map(lambda column: column.reshape(2, N // 2, *column.shape[1:]), batch)

    def share(part: Any) -> Any:
        return LEARN.losses(variables, part, jax.random.key(0), "devices")[0]

    shares = jax.tree.map(lambda leaf: leaf.sum(), jax.jit(jax.vmap(share, axis_name="devices"))(halves))
    only = {name: column[:30] for name, column in batch.items()}
    for name, value in LEARN.losses(variables, only, jax.random.key(0))[0].items():
        assert float(shares[name]) == pytest.approx(float(value), rel=1e-5)


def test_training_lowers_the_error_and_each_level_more_of_it() -> None:
    params, history = trained()
    assert history["reconstruction"][-1] < 0.5 * history["reconstruction"][0]
    levels = MODEL.apply({"params": params}, COLUMNS["vectors"], method="decode_levels")
    errors = np.mean(np.sum((np.asarray(levels) - VECTORS) ** 2, axis=2), axis=1)
    assert (np.diff(errors) < 0).all()
    found: Any = MODEL.apply({"params": params}, COLUMNS["vectors"])
    lengths = np.mean(np.sum(np.asarray(found.levels.residuals) ** 2, axis=2), axis=1)
    assert (np.diff(lengths) <= 0).all()  # what is left does not grow


def test_a_step_adds_no_floats_at_repeated_ids_on_gpus() -> None:
    batch, variables = begun()

    def step(params: Any, part: Any) -> Any:
        named = jax.grad(lambda p: sum(LEARN.losses({"params": p}, part, jax.random.key(0))[0].values()))
        return named(params)

    assert repeated_float_adds(jax.jit(step).trace(variables["params"], batch), "cuda") == []


def test_the_evaluation_is_the_mean_error_of_all_vectors() -> None:
    _, variables = begun()
    asked = task.evaluation(MODEL, N, 20)
    values, bad = asked.measure(variables, asked.queries, COLUMNS)
    found = asked.summarise(np.asarray(values), asked.queries)["error"]
    rebuilt: Any = MODEL.apply(variables, COLUMNS["vectors"])
    whole = rebuilt.vectors - COLUMNS["vectors"]
    assert found == pytest.approx(float(jnp.sum(whole**2, axis=1).mean()), rel=1e-5)
    assert not np.any(bad)


@pytest.mark.parametrize(("beta", "rounds"), [(-1.0, 1), (float("nan"), 1), (0.25, 0)])
def test_settings_that_mean_nothing_are_refused(beta: float, rounds: int) -> None:
    with pytest.raises(ValueError, match=f"beta={beta}, rounds={rounds}"):
        task.rq_vae(MODEL, beta=beta, rounds=rounds)
