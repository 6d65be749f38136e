"""D2Q: its watch times are those of the tables; a branch of the duration is a residual."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses
from jaxrec.data.tables.duration_groups import duration_groups
from jaxrec.nn.ranking.d2q import D2Q, time_of_quantile
from jaxrec.tasks import watch_time as tasks

RNG = np.random.default_rng(0)
DURATION = RNG.exponential(60.0, 64).astype(np.float32)
WATCHED = (DURATION * RNG.random(64)).astype(np.float32)
GROUPS = duration_groups(DURATION, WATCHED, num_groups=4, num_levels=51)
BATCH = {
    "x": jnp.asarray(RNG.normal(size=64), jnp.float32),
    "duration": jnp.asarray(DURATION),
    "quantile": jnp.asarray(GROUPS.quantile(WATCHED, GROUPS.group(DURATION))),
    "watch_time": jnp.asarray(WATCHED),
    "mask": jnp.arange(64) < 60,
}


class Slope(nn.Module):
    """x times a learned number."""

    @nn.compact
    def __call__(self, batch: Any, *, train: bool = False) -> Any:
        return self.param("slope", nn.initializers.ones, ()) * batch["x"]


def made(**options: Any) -> tuple[Any, Any]:
    module: Any = D2Q(Slope(), 4, 51, **options)
    task = tasks.d2q(module, GROUPS)
    return task, jax.jit(task.init)(jax.random.key(0), BATCH)


def test_watch_times_are_those_of_the_tables() -> None:
    task, variables = made()
    outputs = jax.jit(task.predict)(variables, BATCH)
    quantile = 1 / (1 + np.exp(-np.asarray(outputs["quantile"], np.float64)))
    want = GROUPS.time(quantile, GROUPS.group(DURATION))
    np.testing.assert_allclose(outputs["watch_time"], want, rtol=1e-4, atol=1e-4)
    for number in range(4):  # one order within a group
        of = GROUPS.group(DURATION) == number
        order = np.asarray(outputs["quantile"])[of].argsort()
        assert (np.diff(np.asarray(outputs["watch_time"])[of][order]) >= -1e-5).all()


def test_the_loss_is_the_squared_error_of_quantiles_and_leaves_the_tables_alone() -> None:
    task, variables = made()
    found, updates = task.losses(variables, BATCH, jax.random.key(1))
    quantile = 1 / (1 + np.exp(-np.asarray(BATCH["x"])))
    want = np.square(quantile - np.asarray(BATCH["quantile"]))[:60].mean()
    np.testing.assert_allclose(found["quantile"], want, rtol=1e-5)
    assert not updates
    np.testing.assert_array_equal(variables["constants"]["times"], GROUPS.times)


def test_a_residual_branch_of_zeros_is_none() -> None:
    plain, variables = made()
    residual, with_branch = made(residual_dims=(3,))
    params = jax.tree.map(jnp.zeros_like, with_branch["params"])
    params["base"] = variables["params"]["base"]
    ours = residual.predict({**with_branch, "params": params}, BATCH)
    np.testing.assert_array_equal(ours["quantile"], plain.predict(variables, BATCH)["quantile"])
    moved = jax.tree.map(lambda leaf: leaf + 0.3, params)
    moved["base"] = params["base"]
    moved["residual_embedding"] = jnp.arange(32.0).reshape(4, 8)
    shift = np.asarray(residual.predict({**with_branch, "params": moved}, BATCH)["quantile"] - BATCH["x"])
    group = GROUPS.group(DURATION)
    for number in range(4):
        assert np.ptp(shift[group == number]) < 1e-3
    assert np.ptp(shift) > 1


@pytest.mark.parametrize(("groups", "levels"), [(3, 51), (4, 11)])
def test_tables_of_another_size_are_refused(groups: int, levels: int) -> None:
    module: Any = D2Q(Slope(), groups, levels)
    with pytest.raises(ValueError, match=f"has {groups} groups of {levels} levels, the tables 4 of 51"):
        tasks.d2q(module, GROUPS).init(jax.random.key(0), BATCH)


def test_levels_outside_0_and_1_are_the_ends() -> None:
    times = jnp.array([[1.0, 2.0, 6.0]])
    found = time_of_quantile(jnp.array([-1.0, 0.0, 0.25, 0.75, 1.0, 3.0]), jnp.zeros(6, jnp.int32), times)
    np.testing.assert_allclose(found, [1.0, 1.0, 1.5, 4.0, 6.0, 6.0], rtol=1e-6)


def test_one_group_needs_no_durations_but_has_no_branch_of_them() -> None:
    one = duration_groups(DURATION, WATCHED, num_groups=1, num_levels=51)
    task = tasks.d2q(D2Q(Slope(), 1, 51), one)  # type: ignore[arg-type]
    outputs = task.predict(task.init(jax.random.key(0), BATCH), BATCH)
    assert np.isfinite(outputs["watch_time"]).all()
    with pytest.raises(ValueError, match="with one group there is no duration"):
        D2Q(Slope(), 1, residual_dims=(3,))


@pytest.mark.parametrize("exact", [False, True])
def test_odds_of_an_intercept_are_the_watch_time(exact: bool) -> None:
    """Σ T / (number not watched), or exactly Σ T / N."""
    module: Any = Slope()
    batch = {**BATCH, "x": jnp.ones(64), "watched": jnp.arange(64) % 3 == 0}
    task = tasks.weighted_logistic(module, exact=exact)
    variables = jax.jit(task.init)(jax.random.key(0), batch)
    gradient = jax.jit(jax.grad(lambda v: task.losses(v, batch, jax.random.key(0))[0]["watch_time"]))
    for _ in range(60):
        slope = variables["params"]["slope"]
        curvature = jax.nn.sigmoid(slope) * jax.nn.sigmoid(-slope)
        step = gradient(variables)["params"]["slope"] / (curvature * 20)
        variables = {"params": {"slope": slope - jnp.clip(step, -0.5, 0.5)}}
    real = np.arange(64) < 60
    watched = np.asarray(batch["watched"]) & real
    total = WATCHED[watched].sum()
    want = total / (real.sum() if exact else (real & ~watched).sum())
    np.testing.assert_allclose(np.asarray(task.predict(variables, batch)), want, rtol=1e-2)


def test_quantile_error_is_the_formula() -> None:
    logit, quantile = jnp.array([0.0, 2.0, 99.0]), jnp.array([0.25, 0.5, 0.0])
    where = jnp.array([True, True, False])
    want = ((0.5 - 0.25) ** 2 + (1 / (1 + np.exp(-2.0)) - 0.5) ** 2) / 2
    np.testing.assert_allclose(losses.quantile_error(logit, quantile, where=where), want, rtol=1e-6)


@pytest.mark.parametrize(("groups", "levels"), [(0, 5), (2, 1)])
def test_sizes_that_mean_nothing_are_refused(groups: int, levels: int) -> None:
    with pytest.raises(ValueError, match=f"num_groups={groups}, num_levels={levels}"):
        D2Q(Slope(), groups, levels)
