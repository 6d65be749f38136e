"""torch-rechub's MIND and ComiRec, with the routing of the papers and as the port has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses
from jaxrec.convert import rechub_interests
from jaxrec.convert.state_dict import Converted, to_state
from jaxrec.nn.layers.interests import UserVectors
from jaxrec.segments import rows_by_id
from jaxrec.types import Array
from tests.golden.compare import close_gradients, close_outputs
from tests.golden.fixtures import Golden, golden_files, read

DEEPEST = 3  # rounds of the reference's routing: the third has the gradient, and further ones repeat it


class Computed(NamedTuple):
    golden: Golden
    converted: Converted
    outputs: dict[str, Array]
    gradients: dict[str, np.ndarray]


def converted(golden: Golden) -> Converted:
    config, state = golden.meta["config"], golden.params
    over = {"over": config["softmax_axis"]} if "softmax_axis" in config else {}
    routed = over | ({"iterations": min(config["routing"], DEEPEST)} if over else {})
    if "capsule.linear.weight" in state:
        sizes = {"num_interests": config["interests"], "max_len": config["max_len"]}
        return rechub_interests.mind(state, **sizes, **routed)
    if "capsule.w" in state:
        return rechub_interests.comirec_dr(state, **routed)
    return rechub_interests.comirec_sa(state, max_len=config["max_len"])


def users_of(golden: Golden) -> Array:
    """Ids of users [B], or with further features, whose ids are theirs plus 1, [B, n]."""
    names = rechub_interests.user_features(golden.params)
    columns = [jnp.asarray(golden.inputs[name], jnp.int32) + (name != names[0]) for name in names]
    return columns[0] if len(columns) == 1 else jnp.stack(columns, axis=1)


def computed(golden: Golden) -> Computed:
    """Our outputs and gradients for a fixture."""
    found = converted(golden)
    model = found.module
    ids = {name: jnp.asarray(value, jnp.int32) for name, value in golden.inputs.items() if "init" not in name}
    columns: dict[str, Any] = {"train": False}
    if "routing_init" in golden.inputs:
        columns["logits"] = golden.inputs["routing_init"].swapaxes(1, 2)
    users = users_of(golden)
    plain = model.clone(
        num_users=0, profile=(), normalised=False
    )  # the interests before the user's embedding
    cut = golden.meta["config"].get("routing", DEEPEST) < DEEPEST
    profile = UserVectors(
        model.dim, model.num_users, normalised=True, user_dim=model.user_dim, profile=model.profile
    )

    def loss(variables: Any) -> tuple[Array, dict[str, Array]]:
        first = plain.apply(variables, ids["hist"], **columns).vectors
        user = model.apply(variables, ids["hist"], users=users, **columns)
        if cut:  # no round of the reference has a gradient
            own = {"params": variables["params"]["user"]}
            again = profile.apply(own, jax.lax.stop_gradient(first), users)
            user = user._replace(vectors=again)
        table = model.apply(variables, method="item_table")
        items = jnp.concatenate([ids["item_id"][:, None], ids["neg"]], axis=1)
        read_out = model.apply(variables, user, rows_by_id(table, ids["item_id"]), method="readout")
        scores = jnp.einsum("bd,bnd->bn", read_out, rows_by_id(table, items))
        value = losses.sampled_softmax(scores[:, 0], scores[:, 1:])
        outputs = {"user_embedding": user.vectors, "interests": first, "scores": scores, "loss": value}
        return value, outputs

    gradients, outputs = jax.jit(jax.grad(loss, has_aux=True))(found.variables)
    return Computed(golden, found, outputs, to_state(gradients, found.locations))


@pytest.fixture(params=[*golden_files("mind"), *golden_files("comirec")], scope="module")
def each(request: pytest.FixtureRequest) -> Computed:
    path: Path = request.param
    return computed(read(path))


def test_outputs_and_loss(each: Computed) -> None:
    close_outputs(each.outputs, each.golden.outputs)


def test_all_gradients(each: Computed) -> None:
    close_gradients(each.gradients, each.golden.gradients)


def test_weights_come_back_as_they_were(each: Computed) -> None:
    back = to_state(each.converted.variables, each.converted.locations)
    assert set(each.golden.params) - set(back) <= set(rechub_interests.UNUSED)
    for name, value in back.items():
        np.testing.assert_array_equal(value, each.golden.params[name])


def test_sizes_are_those_of_the_configuration(each: Computed) -> None:
    config, model = each.golden.meta["config"], each.converted.module
    assert (model.num_interests, model.dim) == (config["interests"], config["embed_dim"])
    assert model.max_len == config["max_len"]
