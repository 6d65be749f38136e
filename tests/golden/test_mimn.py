"""The authors' MIMNCell: every step, the answer to a target, the loss and all gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses
from jaxrec.convert import mimn
from jaxrec.convert.state_dict import Converted, to_state
from jaxrec.nn.layers.memory import InterestMemory, MemoryState
from jaxrec.types import Array, Variables
from tests.golden.compare import close_gradients, close_outputs
from tests.golden.fixtures import Golden, golden_files, read
from tests.golden.test_din import differentiated

CAPACITY = 0.001  # what the source multiplies its regulariser with


def load(golden: Golden) -> Converted:
    config = golden.meta["config"]
    fields = {"sharpness": config["sharp_value"], "clip": float(config["clip_value"])}
    return mimn.memory(golden.params, max_shift=config["shift_range"], **fields)


def one_event(memory: InterestMemory, event: Array, state: MemoryState) -> Any:
    """The state after an event, and what the cell gives at it."""
    after = memory(event[:, None], jnp.ones((len(event), 1), bool), state)
    return after, (after, memory.read(event, state), memory.access(event, state))


def unrolled(module: InterestMemory, variables: Variables, history: Array, target: Array) -> Any:
    """What the cell gives event by event, and to the target, as one more event after them."""
    start: Any = module.apply(variables, history[:, :1], jnp.zeros((len(history), 1), bool))
    events = jnp.concatenate([history, target[:, None]], axis=1).swapaxes(0, 1)

    def step(state: MemoryState, event: Array) -> Any:
        return module.apply(variables, event, state, method=one_event)

    states, answers, access = (
        jax.tree.map(lambda x: x.swapaxes(0, 1), part) for part in jax.lax.scan(step, start, events)[1]
    )  # batch first
    written = jax.lax.stop_gradient(access.write_weights)[..., None] * access.add[:, :, None]
    found = {
        "outputs": answers[:, :-1],
        "read_out": answers[:, -1],
        "memory": states.memory[:, :-1],
        "usage": states.usage[:, :-1],
        "controller": states.controller[:, -2],
        "read_vector": states.read[:, -2],
        "sum_aggre": written[:, :-1].sum(axis=1),
    }
    for t in range(history.shape[1]):
        found |= {f"step{t}/read_weight": access.read_weights[:, t]}
        found |= {f"step{t}/write_weight": access.write_weights[:, t]}
    batch, slots = states.usage.shape[0], states.usage.shape[2]
    # ours adds up over slots and is a mean over rows, theirs is a mean over both and divides by both again
    scale = CAPACITY / (slots * slots * batch)
    found["capacity_loss"] = scale * losses.memory_utilisation(states.usage[:, -2])
    if module.induction:
        found["channel_states_before_target"] = states.channels[:, -2]
        best = jnp.argmax(access.read_weights[:, -1], axis=-1)
        found["channels"] = (
            jax.nn.one_hot(best, slots)[..., None] * states.channels[:, -1]
        )  # the others are 0
    return found


@pytest.mark.parametrize("path", golden_files("mimn"))
def test_mimn_cell(path: Path) -> None:
    golden = read(path)
    module, variables, locations = load(golden)
    inputs = golden.inputs

    def loss(params: Any, rest: Any, batch: Any) -> tuple[Array, dict[str, Array]]:
        found = unrolled(module, {"params": params}, batch["history"], batch["target"])
        total = jnp.sum(found["read_out"] * batch["w"]) + 0.1 * jnp.sum(found["outputs"])
        total += 10.0 * found["capacity_loss"]
        if "v" in batch:
            total += jnp.sum(found["channels"] * batch["v"])
        return total, found

    (total, found), gradients = differentiated(loss, variables, inputs)
    close_outputs({**found, "loss": total}, golden.outputs)

    shift = golden.meta["config"]["shift_range"]
    theirs = mimn.parts(golden.gradients, max_shift=shift)
    ours = to_state({"params": gradients}, locations)
    assert ours.pop("init/init_M").any()  # ours trains what every user starts with
    for name in set(theirs) - set(ours):
        assert not theirs.pop(name).any(), name  # nothing reads it
    close_gradients(ours, theirs)


@pytest.mark.parametrize("path", golden_files("mimn"))
def test_sizes_are_those_of_the_configuration(path: Path) -> None:
    golden = read(path)
    config, (module, variables, _) = golden.meta["config"], load(golden)
    assert (module.slots, module.hidden_dim) == (config["memory_size"], config["controller_units"])
    assert variables["params"]["memory"].shape[1] == config["memory_vector_dim"]
    assert module.induction == config["mem_induction"]
    assert module.rebalance == ("shift" if config["util_reg"] else None)


@pytest.mark.parametrize("path", golden_files("mimn"))
def test_weights_come_back_as_they_were(path: Path) -> None:
    golden = read(path)
    _, variables, locations = load(golden)
    theirs = mimn.parts(golden.params, max_shift=golden.meta["config"]["shift_range"])
    for name, value in to_state(variables, locations).items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)
