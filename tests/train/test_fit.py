"""A whole run: selection, early stopping, several seeds, phases, resuming, errors."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrec.packing import Packing
from jaxrec.train import parallel
from jaxrec.train.epoch import shuffled
from jaxrec.train.fit import Compiled, Fitted, Phase, fit
from jaxrec.types import Array, Context, Variables
from tests.train import toy


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    """Two seeds, two phases of two and three epochs, without an interruption."""
    return toy.run(tmp_path_factory.mktemp("straight"), epochs=(2, 3), seeds=(3, 7))


def test_history_has_an_entry_for_each_epoch_with_a_value_for_each_seed(straight: Fitted) -> None:
    assert [entry["epoch"] for entry in straight.history] == [0, 1, 2, 3, 4]
    assert [entry["phase"] for entry in straight.history] == ["p0", "p0", "p1", "p1", "p1"]
    for entry in straight.history:
        assert len(entry["loss"]) == len(entry["bce"]) == len(entry[f"valid/{toy.METRIC}"]) == 2
    assert straight.steps == 5 * 3


@pytest.mark.parametrize("index", [0, 1])
def test_a_seed_in_a_group_equals_the_seed_alone(straight: Fitted, index: int, tmp_path: Path) -> None:
    alone = toy.run(tmp_path, epochs=(2, 3), seeds=((3, 7)[index],))
    toy.same_bits(
        jax.tree.map(lambda x: x[index], straight.variables), jax.tree.map(lambda x: x[0], alone.variables)
    )
    assert [e["loss"][index] for e in straight.history] == [e["loss"][0] for e in alone.history]
    assert straight.best_epoch[index] == alone.best_epoch[0]


def test_seeds_differ(straight: Fitted) -> None:
    users = np.asarray(straight.variables["params"]["users"])
    assert not np.allclose(users[0], users[1])


@pytest.mark.parametrize("stop_after", [1, 2, 3], ids=["in phase 0", "between phases", "in phase 1"])
def test_a_resumed_run_ends_with_the_bits_of_an_uninterrupted_one(
    straight: Fitted, stop_after: int, tmp_path: Path
) -> None:
    first = toy.run(tmp_path, epochs=(2, 3), seeds=(3, 7), stop_after=stop_after)
    assert len(first.history) == stop_after
    resumed = toy.run(tmp_path, epochs=(2, 3), seeds=(3, 7))
    toy.same_bits(resumed.variables, straight.variables)
    assert toy.without_times(resumed.history) == toy.without_times(straight.history)
    assert (resumed.best_epoch, resumed.best_value) == (straight.best_epoch, straight.best_value)
    lines = (tmp_path / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [0, 1, 2, 3, 4]


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    done, calls = toy.run(tmp_path), list[str]()
    again = toy.run(tmp_path, task=toy.factors(calls))
    assert calls == ["bce"]  # traced once, for the name of the loss
    toy.same_bits(again.variables, done.variables)
    assert again.history == done.history


def test_a_checkpoint_of_one_device_continues_on_four(tmp_path: Path, straight: Fitted) -> None:
    toy.run(tmp_path, epochs=(2, 3), seeds=(3, 7), stop_after=3)
    resumed = toy.run(tmp_path, epochs=(2, 3), seeds=(3, 7), num_devices=4)
    for a, b in zip(resumed.history, straight.history, strict=True):
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-5)
        assert a[f"valid/{toy.METRIC}"] == pytest.approx(b[f"valid/{toy.METRIC}"], abs=1e-5)


def test_an_epoch_in_several_calls_has_the_same_bits(straight: Fitted, tmp_path: Path) -> None:
    cut = toy.run(tmp_path, epochs=(2, 3), seeds=(3, 7), calls=2)
    toy.same_bits(cut.variables, straight.variables)
    for a, b in zip(cut.history, straight.history, strict=True):
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-6)


def test_losses_are_traced_for_the_first_epoch_only(tmp_path: Path) -> None:
    calls: list[str] = []
    toy.run(tmp_path, epochs=(1,), task=toy.factors(calls))
    once = len(calls)
    calls.clear()
    toy.run(tmp_path / "long", epochs=(6,), task=toy.factors(calls))
    assert len(calls) == once > 0


def test_other_shapes_are_an_error_and_no_second_trace() -> None:
    double = Compiled(jax.jit(lambda x: 2 * x))
    assert double(jnp.ones(3)).tolist() == [2, 2, 2]
    assert double.seconds > 0
    with pytest.raises(TypeError, match="compiled"):
        double(jnp.ones(4))


# --- selection -----------------------------------------------------------------------------------------


def scripted(values: list[float]) -> Any:
    """A rank function whose validation metric follows a script: `values` by epoch.

    The number of an epoch is read off a parameter that `counting` adds one to at every step.
    """

    def rank(variables: Variables, queries: Any, context: Context) -> tuple[Array, Array]:
        epoch = jnp.round(variables["params"]["count"]).astype(jnp.int32) - 1
        return jnp.full(queries["mask"].shape, jnp.array(values)[epoch]), jnp.zeros(
            len(queries["mask"]), jnp.int32
        )

    return rank


@pytest.fixture
def one_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the steps of every epoch take a minute: the clock is read before them and three times behind."""
    reads = itertools.count()
    clock = SimpleNamespace(perf_counter=lambda: 60.0 * ((next(reads) + 3) // 4))
    monkeypatch.setattr("jaxrec.train.run.time", clock)


def run_script(
    workdir: Path,
    values: list[float],
    stop_after: int | None = None,
    minutes: float | None = None,
    **kwargs: Any,
) -> Fitted:
    """A run of which every epoch is one step, whose validation ranks are given."""
    task = toy.factors()

    def init(key: Array, batch: Any) -> Variables:
        return {"params": {"count": jnp.array(0.0)}}

    def losses(variables: Variables, batch: Any, key: Array, axis_name: str | None = None) -> Any:
        return {"down": -variables["params"]["count"]}, {}

    selection = toy.selection(toy.evaluation(measure=scripted(values)), metric="mrr", **kwargs)
    counting = task._replace(init=init, losses=losses)
    return toy.run(
        workdir,
        epochs=(len(values),),
        task=counting,
        plan=shuffled(toy.NUM_USERS, toy.NUM_USERS),
        tx=optax.sgd(1.0),
        selection=selection,
        stop_after=stop_after,
        minutes=minutes,
    )


def test_the_best_epoch_is_kept_and_the_first_of_equals(tmp_path: Path) -> None:
    fitted = run_script(tmp_path, [4.0, 2.0, 2.0, 3.0])
    assert fitted.best_epoch == [1]
    assert fitted.best_value == pytest.approx([1 / 2])
    assert fitted.variables["params"]["count"].tolist() == [2.0]


def test_patience_counts_evaluations_without_improvement(tmp_path: Path) -> None:
    fitted = run_script(tmp_path, [4.0, 2.0, 3.0, 2.0, 1.0, 1.0], patience=2)
    assert len(fitted.history) == 4
    assert fitted.best_epoch == [1]


def test_a_resumed_run_remembers_how_long_it_has_waited(tmp_path: Path) -> None:
    values = [4.0, 2.0, 3.0, 2.0, 1.0, 1.0]
    run_script(tmp_path, values, patience=2, stop_after=3)
    assert len(run_script(tmp_path, values, patience=2).history) == 4


def test_an_improvement_restores_patience(tmp_path: Path) -> None:
    fitted = run_script(tmp_path, [4.0, 5.0, 3.0, 5.0, 2.0, 5.0], patience=2)
    assert len(fitted.history) == 6
    assert fitted.best_epoch == [4]


def test_evaluations_happen_every_so_many_epochs(tmp_path: Path) -> None:
    fitted = run_script(tmp_path, [1.0, 4.0, 1.0, 3.0, 1.0], every=2)
    assert ["valid/mrr" in entry for entry in fitted.history] == [False, True, False, True, False]
    assert fitted.best_epoch == [3]


def test_a_run_that_would_evaluate_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="every=3: the phases have 2 epochs, so nothing would be selected"):
        run_script(tmp_path, [1.0, 1.0], every=3)
    assert not any(tmp_path.iterdir())


def evaluated(fitted: Fitted) -> list[int]:
    return [entry["epoch"] for entry in fitted.history if "valid/mrr" in entry]


@pytest.mark.parametrize(
    ("keep", "minutes", "expected", "best"),
    [
        ("best", 3, [1], [1]),  # epoch 2 is the better one, and not due
        ("best", 1, [0], [0]),  # none was due yet
        ("last", 3, [1, 2], [2]),
    ],
)
def test_a_run_whose_time_is_up_selects_from_the_epochs_that_are_due(
    keep: Any, minutes: float, expected: list[int], best: list[int], tmp_path: Path, one_a_minute: None
) -> None:
    """And with more time it goes on as if it had never ended."""
    values = [1.0, 4.0, 1.0, 3.0, 1.0, 2.0]
    short = run_script(tmp_path / "run", values, every=2, keep=keep, minutes=minutes)
    assert len(short.history) == minutes and evaluated(short) == expected
    assert short.best_epoch == best
    again = run_script(tmp_path / "run", values, every=2, keep=keep, minutes=minutes)
    toy.same_bits(again.variables, short.variables)
    assert (again.best_epoch, again.history) == (best, short.history)
    longer = run_script(tmp_path / "run", values, every=2, keep=keep)
    whole = run_script(tmp_path / "whole", values, every=2, keep=keep)
    assert toy.without_times(longer.history) == toy.without_times(whole.history)
    assert (longer.best_epoch, longer.best_value) == (whole.best_epoch, whole.best_value)
    toy.same_bits(longer.variables, whole.variables)


def test_patience_is_spent_by_each_seed_apart(tmp_path: Path) -> None:
    patient = toy.run(tmp_path / "a", epochs=(12,), seeds=(0, 1, 2), selection=toy.selection(patience=2))
    values = np.array([entry[f"valid/{toy.METRIC}"] for entry in patient.history])
    ends = []
    for seed in range(3):
        best, waited, end = -np.inf, 0, len(values)
        for epoch, value in enumerate(values[:, seed]):
            if waited >= 2:
                end = epoch
                break
            best, waited = (value, 0) if value > best else (best, waited + 1)
        ends.append(end)
        assert patient.best_value[seed] == best
        assert patient.best_epoch[seed] == int(np.argmax(values[:end, seed]))
    assert len(values) == max(ends)


def test_a_seed_that_has_waited_takes_no_better_epoch_while_others_go_on(tmp_path: Path) -> None:
    scripts = jnp.array([[4.0, 5.0, 5.0, 1.0, 1.0, 1.0], [9.0, 8.0, 7.0, 6.0, 5.0, 4.0]])
    task = toy.factors()

    def init(key: Array, batch: Any) -> Variables:
        return {"params": {"count": jnp.array(0.0)}, "constants": {"own": jax.random.uniform(key)}}

    def losses(variables: Variables, batch: Any, key: Array, axis_name: str | None = None) -> Any:
        return {"down": -variables["params"]["count"]}, {}

    def run(folder: str, middle: float, epochs: int) -> Fitted:
        def rank(variables: Variables, queries: Any, context: Context) -> tuple[Array, Array]:
            epoch = jnp.round(variables["params"]["count"]).astype(jnp.int32) - 1
            value = scripts[(variables["constants"]["own"] > middle).astype(jnp.int32), epoch]
            return jnp.full(queries["mask"].shape, value), jnp.zeros(len(queries["mask"]), jnp.int32)

        return toy.run(
            tmp_path / folder,
            epochs=(epochs,),
            seeds=(0, 1),
            task=task._replace(init=init, losses=losses),
            plan=shuffled(toy.NUM_USERS, toy.NUM_USERS),
            tx=optax.sgd(1.0),
            selection=toy.selection(toy.evaluation(measure=rank), metric="mrr", patience=2),
        )

    own = run("a", 0.5, 1).variables["constants"]["own"]
    fitted = run("b", float(own.mean()), 6)
    first = int(np.argmin(own))
    assert fitted.best_epoch[first] == 0 and fitted.best_epoch[1 - first] == 5
    assert fitted.best_value[first] == pytest.approx(1 / 4)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_selection_metric_that_is_not_finite_ends_the_run(tmp_path: Path, wrong: float) -> None:
    calls: list[int] = []

    def summarise(values: np.ndarray, queries: Any) -> dict[str, float]:
        calls.append(1)
        return {toy.METRIC: wrong if len(calls) > 3 else 0.5}  # two for the names, one of seed 0

    chosen = toy.selection(toy.evaluation(summarise=summarise))
    with pytest.raises(
        ValueError, match=rf"epoch 0: valid/ndcg@5 is \[0.5, {wrong}\]: no epoch can be chosen"
    ):
        toy.run(tmp_path, epochs=(2,), seeds=(0, 1), selection=chosen)


def test_a_seed_without_a_best_epoch_leaves_the_others_theirs() -> None:
    best, live = {"w": jnp.array([[1.0], [2.0]])}, {"w": jnp.array([[3.0], [4.0]])}
    toy.same_bits(
        parallel.pick_by_seed(best, live, jnp.array([False, True])), {"w": jnp.array([[1.0], [4.0]])}
    )


# --- errors ----------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_names_the_epoch_and_the_loss(tmp_path: Path) -> None:
    toy.run(tmp_path, epochs=(1, 1), stop_after=1)
    broken = [*toy.phases(1), Phase("p1", toy.factors(scale=float("nan")), 1)]
    with pytest.raises(ValueError, match=r"epoch 1: loss 'bce' is \[nan\].*lower the learning rate"):
        fit(
            broken,
            optax.adam(0.05),
            toy.plan(),
            toy.context(),
            toy.selection(),
            seeds=(0,),
            workdir=tmp_path,
            description={"model": "factors"},
            progress=False,
        )
    assert toy.run(tmp_path, epochs=(1, 1)).history[1]["epoch"] == 1  # the checkpoint is from before


def diverging(step: int) -> Any:
    """A task whose loss "bad" is NaN from a step on, where the count of steps is a parameter."""
    task = toy.factors()

    def init(key: Array, batch: Any) -> Variables:
        return {"params": {"count": jnp.array(0.0)}}

    def losses(variables: Variables, batch: Any, key: Array, axis_name: str | None = None) -> Any:
        count = variables["params"]["count"]
        bad = jnp.where(jax.lax.stop_gradient(count) < step, 0.0, jnp.nan)
        return {"down": -count, "bad": bad}, {}

    return task._replace(init=init, losses=losses)


@pytest.mark.parametrize("calls", [1, 2])
def test_a_loss_that_is_not_finite_names_the_step_and_the_last_checkpoint(tmp_path: Path, calls: int) -> None:
    kept = r"The last checkpoint, from before, is .*checkpoints/1$"
    ranks = toy.evaluation(measure=scripted([1.0] * 9))
    with pytest.raises(ValueError, match=rf"epoch 1: loss 'bad' is \[nan\] from step 2 of 3 on.*{kept}"):
        toy.run(
            tmp_path,
            task=diverging(5),
            tx=optax.sgd(1.0),
            calls=calls,
            selection=toy.selection(ranks, metric="mrr"),
        )
    assert (tmp_path / "checkpoints/1").is_dir()
    assert not (tmp_path / "checkpoints/2").exists()


def test_parameters_that_are_not_finite_are_not_stored(tmp_path: Path) -> None:
    task = diverging(99)
    ranks = toy.evaluation(measure=scripted([1.0] * 9))
    late = optax.chain(optax.scale_by_schedule(lambda n: jnp.where(n < 5, 1.0, jnp.inf)), optax.sgd(1.0))
    with pytest.raises(ValueError, match=r"epoch 1: some parameters are NaN or infinite .*checkpoints/1$"):
        toy.run(tmp_path, task=task, tx=late, selection=toy.selection(ranks, metric="mrr", every=3))
    assert not (tmp_path / "checkpoints/2").exists()


def test_scores_that_are_not_finite_stop_the_run(tmp_path: Path) -> None:
    retriever = toy.RETRIEVER._replace(items=lambda v: v["params"]["items"] / 0.0)
    with pytest.raises(ValueError, match="10 queries have NaN or infinite scores"):
        toy.run(tmp_path, selection=toy.selection(toy.evaluation(retriever)))


def test_batches_that_never_fit_their_rows_stop_the_run(tmp_path: Path) -> None:
    crowded = toy.plan(lengths=lambda context, user: jnp.full(user.shape, 3), packing=Packing(1, 4))
    with pytest.raises(ValueError, match="epoch 0: no order of the examples fits the packed rows"):
        toy.run(tmp_path, plan=crowded)


@pytest.mark.parametrize("seeds", [(), (1, 1)])
def test_seeds_are_checked(tmp_path: Path, seeds: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="no seed twice"):
        toy.run(tmp_path, seeds=seeds)


def test_no_epoch_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no epoch"):
        toy.run(tmp_path, epochs=(0,))


def test_an_unknown_selection_metric_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'ndcg@7' is not among \['hit@1'"):
        toy.run(tmp_path, selection=toy.selection(metric="ndcg@7"))


def test_more_devices_than_there_are_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="num_devices=99: this process has"):
        toy.run(tmp_path, num_devices=99)


def test_a_batch_that_devices_do_not_divide_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not split over 3 devices"):
        toy.run(tmp_path, num_devices=3, selection=toy.selection(toy.evaluation(queries=toy.queries(3, 4))))
