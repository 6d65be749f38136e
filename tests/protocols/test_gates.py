"""Shares of experts: means of the gates over the real examples, and how a page shows them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.nn.multitask.mmoe import MMoE
from jaxrec.nn.multitask.moe import OMoE
from jaxrec.nn.multitask.ple import PLE
from jaxrec.nn.multitask.shared_bottom import SharedBottom
from jaxrec.protocols.gates import expert_shares, write_shares
from jaxrec.report.run_page import page
from jaxrec.report.run_parts import read_run
from jaxrec.types import Array
from tests.report.runs_for_tests import write_training

TASKS, SEEDS, BATCHES, SIZE, WIDTH = ("click", "buy"), 2, 3, 5, 4


class Model(nn.Module):
    """A body on the column `x`."""

    body: Any

    @nn.compact
    def __call__(self, batch: dict[str, Array], *, train: bool = False) -> Array:
        return self.body(batch["x"], train=train)


def columns() -> dict[str, np.ndarray]:
    """Batches of which the last has two real examples; the others are far off, so that they would show."""
    x = np.random.default_rng(0).normal(size=(BATCHES, SIZE, WIDTH)).astype(np.float32)
    mask = np.ones((BATCHES, SIZE), bool)
    mask[-1, 2:] = False
    x[~mask] = 100.0
    return {"x": x, "mask": mask}


def variables_of(model: nn.Module, batches: dict[str, np.ndarray]) -> Any:
    first = {name: jnp.asarray(column[0]) for name, column in batches.items()}
    keys = jax.random.split(jax.random.key(0), SEEDS)
    found = jax.vmap(lambda key: model.init(key, first, train=False))(keys)
    return {"params": found["params"]}


BODIES = {
    "mmoe": (MMoE(2, num_experts=3, expert_dims=(4,), tower_dims=()), {"gates": (TASKS, 3)}),
    "omoe": (OMoE(2, num_experts=3, expert_dims=(4,), tower_dims=()), {"moe/gates": (("all tasks",), 3)}),
    "ple": (
        PLE(2, num_specific=1, num_shared=2, expert_dims=((4,), (4,)), tower_dims=()),
        {
            "level_0/gates": (TASKS, 3),
            "level_0/shared_gates": (("all tasks",), 4),
            "level_1/gates": (TASKS, 3),
        },
    ),
    "shared-bottom": (SharedBottom(2, (4,), ()), {}),
}


@pytest.mark.parametrize("name", BODIES)
def test_shares_are_means_over_real_examples(name: str) -> None:
    body, expected = BODIES[name]
    model, batches = Model(body), columns()
    variables = variables_of(model, batches)
    found = expert_shares(model, variables, batches, TASKS)
    assert {
        gate: (tuple(rows), len(next(iter(rows.values()))[0])) for gate, rows in found.items()
    } == expected
    x = batches["x"][batches["mask"]]
    for seed in range(SEEDS):
        one = jax.tree.map(lambda leaf, seed=seed: leaf[seed], variables)
        sown = model.apply(one, {"x": x}, mutable=["intermediates"])[1].get("intermediates", {})
        for gate, rows in found.items():
            leaf: Any = sown["body"]
            for part in gate.split("/"):
                leaf = leaf[part]
            mean = np.asarray(leaf[0]).mean(axis=0).reshape(len(rows), -1)
            np.testing.assert_allclose([of[seed] for of in rows.values()], mean, atol=1e-6)
            np.testing.assert_allclose(mean.sum(axis=-1), 1, atol=1e-6)


def test_gates_that_are_no_shares_are_left_out() -> None:
    class Sigmoids(nn.Module):
        @nn.compact
        def __call__(self, batch: dict[str, Array], *, train: bool = False) -> Array:
            self.sow("intermediates", "gates", 2 * nn.sigmoid(nn.Dense(3)(batch["x"])))
            return batch["x"][:, 0]

    batches = columns()
    assert expert_shares(Sigmoids(), variables_of(Sigmoids(), batches), batches, TASKS) == {}


def test_the_page_of_a_run_shows_them(tmp_path: Path) -> None:
    folder = write_training(tmp_path / "mine")
    shares = {"gates": {"click": [[0.25, 0.75]] * 3, "buy": [[0.5, 0.5]] * 3}}
    write_shares(folder, shares, "12 validation examples")
    text = page(read_run(folder))
    assert "12 validation examples" in text
    assert ">0.75<" in text
