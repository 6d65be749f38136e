"""SDM of fun-rec: outputs, layers, loss and all gradients, by the options that follow its code."""

from __future__ import annotations

from collections.abc import Iterable
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
from tests.golden.activations import activation
from tests.golden.compare import close_gradients, close_outputs
from tests.golden.fixtures import Golden, golden_files, read

LAYERS = {  # theirs: ours
    "lstm": "lstm",
    "layer_normalization": "queries",
    "short_term_attention": "attention",
    "layer_normalization_1": "states",
}


COUNTED = ("dense", "layer_normalization", "lstm", "lstm_cell")  # names that Keras counts within a process


class Computed(NamedTuple):
    golden: Golden
    converted: Converted
    outputs: dict[str, Array]
    gradients: dict[str, np.ndarray]


def from_zero(names: Iterable[str]) -> dict[str, str]:
    """Names as they are in a process that builds one model: Keras counts on from model to model."""
    split = {name: name.split("/") for name in names}
    numbers: dict[str, set[int]] = {kind: set() for kind in COUNTED}

    def of(part: str) -> tuple[str, int] | None:
        kind, _, end = part.rpartition("_") if part.rpartition("_")[2].isdigit() else (part, "", "0")
        return (kind, int(end)) if kind in COUNTED else None

    for parts in split.values():
        for found in filter(None, map(of, parts)):
            numbers[found[0]].add(found[1])

    def renamed(part: str) -> str:
        if (found := of(part)) is None:
            return part
        rank = sorted(numbers[found[0]]).index(found[1])
        return f"{found[0]}_{rank}" if rank else found[0]

    return {name: "/".join(map(renamed, parts)) for name, parts in split.items()}


def renumbered(golden: Golden) -> Golden:
    names = from_zero([*golden.params, *golden.outputs])
    parts = (golden.params, golden.outputs, golden.gradients)
    params, outputs, gradients = ({names.get(k, k): v for k, v in part.items()} for part in parts)
    return golden._replace(params=params, outputs=outputs, gradients=gradients)


def features_of(golden: Golden) -> tuple[list[str], dict[str, str], dict[str, str], str]:
    """The profile's features, tables by column of the session and of the past, and the label's table."""

    def table(feature: str) -> str:
        names = (f"{feature}_id", feature)
        return next(name for name in names if funrec_sdm.TABLE.format(name) in golden.params)

    session, past = (
        {name: table(name.removeprefix(start)) for name in golden.inputs if name.startswith(start)}
        for start in ("hist_", "long_")
    )
    label = next(name for name in session.values() if name in golden.inputs)
    others = [name for name in golden.inputs if name not in (*session, *past, label)]
    return others, session, past, label


def compute(golden: Golden) -> Computed:
    """Our outputs and gradients for a fixture."""
    applied = activation(golden.meta["config"].get("activation", "tanh"))
    found = funrec_sdm.from_state(golden.params, activation=applied)
    profile, in_session, in_past, label = features_of(golden)
    tables = {name: value for name, value in golden.params.items() if name.startswith("embedding/")}
    ids = {name: jnp.asarray(value, jnp.int32) for name, value in golden.inputs.items()}

    def loss(weights: Any) -> tuple[Array, dict[str, Array]]:
        variables, tables = weights

        def vectors(feature: str, column: str, masked: bool = True) -> Array:
            found = tables[funrec_sdm.TABLE.format(feature)][ids[column]]
            return found * (ids[column] != 0)[..., None] if masked else found

        own = [vectors(name, name, masked=False)[:, 0] for name in profile]
        session, past = (
            [vectors(feature, column) for column, feature in columns.items()]
            for columns in (in_session, in_past)
        )
        steps, state = found.module.apply(
            variables,
            jnp.concatenate(own, axis=-1),
            jnp.concatenate(session, axis=-1),
            tuple(past),
            ids[list(in_session)[-1]] != 0,  # the reference takes the mask of the last feature
            ids[list(in_past)[-1]] != 0,
            train=False,
            mutable=["intermediates"],
        )
        user, table = steps[:, -1], tables[funrec_sdm.TABLE.format(label)]
        value = losses.softmax_cross_entropy(user, table, ids[label][:, 0], include_padding=True)
        inside = state["intermediates"]
        outputs = {"user": user, "scores": user @ table.T, "loss": value}
        outputs |= {f"layer/{theirs}": inside[ours][0] for theirs, ours in LAYERS.items()}
        for name, pooled in zip(in_past, inside["pooled"][0], strict=True):
            outputs[f"layer/user_attention_long_{name}"] = pooled[:, None]
        outputs["layer/user_attention_short"] = inside["session"][0][:, -1:]
        outputs["layer/gated_fusion"] = steps[:, -1:]
        return value, outputs

    (gradients, of_tables), outputs = jax.jit(jax.grad(loss, has_aux=True))((found.variables, tables))
    back = to_state(gradients, found.locations) | {name: np.asarray(g) for name, g in of_tables.items()}
    return Computed(golden, found, outputs, back)


@pytest.fixture(params=golden_files("sdm"), scope="module")
def each(request: pytest.FixtureRequest) -> Computed:
    path: Path = request.param
    return compute(renumbered(read(path)))


def test_outputs_layers_and_loss(each: Computed) -> None:
    close_outputs(each.outputs, each.golden.outputs)


def test_all_gradients(each: Computed) -> None:
    close_gradients(each.gradients, each.golden.gradients)


def test_weights_come_back_as_they_were(each: Computed) -> None:
    back = to_state(each.converted.variables, each.converted.locations)
    weights = {name for name in each.golden.params if not name.startswith("embedding/")}
    assert set(back) == weights
    for name, value in back.items():
        np.testing.assert_array_equal(value, each.golden.params[name])


def test_sizes_are_those_of_the_configuration(each: Computed) -> None:
    config, model = each.golden.meta["config"], each.converted.module
    assert (model.dim, model.num_heads) == (config["emb_dim"], config["num_heads"])


def test_names_of_a_later_model_of_a_process_are_understood() -> None:
    expected = {
        "dense_5/bias": "dense/bias",
        "dense_12/bias": "dense_1/bias",
        "lstm_1/lstm_cell_1/kernel": "lstm/lstm_cell/kernel",
        "layer/lstm_1": "layer/lstm",
        "dense_9x": "dense_9x",
    }
    assert from_zero(expected) == expected
