"""RCF: both attentions against a loop over relations and items, and its score of related items."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.nn.retrieval.rcf import RCF, smoothed_softmax
from tests.nn.drawn import applied, drawn

MODEL = RCF(3, 5, (3, 2), dim=4, max_history=4, attention_dim=3, hidden_dims=(4,))
ATTRIBUTES = np.array(
    [
        [[0, 0], [0, 0]],
        [[1, 2], [1, 0]],
        [[2, 0], [2, 0]],
        [[3, 0], [0, 0]],
        [[2, 1], [1, 2]],
        [[0, 0], [0, 0]],
    ]
)
HISTORIES = ((1, 2, 4), (5,), (3, 1))
CONTEXT: dict[str, Any] = {
    "items": jnp.array([i for items in HISTORIES for i in items]),
    "start": jnp.array([0, 3, 4]),
    "length": jnp.array([3, 1, 2]),
    "attributes": jnp.asarray(ATTRIBUTES),
}
USER, ITEM = np.array([1, 2, 3]), np.array([[1, 4], [2, 5], [4, 3]])
VARIABLES = drawn(MODEL, USER, ITEM, CONTEXT, train=False)
P = VARIABLES["params"]
for table in ("user_embedding", "item_embedding", "value_embedding"):
    P[table][0] = 0


def naive_score(user: int, item: int) -> float:
    q, z = P["item_embedding"], P["value_embedding"]
    kernel = {name: P[name]["kernel"] for name in ("of_target", "of_item", "of_value", "item_logit")}
    lists: list[list[tuple[int, int]]] = [[], [], []]  # of each relation: (past item, row of the value)
    for past in HISTORIES[user - 1]:
        if past == item:
            continue
        shared = [(t, v) for t in range(2) for v in ATTRIBUTES[item, t] if v and v in ATTRIBUTES[past, t]]
        for t, v in shared:
            lists[t + 1].append((past, v + (0, 3)[t]))
        if not shared:
            lists[0].append((past, 0))
    hidden = np.maximum(
        (P["user_embedding"][user] * P["types"]) @ P["type_hidden"]["kernel"] + P["type_hidden"]["bias"], 0
    )
    alpha = np.exp((hidden @ P["type_logit"]["kernel"])[:, 0])
    mixed = P["user_embedding"][user].copy()
    for share, members in zip(alpha / alpha.sum(), lists, strict=True):
        if members:
            b = np.array(
                [
                    np.tanh(
                        q[item] @ kernel["of_target"] + q[j] @ kernel["of_item"] + z[v] @ kernel["of_value"]
                    )
                    @ kernel["item_logit"][:, 0]
                    for j, v in members
                ]
            )
            beta = np.exp(b) / np.exp(b).sum() ** 0.5
            mixed += share * sum(w * q[j] for w, (j, _) in zip(beta, members, strict=True))
    x = np.maximum((mixed * q[item]) @ P["hidden_0"]["kernel"] + P["hidden_0"]["bias"], 0)
    return float((x @ P["output"]["kernel"])[0])


def test_scores_are_those_of_the_formulas() -> None:
    found = applied(MODEL, VARIABLES, USER, ITEM, CONTEXT, train=False)
    wanted = [[naive_score(u, i) for i in items] for u, items in zip(USER, ITEM, strict=True)]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_the_order_of_a_history_means_nothing() -> None:
    turned = {**CONTEXT, "items": CONTEXT["items"][jnp.array([2, 0, 1, 3, 5, 4])]}
    found = applied(MODEL, VARIABLES, USER, ITEM, turned, train=False)
    wanted = applied(MODEL, VARIABLES, USER, ITEM, CONTEXT, train=False)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_smoothed_softmax_is_its_formula(power: float) -> None:
    b = np.array([[0.5, -2.0, 3.0, 9.0], [1.0, 2.0, 3.0, 4.0]], np.float32)
    where = np.array([[1, 1, 1, 0], [0, 0, 0, 0]], bool)
    found = smoothed_softmax(jnp.asarray(b), jnp.asarray(where), power)
    wanted = np.exp(b[0, :3]) / np.exp(b[0, :3]).sum() ** power
    np.testing.assert_allclose(found[0], [*wanted, 0], rtol=1e-5)
    assert not np.asarray(found[1]).any()


def test_a_softmax_of_large_numbers_is_finite() -> None:
    found = smoothed_softmax(jnp.array([1e4, 1e4]), jnp.ones(2, bool), 1.0)
    np.testing.assert_allclose(found, [0.5, 0.5])


def test_relations_are_symmetric_products_of_their_vectors() -> None:
    first, second = np.array([1, 2]), np.array([4, 4])
    kind, value = np.array([1, 2]), np.array([2, 2])
    found = applied(MODEL, VARIABLES, first, kind, value, second, method="relation")
    of = P["types"][kind] + P["value_embedding"][[2, 5]]
    q = P["item_embedding"]
    np.testing.assert_allclose(found, (q[first] * of * q[second]).sum(axis=1), rtol=1e-5)
    other = applied(MODEL, VARIABLES, second, kind, value, first, method="relation")
    np.testing.assert_allclose(found, other, rtol=1e-6)


def test_a_value_that_an_attribute_does_not_have_is_none_of_the_next_one() -> None:
    """The first attribute has 3 values, so 4 would be value 1 of the second."""
    kind, value, item = np.array([1, 1, 2, 2]), np.array([3, 4, 2, 3]), np.array([1, 1, 1, 1])
    found = applied(MODEL, VARIABLES, item, kind, value, item, method="relation")
    np.testing.assert_array_equal(np.isnan(found), [False, True, False, True])
    wrong = ATTRIBUTES.copy()
    wrong[[1, 4], 0, 1] = 4  # read where a candidate and a past item both have it
    found = applied(MODEL, VARIABLES, USER, ITEM, {**CONTEXT, "attributes": jnp.asarray(wrong)}, train=False)
    np.testing.assert_array_equal(np.isnan(found), [[True, True], [False, False], [True, False]])


def test_a_power_outside_0_to_1_is_refused() -> None:
    with pytest.raises(ValueError, match=r"power=2.0: must be in 0\.\.1"):
        drawn(RCF(3, 5, (3, 2), power=2.0), USER, ITEM, CONTEXT, train=False)
