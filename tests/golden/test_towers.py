"""torch-rechub's DSSM, FaceBookDSSM, YoutubeSBC and YoutubeDNN: outputs, losses and all gradients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses
from jaxrec.convert import rechub_towers
from jaxrec.convert.state_dict import Converted, to_state
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.mlp import MLP
from jaxrec.nn.layers.pairs import unit
from jaxrec.nn.retrieval.two_tower import TwoTower
from jaxrec.types import Array, Variables
from tests.golden.activations import WITH_PARAMETERS, activation
from tests.golden.compare import close_gradients, close_outputs
from tests.golden.fixtures import Golden, golden_files, read

Outputs = Callable[[Golden, Any, Variables], tuple[Array, dict[str, Any]]]
FILES = [
    *golden_files("dssm"), *golden_files("facebook_dssm"), *golden_files("youtube_dnn"),
    *golden_files("youtube_sbc"),
]  # fmt: skip


def converted(golden: Golden) -> Converted:
    """Our module with the fixture's weights."""
    config = golden.meta["config"]
    name = config.get("activation", "relu")
    mlp = Factory(MLP, activation=WITH_PARAMETERS.get(name.lower()) or activation(name))
    if "hist" in golden.inputs:
        history = {"max_history": golden.inputs["hist"].shape[1], "with_target": True}
        return rechub_towers.youtube_dnn(golden.params, mlp=mlp, temperature=config["temperature"], **history)
    return rechub_towers.two_tower(golden.params, mlp=mlp)


def columns(golden: Golden, model: TwoTower) -> dict[str, Array]:
    """A user, and items, of every example: row e + 1 holds the features of the e-th."""
    found: dict[str, Any] = {}
    for field in (*model.user_fields, *model.item_fields):
        side, _, name = field.name.partition("_")
        if side != "history":
            values = [golden.inputs[name]]
            if name.startswith("pos_"):  # and the negatives behind
                values.append(golden.inputs[name.replace("pos_", "neg_")])
            found[field.name] = np.concatenate([[0], *(value + 1 for value in values)]).astype(np.int32)
    return {name: jnp.asarray(column) for name, column in found.items()}


def example_rows(golden: Golden) -> Array:
    return jnp.arange(1, len(next(iter(golden.inputs.values()))) + 1, dtype=jnp.int32)


def dssm(golden: Golden, model: Any, variables: Variables) -> tuple[Array, dict[str, Any]]:
    context, rows = columns(golden, model), example_rows(golden)
    user = model.apply(variables, rows, context, train=False, method="users")
    item = model.apply(variables, rows, context, train=False, method="items")
    score = model.apply(variables, rows, rows[:, None], context, train=False)[:, 0]
    loss = losses.binary_cross_entropy(score, jnp.asarray(golden.inputs["label"]))
    return loss, {"user": user, "item": item, "score": jax.nn.sigmoid(score), "loss": loss}


def facebook(golden: Golden, model: Any, variables: Variables) -> tuple[Array, dict[str, Any]]:
    rows = example_rows(golden)
    pairs = jnp.stack([rows, rows + len(rows)], axis=1)
    scores = model.apply(variables, rows, pairs, columns(golden, model), train=False)
    margin = golden.meta["config"]["margin"]
    loss = losses.hinge(scores[:, 0], scores[:, 1:], margin=margin)
    found = {
        "pos_score": scores[:, 0],
        "neg_score": scores[:, 1],
        "bpr": losses.bpr(scores[:, 0], scores[:, 1]),
        "hinge_per_pair": jax.vmap(lambda s: losses.hinge(s[0], s[1:], margin=margin))(scores),
        "library_hinge": loss,
        "loss": loss,
    }
    return loss, found


def youtube_sbc(golden: Golden, model: Any, variables: Variables) -> tuple[Array, dict[str, Any]]:
    """The fixture's vectors are those before they are divided by their length."""
    config, context, rows = golden.meta["config"], columns(golden, model), example_rows(golden)
    towers = model.clone(cosine=False)
    raw = {
        name: towers.apply(variables, rows, context, train=False, method=f"{name}s")
        for name in ("user", "item")
    }
    user, item = unit(raw["user"]), unit(raw["item"])
    log_prob = jnp.log(jnp.asarray(golden.inputs["sample_weight"]))
    cosine = user @ item.T
    corrected = (cosine - log_prob) / config["temperature"]
    index = (rows[:, None] - 1 + jnp.arange(1 + config["n_neg"])) % len(rows)
    shared: Any = {"temperature": config["temperature"], "log_prob": log_prob, "inside": True}
    scores = jnp.take_along_axis(corrected, index, axis=1)
    loss = losses.sampled_softmax(scores[:, 0], scores[:, 1:])
    if 0 < config["n_neg"] < len(rows):  # more go round the batch again, and take in a row's own target
        loss = losses.in_batch_softmax(user, item, following=config["n_neg"], **shared)
    found = {
        **raw,
        "cosine": model.apply(variables, rows, jnp.tile(rows, (len(rows), 1)), context, train=False),
        "scores": scores,
        "full_corrected": corrected,
        "full_loss": losses.in_batch_softmax(user, item, **shared),
        "index": index,
        "loss": loss,
    }
    return loss, found


def youtube_dnn(golden: Golden, model: Any, variables: Variables) -> tuple[Array, dict[str, Any]]:
    rows, history = example_rows(golden), golden.inputs["hist"]
    number = model.item_fields[0].vocab_size
    real = history != 0
    context = {
        **{name: column for name, column in columns(golden, model).items() if name.startswith("user_")},
        model.item_fields[0].name: jnp.arange(number, dtype=jnp.int32),
        "items": jnp.asarray(history[real], jnp.int32),
        "length": jnp.asarray(real.sum(axis=1), jnp.int32),
        "start": jnp.asarray(np.cumsum(real.sum(axis=1)) - real.sum(axis=1), jnp.int32),
    }
    item = np.concatenate([golden.inputs["item_id"][:, None], golden.inputs["neg"]], axis=1)
    scores = model.apply(variables, rows, jnp.asarray(item, jnp.int32), context, train=False)
    loss = losses.sampled_softmax(scores[:, 0], scores[:, 1:])
    user = model.apply(variables, rows, context, train=False, method="users")
    return loss, {"user": user, "scores": scores, "loss": loss}


KINDS: dict[str, Outputs] = {
    "dssm": dssm, "facebook_dssm": facebook, "youtube_dnn": youtube_dnn, "youtube_sbc": youtube_sbc,
}  # fmt: skip
Computed = tuple[Golden, Converted, dict[str, Any], dict[str, np.ndarray]]


@pytest.fixture(params=FILES, scope="module")
def computed(request: pytest.FixtureRequest) -> Computed:
    """The fixture, our module, outputs by name, and our gradients under PyTorch's names."""
    path: Path = request.param
    golden = read(path)
    made = converted(golden)
    outputs = KINDS[max((kind for kind in KINDS if path.stem.startswith(kind)), key=len)]

    def total(params: Any) -> tuple[Array, dict[str, Any]]:
        return outputs(golden, made.module, {**made.variables, "params": params})

    gradients, found = jax.jit(jax.grad(total, has_aux=True))(made.variables["params"])
    return golden, made, found, to_state({"params": gradients}, made.locations)


def test_outputs_and_losses(computed: Computed) -> None:
    golden, _, found, _ = computed
    close_outputs(found, golden.outputs)


def test_all_gradients(computed: Computed) -> None:
    golden, _, _, gradients = computed
    close_gradients(gradients, golden.gradients)


def test_weights_come_back_as_they_were(computed: Computed) -> None:
    golden, made, *_ = computed
    state = to_state(made.variables, made.locations)
    assert set(state) == {name for name in golden.params if not name.endswith("num_batches_tracked")}
    for name, value in state.items():
        np.testing.assert_array_equal(value, golden.params[name], err_msg=name)


def test_tables_that_do_not_divide_are_refused() -> None:
    state = {
        "embedding.embed_dict.a.weight": np.ones((3, 4), np.float32),
        "user_mlp.mlp.0.weight": np.ones((2, 4), np.float32),
    }
    with pytest.raises(ValueError, match=r"reads 4 numbers, but the first tables have \[4\] together"):
        rechub_towers.two_tower(state)


@pytest.mark.parametrize(("kind", "name"), [("prelu", "weight"), ("dice", "alpha")])
def test_activations_with_a_parameter_are_read(kind: str, name: str) -> None:
    rng = np.random.default_rng(0)
    state = {f"embedding.embed_dict.{field}.weight": rng.normal(size=(3, 4)) for field in "ab"}
    for side in ("user", "item"):
        state |= {f"{side}_mlp.mlp.0.weight": rng.normal(size=(2, 4)), f"{side}_mlp.mlp.0.bias": np.zeros(2)}
        norm = {
            "weight": np.ones(2),
            "bias": np.zeros(2),
            "running_mean": np.zeros(2),
            "running_var": np.ones(2),
        }
        state |= {f"{side}_mlp.mlp.1.{key}": value for key, value in norm.items()}
        state[f"{side}_mlp.mlp.2.{name}"] = np.array([0.4])
    made = rechub_towers.two_tower(state, mlp=Factory(MLP, activation=WITH_PARAMETERS[kind]), cosine=False)
    context = {"user_a": jnp.array([0, 1]), "item_b": jnp.array([0, 3])}
    found = made.module.apply(made.variables, jnp.array([1]), context, train=False, method="users")[0]
    x = state["embedding.embed_dict.a.weight"][0] @ state["user_mlp.mlp.0.weight"].T / np.sqrt(1 + 1e-5)
    centred = x - x.mean()
    share = 1 / (1 + np.exp(-centred / np.sqrt((centred**2 + 1e-3).sum()))) if kind == "dice" else x > 0
    np.testing.assert_allclose(found, x * (share + (1 - share) * 0.4), rtol=1e-5)
