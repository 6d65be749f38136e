"""The counted work of programs, by formulas, and what it allows."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import pytest

from experiments import speed
from experiments.benchmarks import limits
from experiments.benchmarks.limits import Rates, Work
from experiments.benchmarks.timing import Figure, time_calls


def test_a_product_takes_two_operations_for_each_term() -> None:
    x, y = jnp.ones((3, 5, 7)), jnp.ones((3, 7, 2))
    assert limits.work(jnp.matmul, x, y) == Work(flops=2.0 * 3 * 5 * 7 * 2)
    # its gradient is two products of the same size
    gradient = jax.grad(lambda x, y: jnp.matmul(x, y).sum(), argnums=(0, 1))
    assert limits.work(gradient, x, y).flops >= 2 * limits.work(jnp.matmul, x, y).flops


def test_scans_multiply_and_calls_are_looked_into() -> None:
    x = jnp.ones((4, 4))

    @jax.jit
    def inner(x: jax.Array) -> jax.Array:
        return x @ x

    def outer(x: jax.Array) -> jax.Array:
        rows = jax.lax.scan(lambda c, _: (inner(c), None), x, None, length=6)[0]
        return jax.checkpoint(inner)(rows)

    assert limits.work(outer, x).flops == (6 + 1) * 2 * 4**3


def test_the_lesser_branch_counts() -> None:
    x = jnp.ones((4, 4))
    either = functools.partial(jax.lax.cond, True, lambda x: x @ x @ x, lambda x: x @ x)
    assert limits.work(either, x).flops == 2 * 4**3


def test_rows_are_read_once_and_added_to_by_reading_and_writing() -> None:
    table, ids = jnp.ones((9, 8)), jnp.array([1, 2, 2])
    assert limits.work(lambda t, i: t[i], table, ids).moved == 3 * 8 * 4
    assert limits.work(lambda t, i: t.at[i].add(1.0, unique_indices=True), table, ids).moved >= 2 * 3 * 8 * 4


def test_the_slower_of_both_is_the_limit() -> None:
    rates = Rates(flops=100.0, moved=10.0)
    assert rates.seconds(Work(200.0, 10.0)) == 2.0 and rates.seconds(Work(200.0, 30.0)) == 3.0
    assert rates.seconds(Work()) == 0.0


def test_measured_rates_are_positive() -> None:
    rates = limits.measure(tiny=True, repeats=2)
    assert rates.flops > 0 and rates.moved > 0


@pytest.mark.parametrize(("count", "unit", "limit"), [(0, "s", 2.0), (50, "sequences/s", 25.0)])
def test_figures_carry_their_work_and_their_limit(count: float, unit: str, limit: float) -> None:
    """200 GFLOP at 100 GFLOP/s are 2 s, or, of 50 sequences, 25 a second."""
    work = Work(flops=200e9, moved=1e6)
    figures = list(time_calls("a", lambda: jnp.ones(3), 2, count=count, work=work))
    assert [figure.name for figure in figures] == ["a", "a:compile", "a:products", "a:rows"]
    (made,) = speed.limits_of(figures, Rates(flops=100e9, moved=1e9))
    assert (made.name, made.unit) == ("a:limit", unit) and made.median == pytest.approx(limit)
    half = 4.0 if unit == "s" else 12.5
    timed = Figure("a", unit, half, half, half, 2)  # half as fast
    assert speed.share(timed, {"a:limit": made}) == "50.0%" and speed.share(timed, {}) == ""
