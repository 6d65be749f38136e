"""The authors' PyTorch code of GRU4Rec: states, scores and losses of session-parallel steps, all gradients.

Our side is the task that trains it, `parallel_sessions` with `shared_negatives`, an event a step.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses
from jaxrec.convert import hidasi
from jaxrec.convert.state_dict import Converted
from jaxrec.tasks.objectives import TABLES, Objective, negatives, shared_negatives
from jaxrec.tasks.parallel_sessions import LANES, parallel_sessions
from jaxrec.types import SHARED, Array, Variables
from tests.golden.compare import close_gradients, close_outputs
from tests.golden.fixtures import Golden, golden_files, read

Computed = tuple[Golden, dict[str, Array], dict[str, np.ndarray]]
FILES = golden_files("hidasi_gru4rec")


def objective_of(config: dict[str, Any], popularity: np.ndarray) -> Objective:
    """The loss of a configuration, with the code's defaults for what it does not name.

    Raises:
      ValueError: the code has no such loss.
    """
    drawn = negatives(
        np.concatenate([[0.0], popularity]),
        num_samples=config["n_sample"],
        alpha=config.get("sample_alpha", 0.5),
        logq=config.get("logq", 0.0) if config["loss"] == "cross-entropy" else 0.0,
    )
    if config["loss"] == "cross-entropy":
        return shared_negatives(losses.sampled_softmax, drawn)
    if config["loss"] != "bpr-max":
        raise ValueError(f"loss={config['loss']!r}: the code has cross-entropy and bpr-max")
    slope = config.get("elu_param", 0.5)
    elu = functools.partial(jax.nn.elu, alpha=slope) if slope > 0 else None
    weight = config.get("bpreg", 1.0)
    return shared_negatives(functools.partial(losses.bpr_max, regularisation=weight), drawn, activation=elu)


def run(golden: Golden, converted: Converted) -> tuple[dict[str, Array], Variables]:
    """Our outputs under the names of the fixture's, and the gradient of the sum of the steps' losses."""
    model, variables, _ = converted
    objective = objective_of(golden.meta["config"], golden.inputs["popularity"])
    task = parallel_sessions(model, objective)
    items, targets, samples = (
        jnp.asarray(golden.inputs[name] + 1, jnp.int32) for name in ("x", "y", "negatives")
    )
    lanes = items.shape[1]

    def total(params: Variables) -> tuple[Array, dict[str, Array]]:
        outputs: dict[str, Array] = {}
        loss, carried = jnp.zeros(()), {"state": model.start(lanes)}
        table = model.apply({"params": params}, method="item_table")
        for t in range(len(items)):
            batch = {
                "items": items[t],
                "targets": targets[t][:, None],
                "reset": jnp.asarray(golden.inputs["reset"][t]),
                "row": jnp.arange(lanes),
                "samples": jnp.broadcast_to(samples[t], (lanes, samples.shape[1])),
                SHARED: {TABLES: objective.tables},
            }
            before: Variables = {"params": params, LANES: carried}
            parts, after = task.losses(before, batch, jax.random.key(0))
            carried = after[LANES]
            hidden = task.predict(before, batch)
            outputs[f"step{t}/scores"] = hidden @ table[jnp.concatenate([targets[t], samples[t]])].T
            outputs[f"step{t}/loss"] = parts["next_item"]
            for i, width in enumerate(model.widths):
                outputs[f"step{t}/hidden{i}"] = carried["state"][:, i, :width]
            if t == 0:
                outputs["all_item_scores"] = hidden @ table[1:].T
            loss = loss + parts["next_item"]
        return loss, outputs | {"loss": loss}

    gradients, outputs = jax.jit(jax.grad(total, has_aux=True))(variables["params"])
    return outputs, {"params": gradients}


@pytest.fixture(params=FILES, scope="module")
def computed(request: pytest.FixtureRequest) -> Computed:
    """The fixture, our outputs by name, and our gradients under PyTorch's names."""
    path: Path = request.param
    golden = read(path)
    converted = hidasi.from_state_dict(golden.params, dropout=0.0)
    outputs, gradients = run(golden, converted)
    return golden, outputs, hidasi.to_state_dict(gradients, converted.locations)


def test_scores_states_and_losses_of_every_step(computed: Computed) -> None:
    golden, outputs, _ = computed
    close_outputs(outputs, golden.outputs)


def test_all_gradients(computed: Computed) -> None:
    golden, _, gradients = computed
    close_gradients(gradients, golden.gradients)


def test_sizes_are_those_of_the_configuration(computed: Computed) -> None:
    golden, *_ = computed
    config = golden.meta["config"]
    model, variables, locations = hidasi.from_state_dict(golden.params)
    assert (model.num_items, *model.widths) == (config["n_items"], *config["layers"])
    tied, width = config.get("constrained_embedding", True), config.get("embedding", 0)
    width = config["layers"][0] if width == "layersize" else width
    assert model.inputs == ("tied" if tied else "own" if width else "one_hot")
    assert model.input_dim == (width if model.inputs == "own" else None)
    back = hidasi.to_state_dict(variables, locations)
    assert set(back) == set(golden.params)
    for name, value in back.items():
        np.testing.assert_array_equal(value, golden.params[name], err_msg=name)


def test_a_loss_the_code_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="loss='top1'"):
        objective_of({"loss": "top1", "n_sample": 1}, np.ones(3))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def one_hot_state(**more: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Drawn weights of the code's model with embedding=0 and without constrained_embedding."""
    rng = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {
        "GE.Wx0.weight": (6, 9), "GE.Wrz0": (3, 6), "GE.Wh0": (3, 3), "GE.Bh0": (9,),
        "Wy.weight": (6, 3), "By.weight": (6, 1),
    }  # fmt: skip
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in (shapes | more).items()}


def test_one_hot_inputs_give_the_states_of_the_formula_of_that_code() -> None:
    """h' = (1 - z) h + z tanh(w + U (r h)), gates in the order new, reset, update, with one bias."""
    state = one_hot_state()
    before, ids = np.random.default_rng(1).normal(size=(2, 3)).astype(np.float32), np.array([0, 5])
    new, reset, update = np.split(state["GE.Wx0.weight"][ids] + state["GE.Bh0"], 3, axis=1)
    from_reset, from_update = np.split(before @ state["GE.Wrz0"], 2, axis=1)
    z = sigmoid(update + from_update)
    h = (1 - z) * before + z * np.tanh((sigmoid(reset + from_reset) * before) @ state["GE.Wh0"] + new)

    model, variables, locations = hidasi.from_state_dict(state)
    run: Any = model.apply
    step = jax.jit(lambda v: run(v, jnp.asarray(ids + 1), before[:, None], train=False, method="step"))
    hidden, after = step(variables)
    np.testing.assert_allclose(after[:, 0], h, rtol=1e-5, atol=1e-6)
    scores = hidden @ model.apply(variables, method="item_table")[1:].T
    expected = h @ state["Wy.weight"].T + state["By.weight"].T
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)
    for name, value in hidasi.to_state_dict(variables, locations).items():
        np.testing.assert_array_equal(value, state[name], err_msg=name)


def test_layers_behind_one_hot_inputs_are_refused() -> None:
    with pytest.raises(ValueError, match="1 layers behind one of one-hot inputs"):
        hidasi.from_state_dict(one_hot_state(**{"G.0.weight_hh": (12, 4)}))
