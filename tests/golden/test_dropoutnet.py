"""DropoutNet of layer6ai-labs: outputs, loss, gradients and statistics, in evaluation and in training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.convert import dropoutnet
from jaxrec.convert.state_dict import to_state
from jaxrec.losses import squared_error
from jaxrec.types import Array
from tests.golden.compare import close_gradients, close_outputs
from tests.golden.fixtures import Golden, golden_files, read

STATE = "state_after/"


@pytest.fixture(params=golden_files("dropoutnet"), scope="module")
def computed(request: pytest.FixtureRequest) -> Any:
    """The fixture, our outputs by name, our gradients and running statistics under PyTorch's names."""
    path: Path = request.param
    golden = read(path)
    rank, train = golden.meta["config"]["latent_rank_in"], golden.meta["mode"] == "train"
    model, variables, locations = dropoutnet.deep_cf(golden.params, rank=rank)
    given = {name: jnp.asarray(value) for name, value in golden.inputs.items()}
    users = jnp.where(given["drop_user"][:, None], 0.0, given["user_factors"])
    items = jnp.where(given["drop_item"][:, None], 0.0, given["item_factors"])
    sides = {"user": (users, given.get("user_content")), "item": (items, given.get("item_content"))}

    def total(params: Any, rest: Any) -> tuple[Array, Any]:
        outputs = {}
        for side, (factors, content) in sides.items():
            outputs[side], state = model.apply(
                {**rest, "params": params},
                factors,
                content,
                train=train,
                mutable=["batch_stats"],
                method=lambda m, f, c, train, side=side: getattr(m, f"{side}_tower")(f, c, train=train),
            )
            after = {**rest.get("batch_stats", {}), **state.get("batch_stats", {})}
            rest = {**rest, "batch_stats": after}
        outputs["pred"] = jnp.sum(outputs["user"] * outputs["item"], axis=1)
        outputs["scores"] = outputs["user"] @ outputs["item"].T
        loss = squared_error(outputs["pred"], given["target"])
        return loss, ({**outputs, "loss": loss}, rest["batch_stats"])

    rest = {name: part for name, part in variables.items() if name != "params"}
    gradients, (outputs, after) = jax.jit(jax.grad(total, has_aux=True))(variables["params"], rest)
    whole = model.apply(
        variables,
        users,
        items,
        sides["user"][1],
        sides["item"][1],
        train=train,
        mutable=["batch_stats"] if train else False,
    )
    whole = whole[0] if train else whole
    np.testing.assert_allclose(whole, outputs["pred"], rtol=1e-5, atol=1e-5)
    return (
        golden,
        outputs,
        to_state({"params": gradients}, locations),
        to_state({"batch_stats": after}, locations),
    )


def test_outputs_and_loss(computed: Any) -> None:
    golden, outputs, *_ = computed
    theirs = {name: value for name, value in golden.outputs.items() if not name.startswith(STATE)}
    close_outputs(outputs, theirs)


def test_all_gradients(computed: Any) -> None:
    golden, _, gradients, _ = computed
    scale = max(float(np.abs(value).max()) for value in golden.gradients.values())
    atol = 1e-6 * scale
    exact = {name: value for name, value in gradients.items() if name in golden.gradients}
    assert set(gradients) == set(golden.gradients)
    if golden.meta["mode"] == "train":  # a bias before batch norm has no gradient but rounding
        rounded = [name for name in exact if name.endswith(".layer.bias")]
        for name in rounded:
            np.testing.assert_allclose(exact.pop(name), golden.gradients[name], atol=atol)
    close_gradients(exact, {name: golden.gradients[name] for name in exact})


def test_running_statistics(computed: Any) -> None:
    """PyTorch moves the variance towards the unbiased variance of the batch, Flax to the biased."""
    golden, *_, ours = computed
    theirs = {name.removeprefix(STATE): value for name, value in golden.outputs.items() if STATE in name}
    theirs = {name: value for name, value in theirs.items() if not name.endswith("num_batches_tracked")}
    before = {name: value for name, value in golden.params.items() if "running_" in name}
    assert set(ours) == set(theirs or before)
    n = len(golden.inputs["target"])
    for name, value in (theirs or before).items():
        found = ours[name]
        if theirs and name.endswith("running_var"):
            found = 0.99 * before[name] + (found - 0.99 * before[name]) * n / (n - 1)
        np.testing.assert_allclose(found, value, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("path", golden_files("dropoutnet"))
def test_weights_come_back_as_they_were_and_a_wrong_rank_is_refused(path: Path) -> None:
    golden: Golden = read(path)
    rank = golden.meta["config"]["latent_rank_in"]
    _, variables, locations = dropoutnet.deep_cf(golden.params, rank=rank)
    for name, value in to_state(variables, locations).items():
        np.testing.assert_array_equal(value, golden.params[name], err_msg=name)
    with pytest.raises(ValueError, match=r"rank=999: u_(layers\.0|emb) reads"):
        dropoutnet.deep_cf(golden.params, rank=999)


def test_towers_without_hidden_layers_are_linear() -> None:
    rng = np.random.default_rng(0)
    shapes = {"u_emb.weight": (3, 5), "u_emb.bias": (3,), "v_emb.weight": (3, 2), "v_emb.bias": (3,)}
    state = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    model, variables, _ = dropoutnet.deep_cf(state, rank=2)
    users, items = rng.normal(size=(4, 5)).astype(np.float32), rng.normal(size=(4, 2)).astype(np.float32)
    found = model.apply(variables, users[:, :2], items, users[:, 2:], None, train=False)
    u, v = (x @ state[f"{s}_emb.weight"].T + state[f"{s}_emb.bias"] for s, x in (("u", users), ("v", items)))
    np.testing.assert_allclose(found, (u * v).sum(axis=1), rtol=1e-5)
