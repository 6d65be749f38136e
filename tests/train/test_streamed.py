"""Runs over shards: the steps are those of a plain loop, and a run that was cut ends like a whole one."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pyarrow.parquet as pq
import pytest

from jaxrec.data.tables.shard_batches import ShardBatches
from jaxrec.data.tables.shards import open_shards
from jaxrec.nn.layers.features import Categorical, Featured, FeatureEmbedding, Numeric
from jaxrec.nn.multitask.mmoe import MMoE
from jaxrec.optim import row_optimisers, sparse
from jaxrec.optim.loss_weighting import static
from jaxrec.tasks.multitask import Target, multitask
from jaxrec.train import parallel
from jaxrec.train.state import create
from jaxrec.train.step import make_step
from jaxrec.train.stream import StreamedEpoch
from jaxrec.train.streamed import Streamed, fit_stream
from jaxrec.types import Task, Variables
from tests.data.tables.small_shards import COLUMNS, write_small
from tests.train import toy
from tests.train.other_code import OTHER_CODE, with_code

BATCH, EPOCHS, STEPS = 16, 2, 7  # 103 rows
TX = optax.adam(0.05)


@functools.cache
def clicks() -> Task:
    """A mixture of two small experts."""
    embedding = FeatureEmbedding((Categorical("row", 1000, 2), Categorical("kind", 5, 2), Numeric("price")))
    model = MMoE(1, num_experts=2, expert_dims=(4,), tower_dims=(3,))
    return multitask(Featured(embedding, model), [Target("click", 0, "click")])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards") / "rows"
    write_small(folder)
    return folder


def batches(folder: Path, **changes: Any) -> ShardBatches:
    options = {"epochs": EPOCHS, "seed": 1, "window": 3, **changes}
    return ShardBatches(open_shards(folder, COLUMNS), BATCH, **options)


def run(folder: Path, workdir: Path, *, epochs: int = EPOCHS, **changes: Any) -> Streamed:
    options: dict[str, Any] = {
        "seed": 3, "workdir": workdir, "description": {"model": "mmoe"}, "save_every": 4, **changes
    }  # fmt: skip
    tx = options.pop("tx", TX)
    return fit_stream(clicks(), tx, batches(folder, epochs=epochs), **options)


def size(variables: Variables) -> Mapping[str, float]:
    return {"norm": float(optax.tree.norm(variables["params"]))}


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Streamed:
    return run(folder, tmp_path_factory.mktemp("whole"), measure=size)


def test_steps_are_those_of_a_plain_loop(folder: Path, whole: Streamed) -> None:
    source = batches(folder)
    examples, columns = source[0]
    state = create(clicks(), TX, static(), jax.random.key(3), examples, columns)
    step = jax.jit(make_step(clicks(), TX, static()))
    logs: list[float] = []
    for index in range(len(source)):
        state, found = step(state, *source[index])
        logs.append(float(found["loss"]))
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(whole.state.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    assert [entry["loss"] for entry in whole.history] == pytest.approx(
        [np.mean(logs[:STEPS]), np.mean(logs[STEPS:])], rel=1e-5
    )
    assert whole.history[1]["norm"] == pytest.approx(size(whole.variables)["norm"])
    assert int(whole.state.step) == EPOCHS * STEPS


@pytest.mark.parametrize("first", [1, STEPS, 11])
def test_a_run_that_was_cut_ends_with_the_same_bits(
    folder: Path, whole: Streamed, tmp_path: Path, first: int
) -> None:
    cut = run(folder, tmp_path, measure=size, stop_after=first)
    assert int(cut.state.step) == first
    rest = run(folder, tmp_path, measure=size, threads=2)
    toy.same_bits(rest.state, whole.state)
    assert [entry["norm"] for entry in rest.history] == [entry["norm"] for entry in whole.history]
    losses = [[entry["loss"] for entry in run.history] for run in (rest, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)  # sums of the parts of an epoch


def test_a_finished_run_is_given_back(folder: Path, tmp_path: Path) -> None:
    first = run(folder, tmp_path, epochs=1)
    again = run(folder, tmp_path, epochs=1)
    toy.same_bits(again.state, first.state)
    assert again.history == first.history


def test_a_run_of_other_code_is_refused_unless_it_is_accepted(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (trained,) = run(folder, tmp_path, epochs=1, stop_after=1).made_by
    with_code(monkeypatch)
    with pytest.raises(ValueError, match=OTHER_CODE):
        run(folder, tmp_path, epochs=1)
    run(folder, tmp_path, epochs=1, accept_changed_code=True)
    found = run(folder, tmp_path, epochs=1).made_by  # the code that ended it reads it without asking
    assert [(e["first_epoch"], e["commit"]) for e in found] == [(0, trained["commit"]), (0, "b" * 40)]


def test_other_rows_or_another_order_are_refused(folder: Path, tmp_path: Path) -> None:
    shards = tmp_path / "rows"
    write_small(shards)
    run(shards, tmp_path / "run", stop_after=1)
    (shards / "shards.json").unlink()
    path = shards / "part-00002.parquet"
    pq.write_table(pq.read_table(path).slice(2), path, row_group_size=10)
    with pytest.raises(ValueError, match="stream.shards.part-00002.parquet=30, this run has 28"):
        run(shards, tmp_path / "run")
    write_small(tmp_path / "same")
    with pytest.raises(ValueError, match="stream.window=3, this run has 2"):
        fit_stream(
            clicks(), TX, batches(tmp_path / "same", window=2), seed=3, workdir=tmp_path / "run",
            description={"model": "mmoe"},
        )  # fmt: skip


def test_a_shard_that_is_lost_on_the_way_is_named_and_the_run_goes_on_later(
    folder: Path, whole: Streamed, tmp_path: Path
) -> None:
    shards = tmp_path / "rows"
    write_small(shards)
    run(shards, tmp_path / "run", stop_after=STEPS)
    source = batches(shards)
    path = shards / "part-00001.parquet"
    kept = path.read_bytes()
    path.unlink()
    options: dict[str, Any] = {"seed": 3, "workdir": tmp_path / "run", "description": {"model": "mmoe"}}
    with pytest.raises(ValueError, match="part-00001.parquet: is gone; restore it"):
        fit_stream(clicks(), TX, source, **options)
    path.write_bytes(kept)
    toy.same_bits(fit_stream(clicks(), TX, source, **options).state, whole.state)


@pytest.mark.long
def test_sparse_tables_are_streamed(folder: Path, tmp_path: Path) -> None:
    rows = row_optimisers.lazy_adam(0.05, corrected=True)
    tx = sparse.sparse_tables(optax.adam(0.05), rows, ["embedding/row_embedding"])
    first = run(folder, tmp_path / "a", tx=tx)
    run(folder, tmp_path / "b", tx=tx, stop_after=9)
    toy.same_bits(run(folder, tmp_path / "b", tx=tx).state, first.state)


def test_a_loss_that_is_not_finite_ends_the_run(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="loss is not finite: training diverged.*No checkpoint was stored"):
        run(folder, tmp_path, tx=optax.sgd(1e30))


def test_parameters_that_are_not_finite_end_the_run(folder: Path, tmp_path: Path) -> None:
    late = optax.sgd(lambda step: np.inf * (step == STEPS - 1))
    with pytest.raises(ValueError, match="some parameters are NaN.*The last checkpoint.*checkpoints/4$"):
        run(folder, tmp_path, tx=late, epochs=1)
    assert not (tmp_path / "checkpoints" / str(STEPS)).exists()


def test_a_run_does_not_go_on_as_another_one(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path, stop_after=STEPS + 1, context={"w": np.ones(3)})
    with pytest.raises(ValueError, match=r"context\.w='float32\[3\]"):
        run(folder, tmp_path, context={"w": np.zeros(3)})
    with pytest.raises(ValueError, match="holds a run of 8 steps, and this one has 7"):
        run(folder, tmp_path, epochs=1, context={"w": np.ones(3)})
    with pytest.raises(ValueError, match="-1 is no whole number"):
        run(folder, tmp_path, seed=-1)


def test_parts_need_as_many_processes(folder: Path) -> None:
    part = batches(folder, process=0, processes=2)
    with pytest.raises(ValueError, match="processes=2: the source gives a part.*there are 1"):
        StreamedEpoch(make_step(clicks(), TX, static()), part, {})


@pytest.mark.parametrize("name", ["save_every", "stop_after"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_counts_are_checked(folder: Path, tmp_path: Path, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name}={value}: must be a whole number, at least 1"):
        run(folder, tmp_path, **{name: value})


def test_an_optimiser_that_evaluates_other_parameters_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ScheduleFreeState: such an optimiser has other parameters"):
        run(folder, tmp_path / "run", tx=optax.contrib.schedule_free_adamw(0.1))
    assert not (tmp_path / "run").exists()


def test_parts_of_processes_make_the_batch(
    folder: Path, whole: Streamed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes, played by one: the parts that each reads are joined before the step."""
    parts = [batches(folder, process=i, processes=2) for i in range(2)]

    def join(tree: Any, count: int) -> Any:
        index = numbers.pop(0)
        return jax.tree.map(lambda *x: np.concatenate(x), tree, parts[1][index])

    numbers = [0, *range(parts[0].num_steps)]
    monkeypatch.setattr(parallel, "check_parts", lambda parts: None)
    monkeypatch.setattr(parallel, "from_parts", join)
    found = fit_stream(
        clicks(), TX, parts[0], seed=3, workdir=tmp_path, description={}, stop_after=parts[0].num_steps
    )
    assert len(found.history) == 1 and not numbers
    assert abs(found.history[0]["loss"] - whole.history[0]["loss"]) < 0.3
