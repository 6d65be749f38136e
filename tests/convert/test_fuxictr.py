"""Weights of FuxiCTR: read, checked, built and written back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.convert import fuxictr
from jaxrec.convert.state_dict import to_state
from jaxrec.nn.layers.dice import PReLU
from jaxrec.nn.layers.experts import Gate
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.features import Categorical, Conditioned, Featured, FeatureEmbedding, Numeric
from jaxrec.nn.layers.mlp import MLP
from jaxrec.nn.multitask.mmoe import MMoE
from jaxrec.nn.multitask.ple import PLE
from jaxrec.nn.multitask.shared_bottom import SharedBottom
from jaxrec.nn.ranking.apg import APG
from jaxrec.nn.ranking.ppnet import PersonalisedTower, PPNet

State = dict[str, np.ndarray]
RNG = np.random.default_rng(0)
WIDTH = 12  # of three features of four numbers
FIELDS = (Categorical("user", 5, 4), Numeric("age", 4), Categorical("item", 7, 4))


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def linear(key: str, fan_in: int, fan_out: int, bias: bool = True) -> State:
    return {f"{key}.weight": normal(fan_out, fan_in)} | ({f"{key}.bias": normal(fan_out)} if bias else {})


def norm(key: str, width: int) -> State:
    names = ("weight", "bias", "running_mean", "running_var")
    return {f"{key}.{name}": normal(width) for name in names} | {f"{key}.num_batches_tracked": np.array(3)}


def learned(key: str, width: int, activation: str) -> State:
    """The arrays of an activation: "prelu", "dice", or "" of one without parameters."""
    if activation == "dice":
        counted = {f"{key}.bn.num_batches_tracked": np.array(3)}
        means = {f"{key}.alpha": normal(width), f"{key}.bn.running_mean": normal(width)}
        return means | {f"{key}.bn.running_var": normal(width) ** 2} | counted
    return {f"{key}.weight": normal(width)} if activation else {}


def block(
    key: str,
    fan_in: int,
    dims: Sequence[int],
    last: int = 0,
    batch_norm: bool = False,
    dropout: bool = False,
    activation: str = "",
) -> State:
    """An MLP_Block: its linear layers, norms, activations and dropouts are numbered one after another."""
    state: State = {}
    number = 0
    for dim in dims:
        state |= linear(f"{key}.mlp.{number}", fan_in, dim)
        if batch_norm:
            state |= norm(f"{key}.mlp.{number + 1}", dim)
        state |= learned(f"{key}.mlp.{number + 1 + batch_norm}", dim, activation)
        number += 2 + batch_norm + dropout
        fan_in = dim
    return state | (linear(f"{key}.mlp.{number}", fan_in, last) if last else {})


def sizes(field: Any) -> tuple[int, int]:
    return (field.vocab_size, field.dim) if isinstance(field, Categorical) else (field.dim, 1)


def features(columns: Sequence[Any] = FIELDS, prefix: str = fuxictr.TABLES) -> State:
    return {
        f"{prefix}.{field.name}.weight": normal(
            *(field[1:3] if isinstance(field, Categorical) else (field.dim, 1))
        )
        for field in columns
    }


def share_bottom(**kind: Any) -> State:
    state = features() | block("bottom", WIDTH, (6, 5), **kind)
    return state | {k: v for i in range(3) for k, v in block(f"tower.{i}", 5, (4,), 1, **kind).items()}


def mmoe(**kind: Any) -> State:
    state = features()
    for i in range(4):
        state |= block(f"mmoe_layer.experts.{i}", WIDTH, (6, 5), **kind)
    for i in range(2):
        state |= block(f"mmoe_layer.gate.{i}", WIDTH, (3,), 4, **kind) | block(f"tower.{i}", 5, (), 1, **kind)
    return state


def ple(levels: int = 2, specific: int = 2, **kind: Any) -> State:
    """Three tasks, one shared expert; with the unused shared gate of the last level."""
    state = features()
    for level in range(levels):
        key, width = f"cgc_layers.{level}", WIDTH if level == 0 else 6
        state |= block(f"{key}.shared_experts.0", width, (6,), **kind)
        for i in range(3):
            for j in range(specific):
                state |= block(f"{key}.specific_experts.{i}.{j}", width, (6,), **kind)
        for i in range(4):
            state |= block(f"{key}.gate.{i}", width, (3,), specific + 1 if i < 3 else 1, **kind)
    return state | {k: v for i in range(3) for k, v in block(f"tower.{i}", 6, (4,), 1, **kind).items()}


def ppnet(hidden: Sequence[int], batch_norm: bool = True, activation: str = "") -> State:
    state = features() | features((Categorical("user", 5, 2),), fuxictr.PRIORS)
    for i, (fan_in, dim) in enumerate([(WIDTH, 6), (6, 5)]):
        state |= linear(f"ppn.mlp_layers.{i}.0", fan_in, dim)
        state |= norm(f"ppn.mlp_layers.{i}.1", dim) if batch_norm else {}
        state |= learned(f"ppn.mlp_layers.{i}.{1 + batch_norm}", dim, activation)
        state |= linear(f"ppn.gate_layers.{i}.gate.0", WIDTH + 2, hidden[i])
        state |= linear(f"ppn.gate_layers.{i}.gate.2", hidden[i], dim)
    return state | linear("ppn.mlp_layers.2", 5, 1)


def apg(
    dims: Sequence[int],
    rank: Sequence[int | None],
    inner: int | None = None,
    condition: int | None = None,
    generated: bool = True,
    bias: bool = True,
    outputs: int = 2,
    hyper: Sequence[int] = (),
    activation: str = "",
) -> State:
    """Seven inputs; without a condition each layer is its own."""
    state: State = {}
    for i, (fan_in, dim, k) in enumerate(zip((7, *dims), dims, rank, strict=False)):
        key = f"dense_layers.linear_{i + 1}"
        core = fan_in * dim if k is None else k * k
        state |= block(f"{key}.hypernet", condition or fan_in, hyper, core + (dim if generated else 0))
        if k and inner:
            state |= {f"{key}.U_l": normal(fan_in, inner), f"{key}.U_r": normal(inner, k)}
            state |= {f"{key}.V_l": normal(k, inner), f"{key}.V_r": normal(inner, dim)}
        elif k:
            state |= {f"{key}.U": normal(fan_in, k), f"{key}.V": normal(k, dim)}
        if bias and not generated:
            state[f"{key}.bias"] = normal(1, dim)
        state |= learned(f"dense_layers.act_{i + 1}", dim, activation)
    return state | (linear("dense_layers.out_proj", dims[-1], outputs, bias) if outputs else {})


EMBEDDING = FeatureEmbedding(FIELDS)


def with_tower(**fields: Any) -> Any:
    """PPNet of one task, with these fields of its tower."""
    priors = FeatureEmbedding((Categorical("user", 5, 2),))
    return Conditioned(EMBEDDING, priors, PPNet(dims=(6, 5), tower=Factory(PersonalisedTower, **fields)))


PPNET = with_tower(batch_norm=True)
PLAIN, NORMED = Factory(MLP, batch_norm=False), Factory(MLP, batch_norm=True)
WITH_PRELU = Factory(MLP, batch_norm=False, activation=PReLU)
WITH_DICE = Factory(MLP, batch_norm=True, activation=fuxictr.DICE)
GATES = Factory(Gate, dims=(3,), mlp=PLAIN)
BOTTOM: dict[str, Any] = {"bottom_dims": (6, 5), "tower_dims": (4,)}
PLE_FIELDS: dict[str, Any] = {
    "tower_dims": (4,),
    "gate": GATES,
    "mlp": PLAIN,
    "shared_gate_over_all": False,
}
APG_FIELDS: dict[str, Any] = {"rank": (3, 2), "inner_dim": (None, None)}
CASES: dict[str, tuple[Callable[..., Any], State, Any]] = {
    "share_bottom": (
        fuxictr.share_bottom,
        share_bottom(),
        Featured(EMBEDDING, SharedBottom(3, **BOTTOM, mlp=PLAIN)),
    ),
    "batch norm and dropout": (
        fuxictr.share_bottom,
        share_bottom(batch_norm=True, dropout=True),
        Featured(EMBEDDING, SharedBottom(3, **BOTTOM, mlp=NORMED)),
    ),
    "mmoe": (
        fuxictr.mmoe,
        mmoe(),
        Featured(EMBEDDING, MMoE(2, 4, (6, 5), tower_dims=(), gate=GATES, mlp=PLAIN)),
    ),
    "norm and Dice": (
        fuxictr.share_bottom,
        share_bottom(batch_norm=True, activation="dice"),
        Featured(EMBEDDING, SharedBottom(3, **BOTTOM, mlp=WITH_DICE)),
    ),
    "mmoe with PReLU": (
        fuxictr.mmoe,
        mmoe(activation="prelu"),
        Featured(
            EMBEDDING,
            MMoE(2, 4, (6, 5), tower_dims=(), gate=Factory(Gate, dims=(3,), mlp=WITH_PRELU), mlp=WITH_PRELU),
        ),
    ),
    "ple with PReLU": (
        fuxictr.ple,
        ple(activation="prelu"),
        Featured(
            EMBEDDING,
            PLE(
                3,
                2,
                1,
                ((6,), (6,)),
                **{**PLE_FIELDS, "mlp": WITH_PRELU, "gate": Factory(Gate, dims=(3,), mlp=WITH_PRELU)},
            ),
        ),
    ),
    "ple": (fuxictr.ple, ple(), Featured(EMBEDDING, PLE(3, 2, 1, ((6,), (6,)), **PLE_FIELDS))),
    "ple without specific experts": (
        fuxictr.ple,
        ple(1, 0),
        Featured(EMBEDDING, PLE(3, 0, 1, ((6,),), **PLE_FIELDS)),
    ),
    "ppnet": (fuxictr.ppnet, ppnet((4, 4)), PPNET.clone(model=PPNET.model.clone(gate_dim=4))),
    "ppnet, gates as wide as layers": (fuxictr.ppnet, ppnet((6, 5)), PPNET),
    "ppnet with PReLU": (
        fuxictr.ppnet,
        ppnet((6, 5), batch_norm=False, activation="prelu"),
        with_tower(batch_norm=False, activation=PReLU),
    ),
    "ppnet with norm and PReLU": (
        fuxictr.ppnet,
        ppnet((6, 5), activation="prelu"),
        with_tower(batch_norm=True, activation=PReLU),
    ),
    "ppnet with norm and Dice": (
        fuxictr.ppnet,
        ppnet((6, 5), activation="dice"),
        with_tower(batch_norm=True, activation=fuxictr.DICE),
    ),
    "apg self-wise": (fuxictr.apg, apg((6, 5), (3, 2)), APG((6, 5), 2, **APG_FIELDS)),
    "apg group-wise": (fuxictr.apg, apg((6, 5), (3, 2), condition=3), APG((6, 5), 2, **APG_FIELDS)),
    "apg over-parameterised": (
        fuxictr.apg,
        apg((6, 5), (3, 2), inner=4, hyper=(4,)),
        APG((6, 5), 2, (3, 2), (4, 4), hyper_dims=(4,)),
    ),
    "apg full": (
        fuxictr.apg,
        apg((6, 5), (None, None), condition=3, outputs=1),
        APG((6, 5), 1, (None, None), (None, None)),
    ),
    "apg with a free bias": (
        fuxictr.apg,
        apg((6, 5), (3, 2), generated=False, outputs=0),
        APG((6, 5), None, **APG_FIELDS, generate_bias=False),
    ),
    "apg with PReLU": (
        fuxictr.apg,
        apg((6, 5), (3, 2), activation="prelu"),
        APG((6, 5), 2, **APG_FIELDS, activation=PReLU),
    ),
    "apg with Dice": (
        fuxictr.apg,
        apg((6, 5), (3, 2), activation="dice"),
        APG((6, 5), 2, **APG_FIELDS, activation=fuxictr.DICE),
    ),
    "apg without bias": (
        fuxictr.apg,
        apg((6, 5), (3, 2), generated=False, bias=False),
        APG((6, 5), 2, **APG_FIELDS, generate_bias=False, use_bias=False),
    ),
}


def convert(load: Callable[..., Any], state: State, **fields: Any) -> Any:
    return load(state, **({} if load is fuxictr.apg else {"numeric": ["age"]}), **fields)


@pytest.mark.parametrize("load, state, module", CASES.values(), ids=CASES)
def test_there_and_back(load: Callable[..., Any], state: State, module: Any) -> None:
    built, variables, locations = convert(load, state)
    assert built == module
    back = to_state(variables, locations)
    unused = {key for key in state if key.endswith("num_batches_tracked")}
    if load is fuxictr.ple:
        unused |= {key for key in state if f"cgc_layers.{len(module.model.expert_dims) - 1}.gate.3" in key}
        assert len(unused) == 4 + any(v.ndim == 1 for k, v in state.items() if "gate.3.mlp.1.weight" in k)
    assert set(back) == set(state) - unused
    for key, value in back.items():
        np.testing.assert_array_equal(value, state[key], err_msg=key)


def test_widths_of_an_apg_of_whole_weights_without_a_head_have_to_be_said() -> None:
    state = apg((6, 5), (None, None), condition=3, outputs=0)
    with pytest.raises(ValueError, match="no shape tells the width of the layer; give dims"):
        convert(fuxictr.apg, state)
    model, variables, locations = convert(fuxictr.apg, state, dims=(6, 5))
    assert model == APG((6, 5), None, (None, None), (None, None))
    assert set(to_state(variables, locations)) == set(state)


def test_dice_of_a_bottom_and_of_towers_by_hand() -> None:
    """p x + (1 - p) α x with p = σ((x - mean) / √(var + 1e-9)), without norm and dropout."""
    state = share_bottom(activation="dice")
    module, variables, _ = convert(fuxictr.share_bottom, state)
    batch = {"user": np.array([1, 4]), "age": np.array([0.5, -2.0], np.float32), "item": np.array([3, 6])}

    def layer(x: np.ndarray, key: str, number: int) -> np.ndarray:
        x = x @ state[f"{key}.mlp.{number}.weight"].T + state[f"{key}.mlp.{number}.bias"]
        dice = f"{key}.mlp.{number + 1}."
        if f"{dice}alpha" not in state:
            return x
        z = (x - state[f"{dice}bn.running_mean"]) / np.sqrt(state[f"{dice}bn.running_var"] + 1e-9)
        p = (1 + np.tanh(z / 2)) / 2
        return p * x + (1 - p) * state[f"{dice}alpha"] * x

    tables = {name: state[f"{fuxictr.TABLES}.{name}.weight"] for name in batch}
    users = np.where(batch["user"][:, None] > 0, tables["user"][batch["user"]], 0)
    x = np.concatenate(
        [users, batch["age"][:, None] * tables["age"].T, tables["item"][batch["item"]]], axis=1
    )
    for number in (0, 2):
        x = layer(x, "bottom", number)
    expected = [layer(layer(x, f"tower.{i}", 0), f"tower.{i}", 2)[:, 0] for i in range(3)]
    np.testing.assert_allclose(
        module.apply(variables, batch), np.stack(expected, axis=1), rtol=1e-4, atol=1e-5
    )


def test_members_of_banks_and_layout() -> None:
    _, state, _ = CASES["ple"]
    variables = convert(fuxictr.ple, state).variables["params"]
    kernels = variables["model"]["level_1"]["specific"]["layer_0"]["kernel"]
    assert kernels.shape == (3, 2, 6, 6)
    np.testing.assert_array_equal(kernels[2, 1], state["cgc_layers.1.specific_experts.2.1.mlp.0.weight"].T)
    shared = variables["model"]["level_0"]["shared_gate"]["logits"]["bias"]
    np.testing.assert_array_equal(shared, state["cgc_layers.0.gate.3.mlp.2.bias"])
    age = state[f"{fuxictr.TABLES}.age.weight"]
    np.testing.assert_array_equal(variables["embedding"]["age_kernel"], age.T)


def test_fields_are_passed_on() -> None:
    mlp = Factory(MLP, dropout=0.2, activation=jnp.tanh)
    module = convert(fuxictr.mmoe, mmoe(), mlp=mlp).module.model
    assert module.mlp == module.gate.keywords["mlp"] == Factory(mlp, batch_norm=False)


GATE = "mmoe_layer.gate.1.mlp.2.weight"
TABLE = f"{fuxictr.TABLES}.item.weight"
BROKEN: dict[str, Any] = {
    "missing": ({"mmoe_layer.gate.1.mlp.2.bias": None}, "missing: mmoe_layer.gate.1.mlp.2.bias"),
    "a whole block": (
        {f"tower.0.mlp.0.{name}": None for name in ("weight", "bias")},
        "tower.0.mlp.0.weight: missing",
    ),
    "left over": ({"tower.0.mlp.9.bias": normal(1)}, "not understood: tower.0.mlp.9.bias"),
    "shape": ({GATE: normal(9, 3)}, rf"{GATE}: shape \(9, 3\).*imply \(4, 3\)"),
    "axes": ({TABLE: normal(4)}, rf"{TABLE}: shape \(4,\), expected two axes"),
    "nan": ({GATE: np.full((4, 3), np.nan, np.float32)}, rf"{GATE}.*finite"),
    "integers": ({GATE: np.ones((4, 3), np.int32)}, rf"{GATE}.*int32"),
    "another model": ({"bottom.mlp.0.weight": normal(2, 2)}, "not understood: bottom.mlp.0.weight"),
}


@pytest.mark.parametrize("change, message", BROKEN.values(), ids=BROKEN)
def test_broken_weights_are_refused(change: dict[str, Any], message: str) -> None:
    state = {key: value for key, value in (mmoe() | change).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        convert(fuxictr.mmoe, state)


def test_a_width_that_no_shape_tells() -> None:
    with pytest.raises(ValueError, match="linear_1: without V and out_proj"):
        fuxictr.apg(apg((6,), (None,), outputs=0))


def test_weights_of_no_apg_are_refused() -> None:
    with pytest.raises(ValueError, match="dense_layers.linear_1.hypernet.mlp.0.weight: missing"):
        fuxictr.apg(mmoe())
