"""Recipes of counting methods: options that choose a form of a method."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from jaxrec import baselines
from jaxrec.baselines.matrix_knn import bm25, tf_idf
from jaxrec.recipes import counting
from tests.tasks import small_pairs


def fitted(name: str, **settings: Any) -> Any:
    recipe = counting.MODELS[name].recipe
    recipe = recipe() if isinstance(recipe, type) else recipe
    return counting.MODELS[name].make(small_pairs.data(), dataclasses.replace(recipe, **settings), 0)


@pytest.mark.parametrize(("name", "weighting"), [("none", None), ("bm25", bm25), ("tf-idf", tf_idf)])
def test_item_knn_weighs_interactions_by_name(name: str, weighting: Any) -> None:
    found = fitted("matrix-item-knn", weighting=name, normalise=False, average_bias=False)
    wanted = baselines.matrix_item_knn(small_pairs.data(), weighting=weighting)
    np.testing.assert_array_equal(found.variables["weight"], wanted.variables["weight"])


@pytest.mark.parametrize("iuf", [False, True])
def test_item_cf_has_an_option_for_active_users(iuf: bool) -> None:
    found = fitted("item-cf", inverse_user_frequency=iuf, most_items=3)
    wanted = baselines.item_cf(small_pairs.data(), inverse_user_frequency=iuf, max_items=3)
    assert found.name == wanted.name == ("item-cf-iuf" if iuf else "item-cf")
    np.testing.assert_array_equal(found.variables["weight"], wanted.variables["weight"])
