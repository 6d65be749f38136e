"""FuxiCTR's BST: tokens, what they see, the prediction, the loss and all gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxrec import losses
from jaxrec.convert import fuxictr_ranking
from jaxrec.convert.parts import joined
from jaxrec.convert.state_dict import Converted, to_state
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.mlp import MLP
from jaxrec.nn.ranking.bst import visible_tokens
from jaxrec.types import Array
from tests.golden.compare import close_gradients
from tests.golden.fixtures import Golden, golden_files, read
from tests.golden.test_din import differentiated, running, same
from tests.golden.test_interaction_models import activation

DEFAULTS = {  # of the source
    "attention_dropout": 0.0,
    "net_dropout": 0.0,
    "batch_norm": False,
    "layer_norm": True,
    "use_residual": True,
    "use_causal_mask": False,
    "use_position_emb": True,
    "seq_pooling_type": "mean",
}


def history_of(config: dict[str, Any]) -> dict[str, str]:
    """The history of each column of the target, of the one pair of fields that there may be."""
    names = []
    for key in ("bst_target_field", "bst_sequence_field"):
        fields = config[key] if isinstance(config[key], list) else [config[key]]
        if len(fields) > 1:
            raise ValueError(f"{key}={fields}: ours reads one target and its history")
        names.append([fields[0]] if isinstance(fields[0], str) else fields[0])
    return dict(zip(*names, strict=True))


def load(golden: Golden) -> tuple[dict[str, Any], Converted, dict[str, np.ndarray]]:
    """The whole configuration, our module, and its columns."""
    config: dict[str, Any] = DEFAULTS | golden.meta["config"]
    histories = history_of(config)
    found = {name: golden.inputs[name] for name in config["feature_order"]}
    numeric = [name for name, column in found.items() if column.dtype.kind == "f"]
    batch = {n: c.astype(np.float32 if n in numeric else np.int32) for n, c in found.items()}
    pooling = config["seq_pooling_type"]
    fields: dict[str, Any] = {
        "causal": config["use_causal_mask"],
        "residual": config["use_residual"],
        "attention_dropout": config["attention_dropout"],
        "block_dropout": config["net_dropout"],
        "mlp": Factory(MLP, dropout=config["net_dropout"], **activation(config, "dnn_activations")),
        **({} if pooling == "concat" else {"pooling": pooling}),
    }
    converted = fuxictr_ranking.bst(
        golden.params, histories=histories, num_heads=config["num_heads"], numeric=numeric, **fields
    )
    for target, history in histories.items():
        batch[f"history_{target}"] = batch.pop(history)
    return config, converted, batch


@pytest.mark.parametrize("path", golden_files("bst"))
def test_bst(path: Path) -> None:
    golden = read(path)
    config, (module, variables, locations), batch = load(golden)
    label, train = golden.inputs["label"], golden.meta["mode"] == "train"

    def loss(params: Any, rest: Any, batch: Any) -> tuple[Array, Any]:
        logits, updated = module.apply(
            {**rest, "params": params}, batch, train=train, mutable=["batch_stats", "intermediates"]
        )
        return losses.binary_cross_entropy(logits, label), (logits, updated)

    (total, (logits, updated)), gradients = differentiated(loss, variables, batch)
    same(jax.nn.sigmoid(logits)[:, None], golden.outputs["y_pred"], "y_pred")
    same(total, golden.outputs["loss"], "loss")
    same(updated["intermediates"]["model"]["tokens"][0], golden.outputs["tokens"], "tokens")
    if any(name.startswith("state_after/") for name in golden.outputs):
        running(golden, updated["batch_stats"], locations, {1: len(label)})
    close_gradients(joined(to_state({"params": gradients}, locations)), golden.gradients)

    ids = batch[f"history_{next(iter(history_of(config)))}"]
    real = np.pad(ids != 0, ((0, 0), (0, 1)), constant_values=True)
    visible = visible_tokens(real, causal=config["use_causal_mask"], see_themselves=True)
    np.testing.assert_array_equal(visible, ~golden.outputs["attn_mask_head0"])


@pytest.mark.parametrize("path", golden_files("bst"))
def test_sizes_are_those_of_the_configuration(path: Path) -> None:
    config, converted, _ = load(read(path))
    model = converted.module.model
    assert model.concatenate is (config["seq_pooling_type"] == "concat")
    assert (model.position_dim is not None) is config["use_position_emb"]
    assert model.num_blocks == config["stacked_transformer_layers"]
    assert list(model.dims) == config["dnn_hidden_units"]
    assert model.mlp.keywords["batch_norm"] == config["batch_norm"]
    for ours in ("layer_norm", "num_heads"):
        assert getattr(model, ours) == config[ours]


@pytest.mark.parametrize("path", golden_files("bst"))
def test_weights_come_back_as_they_were(path: Path) -> None:
    golden = read(path)
    _, (_, variables, locations), _ = load(golden)
    ours = joined(to_state(variables, locations))
    theirs = {name for name in golden.params if not name.endswith("num_batches_tracked")}
    for name in theirs - set(ours):  # columns that share a table
        assert name.split(".")[-2] in golden.meta["config"]["feature_order"]
    for name, value in ours.items():
        np.testing.assert_array_equal(value, golden.params[name], err_msg=name)


@pytest.mark.parametrize("path", golden_files("bst"))
def test_several_histories_are_refused(path: Path) -> None:
    state = dict(read(path).params)
    state["transformer_encoders.1.position_emb"] = np.zeros((3, 2), np.float32)
    with pytest.raises(ValueError, match="2 transformer_encoders: ours reads one history"):
        fuxictr_ranking.bst(state)
