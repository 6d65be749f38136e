"""DIN, DIEN and Dice against FuxiCTR, DIEN with auxiliary loss against DeepCTR-Torch: all gradients too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses
from jaxrec.convert import deepctr, fuxictr_ranking
from jaxrec.convert.state_dict import Locations, to_state
from jaxrec.nn.layers.activation_unit import ActivationUnit
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.mlp import MLP
from jaxrec.types import Array, Variables
from tests.golden.activations import activation
from tests.golden.fixtures import Golden, golden_files, read

LEARNED = ("dice", "prelu")  # activations that the converter sees


def with_activations(config: dict[str, Any], mlp: str, attention: str) -> dict[str, Any]:
    """Our MLP and activation unit with the activations without parameters under these keys, if there are."""
    found = [config.get(key, LEARNED[0]).lower() for key in (mlp, attention)]
    of_mlp, of_unit = ({} if name in LEARNED else {"activation": activation(name)} for name in found)
    return {"mlp": Factory(MLP, **of_mlp), "attention": ActivationUnit(**of_unit)}


def batch_of(golden: Golden) -> dict[str, Array]:
    """The columns that are no label and no length."""
    ids = {name: column for name, column in golden.inputs.items() if column.dtype.kind == "i"}
    return {name: jnp.asarray(column, jnp.int32) for name, column in ids.items() if "length" not in name}


def close(ours: dict[str, Any], theirs: dict[str, np.ndarray]) -> None:
    """Gradients are close: to 1e-4, or 1e-5 of the largest of an array, or of what float32 resolves."""
    assert set(ours) == set(theirs)
    for name, value in ours.items():
        atol = 1e-5 * max(1e-2, float(np.abs(theirs[name]).max()))
        np.testing.assert_allclose(value, theirs[name], rtol=1e-4, atol=atol, err_msg=name)


def same(ours: Any, theirs: np.ndarray, name: str) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5, err_msg=name)


def differentiated(loss: Any, variables: Variables, batch: Any) -> Any:
    """A loss of (params, other variables, batch) -> (scalar, anything), and its gradient."""
    variables = dict(variables)
    return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables.pop("params"), variables, batch)


def running(
    golden: Golden, updated: Variables, locations: Locations, rows: dict[int, int], *, moved: float = 0.01
) -> None:
    """Running statistics after one step. PyTorch moves the variance towards the unbiased one of the batch.

    rows: for each number of axes of what is normalised, over how many rows; keys tell attention from MLP.
    moved: Dice's share of the batch, its momentum there.
    """
    after = {
        k.removeprefix("state_after/"): v for k, v in golden.outputs.items() if k.startswith("state_after/")
    }
    ours = to_state({"batch_stats": updated}, locations)
    after = {name: value for name, value in after.items() if not name.endswith("num_batches_tracked")}
    assert set(ours) == set(after)
    for name, value in after.items():
        n = rows[2 if "attention" in name else 1]
        before, found = golden.params[name], ours[name]
        if name.endswith("running_var"):
            kept = 1 - moved if ".bn." in f".{name}" else 0.9
            found = kept * before + (found - kept * before) * n / (n - 1)
        np.testing.assert_allclose(found, value, rtol=2e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("path", golden_files("dice"))
def test_dice(path: Path) -> None:
    golden = read(path)
    config, train = golden.meta["config"], golden.meta["mode"] == "train"
    fields = {"epsilon": config["eps"], "momentum": 1.0 - config["momentum"]}
    module, variables, locations = fuxictr_ranking.dice(golden.params, **fields)
    x, weights = jnp.asarray(golden.inputs["x"]), golden.inputs["w"]

    def loss(params: Any, rest: Any, batch: Any) -> tuple[Array, Any]:
        y, updated = module.apply({**rest, "params": params}, batch, train=train, mutable=["batch_stats"])
        return jnp.sum(y * weights), (y, updated["batch_stats"])

    (total, (y, updated)), gradients = differentiated(loss, variables, x)
    same(y, golden.outputs["y"], "y")
    same(total, golden.outputs["loss"], "loss")
    close(to_state({"params": gradients}, locations), golden.gradients)
    if train:
        running(golden, updated, locations, {1: len(x)}, moved=config["momentum"])


def histories_of(golden: Golden) -> tuple[dict[str, str], dict[str, str]]:
    """History, and negatives, of each target: the columns of events that have its table."""
    start = f"{fuxictr_ranking.TABLES}."
    single = [name for name, column in golden.inputs.items() if column.ndim == 1 and column.dtype.kind == "i"]
    found: tuple[dict[str, str], dict[str, str]] = ({}, {})
    usual = list(fuxictr_ranking.HISTORIES.values())  # the order in which the source joins their vectors
    for name, column in sorted(
        golden.inputs.items(), key=lambda item: usual.index(item[0]) if item[0] in usual else 9
    ):
        if column.ndim == 2:
            table = golden.params[f"{start}{name}.weight"]
            target = next(t for t in single if np.array_equal(golden.params[f"{start}{t}.weight"], table))
            found["neg" in name][target] = name
    return found


@pytest.mark.parametrize("path", golden_files("din"))
def test_din(path: Path) -> None:
    golden = read(path)
    config, train = golden.meta["config"], golden.meta["mode"] == "train"
    fields = with_activations(config, "dnn_activations", "attention_hidden_activations")
    last = config.get("attention_output_activation")
    fields["attention"] = fields["attention"].clone(
        softmax=config["din_use_softmax"], output_activation=activation(last) if last else None
    )
    numeric = [name for name, column in golden.inputs.items() if column.dtype.kind == "f"]
    histories, _ = histories_of(golden)
    module, variables, locations = fuxictr_ranking.din(
        golden.params, histories=histories, numeric=numeric, **fields
    )
    model = module.model
    assert [list(model.dims), list(model.attention.dims), model.mlp.keywords["batch_norm"]] == [
        config["dnn_hidden_units"],
        config["attention_hidden_units"],
        config["batch_norm"],
    ]
    label = golden.inputs["label"]
    batch = batch_of(golden) | {name: golden.inputs[name] for name in numeric if name != "label"}

    def loss(params: Any, rest: Any, batch: Any) -> tuple[Array, Any]:
        logit, updated = module.apply(
            {**rest, "params": params}, batch, train=train, mutable=["batch_stats", "intermediates"]
        )
        return losses.binary_cross_entropy(logit, label), (logit, updated)

    (total, (logit, updated)), gradients = differentiated(loss, variables, batch)
    same(jax.nn.sigmoid(logit)[:, None], golden.outputs["y_pred"], "y_pred")
    same(total, golden.outputs["loss"], "loss")
    if "pooled" in golden.outputs:
        same(updated["intermediates"]["model"]["interest"][0], golden.outputs["pooled"], "pooled")
    close(to_state({"params": gradients}, locations), golden.gradients)
    if train:
        slots = batch[next(iter(histories.values()))].size
        running(golden, updated["batch_stats"], locations, {1: len(label), 2: slots})


@pytest.mark.parametrize("path", golden_files("dien"))
def test_dien(path: Path) -> None:
    golden = read(path)
    (deepctr_dien if "DeepCTR" in golden.meta["source"]["repo"] else fuxictr_dien)(golden)


def fuxictr_dien(golden: Golden) -> None:
    config = golden.meta["config"]
    histories, negatives = histories_of(golden)
    fields = {"evolution": config["gru_type"].lower(), "softmax": config.get("use_attention_softmax", True)}
    config = {"dnn_activations": "ReLU", **config}  # the default of the source
    fields |= with_activations(config, "dnn_activations", "attention_activation")
    numeric = [name for name, column in golden.inputs.items() if column.dtype.kind == "f"]
    module, variables, locations = fuxictr_ranking.dien(
        golden.params, histories=histories, negatives=negatives, numeric=numeric, **fields
    )
    model = module.model
    batch_norm = model.mlp.keywords["batch_norm"]
    assert (list(model.dims), batch_norm) == (config["dnn_hidden_units"], config["batch_norm"])
    assert model.sum_pooling is config.get("enable_sum_pooling", False)
    if model.attention is not None:
        kind = "din" if isinstance(model.attention, ActivationUnit) else model.attention
        assert config["attention_type"].startswith(kind)
    label, train = golden.inputs["label"], golden.meta["mode"] == "train"
    batch = batch_of(golden) | {name: golden.inputs[name] for name in numeric if name != "label"}
    batch = {name: column for name, column in batch.items() if name not in negatives.values()}

    def loss(params: Any, rest: Any, batch: Any) -> tuple[Array, Any]:
        logit, updated = module.apply(
            {**rest, "params": params}, batch, train=train, mutable=["batch_stats", "intermediates"]
        )
        return losses.binary_cross_entropy(logit, label), (logit, updated)

    (total, (logit, updated)), gradients = differentiated(loss, variables, batch)
    same(jax.nn.sigmoid(logit)[:, None], golden.outputs["y_pred"], "y_pred")
    same(total, golden.outputs["loss"], "loss")
    real = np.asarray(batch[next(iter(histories.values()))] != 0)
    states = updated["intermediates"]["model"]["states"][0]
    same(states * real[..., None], golden.outputs["interest_emb"], "interest_emb")
    close(to_state({"params": gradients}, locations), golden.gradients)
    if train:
        running(golden, updated.get("batch_stats", {}), locations, {1: len(label), 2: real.size})


def deepctr_dien(golden: Golden) -> None:
    config = golden.meta["config"]
    kinds = [name.removeprefix("hist_") for name in golden.inputs if name.startswith("hist_")]
    config = {"dnn_activation": "relu", "att_activation": "sigmoid", **config}  # as the source was run
    fields = {"evolution": config["gru_type"].lower()}
    fields |= with_activations(config, "dnn_activation", "att_activation")
    softmax = config.get("att_weight_normalization", True)
    fields["attention"] = fields["attention"].clone(softmax=softmax)
    module, variables, locations = deepctr.dien(golden.params, kinds=kinds, **fields)
    model = module.model
    assert [list(model.dims), list(model.attention.dims)] == [config["dnn"], config["att"]]
    assert model.mlp.keywords["batch_norm"] == config.get("use_bn", False)
    if model.aux_dims is not None:
        assert [*model.aux_dims, 1] == config["aux_net"]
    batch, label = batch_of(golden), golden.inputs["label"]
    assert (np.sum(batch[f"hist_{kinds[0]}"] != 0, axis=1) == golden.inputs["seq_length"]).all()

    def loss(params: Any, rest: Any, batch: Any) -> tuple[Array, Any]:
        outputs, updated = module.apply(
            {**rest, "params": params}, batch, train=False, mutable=["intermediates"]
        )
        click = outputs if model.aux_dims is None else outputs["click"]
        cross_entropy = losses.binary_cross_entropy(click, label)
        auxiliary = jnp.zeros(())
        if model.aux_dims is not None:
            steps = outputs["steps"]
            of_step = losses.next_behaviour(outputs["next"], outputs["negative"], where=steps, per_step=True)
            auxiliary = of_step / 2  # theirs is the mean over positives and negatives together
        total = cross_entropy + config["alpha"] * auxiliary
        sown = updated["intermediates"]["model"]
        y = jax.nn.sigmoid(click)[:, None]
        named = {"y_pred": y, "bce": cross_entropy, "aux_loss": auxiliary, "loss": total}
        return total, {**named, "evolved": sown["interest"][0], "states": sown["states"][0]}

    (_, found), gradients = differentiated(loss, variables, batch)
    for name, value in golden.outputs.items():
        if name != "interests_nonempty":
            same(found[name], value, name)
    real = np.asarray(batch[f"hist_{kinds[0]}"] != 0)
    states = (found["states"] * real[..., None])[real.any(axis=1)]
    same(states, golden.outputs["interests_nonempty"], "interests")
    ours = to_state({"params": gradients}, locations)
    for name in set(ours) - set(golden.gradients):  # the bias that its AUGRU cell has once: see the notes
        gradient = ours.pop(name)
        if name.endswith("bias_hh"):
            ours[name.replace("bias_hh", "bias_ih")] += gradient
        else:  # of a network that no step reaches
            assert ".auxiliary_net." in name and not np.any(gradient), name
    close(ours, golden.gradients)
