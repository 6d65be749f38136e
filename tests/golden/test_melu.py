"""MeLU's code: inner updates, predictions, the outer loss, and its gradients of first and second order."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.convert.melu import melu, split_rows
from jaxrec.convert.state_dict import Converted, to_state
from jaxrec.tasks.meta import Adaptation, adapt, gather, meta
from jaxrec.types import Array, Batch
from tests.golden.compare import close_gradients, close_outputs
from tests.golden.fixtures import Golden, golden_files, read


class Computed(NamedTuple):
    golden: Golden
    model: Converted
    batch: Batch
    outputs: dict[str, Any]


def joined(model: Any, inputs: dict[str, np.ndarray]) -> Batch:
    """All users' support and query sets, ragged, as one padded batch of `tasks.meta`."""
    tasks = sorted({name.split("/")[0] for name in inputs}, key=lambda name: int(name.removeprefix("task")))
    parts = {part: [inputs[f"{task}/{part}_x"] for task in tasks] for part in ("support", "query")}
    widths = {part: max(map(len, rows)) for part, rows in parts.items()}
    rows = np.concatenate(
        [row for both in zip(parts["support"], parts["query"], strict=True) for row in both]
    )
    split = [split_rows(model, np.concatenate(both)) for both in zip(*parts.values(), strict=True)]
    users = {name: np.stack([user[name] for _, user in split]) for name in split[0][1]}
    user_columns = {name: np.concatenate([[0], column]) for name, column in users.items()}
    fixed = np.repeat(rows[:1], len(rows), axis=0)
    fixed[:, : -len(users)] = rows[:, : -len(users)]  # items of all users, under one user's columns
    items = {
        name: np.concatenate([np.zeros_like(column[:1]), column])
        for name, column in split_rows(model, fixed)[0].items()
    }
    sets: dict[str, list[np.ndarray]] = {f"{part}{end}": [] for part in parts for end in ("", "_rating")}
    number = 1
    for i, task in enumerate(tasks):
        for part in parts:
            size = len(parts[part][i])
            pad = (widths[part] - size, 0)
            sets[part].append(np.pad(np.arange(number, number + size), pad))
            sets[f"{part}_rating"].append(np.pad(inputs[f"{task}/{part}_y"], pad))
            number += size
    columns = {name: jnp.asarray(np.stack(found)) for name, found in sets.items()}
    columns["user"] = jnp.arange(1, len(tasks) + 1)
    return {**gather(columns, {"items": items, "users": user_columns}), "mask": jnp.ones(len(tasks), bool)}


def steps_of_the_loss(golden: Golden) -> int:
    """The number of inner steps whose loss is the fixture's own: that of its configuration, or the first."""
    config, loss = golden.meta["config"], golden.outputs["loss"]
    every = sorted(config["inner_steps"], key=lambda steps: steps != config.get("inner"))
    return next(steps for steps in every if golden.outputs[f"inner{steps}/loss"] == loss)


def ends(values: Array, mask: Array) -> list[np.ndarray]:
    return [np.asarray(row)[np.asarray(real)] for row, real in zip(values, mask, strict=True)]


@pytest.fixture(params=golden_files("melu"), scope="module")
def computed(request: pytest.FixtureRequest) -> Computed:
    path: Path = request.param
    golden = read(path)
    config = golden.meta["config"]
    model = melu(golden.params)
    batch = joined(model.module, golden.inputs)
    outputs: dict[str, Any] = {}
    for steps in config["inner_steps"]:
        for order in ("first", "second"):
            adaptation = Adaptation(steps, config["local_lr"], first_order=order == "first")
            task = meta(model.module, adaptation)

            def loss(params: Any, task: Any = task) -> Array:
                return task.losses({"params": params}, batch, jax.random.key(0))[0]["squared_error"]

            value, gradient = jax.jit(jax.value_and_grad(loss))(model.variables["params"])
            state = to_state({"params": gradient}, model.locations)
            for name, found in state.items():
                outputs[f"inner{steps}/grad_{order}/{name.removeprefix('model.')}"] = found
            outputs[f"inner{steps}/loss"] = value
        outputs |= of_users(model, batch, Adaptation(steps, config["local_lr"]), f"inner{steps}")
    outputs["loss"] = outputs[f"inner{steps_of_the_loss(golden)}/loss"]
    return Computed(golden, model, batch, outputs)


def of_users(model: Converted, batch: Batch, adaptation: Adaptation, name: str) -> dict[str, Any]:
    """Predictions and losses of each user, adapted parameters and the first loss of the support."""
    module, variables = model.module, model.variables
    predicted = jax.jit(meta(module, adaptation).predict)(variables, batch)
    size = batch["support"].shape[1]
    x = module.apply(variables, batch["items"], batch["users"], method="embed")[:, :size]

    def decide(params: Any, x: Array) -> Array:
        return module.apply({"params": params}, x, method="decide")

    inner = functools.partial(adapt, decide, adaptation=adaptation, local=module.decision_layers)
    own, values = jax.vmap(lambda x, y, where: inner(variables["params"], x, y, where))(
        x, batch["support_rating"], batch["support"]
    )
    found: dict[str, Any] = {}
    real = zip(ends(predicted, batch["query"]), ends(batch["query_rating"], batch["query"]), strict=True)
    for i, (rating, label) in enumerate(real):
        of_user = f"{name}/task{i}"
        found[f"{of_user}/query_pred"] = found[f"{of_user}/query_pred_official"] = rating[:, None]
        found[f"{of_user}/query_loss"] = np.mean((rating - label) ** 2)
        found |= {f"{of_user}/support_loss_step{step}": value for step, value in enumerate(values[i])}
        part = {key: leaf for key, leaf in own.items() if key in module.decision_layers}
        adapted = {**variables["params"], **jax.tree.map(lambda p, i=i: p[i], part)}
        state = to_state({"params": adapted}, model.locations)
        for key, value in state.items():
            if "_emb." not in key:
                found[f"{of_user}/fast/{key.removeprefix('model.')}"] = value
    return found


def test_predictions_losses_and_adapted_parameters(computed: Computed) -> None:
    theirs = {name: value for name, value in computed.golden.outputs.items() if "/grad_" not in name}
    close_outputs({name: computed.outputs[name] for name in theirs}, theirs)
    assert any("/fast/" in name for name in theirs)


@pytest.mark.parametrize("order", ["first", "second"])
def test_gradients_of_either_order(computed: Computed, order: str) -> None:
    part = f"/grad_{order}/"
    theirs = {name: value for name, value in computed.golden.outputs.items() if part in name}
    ours = {name: value for name, value in computed.outputs.items() if part in name}
    close_gradients(ours, theirs)


def test_the_gradient_of_the_loss_is_of_second_order(computed: Computed) -> None:
    part = f"inner{steps_of_the_loss(computed.golden)}/grad_second/"
    ours = {f"model.{n.removeprefix(part)}": v for n, v in computed.outputs.items() if n.startswith(part)}
    close_gradients(ours, computed.golden.gradients)


def test_sizes_are_those_of_the_configuration(computed: Computed) -> None:
    config, module = computed.golden.meta["config"], computed.model.module
    sizes = {c.name: c.num_values for c in (*module.items, *module.users)}
    named = {name: config[f"num_{'zipcode' if name == 'area' else name}"] for name in sizes}
    assert sizes == named
    assert module.dim == config["embedding_dim"]
    assert module.dims == (config["first_fc_hidden_dim"], config["second_fc_hidden_dim"])


def test_weights_come_back_as_they_were(computed: Computed) -> None:
    state = to_state(computed.model.variables, computed.model.locations)
    assert set(state) == set(computed.golden.params)
    for name, value in state.items():
        np.testing.assert_array_equal(value, computed.golden.params[name], err_msg=name)


def test_padding_is_no_part_of_any_table(computed: Computed) -> None:
    for part in ("item_content", "user_content"):
        for table in computed.model.variables["params"][part].values():
            assert (np.asarray(table)[0] == 0).all()
