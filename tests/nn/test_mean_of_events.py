"""The mean of events through layers, by its formula; its kind is in test_interest_models.py."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from jaxrec.nn.retrieval.mean_of_events import MeanOfEvents
from tests.nn.drawn import applied, drawn

ITEMS = np.array([[0, 0, 3, 1], [2, 2, 4, 5], [0, 0, 0, 0]], np.int32)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("hidden_dims", [(), (4,), (6, 4)])
def test_the_vector_is_the_mean_through_the_layers(hidden_dims: tuple[int, ...], shared: bool) -> None:
    model = MeanOfEvents(num_items=5, dim=3, max_len=4, hidden_dims=hidden_dims, shared=shared)
    variables: Any = drawn(model, ITEMS, train=False)
    params = variables["params"]
    rows = [params["item_embedding"][row[row > 0]].sum(axis=0) / max((row > 0).sum(), 1) for row in ITEMS]
    vector = np.stack(rows)
    for number in range(len(hidden_dims)):
        layer = params[f"hidden_{number}"]
        vector = np.maximum(vector @ layer["kernel"] + layer["bias"], 0)
    vector = vector @ params["output"]["kernel"] + params["output"]["bias"]
    found = applied(model, variables, ITEMS, train=False)
    np.testing.assert_allclose(found.vectors[:2, 0], vector[:2], rtol=1e-5, atol=1e-6)
    assert not found.vectors[2].any() and found.active.all()  # an empty row knows nothing, whatever the bias
    table = params["item_embedding" if shared else "class_embedding"]
    np.testing.assert_array_equal(applied(model, variables, method="item_table"), table)
    assert shared == ("class_embedding" not in params)


def test_both_tables_have_a_padding_of_zeros() -> None:
    made = MeanOfEvents(num_items=5, shared=False).init(jax.random.key(0), ITEMS, train=False)["params"]
    for name in ("item_embedding", "class_embedding"):
        assert not made[name][0].any() and made[name][1:].all()
