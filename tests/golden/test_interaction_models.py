"""FuxiCTR's DeepFM, PNN and DLRM, the authors' DLRM, DeepCTR-Torch's kernels: outputs and all gradients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from jaxrec import losses
from jaxrec.convert import dlrm, fuxictr_interaction
from jaxrec.convert.fuxictr_interaction import pair_order
from jaxrec.convert.parts import cut, joined
from jaxrec.convert.state_dict import Converted, Location, Locations, convert, dense, tables, to_state
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.interaction import inner_products
from jaxrec.nn.layers.mlp import MLP
from jaxrec.nn.ranking.pnn import PNN
from jaxrec.types import Array, Variables
from tests.golden import activations
from tests.golden.compare import close_gradients, close_outputs
from tests.golden.fixtures import Golden, golden_files, read
from tests.golden.test_din import LEARNED, differentiated, running

FILES = [*golden_files("deepfm"), *golden_files("pnn"), *golden_files("dlrm")]
Outputs = Callable[[Variables, Array], dict[str, Array]]


class Case(NamedTuple):
    """Our module, its columns, and the fixture's outputs from what it sows and its logits."""

    converted: Converted
    batch: dict[str, np.ndarray]
    outputs: Outputs


def activation(config: dict[str, Any], key: str, field: str = "activation") -> dict[str, Any]:
    """The field of an activation without parameters; those with parameters the converter sees."""
    name = activations.one_name(config.get(key) or "ReLU")
    return {} if name.lower() in LEARNED else {field: activations.activation(name)}


def columns(golden: Golden) -> tuple[dict[str, np.ndarray], list[str]]:
    """The columns of features, in their order, and the names of those of numbers."""
    found = {name: golden.inputs[name] for name in golden.meta["config"]["feature_order"]}
    numeric = [name for name, column in found.items() if column.dtype.kind == "f"]
    batch = {n: c.astype(np.float32 if n in numeric else np.int32) for n, c in found.items()}
    return batch, numeric


def vectors_of(seen: Variables) -> Array:
    return seen["embedding"]["stacked"][0]


def upper(vectors: Array) -> Array:
    """Inner products of pairs, row by row of the upper triangle."""
    return inner_products(vectors)[:, np.argsort(pair_order(range(vectors.shape[1])))]


def deepfm(golden: Golden) -> Case:
    batch, numeric = columns(golden)
    config, bias = golden.meta["config"], golden.params["fm.lr_layer.bias"]
    mlp = Factory(MLP, **activation(config, "hidden_activations"))
    converted = fuxictr_interaction.deepfm(golden.params, numeric=numeric, mlp=mlp)
    module = converted.module
    assert (list(module.dims), module.mlp.keywords["batch_norm"]) == (
        config["hidden_units"],
        config["batch_norm"],
    )

    def outputs(seen: Variables, logits: Array) -> dict[str, Array]:
        deep = (seen["tower"]["__call__"][0] - bias)[:, None]  # our one bias is the sum of both
        return {"deep": deep, "fm": logits[:, None] - deep, "y_pred": jax.nn.sigmoid(logits)[:, None]}

    return Case(converted, batch, outputs)


def pnn(golden: Golden) -> Case:
    if "FuxiCTR" not in golden.meta["source"]["repo"]:
        return kernels(golden)
    batch, numeric = columns(golden)
    config = golden.meta["config"]
    fields = activation(config, "hidden_activations")
    converted = fuxictr_interaction.pnn(golden.params, numeric=numeric, **fields)
    module = converted.module
    assert (list(module.dims), module.batch_norm) == (config["hidden_units"], config["batch_norm"])

    def outputs(seen: Variables, logits: Array) -> dict[str, Array]:
        return {"inner_products": upper(vectors_of(seen)), "y_pred": jax.nn.sigmoid(logits)[:, None]}

    return Case(converted, batch, outputs)


def kernels(golden: Golden) -> Case:
    """The layers of DeepCTR-Torch in a net that was made for the fixture, whose ids are all real."""
    forms = ("mat", "vec", "num")
    fields, locations = tables(golden.params, "tables", ("embedding",))
    pairs = pair_order(range(len(fields)))
    hidden, width = len(golden.params["dnn.0.bias"]), sum(field.dim for field in fields)
    state = cut(golden.params, "dnn.0.weight", (hidden,), (width, *[len(pairs)] * 4))
    names = ("linear", "inner", *forms)
    for i, name in enumerate(names):
        order = pairs if i else ()
        path = ("params", name, "kernel")
        locations[f"dnn.0.weight[0][{i}]"] = Location(path, turned=True, order=order, axis=1)
    locations["dnn.0.bias"] = Location(("params", "linear", "bias"))
    locations |= dense("dnn.2", ("tower", "logit"))
    for form in forms:
        path = ("params", f"{form}_products", "kernel")
        locations[f"{form}.kernel"] = Location(path, order=pairs, axis=1 if form == "mat" else 0)
    batch = {
        field.name: (ids + 1).astype(np.int32)
        for field, ids in zip(fields, golden.inputs["ids"].T, strict=True)
    }
    module = PNN(fields, factorised=False, kernels=forms, dims=(hidden,))
    config = golden.meta["config"]
    assert [field.vocab_size - 1 for field in fields] == config["tables"]
    assert ({field.dim for field in fields}, len(fields)) == ({config["dim"]}, config["fields"])

    def outputs(seen: Variables, logits: Array) -> dict[str, Array]:
        found = {form: seen[f"{form}_products"]["__call__"][0][:, np.argsort(pairs)] for form in forms}
        return found | {"inner": upper(vectors_of(seen)), "logit": logits[:, None]}

    return Case(convert(module, state, locations, batch), batch, outputs)


def fuxictr_dlrm(golden: Golden) -> Case:
    batch, numeric = columns(golden)
    config = golden.meta["config"]
    fields: dict[str, Any] = {"mlp": Factory(MLP, **activation(config, "top_mlp_activations"))}
    fields |= activation(config, "bottom_mlp_activations", "bottom_activation")
    products = config["interaction_op"] == "dot"
    converted = fuxictr_interaction.dlrm(golden.params, numeric=numeric, products=products, **fields)
    module = converted.module
    bottom = [*config["bottom_mlp_units"], config["embedding_dim"]] if numeric else []
    assert [list(module.bottom_dims), list(module.top_dims)] == [bottom, config["top_mlp_units"]]
    assert module.mlp.keywords["batch_norm"] is config["batch_norm"]

    def outputs(seen: Variables, logits: Array) -> dict[str, Array]:
        dim = config["embedding_dim"]
        found = {"bottom": seen["crossed"][0][:, :dim]} if numeric else {}
        return found | {"y_pred": jax.nn.sigmoid(logits)[:, None]}

    return Case(converted, batch, outputs)


def official_dlrm(golden: Golden) -> Case:
    config, inputs = golden.meta["config"], golden.inputs
    converted = dlrm.dlrm(
        golden.params, itself=config["interaction_itself"], products=config["interaction"] == "dot"
    )
    module = converted.module
    assert [inputs["dense"].shape[1], *module.bottom_dims] == config["bottom"]
    assert [*module.top_dims, 1] == config["top"][1:]
    assert [c.vocab_size - 1 for c in module.categories] == config["tables"]
    batch = {"dense": inputs["dense"]}
    for k in range(len(config["tables"])):
        batch[f"bag_{k}"] = dlrm.bag(inputs[f"indices{k}"], inputs[f"offsets{k}"])

    def outputs(seen: Variables, logits: Array) -> dict[str, Array]:
        crossed = seen["crossed"][0]
        assert crossed.shape[1] == config["top"][0]
        return {
            "bottom": crossed[:, : config["m_spa"]],
            "pooled": vectors_of(seen),
            "interactions": crossed,
            "y_pred": jax.nn.sigmoid(logits)[:, None],
        }

    return Case(converted, batch, outputs)


def build(path: Path) -> tuple[Golden, Case]:
    golden = read(path)
    official = "facebookresearch" in golden.meta["source"]["repo"]
    kinds = {"deepfm": deepfm, "pnn": pnn, "dlrm": official_dlrm if official else fuxictr_dlrm}
    return golden, kinds[path.stem.split("_")[0]](golden)


@pytest.fixture(params=FILES, scope="module")
def case(request: pytest.FixtureRequest) -> tuple[Golden, Case]:
    return build(request.param)


def with_bias(
    ours: dict[str, np.ndarray], locations: Locations, bias: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Both biases of DeepFM in place of ours: equal gradients, or `bias` and what is left of the sum."""
    last = next(key for key, location in locations.items() if location.path[-2:] == ("logit", "bias"))
    if bias is None:
        return ours | {"fm.lr_layer.bias": ours[last]}
    return ours | {"fm.lr_layer.bias": bias, last: ours[last] - bias}


def test_outputs_loss_and_all_gradients(case: tuple[Golden, Case]) -> None:
    golden, ((module, variables, locations), batch, outputs) = case
    label, train = golden.inputs["label"], golden.meta["mode"] == "train"
    options: Any = {"mutable": ["batch_stats", "intermediates"], "capture_intermediates": lambda *_: True}

    def loss(params: Any, rest: Any, batch: Any) -> tuple[Array, Any]:
        logits, updated = module.apply({**rest, "params": params}, batch, train=train, **options)
        total = losses.binary_cross_entropy(logits, label)
        found = outputs(updated["intermediates"], logits) | {"loss": total}
        return total, (found, updated.get("batch_stats"))

    (_, (found, updated)), gradients = differentiated(loss, variables, batch)
    after = {name for name in golden.outputs if name.startswith("state_after/")}
    close_outputs(found, {name: value for name, value in golden.outputs.items() if name not in after})
    if after:
        running(golden, updated, locations, {1: len(label)})
    ours = joined(to_state({"params": gradients}, locations))
    ours = with_bias(ours, locations) if "fm.lr_layer.bias" in golden.params else ours
    close_gradients(ours, golden.gradients)


def test_weights_come_back_as_they_were(case: tuple[Golden, Case]) -> None:
    golden, ((_, variables, locations), *_) = case
    ours = joined(to_state(variables, locations))
    bias = golden.params.get("fm.lr_layer.bias")
    ours = ours if bias is None else with_bias(ours, locations, bias)
    helpers = ("num_batches_tracked", "triu_mask")
    theirs = {k: v for k, v in golden.params.items() if not k.endswith(helpers)}
    assert set(ours) == set(theirs)
    for name, value in ours.items():
        np.testing.assert_allclose(value, theirs[name], atol=1e-7, err_msg=name)
