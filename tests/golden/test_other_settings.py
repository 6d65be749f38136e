"""Fixtures changed to settings that none of them has, against small twins of the references.

An empty history of torch-rechub's SINE, DeepCTR-Torch's DIEN with batch norm or without negatives, EGES with
a table of weights and nothing to weigh, further features of users of torch-rechub's MIND and ComiRec, two
features of DGL's PinSage, FuxiCTR's DCNv2 in training, TDM with other numbers of classes, equal scores of
nodes of its trees, fun-rec's SDM with heads that do not divide its width, and nextrec's POSO without biases.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.convert import skip_gram
from jaxrec.types import Array
from tests.golden import (
    test_din,
    test_eges,
    test_interests,
    test_pinsage,
    test_poso,
    test_sdm,
    test_search_interaction,
    test_sine,
    test_tdm,
)
from tests.golden.compare import close_gradients, close_outputs
from tests.golden.fixtures import Golden, golden_files, read

RNG = np.random.default_rng(0)


def drawn(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


# --- SINE of torch-rechub with empty histories ----------------------------------------------------------


def rechub_sine(p: Any, inputs: Any, config: Any) -> tuple[Array, dict[str, Array]]:
    """Its forward pass. To the scores of padding it adds -1e9, in float32, beside which scores vanish."""
    hidden_scores = -1e30 * (inputs["hist"] == 0)  # beside which they vanish in float64
    x = p["item_embedding.weight"][inputs["hist"]] + p["position_embedding.weight"]

    def shares(scores: Array) -> Array:
        return jax.nn.softmax(scores + hidden_scores[..., None], axis=1)

    pooled = jnp.einsum("bsh,bse->be", shares(jnp.tanh(x @ p["w_1"]) @ p["w_2"]), x)
    near = pooled @ p["concept_embedding.weight"].T
    top, at = jax.lax.top_k(near, config["intentions"])
    concepts = jax.nn.sigmoid(top)[..., None] * p["concept_embedding.weight"][at]

    def unit(v: Array) -> Array:
        return v / jnp.linalg.norm(v, axis=-1, keepdims=True)

    assigned = jax.nn.softmax(jnp.einsum("bse,bke->bsk", unit(x @ p["w_3"]), unit(concepts)), axis=-1)
    weights = assigned * shares(jnp.tanh(x @ p["w_k1"]) @ p["w_k2"])
    found = jnp.einsum("bsk,bse->bke", weights, x)
    hat = jnp.einsum("bsk,bke->bse", assigned, concepts)
    c = jnp.einsum("bsh,bse->be", shares(jnp.tanh(hat @ p["w_4"]) @ p["w_5"]), hat)
    c = c * jnp.sum(1 / jnp.abs(c), axis=-1, keepdims=True)
    mixed = jax.nn.softmax(jnp.einsum("be,bke->bk", c, found) / config["temperature"], axis=-1)
    user = jnp.einsum("bk,bke->be", mixed, found)
    items = jnp.concatenate([inputs["item_id"][:, None], inputs["neg"]], axis=1)
    scores = jnp.einsum("be,bne->bn", user, p["item_embedding.weight"][items])
    loss = -jnp.mean(jax.nn.log_softmax(scores)[:, 0])
    return loss, {"user": user, "scores": scores, "loss": loss}


@pytest.mark.parametrize("path", golden_files("sine"))
@pytest.mark.parametrize("empty", [False, True])
def test_an_empty_history_attends_to_its_padding(path: Path, empty: bool) -> None:
    """The twin has the numbers of the fixture; with two histories emptied, and a padding row, we have its."""
    golden = read(path)
    if "w_k2" not in golden.params:
        pytest.skip("RecBole's SINE reads no empty history")
    inputs, params = dict(golden.inputs), dict(golden.params)
    if empty:
        inputs["hist"] = np.where(np.arange(len(inputs["hist"]))[:, None] < 2, 0, inputs["hist"])
        table = params["item_embedding.weight"].copy()
        table[0] = 0.3 * drawn(table.shape[1])
        params["item_embedding.weight"] = table
    of_twin = jax.jit(jax.grad(lambda p: rechub_sine(p, inputs, golden.meta["config"]), has_aux=True))
    with jax.enable_x64(True):
        exact = {name: jnp.asarray(value, jnp.float64) for name, value in params.items()}
        gradients, outputs = of_twin(exact)
    if not empty:
        close_outputs(outputs, golden.outputs)
        close_gradients(gradients, golden.gradients)
        return
    theirs = jax.tree.map(np.asarray, (dict(outputs), dict(gradients)))
    ours = test_sine.of_rechub(golden._replace(params=params, inputs=inputs))
    close_outputs(ours.outputs, theirs[0])
    close_gradients(ours.gradients, theirs[1])


# --- DIEN of DeepCTR-Torch with batch norm, and without negatives --------------------------------------

WITH_AUXILIARY = [path for path in golden_files("dien") if "_aux" in path.id]


@pytest.mark.parametrize("path", WITH_AUXILIARY)
def test_a_norm_of_unit_statistics_changes_nothing(path: Path) -> None:
    golden = read(path)
    params: dict[str, np.ndarray] = {}
    gradients: dict[str, np.ndarray] = {}
    if golden.meta["config"].get("use_bn"):
        pytest.skip("the fixture has batch norm")
    for i, width in enumerate(golden.meta["config"]["dnn"]):
        norm = {"weight": np.ones(width), "bias": np.zeros(width), "running_mean": np.zeros(width)}
        norm["running_var"] = np.full(width, 1 - 1e-5)
        params |= {f"dnn.bn.{i}.{name}": value.astype(np.float32) for name, value in norm.items()}
        before = golden.params[f"dnn.linears.{i}.weight"], golden.gradients[f"dnn.linears.{i}.weight"]
        shift = golden.gradients[f"dnn.linears.{i}.bias"]
        gradients[f"dnn.bn.{i}.bias"] = shift
        product = np.sum(before[0] * before[1], axis=1) + golden.params[f"dnn.linears.{i}.bias"] * shift
        gradients[f"dnn.bn.{i}.weight"] = product.astype(np.float32)
    meta = {**golden.meta, "config": {**golden.meta["config"], "use_bn": True}}
    test_din.deepctr_dien(golden._replace(
        meta=meta, params={**golden.params, **params}, gradients={**golden.gradients, **gradients}
    ))  # fmt: skip


@pytest.mark.parametrize("path", WITH_AUXILIARY)
def test_without_negatives_there_is_no_auxiliary_network(path: Path) -> None:
    """The click and its loss stay; so do gradients of what the auxiliary loss does not reach."""
    golden, network = read(path), "interest_extractor.auxiliary_net."
    params = {name: value for name, value in golden.params.items() if not name.startswith(network)}
    inputs = {name: value for name, value in golden.inputs.items() if not name.startswith("neg_")}
    outputs = {name: value for name, value in golden.outputs.items() if name != "aux_loss"}
    bare = golden._replace(params=params, inputs=inputs, outputs={**outputs, "loss": outputs["bce"]})
    kept = {name: value for name, value in golden.gradients.items() if name in params}
    reached = ("embedding_dict.", "interest_extractor.")
    with pytest.MonkeyPatch.context() as patch:

        def close(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
            assert set(ours) == set(theirs)
            close_gradients(
                *({n: v for n, v in g.items() if not n.startswith(reached)} for g in (ours, theirs))
            )

        patch.setattr(test_din, "close", close)
        test_din.deepctr_dien(bare._replace(gradients=kept))


# --- EGES with weights and no side information ---------------------------------------------------------


@pytest.mark.parametrize("path", golden_files("eges"))
def test_weights_of_one_embedding_weigh_nothing(path: Path) -> None:
    golden = read(path)
    name = "embeds.0.weight"
    params = {name: golden.params[name], skip_gram.WEIGHTS: golden.params[skip_gram.WEIGHTS][:, :1]}
    ends = {end: golden.inputs[end][:, :1] for end in ("src", "dst")}
    ours = test_eges.of_eges(golden._replace(params=params, inputs={**golden.inputs, **ends}))
    vectors = {end: params[name][ids[:, 0]] for end, ids in ends.items()}
    score, label = np.sum(vectors["src"] * vectors["dst"], axis=1), golden.inputs["label"]
    loss = np.mean(np.logaddexp(0, score) - label * score)
    expected = {"src_vector": vectors["src"], "dst_vector": vectors["dst"], "loss": np.float32(loss)}
    close_outputs(ours.outputs, expected)
    slope = (1 / (1 + np.exp(-score)) - label)[:, None] / len(score)
    gradient = np.zeros_like(params[name])
    for end, other in (("src", "dst"), ("dst", "src")):
        np.add.at(gradient, ends[end][:, 0], slope * vectors[other])
    close_gradients(ours.gradients, {name: gradient})


# --- MIND and ComiRec with further features of users ---------------------------------------------------


@pytest.mark.parametrize("path", [*golden_files("mind"), *golden_files("comirec")])
def test_features_of_users_stand_side_by_side(path: Path) -> None:
    """As one feature whose value is the pair of both, with the two embeddings in its row."""
    golden = read(path)
    prefix, width = "embedding.embed_dict", 2
    name = f"{prefix}.user_id.weight"
    table, age, ages = golden.params[name], np.arange(len(golden.inputs["user_id"])) % 3, drawn(3, width)
    user, dim = golden.inputs["user_id"], golden.params[name].shape[1]
    kernel = golden.params["convert_user_weight"]
    kernel = np.concatenate([kernel[:dim], drawn(width, kernel.shape[1]), kernel[dim:]])
    rest = {key: value for key, value in golden.params.items() if key not in (name, "convert_user_weight")}
    both = {name: table, f"{prefix}.age.weight": ages, **rest, "convert_user_weight": kernel}
    ours = test_interests.computed(golden._replace(params=both, inputs={**golden.inputs, "age": age}))

    joined = np.concatenate([table[user], ages[age]], axis=1)
    joined = np.concatenate([np.zeros_like(joined[:1]), joined])
    numbers = np.arange(1, len(joined))
    one = golden._replace(
        params={name: joined, **rest, "convert_user_weight": kernel},
        inputs={**golden.inputs, "user_id": numbers},
    )
    twin = test_interests.computed(one)
    close_outputs(ours.outputs, jax.tree.map(np.asarray, dict(twin.outputs)))
    expected = dict(twin.gradients)
    of_rows = expected.pop(name)[1:]
    expected[name], expected[f"{prefix}.age.weight"] = np.zeros_like(table), np.zeros_like(ages)
    np.add.at(expected[name], user, of_rows[:, :dim])
    np.add.at(expected[f"{prefix}.age.weight"], age, of_rows[:, dim:])
    close_gradients(ours.gradients, expected)


# --- PinSage with two features -------------------------------------------------------------------------


@pytest.mark.parametrize("path", golden_files("pinsage"))
def test_layers_of_two_features_add_up(path: Path) -> None:
    """As one layer of both features, whose bias is the sum of theirs."""
    golden = read(path)
    if "feature" not in golden.inputs:
        pytest.skip("the fixture has no single feature to add another to")
    rows, dim, width = len(golden.inputs["node"]), golden.params["id.weight"].shape[1], 3
    (name,) = {key.split(".")[0] for key in golden.params if "." in key} - {"id", "convs"}
    more = {"size.weight": drawn(dim, width), "size.bias": drawn(dim)}
    features = {f"feature/{name}": golden.inputs["feature"], "feature/size": drawn(rows, width)}
    two = {key: value for key, value in golden.inputs.items() if key != "feature"} | features
    ours = test_pinsage.compute(golden._replace(params={**golden.params, **more}, inputs=two))
    joined: Golden = golden._replace(
        params={
            **golden.params,
            f"{name}.weight": np.concatenate([golden.params[f"{name}.weight"], more["size.weight"]], axis=1),
            f"{name}.bias": golden.params[f"{name}.bias"] + more["size.bias"],
        },
        inputs={**golden.inputs, "feature": np.concatenate(list(features.values()), axis=1)},
    )
    twin = test_pinsage.compute(joined)
    close_outputs(ours.outputs, jax.tree.map(np.asarray, dict(twin.outputs)))
    expected = dict(twin.gradients)
    whole = expected[f"{name}.weight"]
    expected |= {f"{name}.weight": whole[:, :-width], "size.weight": whole[:, -width:]}
    expected["size.bias"] = expected[f"{name}.bias"]
    close_gradients(ours.gradients, expected)


# --- DCNv2 with batch norm, in training ---------------------------------------------------------------


@pytest.mark.parametrize("path", golden_files("dcnv2"))
def test_batch_norm_in_training_takes_the_statistics_of_the_batch(path: Path) -> None:
    """Which `running` compares after the step; PyTorch's running variance is the unbiased one."""
    golden, layer, after = read(path), "stacked_dnn.mlp.{}.{}".format, {}
    state, x = golden.params, golden.outputs["crossnet"].astype(np.float64)
    config = golden.meta["config"]
    plain = config.get("dnn_activations", "ReLU").lower() == "relu" and config["model_structure"] == "stacked"
    if not plain or layer(1, "running_mean") not in state:
        pytest.skip("needs a network of ReLU and batch norm behind the cross network, and none beside it")
    kernels = [name for name in state if name.startswith("stacked_dnn.mlp.") and state[name].ndim == 2]
    for i in sorted(int(name.split(".")[2]) for name in kernels):
        x = x @ state[layer(i, "weight")].T + state[layer(i, "bias")]
        for name, moment in (("running_mean", x.mean(axis=0)), ("running_var", x.var(axis=0, ddof=1))):
            key = layer(i + 1, name)
            after[f"state_after/{key}"] = 0.9 * state[key] + 0.1 * moment
        x = (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-5)
        x = np.maximum(x * state[layer(i + 1, "weight")] + state[layer(i + 1, "bias")], 0)
    logit = x @ state["fc.weight"].T + state["fc.bias"]
    meta = {**golden.meta, "mode": "train"}
    ours = test_search_interaction.compute("dcnv2", golden._replace(meta=meta, outputs=after))
    np.testing.assert_allclose(ours.outputs["y_pred"], 1 / (1 + np.exp(-logit)), rtol=1e-5, atol=1e-5)


# --- TDM with other numbers of classes, and with ties ---------------------------------------------------


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("path", golden_files("tdm_din"))
def test_one_output_is_a_difference_and_a_class_that_never_is_changes_nothing(
    path: Path, classes: int
) -> None:
    golden = read(path)
    weight, bias = "output_mlp.weight", "output_mlp.bias"
    if len(golden.params[bias]) != 2:
        pytest.skip("the fixture has not two classes")

    def changed(rows: np.ndarray, last: float) -> np.ndarray:
        return rows[1:] - rows[:1] if classes == 1 else np.concatenate([rows, np.full_like(rows[:1], last)])

    params = {weight: changed(golden.params[weight], 0.0), bias: changed(golden.params[bias], -1e4)}
    gradients = {
        name: golden.gradients[name][1:] if classes == 1 else changed(golden.gradients[name], 0.0)
        for name in (weight, bias)
    }
    logits = changed(golden.outputs["logits"].T, -1e4).T
    ours = test_tdm.of_network(golden._replace(
        params={**golden.params, **params}, outputs={**golden.outputs, "logits": logits}
    ))  # fmt: skip
    close_outputs(ours.outputs, {**golden.outputs, "logits": logits})
    close_gradients(ours.gradients, {**golden.gradients, **gradients})


@pytest.mark.parametrize("path", golden_files("tdm_beam_search"))
def test_equal_scores_may_stand_in_another_order(path: Path) -> None:
    golden = read(path)
    rounded = golden._replace(inputs={**golden.inputs, "node_score": np.round(golden.inputs["node_score"])})
    port, outputs = test_tdm.of_port(rounded), {}
    for k in golden.meta["config"]["beams"]:
        lists = [
            test_tdm.walked(port, scores, k, lambda place, node: place)
            for scores in rounded.inputs["node_score"]
        ]
        outputs[f"beam{k}"] = np.array([row + [-1] * (k - len(row)) for row in lists])
    test_tdm.close_lists(test_tdm.of_port(rounded._replace(outputs=outputs)))


# --- SDM with heads of another width, and POSO without biases --------------------------------------------


@pytest.mark.parametrize("path", golden_files("sdm"))
def test_heads_need_not_divide_the_width(path: Path) -> None:
    """Four times as wide with zeros, and queries doubled, their products are the same: 2 / √4 = 1."""
    golden, name = test_sdm.renumbered(read(path)), "short_term_attention/{}/{}".format
    params = dict(golden.params)
    width = params[name("query", "bias")].shape[1]
    for part in ("query", "key", "value"):
        for kind in ("kernel", "bias"):
            value = params[name(part, kind)] * (2 if part == "query" else 1)
            params[name(part, kind)] = np.pad(value, [(0, 0)] * (value.ndim - 1) + [(0, 3 * width)])
    last = name("attention_output", "kernel")
    params[last] = np.pad(params[last], [(0, 0), (0, 3 * width), (0, 0)])
    ours = test_sdm.compute(golden._replace(params=params))
    assert ours.converted.module.head_dim == 4 * width
    close_outputs(ours.outputs, golden.outputs)


@pytest.mark.parametrize("path", golden_files("poso"))
def test_no_bias_is_a_bias_of_zero(path: Path) -> None:
    golden = read(path)
    biases = [key for key in golden.params if key.startswith("mlp.layers.") and ".linear.bias" in key]
    zero = golden.params | {key: np.zeros_like(golden.params[key]) for key in biases}
    none = {key: value for key, value in golden.params.items() if key not in biases}
    found, expected = (test_poso.compute(golden._replace(params=params)) for params in (none, zero))
    close_outputs(found.outputs, jax.tree.map(np.asarray, dict(expected.outputs)))
    assert set(found.params) == set(none)
