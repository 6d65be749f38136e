"""SINE, SDM, Octopus and the poly-encoder: by formulas, slow NumPy and limits."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, softmax

from jaxrec.index import exact
from jaxrec.index.several import search_rescored
from jaxrec.nn.layers.interests import attended
from jaxrec.nn.retrieval.octopus import Octopus, quotas
from jaxrec.nn.retrieval.poly_encoder import PolyEncoder
from jaxrec.nn.retrieval.sdm import SDM, SessionAndPast
from jaxrec.nn.retrieval.sine import SINE
from jaxrec.types import Array, Interests
from tests.nn.drawn import applied, drawn

SMALL: dict[str, Any] = {"num_items": 12, "dim": 4, "max_len": 6}
ITEMS = np.array([[0, 0, 4, 9, 2, 7], [1, 2, 3, 4, 5, 6], [0, 0, 0, 0, 0, 11]], np.int32)
REAL = ITEMS != 0
RNG = np.random.default_rng(0)


def weights(model: Any) -> Any:
    found = drawn(model, ITEMS, train=False)
    for name in ("item_embedding", "output_embedding"):
        if name in found["params"]:
            found["params"][name][0] = 0.0
    return found


def run(model: Any, variables: Any, items: np.ndarray = ITEMS, **options: Any) -> Interests:
    return jax.tree.map(np.asarray, applied(model, variables, items, train=False, **options))


def close(a: Any, b: Any, atol: float = 1e-5) -> None:
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=atol)


AIM = RNG.normal(size=(4, 4)).astype(np.float32)

# --- SINE ----------------------------------------------------------------------------------------------


def normed(x: np.ndarray, p: Any) -> np.ndarray:
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * p["scale"] + p["bias"]


def sine_by_loops(p: Any, row: np.ndarray, number: int, tau: float) -> np.ndarray:
    """The paper's formulas for one row."""
    items = row[row != 0]
    x, places = p["item_embedding"][items], p["position_embedding"][-len(items) :]
    a = softmax(np.tanh(x @ p["concept_kernel"]) @ p["concept_weight"])
    s = p["prototypes"] @ (a @ x)
    best = np.argsort(-s)[:number]
    c = p["prototypes"][best] * expit(s[best])[:, None]
    assign = softmax(normed(x @ p["assign_kernel"], p["norm_1"]) @ normed(c, p["norm_2"]).T, axis=1)
    phi = []
    for k in range(number):
        hidden = np.tanh((x + places) @ p["weighting_kernel"][k])
        share = softmax(hidden @ p["weighting_weight"][k])
        phi.append(normed((assign[:, k] * share) @ x, p["norm_3"]))
    y = assign @ c
    b = softmax(np.tanh(y @ p["next_kernel"]) @ p["next_weight"])
    return softmax(np.stack(phi) @ normed(b @ y, p["norm_4"]) / tau) @ np.stack(phi)


SPARSE: Any = SINE(**SMALL, num_interests=2, num_prototypes=5, temperature=0.7, hidden_dim=3)


def test_sine_equals_loops() -> None:
    """With scores of both signs among the chosen prototypes, whose gates differ."""
    model = SPARSE.clone(num_interests=4)
    variables = weights(model)
    variables["params"]["prototypes"] *= 3
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    close(run(model, variables).vectors[:, 0], [sine_by_loops(p, row, 4, 0.7) for row in ITEMS], atol=5e-5)


def test_as_many_prototypes_learn_from_a_user_as_it_has_interests() -> None:
    variables = weights(SPARSE)

    def total(params: Any, items: Array) -> Array:
        return jnp.sum(jnp.sin(SPARSE.apply({"params": params}, items[None], train=False).vectors))

    for row in ITEMS[:2]:
        gradient = jax.jit(jax.grad(total))(variables["params"], row)["prototypes"]
        assert (np.abs(gradient).sum(axis=1) > 0).sum() == 2
    penalty = applied_gradient(SPARSE, variables)["prototypes"]
    assert (np.abs(penalty).sum(axis=1) > 0).all()


def applied_gradient(model: Any, variables: Any) -> Any:
    def total(params: Any) -> Array:
        return sum(model.apply({"params": params}, method="penalties").values())

    return jax.jit(jax.grad(total))(variables["params"])


def test_a_low_temperature_chooses_an_interest_and_a_high_one_averages() -> None:
    variables = weights(SPARSE)
    each = run(SPARSE.clone(aggregated=False), variables).vectors
    cold, hot = (run(SPARSE.clone(temperature=t), variables).vectors for t in (1e-5, 1e5))
    close(hot[:, 0], each.mean(axis=1), atol=1e-4)
    close(np.abs(each - cold).max(axis=-1).min(axis=-1), 0.0, atol=1e-5)


@pytest.mark.parametrize(("centred", "axis"), [("prototypes", 0), ("features", 1)])
def test_the_penalty_is_the_covariance_of_different_prototypes(centred: str, axis: int) -> None:
    model = SPARSE.clone(centred=centred, penalty=0.3)
    variables = weights(model)
    table = variables["params"]["prototypes"]
    rows = table - table.mean(axis=axis, keepdims=True)
    expected = sum((rows[i] @ rows[j] / 4) ** 2 for i in range(5) for j in range(5) if i != j)
    close(applied(model, variables, method="penalties")["prototypes"], 0.3 * expected / 2)
    orthogonal = np.array([[1, -1, 1, -1], [1, 1, -1, -1], [0, 0, 0, 0], [-1, 1, 1, -1], [0, 0, 0, 0]])
    if axis == 1:  # rows of mean 0 that are orthogonal
        params = {**variables["params"], "prototypes": orthogonal.astype(np.float32)}
        assert float(applied(model, {"params": params}, method="penalties")["prototypes"]) == 0.0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_interests": 6, "num_prototypes": 5}, "num_interests=6"),
        ({"tied": True, "hidden_dim": 3}, "hidden_dim=3"),
        ({"temperature": 0.0}, r"temperature=0\.0"),
        ({"positions": "some"}, "positions='some'"),
        ({"norms": ("layer",)}, "norms="),
        ({"centred": "both"}, "centred='both'"),
    ],
)
def test_fields_of_sine_are_checked(fields: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SINE(**{**SMALL, **fields}).init(jax.random.key(0), ITEMS, train=False)


# --- SDM -----------------------------------------------------------------------------------------------

SESSION: Any = SDM(**SMALL, short_len=3, num_heads=2, num_layers=2)


def test_later_events_of_a_session_change_no_earlier_step() -> None:
    variables = weights(SESSION)
    other = ITEMS.copy()
    other[:, -1] = 12
    steps, changed = (np.asarray(applied(SESSION, variables, x, method="steps")) for x in (ITEMS, other))
    close(changed[:, :-1], steps[:, :-1])
    assert (np.abs(changed - steps)[:, -1].max(axis=-1) > 1e-3).all()


def test_the_past_is_a_set_and_the_session_an_order() -> None:
    variables = weights(SESSION)
    found = run(SESSION, variables).vectors
    close(run(SESSION, variables, ITEMS[:, [2, 0, 1, 3, 4, 5]][1:2]).vectors, found[1:2])
    assert np.abs(run(SESSION, variables, ITEMS[:, [0, 1, 2, 4, 3, 5]]).vectors - found)[:2].max() > 1e-3
    assert np.abs(run(SESSION, variables, ITEMS[:, 3:]).vectors - found)[1].max() > 1e-3  # the past counts


def test_a_gate_lies_between_past_and_session() -> None:
    variables = weights(SESSION)
    sides = []
    for bias in (-1e3, 0.0, 1e3):
        params = {**variables["params"]}
        gate = {**params["fusion"]["gate_past"], "bias": np.full(4, bias, np.float32)}
        params["fusion"] = {**params["fusion"], "gate_past": gate}
        sides.append(run(SESSION, {"params": params}).vectors)
    past, between, session = sides
    assert (between <= np.maximum(past, session) + 1e-6).all()
    assert (between >= np.minimum(past, session) - 1e-6).all()
    same = run(SESSION, {"params": params}, ITEMS * (np.arange(6) > 2)).vectors
    close(same, session)  # which does not read the past


def test_an_activation_takes_the_place_of_tanh() -> None:
    """One of 0 leaves nothing of profile and past, and with e = 0 the shares of the session are equal."""
    rng = np.random.default_rng(0)
    profile, session, past = (rng.normal(size=s).astype(np.float32) for s in ((2, 3), (2, 4, 4), (2, 5, 4)))
    given = (np.ones((2, 4), bool), np.ones((2, 5), bool))
    model = SessionAndPast(4, 2, activation=jnp.zeros_like)
    variables = drawn(model, profile, session, (past,), *given, train=False)
    found, state = model.apply(
        variables, profile, session, (past,), *given, train=False, mutable=["intermediates"]
    )
    other = model.apply(variables, -profile, session, (2 * past,), *given, train=False)
    np.testing.assert_array_equal(found, other)
    means = np.cumsum(state["intermediates"]["states"][0], axis=1) / np.arange(1, 5)[:, None]
    np.testing.assert_allclose(state["intermediates"]["session"][0], means, rtol=1e-5, atol=1e-6)


def test_dropout_derives_from_the_number_of_a_row() -> None:
    variables = weights(SESSION)

    @jax.jit
    def train(items: Array, rows: Array) -> Array:
        rngs = {"dropout": jax.random.key(0)}
        return SESSION.clone(dropout=0.5).apply(variables, items, train=True, rows=rows, rngs=rngs).vectors

    rows = np.arange(3)
    close(train(ITEMS[::-1].copy(), rows[::-1].copy())[::-1], train(ITEMS, rows))
    assert not np.allclose(train(ITEMS, rows), run(SESSION, variables).vectors, atol=1e-3)


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match="num_heads=3"):
        SESSION.clone(num_heads=3).init(jax.random.key(0), ITEMS, train=False)
    with pytest.raises(ValueError, match="num_layers=0: must be at least 1"):
        SessionAndPast(4, num_layers=0)


# --- Octopus -------------------------------------------------------------------------------------------

ARMS: Any = Octopus(**SMALL, num_interests=3)


def test_each_event_is_in_the_channel_of_its_largest_product() -> None:
    variables = weights(ARMS)
    x, heads = variables["params"]["item_embedding"], variables["params"]["channels"]
    found = run(ARMS, variables)
    for row, items in enumerate(ITEMS):
        items = items[items != 0]
        scores = x[items] @ heads.T
        channel = scores.argmax(axis=1)
        assert found.active[row].sum() <= min(3, len(items))
        for k in range(3):
            own = items[channel == k]
            assert found.active[row, k] == (own.size > 0)
            if own.size:
                close(found.vectors[row, k], softmax(x[own] @ heads[k]) @ x[own])


def test_the_order_of_events_does_not_count_and_one_channel_is_attention_pooling() -> None:
    variables = weights(ARMS)
    close(run(ARMS, variables, ITEMS[:, [3, 0, 5, 2, 1, 4]]).vectors, run(ARMS, variables).vectors)
    one = ARMS.clone(num_interests=1)
    variables = weights(one)
    x = variables["params"]["item_embedding"][ITEMS]
    scores = np.where(REAL, x @ variables["params"]["channels"][0], -np.inf)
    close(run(one, variables).vectors[:, 0], np.einsum("bl,bld->bd", softmax(scores, axis=1), x))


def test_channels_start_orthogonal_and_the_penalty_says_how_far_they_are() -> None:
    start = ARMS.init(jax.random.key(0), ITEMS, train=False)
    penalty = functools.partial(applied, ARMS, method="penalties")
    close(penalty(start)["orthogonal"], 0.0, atol=1e-10)
    heads = weights(ARMS)["params"]["channels"]
    close(penalty(weights(ARMS))["orthogonal"], ((heads @ heads.T - np.eye(3)) ** 2).sum())
    with pytest.raises(ValueError, match="num_interests=5"):
        ARMS.clone(num_interests=5).init(jax.random.key(0), ITEMS, train=False)


@pytest.mark.parametrize("alpha", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("total", [1, 7, 100])
def test_quotas_add_up(alpha: float, total: int) -> None:
    probability = np.array([[0.2, 0.5, 0.3], [0.1, 0.2, 0.7], [1.0, 0.0, 0.0], [1 / 3] * 3], np.float32)
    active = np.array([[1, 1, 1], [1, 1, 0], [1, 1, 1], [1, 1, 1]], bool)
    found = np.asarray(quotas(probability, active, total, alpha=alpha))
    assert (found.sum(axis=1) == total).all() and (found >= 0).all() and (found[~active] == 0).all()
    sharp = np.where(active, np.maximum(probability, 1e-30).astype(float) ** alpha, 0)
    share = total * sharp / sharp.sum(axis=1, keepdims=True)
    assert (np.abs(found - share) < 1 + 1e-4).all()


def test_quotas_by_hand() -> None:
    """Of shares 1.4, 3.5 and 2.1 the one left over goes to the largest remainder; of ties, to the first."""
    assert quotas(np.array([[0.2, 0.5, 0.3]]), np.ones((1, 3), bool), 7).tolist() == [[1, 4, 2]]
    assert quotas(np.full((1, 3), 1 / 3), np.ones((1, 3), bool), 7).tolist() == [[3, 2, 2]]
    for total, alpha in ((0, 1.0), (1, -1.0)):
        with pytest.raises(ValueError, match=f"total={total}, alpha={alpha}"):
            quotas(np.ones((1, 3)), np.ones((1, 3), bool), total, alpha=alpha)


# --- the poly-encoder ----------------------------------------------------------------------------------

POLY: Any = PolyEncoder(**SMALL, num_interests=3)


def test_one_code_is_attention_pooling_and_the_order_of_codes_does_not_count() -> None:
    one = POLY.clone(num_interests=1, positions=False)
    variables = weights(one)
    x = variables["params"]["item_embedding"][ITEMS]
    scores = np.where(REAL, x @ variables["params"]["codes"][0], -np.inf)
    pooled = np.einsum("bl,bld->bd", softmax(scores, axis=1), x)
    close(run(one, variables).vectors[:, 0], pooled)
    close(one.scores(run(one, variables), AIM), pooled @ AIM.T)
    variables = weights(POLY)
    params = {**variables["params"], "codes": variables["params"]["codes"][[2, 0, 1]]}
    first, second = (run(POLY, v) for v in (variables, {"params": params}))
    close(POLY.scores(second, AIM), POLY.scores(first, AIM))


def test_a_candidate_is_scored_by_what_it_reads() -> None:
    found = run(POLY, weights(POLY))
    table = weights(POLY)["params"]["item_embedding"]
    scores = np.asarray(POLY.scores(found, table))
    for item, vector in enumerate(table):
        read = attended(found, np.tile(vector, (3, 1)))
        close(scores[:, item], read @ vector)
    close(POLY.scores(found, table[ITEMS]), np.take_along_axis(scores, ITEMS, axis=1))
    assert (scores <= np.einsum("bkd,vd->bkv", found.vectors, table).max(axis=1) + 1e-5).all()


@pytest.mark.parametrize("candidates", [2, 12])
def test_candidates_found_by_any_code_are_rescored_exactly(candidates: int) -> None:
    found = run(POLY, weights(POLY))
    table = weights(POLY)["params"]["item_embedding"]
    index, scores = exact.build(table, block=4), np.asarray(POLY.scores(found, table))
    best = search_rescored(
        functools.partial(exact.search, index),
        found.vectors,
        2,
        lambda ids: POLY.scores(found, jnp.asarray(table)[ids]),
        candidates=candidates,
    )
    largest = np.einsum("bkd,vd->bkv", found.vectors, table).max(axis=1)[:, 1:]
    chosen = 1 + np.argsort(-largest, axis=1)[:, :candidates]
    again = np.argsort(-np.take_along_axis(scores, chosen, axis=1), axis=1)[:, :2]
    assert best.ids.tolist() == np.take_along_axis(chosen, again, axis=1).tolist()
    close(best.scores, np.take_along_axis(scores, np.asarray(best.ids), axis=1))


def test_fewer_candidates_than_are_asked_for_are_refused() -> None:
    with pytest.raises(ValueError, match="candidates=1"):
        search_rescored(lambda *_, **__: None, np.ones((1, 1, 2)), 2, lambda ids: ids, candidates=1)
