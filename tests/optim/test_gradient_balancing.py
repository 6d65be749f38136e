"""Weights from inner products of gradients: the identities of each method, against slow NumPy."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrec.optim import gradient_balancing as balancing
from jaxrec.optim.gradient_balancing import gradnorm_gradient

rng = np.random.default_rng(0)
pcgrad_weights = jax.jit(balancing.pcgrad_weights)
min_norm_weights = jax.jit(balancing.min_norm_weights)
pe_ltr_weights = jax.jit(balancing.pe_ltr_weights)
KEY = jax.random.key(0)


def vectors(*sizes: int) -> np.ndarray:
    return rng.normal(size=sizes).astype(np.float32)


def gram(gradients: Any) -> Any:
    gradients = np.asarray(gradients, np.float32)
    return gradients @ gradients.swapaxes(-1, -2)


def all_orders(count: int) -> Any:
    """Every choice of an order for each task, [choices, K, K - 1]."""
    of_one = [list(itertools.permutations([j for j in range(count) if j != i])) for i in range(count)]
    return np.array(list(itertools.product(*of_one)))


# --- PCGrad ---


def slow_surgery(gradients: np.ndarray, orders: np.ndarray) -> np.ndarray:
    """The paper's algorithm 1 on vectors, float64."""
    gradients, total = gradients.astype(np.float64), np.zeros(gradients.shape[1])
    for i, order in enumerate(orders):
        g = gradients[i].copy()
        for j in order:
            if g @ gradients[j] < 0:
                g -= g @ gradients[j] / (gradients[j] @ gradients[j]) * gradients[j]
        total += g
    return total


def test_gradnorm_leaves_a_task_without_rows_alone() -> None:
    def gradient(norms: list[float], losses: list[float]) -> list[float]:
        ones = jnp.ones(len(norms))
        found = gradnorm_gradient(ones, jnp.array(norms), jnp.array(losses), ones, alpha=1.5)
        return found.tolist()

    first, last = gradient([2.0, 1.0], [0.5, 0.4])
    assert gradient([2.0, 0.0, 1.0], [0.5, 0.0, 0.4]) == [first, 0.0, last]
    assert gradient([0.0, 0.0], [0.0, 0.0]) == [0.0, 0.0]


@pytest.mark.parametrize("num_tasks", [2, 5])
def test_surgery_is_that_of_the_paper(num_tasks: int) -> None:
    gradients = vectors(num_tasks, 4)
    gradients[1] -= 2 * gradients[0]
    orders = np.asarray(balancing.random_orders(jax.random.key(num_tasks), num_tasks))
    weights = pcgrad_weights(gram(gradients), orders)
    assert not np.allclose(weights, 1.0)  # there is a conflict
    np.testing.assert_allclose(weights @ gradients, slow_surgery(gradients, orders), rtol=1e-4, atol=1e-5)


def test_orders_are_permutations_of_the_others_and_differ_with_the_key() -> None:
    draw = jax.jit(lambda key: jax.vmap(lambda k: balancing.random_orders(k, 4))(jax.random.split(key, 30)))
    drawn = np.asarray(draw(KEY))
    assert drawn.shape == (30, 4, 3)
    for i in range(4):
        assert (np.sort(drawn[:, i], axis=1) == [j for j in range(4) if j != i]).all()
        assert len({tuple(order) for order in drawn[:, i]}) == 6  # all of them come up
    assert any((drawn[0, i] != drawn[1, i]).any() for i in range(4))
    assert balancing.random_orders(KEY, 1).shape == (1, 0)


def test_the_order_matters_for_three_tasks_and_not_for_two() -> None:
    gradients = np.array([[1.0, 0.2, 0], [-1, 0.5, 0.3], [-0.6, -1, 0.2]], np.float32)
    found = [pcgrad_weights(gram(gradients), orders) for orders in all_orders(3)]
    assert not all(np.allclose(weights, found[0]) for weights in found)
    two = gram(gradients[:2])
    once, twice = (pcgrad_weights(two, np.array(o)) for o in ([[1, 1], [0, 0]], [[1, 0], [0, 1]]))
    np.testing.assert_allclose(once, twice, rtol=1e-6)


@pytest.mark.parametrize(
    ("gradients", "expected"),
    [
        (np.eye(3), [1, 1, 1]),  # orthogonal: the sum
        ([[1.0, 1], [2, 1], [1, 3]], [1, 1, 1]),  # no conflict: the sum
        ([[2.0, 1]], [1]),  # one task: the identity
        ([[1.0, 0], [0, 0]], [1, 1]),  # a zero gradient
    ],
)
def test_without_conflict_it_is_the_sum(gradients: Any, expected: list[float]) -> None:
    orders = balancing.random_orders(KEY, len(expected))
    assert pcgrad_weights(gram(gradients), orders).tolist() == expected


def test_opposite_gradients_of_one_length_cancel() -> None:
    gradients = np.array([[3.0, 4.0], [-3.0, -4.0]], np.float32)
    weights = pcgrad_weights(gram(gradients), np.array([[1], [0]]))
    np.testing.assert_allclose(weights @ gradients, 0.0, atol=1e-6)


def test_of_two_tasks_neither_is_worse_off_and_a_projection_leaves_no_conflict() -> None:
    conflicts = 0
    for gradients in vectors(20, 2, 3):
        combined = pcgrad_weights(gram(gradients), np.array([[1], [0]])) @ gradients
        assert (gradients @ combined >= -1e-5).all()
        first = pcgrad_weights(gram(gradients), np.array([[1], [1]])) @ gradients - gradients[1]
        assert first @ gradients[1] >= -1e-5  # the second task, projected on itself, stays as it is
        conflicts += gradients[0] @ gradients[1] < 0
    assert conflicts > 5


# --- MGDA ---


def slow_min_norm(gradients: np.ndarray) -> float:
    """Squared length of the shortest convex combination: the best over all faces, float64."""
    gradients, best = gradients.astype(np.float64), np.inf
    for size in range(1, len(gradients) + 1):
        for face in itertools.combinations(range(len(gradients)), size):
            g = gradients[list(face)]
            m = np.block([[g @ g.T, np.ones((size, 1))], [np.ones((1, size)), np.zeros((1, 1))]])
            weights = np.linalg.lstsq(m, np.append(np.zeros(size), 1.0), rcond=None)[0][:size]
            if (weights > -1e-9).all():
                best = min(best, float(np.square(weights @ g).sum()))
    return best


@pytest.mark.parametrize(("num_tasks", "dim"), [(2, 2), (4, 6), (6, 4)])
def test_the_shortest_combination_descends_on_every_loss(num_tasks: int, dim: int) -> None:
    for gradients in vectors(12, num_tasks, dim) + 0.4:
        weights = np.asarray(min_norm_weights(gram(gradients)))
        assert (weights >= 0).all()
        assert weights.sum() == pytest.approx(1.0, abs=1e-6)
        combined, scale = weights @ gradients, np.square(gradients).sum(axis=1).mean().item()
        assert np.square(combined).sum() == pytest.approx(slow_min_norm(gradients), abs=1e-5 * scale)
        assert (gradients @ combined >= np.square(combined).sum() - 1e-4 * scale).all()


def test_two_gradients_give_the_closed_form() -> None:
    for g1, g2 in vectors(20, 2, 2):
        gamma = np.clip((g2 - g1) @ g2 / np.square(g1 - g2).sum(), 0, 1)
        np.testing.assert_allclose(min_norm_weights(gram([g1, g2])), [gamma, 1 - gamma], atol=1e-5)


@pytest.mark.parametrize(
    ("gradients", "expected"),
    [
        (3 * np.eye(4), [0.25] * 4),
        ([[1.0, 0], [2, 1]], [1, 0]),  # g1 · g2 >= |g1|²
        ([[1.0, 1], [1, 1]], [0.5, 0.5]),  # any weights give the same gradient
        ([[5.0, 1]], [1]),
        (np.zeros((3, 2)), [1 / 3] * 3),
        ([[1e-3, 0], [0, 1e3]], [1, 0]),  # lengths a million times apart
    ],
    ids=["orthogonal", "dominated", "identical", "one task", "all zero", "apart"],
)
def test_known_min_norm_weights(gradients: Any, expected: list[float]) -> None:
    np.testing.assert_allclose(min_norm_weights(gram(gradients)), expected, atol=1e-6)


def test_a_zero_gradient_is_pareto_stationary() -> None:
    np.testing.assert_allclose(min_norm_weights(gram([[3.0, 4], [0, 0], [1, 1]])), [0, 1, 0], atol=1e-6)


def test_a_longer_gradient_weighs_less() -> None:
    gradients = np.array([[1.0, 0.2], [-0.3, 1.0]], np.float32)
    before, after = (
        min_norm_weights(gram(scale[:, None] * gradients)) for scale in (np.ones(2), np.array([3.0, 1.0]))
    )
    assert after[0] < before[0]


LOSSES = {"a": jnp.float32(0.5), "b": jnp.float32(3.0)}


def test_gradients_are_divided_before_weights_are_sought() -> None:
    gradients = np.array([[2.0, 0.0], [-0.6, 0.8]], np.float32)
    expected = {
        balancing.unnormalised: [1.0, 1.0],
        balancing.by_norm: [2.0, 1.0],
        balancing.by_loss: [0.5, 3.0],
        balancing.by_loss_and_norm: [1.0, 3.0],
    }
    given = {
        (sizes, rescale): balancing.mgda([], normalisation=sizes, rescale=rescale)
        for sizes in expected
        for rescale in (0, 1)
    }

    @jax.jit
    def weights_of_all(table: Any) -> Any:
        return [method.balance({}, LOSSES, table, KEY)[0] for method in given.values()]

    for (sizes, rescale), weights in zip(given, weights_of_all(gram(gradients)), strict=True):
        size = np.array(expected[sizes], np.float32)
        solved = min_norm_weights(gram(gradients / size[:, None]))
        np.testing.assert_allclose(weights, solved / size if rescale else solved, rtol=1e-5)


# --- PE-LTR ---


def test_bounds_are_kept_and_weights_add_up_to_one() -> None:
    bounds = jnp.array([0.1, 0.0, 0.3])
    for gradients in vectors(12, 3, 4):
        weights = np.asarray(pe_ltr_weights(gram(gradients), bounds))
        assert weights.sum() == pytest.approx(1.0, abs=1e-5)
        assert (weights >= np.asarray(bounds) - 1e-6).all()


def test_without_bounds_and_with_an_optimum_inside_it_is_mgda() -> None:
    gradients = np.eye(3, 4, dtype=np.float32) * [[1.0], [2.0], [0.5]] + 0.05
    inside = min_norm_weights(gram(gradients))
    assert (inside > 0.01).all()
    np.testing.assert_allclose(pe_ltr_weights(gram(gradients), jnp.zeros(3)), inside, atol=1e-4)


def test_a_feasible_relaxed_optimum_is_the_best_of_all_feasible_weights() -> None:
    gradients = np.eye(3, 4, dtype=np.float32) + 0.05
    bounds = np.array([0.5, 0.1, 0.05], np.float32)
    weights = np.asarray(pe_ltr_weights(gram(gradients), jnp.array(bounds)))
    assert (weights >= bounds).all()
    assert weights[0] == pytest.approx(0.5, abs=1e-4)  # the bound is felt
    others = bounds + (1 - bounds.sum()) * rng.dirichlet(np.ones(3), 200)
    lengths = np.square(others @ gradients).sum(axis=1)
    assert np.square(weights @ gradients).sum() <= lengths.min() + 1e-5


@pytest.mark.parametrize(
    ("gradients", "bounds", "expected"),
    [
        (vectors(2, 3), [0.2, 0.8], [0.2, 0.8]),  # nothing is free
        (vectors(1, 3), [0.0], [1.0]),
        (np.zeros((2, 3)), [0.0, 0.5], None),
        ([[1.0, 1], [1, 1]], [0.0, 0.0], [0.5, 0.5]),  # dependent: the least norm of weights
    ],
    ids=["bounds of sum 1", "one task", "zero gradients", "identical"],
)
def test_known_pe_ltr_weights(gradients: Any, bounds: list[float], expected: list[float] | None) -> None:
    weights = np.asarray(pe_ltr_weights(gram(gradients), jnp.array(bounds)))
    assert weights.sum() == pytest.approx(1.0, abs=1e-5)
    if expected is not None:
        np.testing.assert_allclose(weights, expected, atol=1e-5)


def test_the_projection_is_the_nearest_point_and_leaves_it_where_it_is() -> None:
    project = jax.jit(balancing.project_to_simplex)
    for x in vectors(10, 4):
        near = np.asarray(project(x, 0.7))
        assert near.sum() == pytest.approx(0.7, abs=1e-6)
        assert (near >= 0).all()
        np.testing.assert_allclose(project(near, 0.7), near, atol=1e-6)
        others = 0.7 * rng.dirichlet(np.ones(4), 200)
        assert np.square(near - x).sum() <= np.square(others - x).sum(axis=1).min() + 1e-6
    assert project(jnp.array([0.3, -2.0, 0.1, 0.0]), 0.0).tolist() == [0.0] * 4


@pytest.mark.parametrize(
    "bounds", [{"a": -0.1, "b": 0.1}, {"a": 0.6, "b": 0.6}, {}, {"a": 0.1, "b": float("nan")}]
)
def test_impossible_bounds_are_an_error(bounds: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="together at most 1"):
        balancing.pe_ltr(["shared"], bounds)


# --- GradNorm ---


def test_the_gradient_of_the_weights_is_that_of_the_paper() -> None:
    weights, norms, losses, start = np.abs(vectors(4, 4)) + 0.1

    def objective(w: Any) -> Any:
        rate = losses / start / jnp.mean(losses / start)
        target = jax.lax.stop_gradient(jnp.mean(w * norms) * rate**1.5)
        return jnp.sum(jnp.abs(w * norms - target))

    found, expected = jax.jit(
        lambda w: (gradnorm_gradient(w, norms, losses, start, alpha=1.5), jax.grad(objective)(w))
    )(weights)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def weights_after(steps: int, norms: list[float], losses: Any = None, **kwargs: Any) -> np.ndarray:
    """GradNorm's weights after so many steps on gradients of constant, orthogonal directions."""
    names = [f"t{i}" for i in range(len(norms))]
    method = balancing.gradnorm(names, ["shared"], **kwargs)
    table = jnp.diag(jnp.square(jnp.array(norms)))
    values = dict(zip(names, jnp.ones(len(norms)) if losses is None else jnp.asarray(losses), strict=True))

    @jax.jit
    def step(state: Any) -> tuple[Any, Any]:
        weights, state = method.balance(state, values, table, KEY)
        return state, weights

    state, found = method.init()[1], []
    for _ in range(steps):
        state, weights = step(state)
        found.append(np.asarray(weights))
    return np.stack(found)


SMALL = optax.sgd(0.01)


@pytest.mark.parametrize("softmax", [False, True])
def test_weights_add_up_to_their_number_and_stay_positive(softmax: bool) -> None:
    found = weights_after(40, [1.0, 30.0, 0.1], softmax=softmax, tx=optax.sgd(0.1))
    np.testing.assert_allclose(found.sum(axis=1), 3.0, rtol=1e-5)
    assert (found > 0).all()
    assert (found[0] == 1.0).all()


def test_alpha_zero_makes_norms_equal() -> None:
    norms = [1.0, 2.0, 4.0]
    weights = weights_after(300, norms, alpha=0.0, tx=SMALL)[-20:].mean(axis=0)
    expected = 3 * np.array([4, 2, 1]) / 7  # w · norm is the same for all, and the sum 3
    np.testing.assert_allclose(weights, expected, rtol=0.06)


def test_identical_tasks_keep_weight_one() -> None:
    np.testing.assert_allclose(weights_after(20, [0.3] * 3, [0.7] * 3), 1.0, rtol=1e-6)


def test_a_task_that_has_learned_less_gets_more() -> None:
    start = {"t0": 1.0, "t1": 1.0}
    slower = weights_after(50, [1.0, 1.0], [0.9, 0.3], start=start, tx=SMALL)[-1]
    assert slower[0] > 1.2
    scaled = weights_after(50, [1.0, 1.0], [9.0, 0.3], start={"t0": 10.0, "t1": 1.0}, tx=SMALL)[-1]
    np.testing.assert_allclose(scaled, slower, rtol=1e-5)  # only L / L(0) counts


def test_the_first_loss_that_is_not_zero_is_the_start() -> None:
    method = balancing.gradnorm(["a", "b"], ["shared"])
    state, balance = method.init()[1], jax.jit(method.balance)
    for a, expected in ((0.0, 0.0), (0.4, 0.4), (0.2, 0.4)):
        losses = {"a": jnp.float32(a), "b": jnp.float32(2.0)}
        weights, state = balance(state, losses, jnp.eye(2), KEY)
        np.testing.assert_allclose(state["start"], [expected, 2.0])
        assert np.isfinite(weights).all()


def test_a_start_is_needed_of_every_loss() -> None:
    with pytest.raises(ValueError, match="needs a positive loss for each of"):
        balancing.gradnorm(["a", "b"], ["shared"], start={"a": 1.0})


@pytest.mark.parametrize(
    "method",
    [balancing.pe_ltr(["shared"], {"a": 0.0, "c": 0.0}), balancing.gradnorm(["a", "c"], ["shared"])],
    ids=["pe_ltr", "gradnorm"],
)
def test_methods_with_names_check_them(method: Any) -> None:
    with pytest.raises(
        ValueError, match=r"loss weights for \['a', 'c'\], but the task has the losses \['a', 'b'\]"
    ):
        method.balance(method.init()[1], LOSSES, jnp.eye(2), KEY)


@pytest.mark.parametrize(
    "weights",
    [
        lambda m: pcgrad_weights(m, balancing.random_orders(KEY, len(m))),
        min_norm_weights,
        lambda m: pe_ltr_weights(m, jnp.zeros(3)),
    ],
    ids=["pcgrad", "mgda", "pe_ltr"],
)
def test_the_scale_of_all_gradients_does_not_matter(weights: Any) -> None:
    gradients = vectors(3, 5)
    np.testing.assert_allclose(weights(gram(1e4 * gradients)), weights(gram(gradients)), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("absent", [(0,), (2,), (0, 2), (0, 1, 3)])
def test_pe_ltr_leaves_out_tasks_without_a_gradient(absent: tuple[int, ...]) -> None:
    """They keep their bounds, and the others share the rest as if they were alone."""
    rng = np.random.default_rng(4)
    gradients, bounds = rng.normal(size=(4, 6)), np.array([0.1, 0.05, 0.2, 0.15])
    gradients[list(absent)] = 0.0
    there = np.setdiff1d(np.arange(4), absent)
    weights = np.asarray(pe_ltr_weights(jnp.asarray(gram(gradients)), jnp.asarray(bounds)))
    rest = 1 - bounds[list(absent)].sum()
    alone = rest * pe_ltr_weights(jnp.asarray(gram(gradients[there])), jnp.asarray(bounds[there] / rest))
    np.testing.assert_allclose(weights[list(absent)], bounds[list(absent)], rtol=1e-6)
    np.testing.assert_allclose(weights[there], alone, rtol=1e-4, atol=1e-5)


def test_pe_ltr_without_any_gradient_is_finite() -> None:
    assert float(pe_ltr_weights(jnp.zeros((3, 3)), jnp.array([0.1, 0.2, 0.0])).sum()) == pytest.approx(1.0)
