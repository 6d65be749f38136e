"""A batch in parts: the losses and gradients of the whole batch, in less memory, or a clear refusal."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrec import losses
from jaxrec.nn.layers.dropout import Dropout
from jaxrec.optim import row_optimisers, sparse
from jaxrec.optim.gradient_balancing import pcgrad
from jaxrec.optim.loss_weighting import static, uncertainty
from jaxrec.train import parallel
from jaxrec.train.accumulate import accumulated
from jaxrec.train.state import create
from jaxrec.train.step import make_step
from jaxrec.types import SHARED, Array, Batch, Context, Key, Task, Variables
from tests.train import test_devices as small
from tests.train import toy

KEY = jax.random.key(3)


def close(found: Any, expected: Any, rtol: float = 1e-5) -> None:
    structures: list[Any] = [jax.tree.structure(found), jax.tree.structure(expected)]
    assert structures[0] == structures[1]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-6), found, expected)


# --- a task whose sums can be computed by hand -----------------------------------------------------------


class Net(nn.Module):
    """Two logits of an example, from features with noise, times what all examples share."""

    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Array, scale: Array, rows: Array | None) -> Array:
        x = Dropout(self.dropout)(nn.tanh(nn.Dense(8)(x)), train=True, rows=rows)
        return nn.Dense(2)(x) * scale


def rated(dropout: float = 0.0, *, rows: bool = True) -> Task:
    """A mean over real examples, one over a few of them, a weighted one, and a penalty on parameters."""
    net = Net(dropout)

    def prepare(key: Key, examples: Mapping[str, Array], context: Context) -> Batch:
        batch = {name: column[examples["example"]] for name, column in context.items()}
        number = {"row": jnp.arange(len(examples["example"]))} if rows else {}
        return {**batch, **number, "mask": examples["mask"], SHARED: jnp.float32(1.5)}

    def init(key: Key, batch: Batch) -> Variables:
        return net.init({"params": key, "dropout": key}, batch["x"], batch[SHARED], batch.get("row"))

    def loss(
        variables: Variables, batch: Batch, key: Key, axis_name: str | None = None
    ) -> tuple[dict[str, Array], Variables]:
        z = net.apply(variables, batch["x"], batch[SHARED], batch.get("row"), rngs={"dropout": key})
        error = (z - batch["y"]) ** 2
        penalty = jnp.stack([jnp.sum(leaf**2) for leaf in jax.tree.leaves(variables["params"])]).sum()
        size = 1 if axis_name is None else jax.lax.axis_size(axis_name)
        few = batch["mask"] & batch["few"]
        return {
            "all": losses.masked_mean(error[:, 0], batch["mask"], axis_name),
            "few": losses.masked_mean(error[:, 1], few, axis_name),
            "weighted": losses.weighted_mean(
                error[:, 0], batch["weight"], where=batch["mask"], axis_name=axis_name
            ),
            "penalty": 1e-2 * penalty / size,
        }, {}

    return Task(prepare, init, loss, lambda variables, batch: batch["x"])


def rated_columns(number: int = 12) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    few = np.zeros(number, bool)
    few[[0, 1, 5]] = True  # parts of three examples have two, one or none of them
    return {
        "x": rng.normal(size=(number, 3)).astype(np.float32),
        "y": rng.normal(size=(number, 2)).astype(np.float32),
        "weight": rng.exponential(size=number).astype(np.float32),
        "few": few,
    }


EXAMPLES: dict[str, Any] = {
    "example": np.arange(12),
    "mask": np.arange(12) < 8,
}  # of four parts the last has no real one


def value_and_gradient(task: Task, steps: int) -> Any:
    """Losses, and the gradient of each with respect to parameters."""

    @jax.jit
    def run(columns: Any, examples: Any) -> Any:
        batch = task.prepare(KEY, examples, columns)
        variables = task.init(KEY, batch)
        return (
            accumulated(task, steps).losses(variables, batch, KEY)[0],
            jax.jacrev(lambda v: accumulated(task, steps).losses(v, batch, KEY)[0])(variables),
        )

    return jax.device_get(run(rated_columns(), EXAMPLES))


@pytest.mark.parametrize("steps", [2, 4, 12])
def test_means_with_any_weights_are_those_of_the_whole_batch(steps: int) -> None:
    close(value_and_gradient(rated(), steps), value_and_gradient(rated(), 1))


def test_the_mean_of_the_parts_would_be_something_else() -> None:
    """So that the test above says something: the parts' own means have other weights."""
    whole = value_and_gradient(rated(), 1)[0]
    task, columns = rated(), rated_columns()
    variables = task.init(KEY, task.prepare(KEY, EXAMPLES, columns))
    parts = []
    for i in range(0, 12, 3):
        part = {name: column[i : i + 3] for name, column in EXAMPLES.items()}
        parts.append(task.losses(variables, task.prepare(KEY, part, columns), KEY)[0])
    for name in ("all", "few", "weighted"):
        assert abs(np.mean([float(part[name]) for part in parts]) - whole[name]) > 0.05


def test_noise_by_the_number_of_an_example_is_that_of_the_whole_batch() -> None:
    close(value_and_gradient(rated(0.5), 4), value_and_gradient(rated(0.5), 1))


def test_other_noise_is_drawn_for_each_part() -> None:
    """Twelve equal examples in twelve parts have not all the same noise."""
    same = {name: np.repeat(column[:1], 12, axis=0) for name, column in rated_columns().items()}
    same["y"][:] = 0.0
    task = rated(0.5, rows=False)
    examples: dict[str, Any] = {"example": np.arange(12), "mask": np.ones(12, bool)}
    batch = task.prepare(KEY, examples, same)
    variables = task.init(KEY, batch)
    found = accumulated(task, 12).losses(variables, batch, KEY)[0]["all"]
    one = {name: column if name == SHARED else column[:1] for name, column in batch.items()}
    each = [float(task.losses(variables, one, jax.random.fold_in(KEY, i))[0]["all"]) for i in range(12)]
    assert np.std(each) > 0
    np.testing.assert_allclose(found, np.mean(each), rtol=1e-5)


def test_one_part_is_the_task_itself() -> None:
    task = rated()
    assert accumulated(task, 1) is task
    with pytest.raises(ValueError, match="accumulate_steps=0: must be at least 1"):
        accumulated(task, 0)


# --- in a step: encoders, devices, weightings ------------------------------------------------------------


@functools.cache
def after_a_step(name: str, steps: int, num_devices: int = 1) -> Any:
    """Losses of three steps, and parameters after the first, which moved by the gradient."""
    task, columns = small.TASKS[name](), small.columns_of(name)
    rows = small.drawn_rows()
    tx = optax.sgd(1.0)
    state = jax.jit(lambda key: create(task, tx, static(), key, rows[0], columns))(jax.random.key(0))
    step = make_step(accumulated(task, steps), tx, static(), parallel.axis_name(num_devices))
    run = parallel.over_devices(step, num_devices, (0, 0, 0))
    columns, state = parallel.replicate(columns, num_devices), parallel.replicate(state, num_devices)
    found = []
    for some in rows[:2]:
        state, logs = run(state, parallel.replicate(some, num_devices), columns)
        found.append(jax.device_get(parallel.unreplicate((logs, state.params), num_devices)))
    return found


@pytest.mark.parametrize(("steps", "num_devices"), [(2, 2)])
def test_packed_sequences_with_dropout_and_a_masked_tail(steps: int, num_devices: int) -> None:
    """Events weigh alike, however many of them a part has; parts and devices change nothing."""
    close(after_a_step("bpr", steps, num_devices), after_a_step("bpr", 1), rtol=1e-4)


def test_negatives_that_are_other_examples_are_refused() -> None:
    task, columns, rows = small.TASKS["pooled"](), small.columns_of("pooled"), small.drawn_rows()[0]
    state = jax.eval_shape(lambda: create(task, optax.sgd(1.0), static(), KEY, rows, columns))
    step = make_step(accumulated(task, 2), optax.sgd(1.0), static())
    with pytest.raises(ValueError, match=r"cannot be cut into parts, since parts exchange"):
        jax.eval_shape(step, state, rows, columns)


@pytest.mark.parametrize(
    "weighting", [uncertainty(regression=["all", "few"]).with_fixed({"weighted": 1.0, "penalty": 1.0})]
)
def test_weightings_see_the_losses_of_the_whole_batch(weighting: Any) -> None:
    task, tx, found = rated(), optax.sgd(0.1), []
    columns = rated_columns()
    state = create(task, tx, weighting, KEY, EXAMPLES, columns)
    for steps in (1, 4):
        new, logs = jax.jit(make_step(accumulated(task, steps), tx, weighting))(state, EXAMPLES, columns)
        found.append(jax.device_get((new.params, logs)))
    close(found[1], found[0])


def test_gradients_of_tasks_can_be_balanced() -> None:
    task, tx, found = rated(), optax.sgd(0.1), []
    weighting = pcgrad(lambda path: True)
    columns = rated_columns()
    state = create(task, tx, weighting, KEY, EXAMPLES, columns)
    for steps in (1, 3):
        new, _ = jax.jit(make_step(accumulated(task, steps), tx, weighting))(state, EXAMPLES, columns)
        found.append(jax.device_get(new.params))
    close(found[1], found[0])


# --- refusals --------------------------------------------------------------------------------------------


def losses_of(task: Task, steps: int, **collections: Any) -> Any:
    batch = task.prepare(KEY, EXAMPLES, rated_columns())
    variables = {**task.init(KEY, batch), **collections}
    return jax.eval_shape(lambda: accumulated(task, steps).losses(variables, batch, KEY))


def test_a_batch_that_does_not_split_is_named() -> None:
    with pytest.raises(ValueError, match=r"accumulate_steps=5: the batch column .* does not split"):
        losses_of(rated(), 5)


def test_statistics_of_batches_are_refused() -> None:
    task = rated()
    remembers = task._replace(
        losses=lambda *args: (task.losses(*args)[0], {"batch_stats": {"mean": jnp.zeros(3)}})
    )
    with pytest.raises(ValueError, match=r"its model remembers \['batch_stats'\]"):
        losses_of(remembers, 2)


def test_sums_over_what_is_trained_are_refused() -> None:
    def loss(
        variables: Variables, batch: Batch, key: Key, axis_name: str | None = None
    ) -> tuple[dict[str, Array], Variables]:
        mean = jnp.mean(batch["x"] @ variables["params"]["Dense_0"]["kernel"])
        mean = mean if axis_name is None else jax.lax.pmean(mean, axis_name)
        return {"loss": mean**2}, {}

    with pytest.raises(ValueError, match=r"exchange what they compute of their examples \(`psum`\)"):
        losses_of(rated()._replace(losses=loss), 2)


def test_gradients_of_representations_are_refused() -> None:
    with pytest.raises(ValueError, match="reads gradients of representations"):
        losses_of(rated(), 2, perturbations={"z": jnp.zeros((12, 2))})


def test_sparse_tables_are_refused(tmp_path: Path) -> None:
    tx = sparse.sparse_tables(optax.sgd(0.1), row_optimisers.sgd(0.1), ["items"])
    with pytest.raises(ValueError, match="accumulate_steps: .* tables are sparse"):
        toy.run(tmp_path, epochs=(1,), tx=tx, accumulate_steps=2)


# --- a run -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{}, {"seeds": (0, 4)}, {"calls": 2}, {"num_devices": 2}],
    ids=["one", "seeds", "calls", "devices"],
)
def test_a_run_in_parts_is_the_run(tmp_path: Path, options: dict[str, Any]) -> None:
    """Three steps an epoch, of which the last has two real examples of four."""
    plain = toy.run(tmp_path / "plain", epochs=(2,), **options)
    parts = toy.run(tmp_path / "parts", epochs=(2,), accumulate_steps=2, **options)
    close(jax.device_get(parts.variables), jax.device_get(plain.variables), rtol=1e-4)
    assert parts.steps == plain.steps == 6
    for ours, expected in zip(parts.history, plain.history, strict=True):
        assert ours["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        assert ours[f"valid/{toy.METRIC}"] == pytest.approx(expected[f"valid/{toy.METRIC}"])


def test_losses_are_traced_as_often_whatever_the_number_of_parts_and_epochs(tmp_path: Path) -> None:
    found = []
    for epochs, steps in ((1, 2), (3, 2), (3, 4)):
        calls: list[str] = []
        toy.run(
            tmp_path / f"{epochs}-{steps}", epochs=(epochs,), task=toy.factors(calls), accumulate_steps=steps
        )
        found.append(len(calls))
    assert found[0] == found[1] == found[2]


def test_a_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    """The state between two steps is that of a run without parts: nothing is half accumulated."""
    whole = toy.run(tmp_path / "whole", accumulate_steps=4)
    toy.run(tmp_path / "cut", accumulate_steps=4, stop_after=1)
    resumed = toy.run(tmp_path / "cut", accumulate_steps=4)
    toy.same_bits(resumed.variables, whole.variables)
    assert toy.without_times(resumed.history) == toy.without_times(whole.history)


def test_parts_are_in_the_description_of_a_run_where_there_are_several(tmp_path: Path) -> None:
    toy.run(tmp_path, epochs=(1,), accumulate_steps=1)
    toy.run(tmp_path, epochs=(1,))  # the same run
    with pytest.raises(ValueError, match="accumulate_steps"):
        toy.run(tmp_path, epochs=(1,), accumulate_steps=2)


def test_activations_of_a_part_are_in_memory() -> None:
    def deep(columns: Any, examples: Any, steps: int) -> Any:
        task = wide()
        batch = task.prepare(KEY, examples, columns)

        def total(variables: Variables) -> Array:
            found, _ = accumulated(task, steps).losses(variables, batch, KEY)
            return sum(found.values(), jnp.float32(0))

        return jax.grad(total)(task.init(KEY, batch))

    columns = rated_columns(1024)
    examples = {"example": np.arange(1024), "mask": np.ones(1024, bool)}
    bytes_of = {}
    for steps in (1, 8):
        program = jax.jit(deep, static_argnums=2).lower(columns, examples, steps).compile()
        analysis = program.memory_analysis()
        assert analysis is not None
        bytes_of[steps] = analysis.temp_size_in_bytes
    assert bytes_of[8] < bytes_of[1] / 4


class Wide(nn.Module):
    @nn.compact
    def __call__(self, x: Array) -> Array:
        for _ in range(4):
            x = nn.tanh(nn.Dense(64)(x))
        return x


def wide() -> Task:
    net = Wide()

    def loss(
        variables: Variables, batch: Batch, key: Key, axis_name: str | None = None
    ) -> tuple[dict[str, Array], Variables]:
        z: Any = net.apply(variables, batch["x"])
        return {"loss": losses.masked_mean(jnp.sum(z**2, axis=-1), batch["mask"], axis_name)}, {}

    return rated()._replace(init=lambda key, batch: net.init(key, batch["x"]), losses=loss)
