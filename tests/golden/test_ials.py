"""iALS against `implicit`: the same factors after each sweep from the same start."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.baselines.als import ALS, Penalty, alternating
from jaxrec.baselines.ials import confidence_pairs
from jaxrec.optim.least_squares import Exact
from tests.golden.fixtures import Golden, golden_files, read


class Computed(NamedTuple):
    golden: Golden
    als: ALS
    sweeps: dict[int, tuple[np.ndarray, np.ndarray]]


def started(als: ALS, *given: np.ndarray) -> Any:
    """Tables with all given vectors: ours start rows without pairs at 0, the reference reads them once."""
    tables = als.start(*given)
    places = als.finish(tuple(jnp.arange(len(table)) for table in tables))
    return tuple(t.at[place].set(v) for t, place, v in zip(tables, places, given, strict=True))


@pytest.fixture(params=golden_files("ials"), scope="module")
def computed(request: pytest.FixtureRequest) -> Computed:
    path: Path = request.param
    golden = read(path)
    config, counts = golden.meta["config"], golden.inputs["counts"]
    user, item = np.nonzero(counts)
    pairs = confidence_pairs(user, item, counts[user, item], config["alpha"])
    als = alternating(
        pairs,
        *counts.shape,
        penalty=Penalty(config["regularization"], alpha0=1.0, nu=0.0),
        solver=Exact(dual=config["alpha"] * counts[user, item].min() > 1),
    )
    tables = started(als, golden.inputs["user_init"], golden.inputs["item_init"])
    sweeps = {}
    for sweep in range(1, max(config["sweeps"]) + 1):
        tables = als.sweep(tables)
        users, items = als.finish(tables)
        sweeps[sweep] = np.asarray(users), np.asarray(items)
    return Computed(golden, als, sweeps)


def test_factors_after_each_sweep_and_scores(computed: Computed) -> None:
    outputs, last = computed.golden.outputs, computed.sweeps[max(computed.sweeps)]
    found = {"scores": last[0] @ last[1].T}
    for sweep in computed.golden.meta["config"]["sweeps"]:
        for name, table in zip(("user", "item"), computed.sweeps[sweep], strict=True):
            found[f"sweep{sweep}/{name}"] = table
            exact = outputs[f"sweep{sweep}/{name}_float64"]
            np.testing.assert_allclose(table, exact, rtol=1e-4, atol=1e-5, err_msg=name)
    wanted = {name: outputs[name] for name in found}
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=2e-5, err_msg=name)


def test_objective(computed: Computed) -> None:
    config, counts = computed.golden.meta["config"], computed.golden.inputs["counts"]
    users, items = (table.astype(np.float64) for table in computed.sweeps[max(computed.sweeps)])
    confidence = np.where(counts > 0, config["alpha"] * counts, 1.0)
    squares = (users**2).sum() + (items**2).sum()
    total = (confidence * ((counts > 0) - users @ items.T) ** 2).sum() + config["regularization"] * squares
    np.testing.assert_allclose(total, computed.golden.outputs["objective_float64"], rtol=1e-5)
