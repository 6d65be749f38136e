"""Weightings that read loss values: fixed, scheduled, random, by uncertainty, by rates of change."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrec.optim.loss_weighting import (
    Descent,
    LossWeighting,
    TaskLosses,
    by_schedule,
    dwa,
    dwa_weights,
    random_weights,
    scheduled,
    static,
    uncertainty,
)

LOSSES: dict[str, Any] = {"a": 4.0, "b": 1.0}


def descend(
    weighting: LossWeighting,
    losses: dict[str, Any] = LOSSES,
    learned: Any = None,
    state: Any = None,
    key: int = 0,
) -> Descent:
    """A step's gradient with the losses themselves as the model's parameters, so it is that of the total."""
    start = weighting.init()
    params = {
        "model": jax.tree.map(jnp.float32, losses),
        "weighting": start[0] if learned is None else learned,
    }
    objective = TaskLosses(lambda model, probes: (dict(model), "rest"), dict)
    return weighting.gradient(objective, params, start[1] if state is None else state, jax.random.key(key))


def floats(tree: Any) -> Any:
    return jax.tree.map(float, tree)


# --- fixed ---


def test_the_total_is_the_weighted_sum() -> None:
    total, _, used = static({"a": 0.5, "b": 3.0}).combine({}, {}, LOSSES)
    assert total == 0.5 * 4.0 + 3.0 * 1.0
    assert used == {"a": 0.5, "b": 3.0}


def test_every_weight_is_one_by_default() -> None:
    assert static().combine({}, {}, LOSSES)[0] == 5.0


def test_nothing_is_learned_or_remembered() -> None:
    assert static().init() == ({}, {})
    assert static().combine({}, {}, LOSSES)[1] == {}


@pytest.mark.parametrize("losses", [{"a": 1.0}, {"a": 1.0, "b": 1.0, "c": 1.0}], ids=["missing", "unknown"])
@pytest.mark.parametrize(
    "weighting",
    [
        static({"a": 1.0, "b": 1.0}),
        scheduled({"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 1.0}),
        by_schedule({"a": 1.0, "b": lambda step: step}),
        uncertainty(regression=["a"], classification=["b"]),
        dwa(["b", "a"], steps_per_epoch=1),
    ],
    ids=["static", "scheduled", "by_schedule", "uncertainty", "dwa"],
)
def test_weights_and_losses_must_have_the_same_names(
    weighting: LossWeighting, losses: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=r"loss weights for \['a', 'b'\]"):
        weighting.combine(*weighting.init(), losses)


def test_the_gradient_is_that_of_the_weighted_sum_and_constant_weights_are_not_logged() -> None:
    found = descend(static({"a": 0.5, "b": 3.0}))
    assert floats(found.gradient) == {"model": {"a": 0.5, "b": 3.0}, "weighting": {}}
    assert floats(found.logs) == {"loss": 0.5 * 4.0 + 3.0 * 1.0, "a": 4.0, "b": 1.0}
    assert found.rest == "rest"


def test_losses_of_fixed_weight_keep_it() -> None:
    found = descend(dwa(["a", "b"], steps_per_epoch=1).with_fixed({"l0": 0.1}), {**LOSSES, "l0": 7.0})
    assert floats(found.gradient["model"]) == pytest.approx({"a": 1.0, "b": 1.0, "l0": 0.1})
    assert float(found.logs["loss"]) == pytest.approx(4.0 + 1.0 + 0.1 * 7.0)
    assert set(found.logs) == {"loss", "a", "b", "l0", "weight/a", "weight/b"}


@pytest.mark.parametrize("fixed", [{"c": 1.0}, {"a": 1.0, "b": 1.0}], ids=["unknown", "all"])
def test_losses_of_fixed_weight_must_exist_and_leave_one(fixed: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"fixed weights for .* the losses \['a', 'b'\]"):
        descend(static().with_fixed(fixed))


# --- scheduled and random ---


def test_weights_are_functions_of_the_step_from_zero_on() -> None:
    """0, 0.1, 0.2 and then the cap: the divergence of a variational auto-encoder is annealed so."""
    weighting = by_schedule({"a": 3.0, "b": optax.linear_schedule(0.0, 0.2, 2)})
    found, state = [], None
    for _ in range(4):
        step = descend(weighting, state=state)
        state = step.state
        found.append(floats(step.logs)["weight/b"])
        assert "weight/a" not in step.logs
        np.testing.assert_allclose(step.logs["loss"], 3.0 * LOSSES["a"] + found[-1] * LOSSES["b"])
        np.testing.assert_allclose(step.gradient["model"]["b"], found[-1])
    np.testing.assert_allclose(found, [0.0, 0.1, 0.2, 0.2])


@pytest.mark.parametrize("steps_per_epoch", [1, 3])
def test_a_schedule_is_geometric_in_epochs(steps_per_epoch: int) -> None:
    weighting = scheduled({"a": 2.0, "b": 3.0}, {"a": 0.5, "b": 1.0}, steps_per_epoch=steps_per_epoch)
    state = None
    for step in range(7):
        found = descend(weighting, state=state)
        state, t = found.state, step // steps_per_epoch
        assert floats(found.gradient["model"]) == pytest.approx({"a": 2.0 * 0.5**t, "b": 3.0})
        assert float(found.logs["weight/a"]) == pytest.approx(2.0 * 0.5**t)


def test_a_schedule_needs_a_start_and_a_rate_of_each_loss() -> None:
    with pytest.raises(ValueError, match="every loss needs both"):
        scheduled({"a": 1.0}, {"b": 1.0})
    with pytest.raises(ValueError, match="steps_per_epoch=0"):
        scheduled({"a": 1.0}, {"a": 1.0}, steps_per_epoch=0)


def test_random_weights_are_drawn_by_the_key_and_add_up_to_one() -> None:
    drawn = [floats(descend(random_weights(), key=key).gradient["model"]) for key in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert sum(drawn[2].values()) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="need a key"):
        random_weights().combine({}, {}, LOSSES)


# --- uncertainty ---

BOTH = uncertainty(regression=["a"], classification=["b"])


def test_forms_of_regression_and_classification() -> None:
    s = {"a": jnp.float32(0.7), "b": jnp.float32(-0.4)}
    found = descend(BOTH, learned=s)
    expected = {"a": 0.5 * np.exp(-0.7), "b": np.exp(0.4)}
    assert float(found.logs["loss"]) == pytest.approx(
        expected["a"] * 4.0 + 0.5 * 0.7 + expected["b"] * 1.0 - 0.5 * 0.4, rel=1e-6
    )
    assert floats(found.gradient["model"]) == pytest.approx(expected)
    assert {name: float(found.logs[f"weight/{name}"]) for name in "ab"} == pytest.approx(expected)
    assert floats(found.gradient["weighting"]) == pytest.approx(
        {"a": 0.5 - expected["a"] * 4.0, "b": 0.5 - expected["b"] * 1.0}, rel=1e-5
    )


def test_at_zero_it_is_half_the_loss_or_the_loss() -> None:
    assert float(BOTH.combine(*BOTH.init(), LOSSES)[0]) == 0.5 * 4.0 + 1.0


@pytest.mark.parametrize("scale", [1.0, 50.0])
def test_at_the_best_s_a_weighted_loss_is_one_half_whatever_its_scale(scale: float) -> None:
    losses = {name: scale * value for name, value in LOSSES.items()}
    best = {"a": np.log(losses["a"]), "b": np.log(2 * losses["b"])}  # regression, classification
    found = descend(BOTH, losses, learned=jax.tree.map(jnp.float32, best))
    assert floats(found.gradient["weighting"]) == pytest.approx({"a": 0.0, "b": 0.0}, abs=1e-6)
    weighted = {name: float(found.gradient["model"][name]) * losses[name] for name in losses}
    assert weighted == pytest.approx({"a": 0.5, "b": 0.5}, rel=1e-5)


def test_s_stays_within_its_bounds_and_comes_back() -> None:
    bounded = uncertainty(regression=["a"], bounds=(-2.0, 3.0))
    for s, loss, expected in (  # the optimum is log of the loss
        (-2.5, 0.0, 0.0),  # below, and it would fall further
        (-2.5, 1.0, 0.5 - 0.5 * np.exp(2.0)),  # below, and it rises: the gradient at the bound
        (3.5, 1e9, 0.0),
        (3.5, 1.0, 0.5 - 0.5 * np.exp(-3.0)),
    ):
        found = descend(bounded, {"a": loss}, learned={"a": jnp.float32(s)})
        assert float(found.gradient["weighting"]["a"]) == pytest.approx(expected, rel=1e-5)
        assert float(found.logs["weight/a"]) == pytest.approx(0.5 * np.exp(-np.clip(s, -2.0, 3.0)), rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "name every loss once"),
        ({"regression": ["a"], "classification": ["a"]}, "name every loss once"),
        ({"regression": ["a"], "start": 11.0}, "start=11.0"),
    ],
)
def test_uncertainty_says_what_is_wrong(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        uncertainty(**arguments)


# --- dynamic weight average ---


def test_weights_follow_the_ratio_of_the_means_of_two_epochs() -> None:
    weighting = dwa(["a", "b"], steps_per_epoch=2, temperature=0.7)
    steps = np.array([[4, 1], [2, 3], [1, 2], [1, 4], [3, 3], [2, 1], [1, 1], [1, 1]], np.float32)
    mean = steps.reshape(4, 2, 2).mean(axis=1)  # [epoch, task]
    state = None
    for step, (a, b) in enumerate(steps):
        found = descend(weighting, {"a": a, "b": b}, state=state)
        state, epoch = found.state, step // 2
        expected = np.ones(2)
        if epoch >= 2:
            e = np.exp(mean[epoch - 1] / mean[epoch - 2] / 0.7)
            expected = 2 * e / e.sum()
        assert list(floats(found.gradient["model"]).values()) == pytest.approx(expected, rel=1e-5)
    assert len(set(np.round(mean[1:] / mean[:-1], 3).ravel())) > 3  # so that epochs are told apart


LAST, BEFORE = jnp.array([1.0, 3.0, 2.0]), jnp.array([2.0, 2.0, 2.0])


def test_dwa_adds_up_to_the_number_of_losses_and_slower_ones_weigh_more() -> None:
    weights = dwa_weights(LAST, BEFORE)
    assert float(weights.sum()) == pytest.approx(3.0)
    assert weights[1] > weights[2] > weights[0]


@pytest.mark.parametrize(
    ("last", "before", "temperature"),
    [(LAST, LAST, 2.0), (2 * LAST, LAST, 2.0), (LAST, BEFORE, 1e9), (LAST, 0 * LAST, 2.0)],
    ids=["unchanged", "equal ratios", "hot", "nothing before"],
)
def test_dwa_gives_ones(last: Any, before: Any, temperature: float) -> None:
    np.testing.assert_allclose(dwa_weights(last, before, temperature=temperature), 1.0, rtol=1e-6)


def test_dwa_does_not_see_the_scale_of_a_loss() -> None:
    scale = jnp.array([1.0, 100.0, 0.01])
    np.testing.assert_allclose(
        dwa_weights(scale * LAST, scale * BEFORE), dwa_weights(LAST, BEFORE), rtol=1e-6
    )


@pytest.mark.parametrize("arguments", [{"steps_per_epoch": 0}, {"steps_per_epoch": 1, "temperature": 0.0}])
def test_dwa_says_what_is_wrong(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{list(arguments)[-1]}="):
        dwa(["a"], **arguments)


@pytest.mark.parametrize(
    "weighting",
    [BOTH, dwa(["a", "b"], steps_per_epoch=1), random_weights(), static()],
    ids=["uncertainty", "dwa", "random", "static"],
)
def test_a_loss_of_nothing_leaves_everything_finite(weighting: LossWeighting) -> None:
    state = None
    for losses in itertools.repeat({"a": 0.0, "b": 2.0}, 4):  # long enough for dwa to read it
        found = descend(weighting, losses, state=state)
        state = found.state
        assert all(np.isfinite(leaf) for leaf in jax.tree.leaves((found.gradient, found.logs)))
