"""FuxiCTR's BST in NumPy, for settings that no fixture has."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from jaxrec.convert import fuxictr_ranking
from jaxrec.convert.parts import joined
from jaxrec.convert.state_dict import to_state

State = dict[str, np.ndarray]
RNG = np.random.default_rng(0)
E, L = 2, 4
# The target's columns and its history stand apart, and another order of columns than that of the tokens.
SIZES = {"cate_id": 4, "user_id": 5, "click_history": 7, "item_id": 7, "cate_history": 4}
SHARED = {"click_history": "item_id", "cate_history": "cate_id"}
BATCH = {
    "user_id": np.array([1, 4, 2]),
    "item_id": np.array([2, 6, 1]),
    "cate_id": np.array([1, 2, 3]),
    "click_history": np.array([[0, 3, 1, 2], [0, 0, 0, 0], [5, 4, 6, 1]]),
    "cate_history": np.array([[0, 2, 1, 3], [0, 0, 0, 0], [1, 1, 2, 3]]),
}
ENCODER = "transformer_encoders.0"
USUAL = {"pooling": "concat", "position": True, "causal": False, "residual": True, "norm": True, "blocks": 1}


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def linear(key: str, fan_in: int, fan_out: int) -> State:
    return {f"{key}.weight": normal(fan_out, fan_in), f"{key}.bias": normal(fan_out)}


def weights(settings: dict[str, Any]) -> State:
    found = {name: normal(size, E) for name, size in SIZES.items()}
    found |= {name: found[target] for name, target in SHARED.items()}
    state = {f"{fuxictr_ranking.TABLES}.{name}.weight": table for name, table in found.items()}
    for table in state.values():
        table[0] = 0.0
    dim = E * (2 + settings["position"])
    if settings["position"]:
        state[f"{ENCODER}.position_emb"] = normal(L + 1, E)
    for i in range(settings["blocks"]):
        block = f"{ENCODER}.transformer_blocks.{i}"
        state |= {
            f"{block}.attention.in_proj_weight": normal(3 * dim, dim),
            f"{block}.attention.in_proj_bias": normal(3 * dim),
            **linear(f"{block}.attention.out_proj", dim, dim),
            **linear(f"{block}.ffn.0", dim, dim),
            **linear(f"{block}.ffn.2", dim, dim),
        }
        for name in ("layer_norm1", "layer_norm2") if settings["norm"] else ():
            state |= {f"{block}.{name}.weight": normal(dim), f"{block}.{name}.bias": normal(dim)}
    pooled = dim * (L + 1) if settings["pooling"] == "concat" else dim
    return state | linear("dnn.mlp.0", 3 * E + pooled, 4) | linear("dnn.mlp.2", 4, 1)


def by_hand(state: State, settings: dict[str, Any], row: int) -> Any:
    """Logit of one example, a token and a head after the other."""

    def dense(key: str, x: np.ndarray) -> np.ndarray:
        return x @ state[f"{key}.weight"].T + state[f"{key}.bias"]

    def norm(key: str, x: np.ndarray) -> np.ndarray:
        if not settings["norm"]:
            return x
        x = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-5)
        return x * state[f"{key}.weight"] + state[f"{key}.bias"]

    vectors = {n: state[f"{fuxictr_ranking.TABLES}.{n}.weight"][BATCH[n][row]] for n in SIZES}
    history = np.concatenate([vectors["click_history"], vectors["cate_history"]], axis=1)
    target = np.concatenate([vectors["item_id"], vectors["cate_id"]])
    x = np.concatenate([history, target[None]])
    if settings["position"]:
        x = np.concatenate([x, state[f"{ENCODER}.position_emb"]], axis=1)
    real = [*(BATCH["click_history"][row] != 0), True]
    dim, heads = x.shape[1], 2
    for i in range(settings["blocks"]):
        block = f"{ENCODER}.transformer_blocks.{i}"
        projected = (
            x @ state[f"{block}.attention.in_proj_weight"].T + state[f"{block}.attention.in_proj_bias"]
        )
        query, key, value = np.split(projected, 3, axis=1)
        mixed = np.zeros_like(x)
        for head in np.split(np.arange(dim), heads):
            for q in range(L + 1):
                seen = [k for k in range(L + 1) if (real[k] or k == q) and (k <= q or not settings["causal"])]
                scores = np.exp(key[np.ix_(seen, head)] @ query[q, head] / np.sqrt(len(head)))
                mixed[q, head] = scores @ value[np.ix_(seen, head)] / scores.sum()
        attended = dense(f"{block}.attention.out_proj", mixed)
        x = norm(f"{block}.layer_norm1", attended + x if settings["residual"] else attended)
        inner = dense(f"{block}.ffn.0", x)
        outer = dense(f"{block}.ffn.2", np.where(inner > 0, inner, 0.01 * inner))
        x = norm(f"{block}.layer_norm2", outer + x if settings["residual"] else outer)
    pooled = {
        "concat": x.reshape(-1),
        "mean": x[real].mean(axis=0),
        "sum": x[real].sum(axis=0),
        "target": x[-1],
    }[settings["pooling"]]
    read = [vectors[name] for name in SIZES if name not in SHARED]
    return dense("dnn.mlp.2", np.maximum(dense("dnn.mlp.0", np.concatenate([*read, pooled])), 0.0))[0]


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"pooling": "mean"},
        {"pooling": "sum", "position": False, "blocks": 2},
        {"pooling": "target", "causal": True},
        {"causal": True, "norm": False},
        {"residual": False},
        {"pooling": "sum", "blocks": 0},
        {"position": False, "norm": False, "residual": False},
    ],
    ids=str,
)
def test_bst(change: dict[str, Any]) -> None:
    settings: dict[str, Any] = USUAL | change
    state = weights(settings)
    pooling = {} if settings["pooling"] == "concat" else {"pooling": settings["pooling"]}
    module, variables, locations = fuxictr_ranking.bst(
        state,
        num_heads=2,
        causal=settings["causal"],
        residual=settings["residual"],
        **pooling,
    )
    model = module.model
    assert model.concatenate is (settings["pooling"] == "concat")
    assert (model.num_blocks, model.layer_norm) == (
        settings["blocks"],
        settings["norm"] or not settings["blocks"],
    )
    batch = {**BATCH, **{f"history_{target}": BATCH[name] for name, target in SHARED.items()}}
    logits = jax.jit(module.apply)(variables, batch)
    np.testing.assert_allclose(
        logits, [by_hand(state, settings, row) for row in range(3)], rtol=1e-4, atol=1e-4
    )
    back = joined(to_state(variables, locations))
    assert len(set(state) - set(back)) == len(SHARED)
    for name, value in back.items():
        np.testing.assert_array_equal(value, state[name], err_msg=name)


def test_a_target_of_one_column_may_have_no_other_features() -> None:
    settings = {**USUAL, "pooling": "mean", "position": False, "blocks": 0}
    names = ("item_id", "click_history")
    state = {k: v for k, v in weights(settings).items() if k.split(".")[-2] in names}
    state |= linear("dnn.mlp.0", 2 * E, 1)
    module, variables, _ = fuxictr_ranking.bst(state, histories={"item_id": "click_history"}, pooling="mean")
    assert module.embedding is None
    batch = {"item_id": BATCH["item_id"], "history_item_id": BATCH["click_history"]}
    table = state[f"{fuxictr_ranking.TABLES}.item_id.weight"]
    item, events = table[BATCH["item_id"]], table[BATCH["click_history"]]
    count = (BATCH["click_history"] != 0).sum(axis=1, keepdims=True) + 1
    x = np.concatenate([item, (events.sum(axis=1) + item) / count], axis=1)
    expected = x @ state["dnn.mlp.0.weight"][0] + state["dnn.mlp.0.bias"]
    np.testing.assert_allclose(jax.jit(module.apply)(variables, batch), expected, atol=1e-5)
