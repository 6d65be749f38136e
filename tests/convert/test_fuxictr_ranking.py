"""Weights of FuxiCTR's DIN and DIEN, whatever the order of their features and gates."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from jaxrec.convert import fuxictr_ranking
from jaxrec.convert.state_dict import to_state
from jaxrec.nn.layers.activation_unit import ActivationUnit
from jaxrec.nn.layers.dice import PReLU
from jaxrec.nn.layers.recurrent import AttentionGRU

State = dict[str, np.ndarray]
RNG = np.random.default_rng(0)
D, H = 2, 4  # of a table, and of an event
SIZES = {"user_id": 5, "item_id": 7, "cate_id": 3, "click_history": 7, "cate_history": 3}
SHARED = {"click_history": "item_id", "cate_history": "cate_id"}
BATCH = {
    "user_id": np.array([1, 4]),
    "item_id": np.array([2, 6]),
    "cate_id": np.array([1, 2]),
    "click_history": np.array([[3, 1, 0], [0, 0, 0]]),
    "cate_history": np.array([[2, 1, 0], [0, 0, 0]]),
}


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def linear(key: str, fan_in: int, fan_out: int) -> State:
    return {f"{key}.weight": normal(fan_out, fan_in), f"{key}.bias": normal(fan_out)}


def tables(names: list[str]) -> State:
    found = {name: normal(size, D) for name, size in SIZES.items()}
    found |= {name: found[target] for name, target in SHARED.items()}
    return {f"{fuxictr_ranking.TABLES}.{name}.weight": found[name] for name in names}


DIN = {
    **tables(list(SIZES)),
    **linear("attention_layers.0.attention_layer.mlp.0", 4 * H, 3),
    **linear("attention_layers.0.attention_layer.mlp.2", 3, 1),
    **linear("dnn.mlp.0", 5 * D, 4),
    "dnn.mlp.1.weight": normal(4),  # PReLU
    **linear("dnn.mlp.2", 4, 1),
}


def logits(converted: Any) -> np.ndarray:
    return np.asarray(jax.jit(converted.module.apply)(converted.variables, BATCH))


def test_din_may_have_its_features_in_any_order() -> None:
    order = ["click_history", "item_id", "user_id", "cate_history", "cate_id"]
    names = list(SIZES)
    other = {
        f"{fuxictr_ranking.TABLES}.{name}.weight": DIN[f"{fuxictr_ranking.TABLES}.{name}.weight"]
        for name in order
    }
    other |= {key: value for key, value in DIN.items() if key not in other}
    columns = [D * names.index(name) + i for name in order for i in range(D)]
    other["dnn.mlp.0.weight"] = DIN["dnn.mlp.0.weight"][:, columns]
    unit = ActivationUnit(activation=jax.nn.relu)
    usual, unusual = (fuxictr_ranking.din(state, attention=unit) for state in (DIN, other))
    assert usual.module.model.mlp.keywords["activation"] is PReLU
    np.testing.assert_allclose(logits(unusual), logits(usual), atol=1e-5)
    for state, converted in ((DIN, usual), (other, unusual)):
        back = to_state(converted.variables, converted.locations)
        assert len(set(state) - set(back)) == len(SHARED)  # a table that columns share has one name
        for key, value in back.items():
            np.testing.assert_array_equal(value, state[key], err_msg=key)


def test_a_history_with_a_table_of_its_own_is_an_error() -> None:
    state = {**DIN, f"{fuxictr_ranking.TABLES}.cate_history.weight": normal(3, D)}
    with pytest.raises(ValueError, match="cate_history: its table is not that of cate_id"):
        fuxictr_ranking.din(state)
    with pytest.raises(ValueError, match="clicks"):
        fuxictr_ranking.din(DIN, histories={"item_id": "clicks"})


def test_gates_of_dien_stand_in_their_order() -> None:
    cell = "evolving_modules.0.gru_cell"
    state = {
        **tables(list(SIZES)),
        **{
            f"extraction_modules.0.{kind}_{what}_l0": normal(3 * H, *([H] if kind == "weight" else []))
            for kind in ("weight", "bias")
            for what in ("ih", "hh")
        },
        **linear(f"{cell}.x2h", H, 3 * H),
        **linear(f"{cell}.h2h", H, 3 * H),
        "attention_modules.0.W_kernel": normal(H, H),
        **linear("dnn.mlp.0", 3 * D + H, 1),
    }
    module, variables, locations = fuxictr_ranking.dien(state, negatives={})
    assert (module.model.attention, module.model.evolution, module.model.dims) == ("bilinear", "augru", ())
    x, a = normal(1, 1, H), np.ones((1, 1), np.float32)
    params = variables["params"]["model"]["evolver"]
    found: Any = AttentionGRU(H).apply({"params": params}, x, a)
    update, reset, new = np.split(x[0, 0] @ state[f"{cell}.x2h.weight"].T + state[f"{cell}.x2h.bias"], 3)
    of_state = np.split(state[f"{cell}.h2h.bias"], 3)  # the state is 0
    update, reset = (1.0 / (1.0 + np.exp(-i - s)) for i, s in zip((update, reset), of_state[:2], strict=True))
    np.testing.assert_allclose(found[0, 0], update * np.tanh(new + reset * of_state[2]), atol=1e-6)
    for key, value in to_state(variables, locations).items():
        np.testing.assert_array_equal(value, state[key], err_msg=key)
