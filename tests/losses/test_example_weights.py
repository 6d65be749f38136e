"""Rules for weights of examples, and losses made of them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from jaxrec import losses
from jaxrec.losses import example_weights as rules
from jaxrec.losses.example_weights import reweighted
from jaxrec.tasks.multitask import Target, multitask
from jaxrec.tasks.objectives import loss_name

LOGITS = np.array([1.0, -2.0, 0.5, 3.0, -0.3, 0.0], np.float32)
LABELS = np.array([1.0, 0.0, 0.0, 1.0, 1.0, 0.0], np.float32)
COLUMN = np.array([0.5, 4.0, 2.0, 0.02, 1.0, 0.9], np.float32)
REAL = np.array([1, 1, 1, 1, 0, 1], bool)
EACH = np.logaddexp(0.0, LOGITS) - LABELS * LOGITS
RULES: dict[str, Any] = {
    "balanced": rules.balanced_classes(300, 100),
    "balanced-effective": rules.balanced_classes(300, 100, beta=0.99),
    "ips": rules.inverse_propensity(minimum=0.1),
    "decayed": rules.decayed(2.0, floor=0.3),
    "by-stay": rules.by_stay(longest=1.5),
    "ohem": rules.hard_examples(0.5),
    "f-beta": rules.f_beta(2.0),
    "product": rules.product(rules.balanced_classes(300, 100), rules.decayed(2.0)),
}
EXPECTED = {
    "balanced": np.where(LABELS > 0, 400 / 200, 400 / 600),
    "balanced-effective": 0.01 / (1 - 0.99 ** np.where(LABELS > 0, 100, 300)),
    "ips": 1 / np.maximum(COLUMN, 0.1),
    "decayed": np.maximum(2 ** (-COLUMN / 2), 0.3),
    "by-stay": np.where(LABELS > 0, np.log1p(np.minimum(COLUMN, 1.5)), 1.0),
    "ohem": np.where(np.sort(EACH[REAL])[-3] <= EACH, 1.0, 0.0),
    "product": np.where(LABELS > 0, 2.0, 2 / 3) * 2 ** (-COLUMN / 2),
}
every_rule = pytest.mark.parametrize("name", RULES)


def weights_of(name: str) -> np.ndarray:
    return np.asarray(RULES[name](LOGITS, LABELS, COLUMN, where=REAL, axis_name=None))


@pytest.mark.parametrize("name", EXPECTED)
def test_weights_are_the_formula(name: str) -> None:
    np.testing.assert_allclose(weights_of(name)[REAL], EXPECTED[name][REAL], rtol=1e-5)


@every_rule
@pytest.mark.parametrize("by_weight", [False, True])
def test_the_loss_is_the_weighted_mean(name: str, by_weight: bool) -> None:
    weight = weights_of(name)[REAL]
    loss = reweighted(losses.binary_cross_entropy, RULES[name], by_weight=by_weight)
    found = jax.jit(loss)(LOGITS, LABELS, where=REAL, weight=COLUMN)
    expected = (weight * EACH[REAL]).sum() / (weight.sum() if by_weight else REAL.sum())
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@every_rule
def test_devices_add_up_to_the_whole(name: str) -> None:
    loss = reweighted(losses.binary_cross_entropy, RULES[name], by_weight=True)
    halves = [a.reshape(2, 3) for a in (LOGITS, LABELS, COLUMN, REAL)]
    shares = jax.vmap(lambda s, y, c, w: loss(s, y, where=w, weight=c, axis_name="d"), axis_name="d")(*halves)
    np.testing.assert_allclose(shares.sum(), loss(LOGITS, LABELS, where=REAL, weight=COLUMN), rtol=1e-5)


@every_rule
def test_what_is_masked_is_not_read(name: str) -> None:
    bad = [np.where(REAL, a, np.nan).astype(np.float32) for a in (LOGITS, LABELS, COLUMN)]
    loss = reweighted(losses.binary_cross_entropy, RULES[name])

    def value(logits: jax.Array) -> jax.Array:
        return loss(logits, bad[1], where=REAL, weight=bad[2])

    found, slope = jax.value_and_grad(value)(jnp.asarray(bad[0]))
    np.testing.assert_allclose(found, loss(LOGITS, LABELS, where=REAL, weight=COLUMN), rtol=1e-6)
    assert np.isfinite(slope).all() and slope[4] == 0


@every_rule
def test_nothing_real_is_zero(name: str) -> None:
    loss = reweighted(losses.binary_cross_entropy, RULES[name], by_weight=True)
    assert loss(LOGITS, LABELS, where=np.zeros(6, bool), weight=COLUMN) == 0


@every_rule
def test_weights_have_no_gradient(name: str) -> None:
    loss = reweighted(losses.binary_cross_entropy, RULES[name])
    slope = jax.grad(lambda s: loss(s, LABELS, where=REAL, weight=COLUMN))(LOGITS)
    expected = np.where(REAL, weights_of(name) * (expit(LOGITS) - LABELS), 0.0) / REAL.sum()
    np.testing.assert_allclose(slope, expected, atol=1e-6)


def test_the_scale_of_weights_does_not_matter_by_weight() -> None:
    once = reweighted(losses.binary_cross_entropy, lambda s, y, c, **o: c, by_weight=True, name="own")
    tenfold = reweighted(losses.binary_cross_entropy, lambda s, y, c, **o: 10 * c, by_weight=True, name="own")
    np.testing.assert_allclose(once(LOGITS, LABELS, weight=COLUMN), tenfold(LOGITS, LABELS, weight=COLUMN))


def test_whole_weights_repeat_examples() -> None:
    times = np.array([1, 3, 0, 2, 1, 1])
    loss = reweighted(losses.binary_cross_entropy, lambda s, y, c, **o: c, by_weight=True, name="own")
    repeated = losses.binary_cross_entropy(np.repeat(LOGITS, times), np.repeat(LABELS, times))
    np.testing.assert_allclose(loss(LOGITS, LABELS, weight=times.astype(np.float32)), repeated, rtol=1e-6)


def test_self_normalised_propensities_stay_between_the_losses() -> None:
    loss = reweighted(losses.binary_cross_entropy, rules.inverse_propensity(minimum=1e-3), by_weight=True)
    rng = np.random.default_rng(0)
    for _ in range(20):
        found = loss(LOGITS, LABELS, weight=rng.uniform(1e-3, 1, 6).astype(np.float32))
        assert EACH.min() <= found <= EACH.max()


def test_propensities_undo_a_biased_choice() -> None:
    """Examples kept with probability q, weighted by 1 / q, have the mean of all."""
    rng = np.random.default_rng(1)
    n = 200_000
    label = rng.random(n) < 0.3
    q = np.where(label, 0.8, 0.2)
    kept = rng.random(n) < q
    loss = reweighted(losses.squared_error, rules.inverse_propensity(), by_weight=True)
    found = loss(np.zeros(n, np.float32), label.astype(np.float32), where=kept, weight=q.astype(np.float32))
    np.testing.assert_allclose(found, 0.3, atol=0.005)


def test_positives_of_weight_a_multiply_the_odds_by_a() -> None:
    """The best constant logit is that of the base rate plus log a."""
    weight = {1.0: 2.5, 0.0: 1.0}
    loss = reweighted(
        losses.binary_cross_entropy,
        lambda s, y, c, **o: jnp.where(y > 0.5, weight[1.0], weight[0.0]),
        name="a",
    )
    rate = LABELS.mean()
    best = np.log(rate / (1 - rate)) + np.log(2.5)
    slope = jax.grad(lambda s: loss(jnp.full(6, s), LABELS))(best)
    np.testing.assert_allclose(slope, 0.0, atol=1e-6)


def test_a_target_takes_a_rule_and_its_column() -> None:
    class Identity:
        def init(self, key: Any, batch: Any, train: bool) -> Any:
            return {"params": {}}

        def apply(self, variables: Any, batch: Any, **options: Any) -> Any:
            found = batch["x"]
            return (found, {}) if "mutable" in options else found

    loss = reweighted(losses.binary_cross_entropy, rules.decayed(2.0))
    task = multitask(Identity(), [Target("click", None, "y", loss, weight="age")])
    batch = {"x": LOGITS, "y": LABELS, "age": COLUMN, "mask": REAL}
    found, _ = task.losses({"params": {}}, batch, jax.random.key(0))
    np.testing.assert_allclose(found["click"], (2 ** (-COLUMN / 2) * EACH)[REAL].mean(), rtol=1e-5)


def test_names_say_what_is_trained() -> None:
    assert loss_name(reweighted(losses.focal, rules.decayed(1.0))) == "focal-decayed"
    product = rules.product(rules.balanced_classes(1, 1), rules.decayed(1.0))
    assert loss_name(reweighted(losses.focal, product)) == "focal-balanced-decayed"
    assert loss_name(reweighted(losses.focal, rules.f_beta(), name="f1")) == "f1"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rules.balanced_classes(0, 5), "negatives=0, positives=5: each class needs an example"),
        (lambda: rules.inverse_propensity(minimum=0.0), "minimum=0.0: must be above 0"),
        (lambda: rules.decayed(0.0), "half_life=0.0: must be above 0"),
        (lambda: rules.decayed(1.0, floor=2.0), "floor=2.0: must be in 0..1"),
        (lambda: rules.by_stay(longest=0.0), "longest=0.0: must be above 0"),
        (lambda: rules.product(), "name at least one rule"),
    ],
)
def test_rules_that_mean_nothing_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", ["ips", "decayed", "by-stay"])
def test_a_missing_column_is_named(name: str) -> None:
    with pytest.raises(ValueError, match="name it as the target's weight"):
        reweighted(losses.binary_cross_entropy, RULES[name])(LOGITS, LABELS)
