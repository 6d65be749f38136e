"""Several labels of one impression as one task."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses
from jaxrec.tasks.multitask import Target, multitask, select_output, stacked
from jaxrec.types import Array, Task
from tests.tasks import labelled
from tests.tasks.labelled import BATCH, TARGETS, Bottom, columns, rows

KEY = jax.random.key(0)
ROWS = rows(7, 3, 10, 1, 2)
TASK = multitask(Bottom(), TARGETS)


@functools.cache
def prepared() -> tuple[Any, Any]:
    batch = TASK.prepare(KEY, ROWS, columns())
    return dict(jax.jit(TASK.init)(KEY, batch)), batch


def values(task: Task, batch: Any = None) -> dict[str, float]:
    variables, usual = prepared()
    found, updates = task.losses(variables, usual if batch is None else batch, KEY)
    assert updates == {}
    return {name: float(loss) for name, loss in found.items()}


def slow_bce(logits: Any, labels: Any) -> Any:
    p = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
    return -np.where(np.asarray(labels) > 0.5, np.log(p), np.log(1 - p))


def test_a_batch_is_the_columns_at_the_rows_of_the_step() -> None:
    _, batch = prepared()
    assert set(batch) == {*columns(), "mask"}
    np.testing.assert_array_equal(batch["x"], columns()["x"][np.array([7, 3, 10, 1, 2, 0, 0, 0])])
    assert batch["mask"].tolist() == [True] * 5 + [False] * 3


def test_each_loss_is_a_mean_over_its_space() -> None:
    variables, batch = prepared()
    logits = TASK.predict(variables, batch)
    real = np.asarray(batch["mask"])
    clicked = real & np.asarray(batch["space/buy"])
    assert 0 < clicked.sum() < real.sum()
    assert values(TASK) == pytest.approx(
        {
            "click": slow_bce(logits[:, 0], batch["label/click"])[real].mean(),
            "buy": slow_bce(logits[:, 1], batch["label/buy"])[clicked].mean(),
        },
        rel=1e-5,
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [("x", 1e3), ("label/click", jnp.nan), ("label/buy", jnp.nan), ("space/buy", True)],
)
def test_padding_does_not_matter(name: str, value: float | bool) -> None:
    _, batch = prepared()
    other = {**batch, name: batch[name].at[5:].set(value)}
    assert values(TASK, other) == values(TASK)


def gradient(task: Task, batch: Any) -> Any:
    variables, _ = prepared()

    def total(params: Any) -> Any:
        return sum(task.losses({**variables, "params": params}, batch, KEY)[0].values())

    return jax.jit(jax.grad(total))(variables["params"])


def test_labels_that_are_not_known_reach_no_gradient() -> None:
    _, batch = prepared()
    assert np.isnan(batch["label/buy"]).any()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient(TASK, batch)))


def test_a_task_without_any_row_has_loss_and_gradient_zero() -> None:
    _, batch = prepared()
    nobody = {**batch, "space/buy": jnp.zeros(BATCH, bool)}
    assert values(TASK, nobody)["buy"] == 0.0
    heads = gradient(TASK, nobody)["heads"]["kernel"]
    assert (heads[:, 1] == 0).all()
    assert (heads[:, 0] != 0).any()


def test_weights_losses_and_outputs_of_targets_are_theirs() -> None:
    variables, batch = prepared()
    weight = jnp.arange(1.0, 1.0 + BATCH)
    task = multitask(
        Bottom(),
        [Target("time", 1, "x0", loss=losses.squared_error), Target("click", 0, "label/click", weight="w")],
    )
    batch = {**batch, "x0": batch["x"][:, 0], "w": weight}
    logits, real = np.asarray(TASK.predict(variables, batch)), np.asarray(batch["mask"])
    squares = np.square(logits[:, 1] - np.asarray(batch["x0"]))
    weighted = np.asarray(weight) * slow_bce(logits[:, 0], batch["label/click"])
    expected = {"time": float(squares[real].mean()), "click": float(weighted[real].mean())}
    assert values(task, batch) == pytest.approx(expected, rel=1e-5)


class Named(nn.Module):
    """Outputs in a dict, from columns of another name."""

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> dict[str, Array]:
        logit = nn.Dense(1)(x)[:, 0]
        return {"ctr": logit, "ctcvr": logit - 1.0}


def test_outputs_in_a_dict_and_inputs_of_choice() -> None:
    targets = [Target("click", "ctr", "label/click"), Target("both", "ctcvr", "label/click")]
    task = multitask(Named(), targets, inputs=lambda batch: batch["x"])
    _, batch = prepared()
    variables = jax.jit(task.init)(KEY, batch)
    outputs = task.predict(variables, batch)
    found, _ = task.losses(variables, batch, KEY)
    expected = losses.binary_cross_entropy(outputs["ctcvr"], batch["label/click"], where=batch["mask"])
    assert float(found["both"]) == pytest.approx(float(expected))
    np.testing.assert_array_equal(stacked(outputs, targets), jnp.stack([outputs["ctr"], outputs["ctcvr"]], 1))


def test_terms_and_penalties_are_losses_too() -> None:
    variables, batch = prepared()

    def gap(outputs: Array, batch: Mapping[str, Array], axis_name: str | None) -> Array:
        return losses.masked_mean(outputs[:, 1] - outputs[:, 0], batch["mask"], axis_name)

    task = multitask(Bottom(), TARGETS, terms={"gap": gap}, penalties={"l2": lambda model: model.size()})
    found, logits = values(task), TASK.predict(variables, batch)
    assert list(found) == ["click", "buy", "gap", "l2"]
    assert found["gap"] == pytest.approx(float((logits[:5, 1] - logits[:5, 0]).mean()), rel=1e-4)
    assert found["l2"] == pytest.approx(
        float(np.square(variables["params"]["bottom"]["kernel"]).sum()), rel=1e-5
    )


def test_shares_of_devices_add_up_and_batch_statistics_are_averaged() -> None:
    module = Bottom(batch_norm=True)
    term = {"half": lambda outputs, batch, axis_name: losses.masked_mean(outputs, axis_name=axis_name)}
    task = multitask(module, TARGETS, terms=term, penalties={"l2": lambda model: model.size()})
    _, batch = prepared()
    variables = dict(jax.jit(task.init)(KEY, batch))
    variables.pop("perturbations")
    parts = jax.tree.map(lambda x: x.reshape(2, BATCH // 2, *x.shape[1:]), batch)

    def on_device(part: Any) -> Any:
        return task.losses(variables, part, KEY, "devices")

    shares, updates = jax.jit(jax.vmap(on_device, axis_name="devices"))(parts)
    alone = jax.jit(lambda part: task.losses(variables, part, KEY))
    each = [alone(jax.tree.map(lambda x, i=i: x[i], parts)) for i in (0, 1)]
    counts = {
        "click": np.asarray(parts["mask"].sum(axis=1)),
        "buy": np.asarray((parts["mask"] & parts["space/buy"]).sum(axis=1)),
        "half": np.array([4, 4]),
        "l2": np.array([1, 1]),
    }
    assert (counts["click"] != counts["click"][::-1]).any()
    for name, share in shares.items():
        of_each = np.array([float(found[name]) for found, _ in each])
        expected = (of_each * counts[name]).sum() / counts[name].sum()
        assert float(share.sum()) == pytest.approx(float(expected), rel=1e-4)
    for name in ("mean", "var"):
        mean = updates["batch_stats"]["norm"][name]
        np.testing.assert_array_equal(mean[0], mean[1])
        own = np.stack([update["batch_stats"]["norm"][name] for _, update in each])
        assert not np.allclose(own[0], own[1])
        np.testing.assert_allclose(mean[0], own.mean(axis=0), rtol=1e-4, atol=1e-6)


class Noisy(nn.Module):
    @nn.compact
    def __call__(self, batch: Mapping[str, Array], *, train: bool = False) -> Array:
        bias = self.param("bias", nn.initializers.zeros, (2,))
        noise = jax.random.normal(self.make_rng("dropout")) if train else 0.0
        return batch["x"][:, :2] + bias + noise


def test_noise_follows_the_key_and_prediction_has_none() -> None:
    task = multitask(Noisy(), TARGETS)
    _, batch = prepared()
    variables = jax.jit(task.init)(KEY, batch)
    drawn = [float(task.losses(variables, batch, jax.random.key(i))[0]["click"]) for i in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    np.testing.assert_array_equal(task.predict(variables, batch), batch["x"][:, :2])


@pytest.mark.parametrize(
    ("targets", "options", "message"),
    [
        ([], {}, "at least one target or term"),
        ([TARGETS[0], TARGETS[0]], {}, r"no name twice \(\['click'\]\)"),
        (TARGETS, {"penalties": {"buy": lambda model: 0.0}}, r"no name twice \(\['buy'\]\)"),
    ],
)
def test_names_of_losses_are_checked(targets: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        multitask(Bottom(), targets, **options)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (Target("t", 0, "label/like"), "target 't': column 'label/like' is not in the batch"),
        (Target("t", 0, "label/buy", space="space/like"), "column 'space/like' is not in the batch"),
        (Target("t", 0, "label/buy", weight="w"), "column 'w' is not in the batch"),
        (Target("t", 2, "label/buy"), r"target 't': no output 2 in an array \(8, 2\)"),
        (Target("t", "ctr", "label/buy"), "output='ctr', but the model gives an array"),
    ],
)
def test_what_a_target_reads_must_exist(target: Target, message: str) -> None:
    variables, batch = prepared()
    task = multitask(Bottom(), [target])
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: task.losses(variables, batch, KEY))


def test_an_output_of_a_dict_must_be_named_and_exist() -> None:
    outputs = {"ctr": jnp.zeros(2)}
    with pytest.raises(ValueError, match=r"no output 'cvr'; the model gives \['ctr'\]"):
        select_output(outputs, Target("t", "cvr", "label/click"))
    with pytest.raises(ValueError, match=r"output=0, but the model gives a dict of \['ctr'\]"):
        select_output(outputs, Target("t", 0, "label/click"))


def test_a_single_output_has_no_number() -> None:
    logits = jnp.arange(3.0)
    alone = Target("t", None, "label/click")
    np.testing.assert_array_equal(select_output(logits, alone), logits)
    np.testing.assert_array_equal(stacked(logits, [alone]), logits[:, None])
    with pytest.raises(ValueError, match=r"no output 0 in an array \(3,\)"):
        select_output(logits, Target("t", 0, "label/click"))
    with pytest.raises(ValueError, match=r"output=None, but the model gives an array \(3, 2\)"):
        select_output(jnp.zeros((3, 2)), alone)


def test_a_column_may_not_be_called_mask() -> None:
    with pytest.raises(ValueError, match="context column 'mask'"):
        TASK.prepare(KEY, ROWS, columns(mask=np.ones(labelled.NUM_ROWS, bool)))
