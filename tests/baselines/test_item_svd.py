"""Vectors of items: products follow the matrix that is decomposed; items of which nothing is known."""

from __future__ import annotations

import numpy as np
import pytest

from jaxrec.baselines.item_svd import attribute_vectors, co_visit_vectors
from jaxrec.data.events.training_events import TrainingEvents

# items 1..3 in one world, 4..6 in another; 7 is alone
EVENTS = TrainingEvents(
    np.repeat(np.arange(6), [3, 3, 2, 3, 3, 1]), np.array([1, 2, 3, 3, 1, 2, 1, 3, 4, 5, 6, 6, 4, 5, 7]), 8
)


def test_items_that_are_near_have_near_vectors() -> None:
    found = co_visit_vectors(EVENTS, dim=2)
    assert found.shape == (8, 2) and found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, rtol=1e-5)
    products = found[:6] @ found[:6].T
    assert products[:3, :3].min() > 0.9 and products[3:, 3:].min() > 0.9
    assert np.abs(products[:3, 3:]).max() < 0.1


def test_vectors_are_the_same_each_time() -> None:
    np.testing.assert_array_equal(co_visit_vectors(EVENTS, dim=3), co_visit_vectors(EVENTS, dim=3))


def test_items_without_a_neighbour_are_told_apart() -> None:
    """Items 7 and 8: a common vector would put all such items into one bucket of codes."""
    found = co_visit_vectors(EVENTS, dim=2)
    assert np.abs(found[6] - found[7]).max() > 0.01


def test_attributes_in_common_and_rare_ones_make_items_alike() -> None:
    attributes = np.array([[0, 0], [1, 2], [1, 2], [1, 3], [1, 3], [1, 0], [0, 0]])
    found = attribute_vectors(attributes, dim=2)
    assert found.shape == (6, 2)
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)
    np.testing.assert_allclose(found[2], found[3], atol=1e-5)
    assert found[0] @ found[2] < 0.9
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, rtol=1e-5)


@pytest.mark.parametrize("dim", [0, 8])
def test_a_width_that_is_too_large_is_refused(dim: int) -> None:
    with pytest.raises(ValueError, match=f"dim={dim}: must lie in 1..7"):
        co_visit_vectors(EVENTS, dim=dim)


def test_attributes_that_are_no_ids_are_refused() -> None:
    with pytest.raises(ValueError, match="must be integers"):
        attribute_vectors(np.zeros((3, 2)), dim=1)
