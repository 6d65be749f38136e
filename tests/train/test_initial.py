"""Runs that begin with given variables: to the bit those that drew them, and refused where they don't fit."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrec.train.fit import Fitted
from jaxrec.train.initial import check_initial, description
from jaxrec.train.reuse import fit_reusing
from jaxrec.train.state import INIT
from tests.train import toy

SEEDS = (0, 5)
USERS, ITEMS = (toy.NUM_USERS, 4), (toy.NUM_ITEMS + 1, 4)


@functools.cache
def drawn(seed: int) -> Any:
    """What the toy task draws for a seed."""
    key = jax.random.fold_in(jax.random.key(seed), INIT)
    return jax.tree.map(np.asarray, jax.jit(lambda: toy.factors().init(key, {}))())


def stacked(*seeds: int) -> Any:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *map(drawn, seeds))


def changed(path: str, leaf: Any) -> Any:
    """The drawn variables of seed 0 with one other leaf; None leaves it out."""
    params = {**drawn(0)["params"], path: leaf}
    return {"params": {name: value for name, value in params.items() if value is not None}}


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    """A run that draws its variables."""
    return toy.run(tmp_path_factory.mktemp("usual"), seeds=SEEDS)


# --- training ------------------------------------------------------------------------------------------


def test_a_run_that_is_given_what_it_would_draw_has_the_same_bits(usual: Fitted, tmp_path: Path) -> None:
    fitted = toy.run(tmp_path, seeds=SEEDS, initial=stacked(*SEEDS))
    toy.same_bits(fitted.variables, usual.variables)
    assert toy.without_times(fitted.history) == toy.without_times(usual.history)


def test_each_seed_begins_with_its_own_variables(usual: Fitted, tmp_path: Path) -> None:
    """Given in the other order, the seeds end elsewhere: so the axis is read."""
    fitted = toy.run(tmp_path, seeds=SEEDS, initial=stacked(5, 0))
    for index in range(2):
        own = np.asarray(fitted.variables["params"]["users"])[index]
        assert not np.array_equal(own, np.asarray(usual.variables["params"]["users"])[index])
    again = toy.run(tmp_path / "alone", seeds=(0,), initial=drawn(5))
    toy.same_bits(*(jax.tree.map(lambda x: np.asarray(x)[0], f.variables) for f in (fitted, again)))


def test_variables_without_an_axis_are_those_of_all_seeds(tmp_path: Path) -> None:
    shared = toy.run(tmp_path / "shared", seeds=SEEDS, initial=drawn(3))
    by_seed = toy.run(tmp_path / "by_seed", seeds=SEEDS, initial=stacked(3, 3))
    toy.same_bits(shared.variables, by_seed.variables)
    users = np.asarray(shared.variables["params"]["users"])
    assert not np.array_equal(users[0], users[1])  # the orders of their epochs differ


def test_what_is_newly_initialised_is_drawn_as_usual(usual: Fitted, tmp_path: Path) -> None:
    """The items are given, and equal what is drawn; users of another data set are not even looked at."""
    other = {"params": {"items": stacked(*SEEDS)["params"]["items"], "users": np.full((2, 3), np.nan)}}
    without = {"params": {"items": other["params"]["items"]}}
    marks = {
        "prefix": (other, ["params/users"]),
        "missing": (without, "params/users"),
        "mask": (other, lambda tree: {"params": {n: n == "users" for n in tree["params"]}}),
    }
    for name, (initial, new) in marks.items():
        fitted = toy.run(tmp_path / name, seeds=SEEDS, initial=initial, newly_initialised=new)
        toy.same_bits(fitted.variables, usual.variables)


def test_four_devices_begin_alike(usual: Fitted, tmp_path: Path) -> None:
    fitted = toy.run(tmp_path, seeds=SEEDS, initial=stacked(*SEEDS), num_devices=4)
    for ours, expected in zip(*map(jax.tree.leaves, (fitted.variables, usual.variables)), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)


# --- a checkpoint of other values ------------------------------------------------------------------------


def test_a_run_goes_on_with_its_own_initial_values_alone(tmp_path: Path) -> None:
    whole = toy.run(tmp_path / "whole", initial=drawn(1))
    toy.run(tmp_path / "cut", initial=drawn(1), stop_after=1)
    moved = {"params": {**drawn(1)["params"], "users": drawn(2)["params"]["users"]}}
    with pytest.raises(ValueError, match=r"fit\.initial\.params/users=.* checksum"):
        toy.run(tmp_path / "cut", initial=moved)
    with pytest.raises(ValueError, match=r"fit\.initial=.* this run has None"):
        toy.run(tmp_path / "cut")
    resumed = toy.run(tmp_path / "cut", initial=drawn(1))
    toy.same_bits(resumed.variables, whole.variables)


def test_one_set_for_all_seeds_is_described_as_the_same_one_for_each() -> None:
    expected = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, drawn(0)))
    shared, by_seed = (check_initial(given, (), expected, 2) for given in (drawn(3), stacked(3, 3)))
    assert description(shared, 2) == description(by_seed, 2)
    assert description(shared, 2) != description(check_initial(stacked(3, 4), (), expected, 2), 2)


# --- many runs -----------------------------------------------------------------------------------------


def reused(workdir: Path, seeds: tuple[int, ...], **kwargs: Any) -> Fitted:
    return fit_reusing(
        toy.phases(2), optax.adam(0.05), toy.plan(), toy.context(), toy.selection(), seeds=seeds,
        workdir=workdir, description={}, progress=False, **kwargs,
    )  # fmt: skip


def test_added_seeds_begin_with_their_own_variables(tmp_path: Path) -> None:
    """Only seed 5 is trained in the second call, whose variables are the second along the axis."""
    reused(tmp_path, (0,), initial=stacked(0))
    both = reused(tmp_path, SEEDS, initial=stacked(*SEEDS))
    usual = reused(tmp_path / "usual", SEEDS)
    toy.same_bits(*(jax.tree.map(np.asarray, fitted.variables) for fitted in (both, usual)))
    names = [path.name for path in sorted(tmp_path.glob("*/seeds*"))]
    assert names == ["seeds-0-epochs-2", "seeds-5-epochs-2"]


def test_seeds_of_a_larger_run_are_trained_again_where_each_begins_with_its_own(tmp_path: Path) -> None:
    both = reused(tmp_path, SEEDS, initial=stacked(*SEEDS))
    alone = reused(tmp_path, (5,), initial=stacked(5))
    toy.same_bits(
        *(jax.tree.map(lambda x, at=at: np.asarray(x)[at], f.variables) for f, at in ((both, 1), (alone, 0)))
    )


# --- what is refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("initial", "message"),
    [
        (
            changed("users", None),
            "initial: lacks params/users, which the task has; give them, or name them in",
        ),
        (
            changed("usres", np.ones(USERS)),
            "the task has no params/usres, but params/items, params/users; leave",
        ),
        (
            changed("users", np.ones((3, 4), np.float32)),
            r"params/users is float32\[3, 4\], expected float32\[10, 4\], or float32\[2, 10, 4\] with values",
        ),
        (changed("users", np.ones(USERS)), r"params/users is float64\[10, 4\], expected float32\[10, 4\]"),
        (
            changed("users", np.ones((3, *USERS), np.float32)),
            r"is float32\[3, 10, 4\], expected .* of 2 seeds",
        ),
        (
            changed("users", np.ones((2, *USERS), np.float32)),
            "params/users with an axis of seeds and params/items without; give all with, or all without",
        ),
        (
            changed(
                "items", np.where(np.arange(4) == 1, np.nan, np.ones(ITEMS, np.float32)).astype(np.float32)
            ),
            "params/items: 13 of 52 values are NaN or infinite; take an earlier checkpoint",
        ),
        ({**drawn(0), "batch_stats": {"mean": np.zeros(3)}}, "the task has no batch_stats/mean"),
        ({}, "initial: lacks params/items, params/users"),
    ],
    ids=["missing", "extra", "shape", "dtype", "seeds", "mixed", "nan", "collection", "empty"],
)
def test_variables_that_do_not_fit_are_refused_by_name(tmp_path: Path, initial: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        toy.run(tmp_path / "run", seeds=SEEDS, initial=initial)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"newly_initialised": ["params/user"]},
            "'params/user' fits no variable of the task; it has params/items",
        ),
        ({"newly_initialised": ["params"]}, "marks every variable, so that nothing is left of initial"),
        (
            {"newly_initialised": ["params/users"], "initial": None},
            "goes with initial; without it all is drawn",
        ),
    ],
)
def test_marks_that_mean_nothing_are_refused(tmp_path: Path, arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        toy.run(tmp_path, **{"initial": drawn(0), **arguments})
