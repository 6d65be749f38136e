"""SDM of fun-rec: outputs, layers, loss and all gradients, by the options that follow its code."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses
from jaxrec.convert import funrec_sdm
from jaxrec.convert.state_dict import Converted, to_state
from jaxrec.types import Array
from tests.golden.compare import close_gradients, close_outputs
from tests.golden.fixtures import Golden, golden_files, read

LAYERS = {  # theirs: ours
    "lstm": "lstm",
    "layer_normalization": "queries",
    "short_term_attention": "attention",
    "layer_normalization_1": "states",
}


class Computed(NamedTuple):
    golden: Golden
    converted: Converted
    outputs: dict[str, Array]
    gradients: dict[str, np.ndarray]


@pytest.fixture(params=golden_files("sdm"), scope="module")
def each(request: pytest.FixtureRequest) -> Computed:
    path: Path = request.param
    golden = read(path)
    found = funrec_sdm.from_state(golden.params)
    tables = {name: value for name, value in golden.params.items() if name.startswith("embedding/")}
    ids = {name: jnp.asarray(value, jnp.int32) for name, value in golden.inputs.items()}

    def loss(weights: Any) -> tuple[Array, dict[str, Array]]:
        variables, tables = weights

        def vectors(feature: str, column: str, masked: bool = True) -> Array:
            found = tables[funrec_sdm.TABLE.format(feature)][ids[column]]
            return found * (ids[column] != 0)[..., None] if masked else found

        features = {"movie": "movie_id", "genre": "genre_id"}
        profile = [vectors(name, name, masked=False)[:, 0] for name in ("user_id", "age")]
        session, past = (
            [vectors(feature, f"{part}_{name}") for name, feature in features.items()]
            for part in ("hist", "long")
        )
        steps, state = found.module.apply(
            variables,
            jnp.concatenate(profile, axis=-1),
            jnp.concatenate(session, axis=-1),
            tuple(past),
            ids["hist_movie"] != 0,
            ids["long_movie"] != 0,
            train=False,
            mutable=["intermediates"],
        )
        user, table = steps[:, -1], tables[funrec_sdm.TABLE.format("movie_id")]
        value = losses.softmax_cross_entropy(user, table, ids["movie_id"][:, 0], include_padding=True)
        inside = state["intermediates"]
        outputs = {"user": user, "scores": user @ table.T, "loss": value}
        outputs |= {f"layer/{theirs}": inside[ours][0] for theirs, ours in LAYERS.items()}
        for name, pooled in zip(features, inside["pooled"][0], strict=True):
            outputs[f"layer/user_attention_long_long_{name}"] = pooled[:, None]
        outputs["layer/user_attention_short"] = inside["session"][0][:, -1:]
        outputs["layer/gated_fusion"] = steps[:, -1:]
        return value, outputs

    (gradients, of_tables), outputs = jax.jit(jax.grad(loss, has_aux=True))((found.variables, tables))
    back = to_state(gradients, found.locations) | {name: np.asarray(g) for name, g in of_tables.items()}
    return Computed(golden, found, outputs, back)


def test_outputs_layers_and_loss(each: Computed) -> None:
    close_outputs(each.outputs, each.golden.outputs, each.golden.noise("out"))


def test_all_gradients(each: Computed) -> None:
    close_gradients(each.gradients, each.golden.gradients, each.golden.noise("grad"))


def test_weights_come_back_as_they_were(each: Computed) -> None:
    back = to_state(each.converted.variables, each.converted.locations)
    weights = {name for name in each.golden.params if not name.startswith("embedding/")}
    assert set(back) == weights
    for name, value in back.items():
        np.testing.assert_array_equal(value, each.golden.params[name])


def test_sizes_are_those_of_the_configuration(each: Computed) -> None:
    config, model = each.golden.meta["config"], each.converted.module
    assert (model.dim, model.num_heads) == (config["emb_dim"], config["num_heads"])
