"""What methods that read gradients share: which parameters they compare, weigh, and leave alone."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.optim.loss_weighting import Descent, TaskLosses
from jaxrec.optim.task_gradients import GradientBalancing, all_parameters

A = {"trunk": np.array([1.0, 2.0]), "neck": np.array([0.5, 0.0]), "head": np.array([3.0, 0.0])}
B = {"trunk": np.array([-2.0, 0.0]), "neck": np.array([1.0, 1.0]), "head": np.array([0.0, 5.0])}
P = {"trunk": np.array([2.0, -3.0]), "neck": np.array([0.0, 0.0]), "head": np.array([0.0, 0.0])}
PROBE = np.array([[1.0, 0.0, 2.0], [0.0, -1.0, 1.0]])  # gradients of a representation
WEIGHTS = jnp.array([0.25, 3.0])


def descend(
    fixed: dict[str, float] | None = None, probe: str = "shared", **kwargs: Any
) -> tuple[Descent, list[Any]]:
    """A step with linear losses, whose gradients are A, B and, of a penalty, P; what `balance` was given."""
    seen: list[Any] = []

    def balance(state: Any, losses: Any, gram: Any, key: Any) -> Any:
        seen.append((losses, gram))
        return WEIGHTS, state + 1

    def losses(model: Any, probes: Any) -> Any:
        def along(gradient: Any) -> Any:
            return sum(jnp.sum(gradient[name] * model[name]["w"]) for name in model)

        found = {"b": along(B), "a": along(A)} | ({"penalty": along(P)} if fixed else {})
        for k, name in enumerate(("a", "b")):
            found[name] += sum(jnp.sum(PROBE[k] * leaf) for leaf in jax.tree.leaves(probes))
        return found, "rest"

    method = GradientBalancing(lambda: ({}, 0), balance, **kwargs)
    method = method.with_fixed(fixed) if fixed else method
    model = {name: {"w": jnp.ones(2)} for name in A}
    objective = TaskLosses(losses, lambda: {"perturbations": {"model": {probe: jnp.zeros(3)}}})
    found = method.gradient(objective, {"model": model, "weighting": {}}, jnp.int32(4), jax.random.key(0))
    return found, seen


def weighted(name: str, a: float, b: float, penalty: float = 0.0) -> np.ndarray:
    return a * A[name] + b * B[name] + penalty * P[name]


def gradient(found: Descent) -> dict[str, list[float]]:
    return {name: part["w"].tolist() for name, part in found.gradient["model"].items()}


def gram(*names: str) -> list[list[float]]:
    parts = [np.concatenate([g[name] for name in names]) for g in (A, B)]
    return [[float(x @ y) for y in parts] for x in parts]


@pytest.mark.parametrize("shared", [["trunk", "neck"], ["trunk/w", "neck"], lambda path: path != "head/w"])
def test_shared_parameters_are_compared_and_weighted_and_the_others_are_not(shared: Any) -> None:
    found, ((losses, table),) = descend(shared=shared, measured=shared)
    assert table.tolist() == gram("trunk", "neck")
    assert {name: float(loss) for name, loss in losses.items()} == {"a": 6.5, "b": 5.0}
    assert list(losses) == ["a", "b"]  # in the order of the gradients
    for name, values in gradient(found).items():
        assert values == weighted(name, *((1, 1) if name == "head" else (0.25, 3))).tolist()
    assert (int(found.state), found.rest, found.gradient["weighting"]) == (5, "rest", {})


def test_all_parameters_may_be_weighted_by_the_gradients_of_a_few() -> None:
    found, ((_, table),) = descend(shared=all_parameters, measured="neck")
    assert table.tolist() == gram("neck")
    assert gradient(found) == {name: weighted(name, 0.25, 3).tolist() for name in A}


def test_the_gradients_of_the_representation_may_be_compared() -> None:
    found, ((_, table),) = descend(shared=["trunk", "neck"], measured=None)
    assert table.tolist() == (PROBE @ PROBE.T).tolist()
    assert gradient(found)["trunk"] == weighted("trunk", 0.25, 3).tolist()
    assert gradient(found)["head"] == weighted("head", 1, 1).tolist()


def test_only_a_representation_of_that_name_is_compared() -> None:
    with pytest.raises(ValueError, match=r'self\.perturb\("shared", z\)'):
        descend(shared=["trunk"], measured=None, probe="other")


@pytest.mark.parametrize("measured", [["trunk"], None], ids=["parameters", "representation"])
def test_losses_beside_keep_their_weight_everywhere_and_are_not_compared(measured: Any) -> None:
    found, ((losses, table),) = descend({"penalty": 0.5}, shared=["trunk"], measured=measured)
    assert table.tolist() == (gram("trunk") if measured else (PROBE @ PROBE.T).tolist())
    assert set(losses) == {"a", "b"}
    assert gradient(found) == {
        "trunk": weighted("trunk", 0.25, 3, 0.5).tolist(),
        "neck": weighted("neck", 1, 1, 0.5).tolist(),
        "head": weighted("head", 1, 1, 0.5).tolist(),
    }
    assert float(found.logs["loss"]) == 0.25 * 6.5 + 3 * 5.0 + 0.5 * -1.0
    assert float(found.logs["penalty"]) == -1.0
    assert "weight/penalty" not in found.logs


def test_norms_and_cosines_are_logged() -> None:
    found, _ = descend(shared=["trunk"], measured=["trunk"])
    logs = {name: float(value) for name, value in found.logs.items()}
    a, b = A["trunk"], B["trunk"]
    assert logs == pytest.approx(
        {
            "a": 6.5,
            "b": 5.0,
            "loss": 0.25 * 6.5 + 3 * 5.0,
            "weight/a": 0.25,
            "weight/b": 3.0,
            "gradient_norm/a": np.sqrt(a @ a),
            "gradient_norm/b": np.sqrt(b @ b),
            "cosine/a:b": a @ b / np.sqrt(a @ a * (b @ b)),
        }
    )
