"""DropoutNet and CB2CF as modules: what vectors depend on, and their linear cases."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.nn.retrieval.cb2cf import CB2CF
from jaxrec.nn.retrieval.dropoutnet import DropoutNet
from jaxrec.tasks import pairs
from tests.nn.drawn import applied, drawn

NET, RNG = DropoutNet((5,), 3), np.random.default_rng(0)
FACTORS, CONTENT = RNG.normal(size=(6, 4)).astype(np.float32), RNG.normal(size=(6, 2)).astype(np.float32)
INPUTS = (FACTORS, FACTORS[::-1].copy(), None, CONTENT)
VARIABLES: Any = drawn(NET, *INPUTS, train=False)


def test_scores_are_products_of_the_towers_and_rows_are_scored_for_themselves() -> None:
    scores = applied(NET, VARIABLES, *INPUTS, train=False)
    users: Any = NET.apply(VARIABLES, FACTORS, method="users")
    items: Any = NET.apply(VARIABLES, INPUTS[1], CONTENT, method="items")
    np.testing.assert_allclose(scores, np.sum(users * items, axis=1), rtol=1e-5, atol=1e-6)
    one = NET.apply(VARIABLES, FACTORS[2:3], INPUTS[1][2:3], None, CONTENT[2:3], train=False)
    np.testing.assert_allclose(one, scores[2:3], rtol=1e-5, atol=1e-6)
    assert np.std(scores) > 0.1


def test_vectors_of_who_is_new_depend_on_content_alone() -> None:
    columns = {"user_factors": np.zeros((4, 4)), "item_factors": FACTORS, "item_content": CONTENT}
    context: Any = {name: jnp.asarray(value, jnp.float32) for name, value in columns.items()}
    context["item_factors"] = context["item_factors"].at[jnp.array([2, 5])].set(0.0)
    context["item_content"] = context["item_content"].at[5].set(CONTENT[2])
    found = pairs.finished(NET, VARIABLES, context)
    np.testing.assert_array_equal(found["users"], np.broadcast_to(found["users"][0], (4, 3)))
    np.testing.assert_allclose(found["items"][5], found["items"][2], rtol=1e-6)
    assert np.abs(found["items"][2] - found["items"][1]).max() > 0.1


def test_without_hidden_layers_and_content_it_can_be_the_factor_model() -> None:
    linear = DropoutNet((), 4)
    eye = {"output": {"kernel": np.eye(4, dtype=np.float32), "bias": np.zeros(4, np.float32)}}
    variables = {"params": {"user_tower": eye, "item_tower": eye}}
    found = linear.apply(variables, FACTORS, INPUTS[1], train=False)
    np.testing.assert_allclose(found, np.sum(FACTORS * INPUTS[1], axis=1), rtol=1e-6)


def test_warm_items_keep_the_factor_models_vectors() -> None:
    model = CB2CF(4, (3,), 0.5)
    variables = drawn(model, CONTENT, train=False)
    count = np.array([0, 2, 0, 1, 1, 0], np.float32)
    context = {"user_teacher": FACTORS, "item_teacher": FACTORS, "item_count": count, "item_content": CONTENT}
    found = pairs.finished(model, variables, jax.tree.map(jnp.asarray, context))
    np.testing.assert_array_equal(found["items"][count > 0], FACTORS[count > 0])
    params: Any = variables["params"]
    hidden = np.tanh(CONTENT @ params["layer_0"]["kernel"] + params["layer_0"]["bias"])
    made = hidden @ params["output"]["kernel"] + params["output"]["bias"]
    np.testing.assert_allclose(found["items"][count == 0], made[count == 0], rtol=1e-5)
    np.testing.assert_array_equal(found["users"], FACTORS)


def test_noise_of_cb2cf_derives_from_the_number_of_a_row() -> None:
    model = CB2CF(4, (3,), 0.5)
    variables, rows = drawn(model, CONTENT, train=False), np.arange(6)

    def noisy(content: Any, rows: Any) -> Any:
        return model.apply(variables, content, rows=rows, train=True, rngs={"dropout": jax.random.key(1)})

    whole = noisy(CONTENT, rows)
    np.testing.assert_allclose(noisy(CONTENT[::-1].copy(), rows[::-1].copy())[::-1], whole, rtol=1e-6)
    assert not np.allclose(whole, model.apply(variables, CONTENT, train=False))


@pytest.mark.parametrize("fields", [{"dim": 0}, {"hidden_dims": (3, 0)}])
def test_sizes_below_one_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="=0: must be at least 1"):
        jax.eval_shape(lambda: NET.clone(**fields).init(jax.random.key(0), *INPUTS, train=False))
    with pytest.raises(ValueError, match="=0: must be at least 1"):
        jax.eval_shape(lambda: CB2CF(4).clone(**fields).init(jax.random.key(0), CONTENT, train=False))
