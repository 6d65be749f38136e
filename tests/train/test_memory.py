"""What a run will hold is known before it starts; accumulated gradients are those of a larger batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import optax
import pytest

from jaxrec.train import fit, memory
from jaxrec.train.trial import Trial
from tests.train import toy


def test_memory_is_that_of_parameters_optimiser_and_columns() -> None:
    found = memory.estimate_memory(toy.factors(), optax.adam(0.1), toy.plan(), toy.context(), seeds=3)
    parameters = 3 * 4 * (toy.NUM_USERS + toy.NUM_ITEMS + 1) * 4
    assert (found.parameters, found.best) == (parameters, parameters)
    assert found.optimiser == 2 * parameters + 3 * 4  # moments, and a count
    assert found.columns == sum(column.nbytes for column in toy.context().values())
    assert found.batch == 3 * toy.BATCH * (4 * 4 + 1)


def test_a_run_says_what_it_will_hold_where_that_is_much(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.run(tmp_path / "a", epochs=(1,), progress=True)
    assert "memory:" not in capsys.readouterr().out
    monkeypatch.setattr(fit, "WORTH_SAYING", 1)
    toy.run(tmp_path / "b", epochs=(1,), progress=True)
    assert "memory: 0.00 GiB on each device (parameters 0.00, optimiser" in capsys.readouterr().out


def test_members_of_a_trial_count_like_seeds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "WORTH_SAYING", 1)
    monkeypatch.setattr(
        fit, "estimate_memory", lambda *args, seeds, **named: memory.Memory(seeds, 0, 0, 0, 0)
    )
    monkeypatch.setattr(memory, "GIB", 1.0)

    def begin(*args: Any) -> None:
        raise InterruptedError

    trial = Trial((0, 1, 0, 1), {}, {}, begin, lambda *args: True)  # two trials of two seeds
    with pytest.raises(InterruptedError):
        toy.run(tmp_path, seeds=trial.seeds, trial=trial, progress=True)
    assert "memory: 4.00 GiB" in capsys.readouterr().out


def test_accumulated_gradients_change_parameters_once_in_so_many_steps(tmp_path: Path) -> None:
    """Three steps an epoch: the first epoch's three gradients become one update, their mean."""
    accumulated = optax.MultiSteps(optax.sgd(0.5), 3).gradient_transformation()
    plain, found = (
        toy.run(tmp_path / name, epochs=(1,), tx=tx, task=toy.factors(noise=0.0))
        for name, tx in (("plain", optax.sgd(0.0)), ("accumulated", accumulated))
    )
    before, after = (fitted.variables["params"]["users"] for fitted in (plain, found))
    assert np.abs(np.asarray(after) - np.asarray(before)).max() > 1e-3
    assert found.history[0]["loss"] == plain.history[0]["loss"]  # nothing moved within the epoch
