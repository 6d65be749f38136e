"""Tasks of late conversions, and training in the order of time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrec import losses
from jaxrec.data.synthetic.delayed_feedback import delayed_clicks
from jaxrec.data.tables import conversions as examples
from jaxrec.nn.layers.features import Featured, FeatureEmbedding, Numeric
from jaxrec.nn.layers.mlp import MLP, Tower
from jaxrec.nn.ranking.delayed_feedback import DelayedFeedback
from jaxrec.protocols import conversions
from jaxrec.tasks import delayed_feedback as tasks
from jaxrec.train.epoch import in_order
from tests.nn import family

MADE = delayed_clicks(
    6_000, days=15, conversion_rate=0.5, num_campaigns=1, num_sites=1, mean_delay=5.0, spread=0.0, seed=2
)
PRICE = FeatureEmbedding((Numeric("price"),))
LOGIT, BOTH = Featured(PRICE, Tower()), Featured(PRICE, DelayedFeedback())
KEY = jax.random.key(0)


def batch(found: examples.Examples) -> dict[str, Any]:
    columns = found.columns(MADE.clicks)
    return {name: jnp.asarray(column) for name, column in columns.items()} | {
        "mask": jnp.arange(len(found.click)) > 4
    }


def test_dfm_has_the_likelihood_of_what_is_seen() -> None:
    task, rows = tasks.delayed_feedback(BOTH), batch(examples.snapshot(MADE.clicks, 2.0))
    variables = jax.jit(task.init)(KEY, rows)
    found, _ = task.losses(variables, rows, KEY)
    outputs: Any = BOTH.apply(variables, rows, train=False)
    seen = {name: rows[name] for name in ("converted", "delay", "elapsed")}
    expected = losses.delayed_feedback(outputs["conversion"], outputs["log_rate"], **seen, where=rows["mask"])
    assert list(found) == ["conversion"] and np.isclose(found["conversion"], expected, rtol=1e-6)
    np.testing.assert_array_equal(task.predict(variables, rows), outputs["conversion"])


def test_the_module_treats_examples_alone_and_reaches_every_parameter() -> None:
    x = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    module = DelayedFeedback((4,))
    variables: Any = jax.jit(module.init)(KEY, x)
    outputs: Any = module.apply(variables, x)
    assert {name: value.shape for name, value in outputs.items()} == {"conversion": (6,), "log_rate": (6,)}
    family.leaves_close(module.apply(variables, x[2:4]), {n: v[2:4] for n, v in outputs.items()}, atol=1e-6)

    def total(v: Any) -> Any:
        found: Any = module.apply(v, x + 1)
        return jnp.sum(found["conversion"] ** 2) + jnp.sum(found["log_rate"] ** 2)

    gradients = jax.grad(total)(variables)
    assert all(bool(np.isfinite(leaf).all() and np.any(leaf)) for leaf in jax.tree.leaves(gradients))


def test_tasks_of_a_stream_differ_in_loss_and_prediction() -> None:
    rows = batch(examples.stream(MADE.clicks, 2.0))
    rows["weight"] = jnp.linspace(0.1, 2.0, len(rows["mask"]))
    plain, made = tasks.cross_entropy(LOGIT), {}
    variables = jax.jit(plain.init)(KEY, rows)
    logits = plain.predict(variables, rows)
    for task in (plain, tasks.cross_entropy(LOGIT, weighted=True), tasks.fake_negative_weighted(LOGIT)):
        made[task] = task.losses(variables, rows, KEY)[0]["conversion"]
    label, where = rows["label/conversion"], rows["mask"]
    np.testing.assert_allclose(
        list(made.values()),
        [
            losses.binary_cross_entropy(logits, label, where=where),
            losses.binary_cross_entropy(logits, label, where=where, weight=rows["weight"]),
            losses.fake_negative_weighted(logits, label, where=where),
        ],
        rtol=1e-5,
    )
    corrected = tasks.fake_negative_calibrated(LOGIT)
    assert corrected.losses(variables, rows, KEY)[0]["conversion"] == made[plain]
    np.testing.assert_allclose(
        corrected.predict(variables, rows), losses.fake_negative_calibrated(logits), rtol=1e-6
    )


def test_the_mean_of_seeds_is_one_of_probabilities() -> None:
    logits = jnp.array([[-2.0, 0.5], [1.0, 30.0]])
    found = jax.nn.sigmoid(tasks.mean_logits(logits))
    np.testing.assert_allclose(found, jax.nn.sigmoid(logits).mean(axis=0), rtol=1e-5)


# --- the order of time -------------------------------------------------------------------------------


def test_an_epoch_goes_through_the_examples_in_their_order() -> None:
    plan = in_order(7, 3)
    found, ok = plan.draw(KEY, {})
    assert ok and plan.num_steps == 3
    assert found["example"].tolist() == [[0, 1, 2], [3, 4, 5], [6, 0, 1]]
    assert found["mask"].tolist() == [[True] * 3, [True] * 3, [True, False, False]]
    with pytest.raises(ValueError, match="batch_size=0: must be at least 1"):
        in_order(3, 0)


def data_of(found: examples.Examples) -> Any:
    after = examples.complete(MADE.clicks, 15.0, since=10.0)
    truth = {conversions.TRUTH: MADE.prob[after.click].astype(np.float32)}
    return conversions.resident(
        "small", found.columns(MADE.clicks), after.columns(MADE.clicks) | truth, rule="time"
    )


@pytest.mark.parametrize("device_count", [1, pytest.param(4, marks=pytest.mark.long)])
def test_dfm_is_less_biased_than_negatives_at_once(tmp_path: Path, device_count: int) -> None:
    known = examples.snapshot(MADE.clicks, 10.0)
    bias = {}
    for name, task in (("naive", tasks.cross_entropy(LOGIT)), ("dfm", tasks.delayed_feedback(BOTH))):
        data = data_of(known)
        options: Any = {"seeds": (0,), "workdir": tmp_path / name, "description": {}, "progress": False}
        fitted = conversions.train(
            data, task, optax.adam(0.02), batch_size=64, epochs=4, num_devices=device_count, **options
        )
        found = conversions.run_test(data, task, fitted.variables, num_devices=device_count).metrics[0]
        bias[name] = found["bias/conversion"]
        assert set(found) >= {"auc/conversion", "ece/conversion", "prob_mae/conversion"}
    assert bias["naive"] < -0.15 and abs(bias["dfm"]) < 0.12


def test_constant_predictions_have_the_bias_of_their_rate() -> None:
    data = data_of(examples.snapshot(MADE.clicks, 10.0))
    (found,) = conversions.test_constant(data, 0.4, 1).metrics
    assert np.isclose(found["bias/conversion"], 0.4 - data.test["truth"][data.test["mask"]].mean(), atol=1e-5)
    with pytest.raises(ValueError, match="prob=0.0: must lie between 0 and 1"):
        conversions.test_constant(data, 0.0, 1)


def test_weights_are_learned_in_their_spaces(tmp_path: Path) -> None:
    then, labels = examples.delayed_labels(MADE.clicks, 15.0, wait=2.0, window=8.0)
    learned, onto = then.columns(MADE.clicks) | labels, examples.stream(MADE.clicks, 15.0, wait=2.0)
    model = Featured(PRICE, MLP((2,), activate_last=False))
    options: Any = {"seeds": (0, 1), "workdir": tmp_path, "description": {}, "progress": False}
    found = conversions.learn_weights(
        model, ("delayed", "negative"), learned, onto.columns(MADE.clicks), optax.adam(0.05),
        batch_size=64, epochs=2, **options,
    )  # fmt: skip
    assert found.shape == (len(onto.click), 2)
    rates = [labels[f"label/{name}"][labels[f"space/{name}"]].mean() for name in ("delayed", "negative")]
    np.testing.assert_allclose((1 / (1 + np.exp(-found))).mean(axis=0), rates, atol=0.08)
