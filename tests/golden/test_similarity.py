"""Item similarity against TiCoSeRec's official code.

Equal: all scores, ranges and normalised scores, and the substitutes, ties included (first seen). The online
similarity of that code is inverted; it is reproduced by the named option.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.augment import similarity
from tests.golden.fixtures import golden_files

FILES = golden_files("ticoserec_similarity")
KINDS = {"ItemCF": False, "ItemCF_IUF": True}


@functools.cache
def load(path: Any) -> Any:
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


@functools.cache
def built(path: Any, kind: Any) -> Any:
    fixture = load(path)
    rows = [row[:n] for row, n in zip(fixture["in/items"], fixture["in/length"], strict=True)]
    items = np.concatenate(rows)
    offsets = np.cumsum([0, *map(len, rows)])
    return similarity.item_cf(
        items, offsets, num_items=int(items.max()), inverse_user_frequency=KINDS[kind], block=500
    )


@pytest.mark.parametrize("path", FILES)
@pytest.mark.parametrize("kind", KINDS)
def test_best_substitute_and_its_score(path: Any, kind: Any) -> None:
    fixture, got = load(path), built(path, kind)
    item = fixture[f"out/{kind}/item"]
    np.testing.assert_array_equal(np.flatnonzero(np.asarray(got.item)), np.sort(item))
    np.testing.assert_array_equal(np.asarray(got.item)[item], fixture[f"out/{kind}/top1"])
    np.testing.assert_allclose(np.asarray(got.score)[item], fixture[f"out/{kind}/top1_score"], rtol=1e-6)
    np.testing.assert_array_equal(np.sort(np.asarray(got.pool)[: got.pool_size]), np.sort(item))


@pytest.mark.parametrize("path", FILES)
@pytest.mark.parametrize("kind", KINDS)
def test_best_score_is_the_largest_of_all_pairs(path: Any, kind: Any) -> None:
    fixture, got = load(path), built(path, kind)
    largest = np.zeros(len(got.score), np.float32)
    np.maximum.at(largest, fixture[f"out/{kind}/i"], fixture[f"out/{kind}/score"])
    np.testing.assert_allclose(np.asarray(got.score), largest, rtol=1e-6)


@pytest.mark.parametrize("path", FILES)
@pytest.mark.parametrize("kind", KINDS)
def test_range_and_inverted_normalisation(path: Any, kind: Any) -> None:
    fixture, got = load(path), built(path, kind)
    np.testing.assert_allclose([got.high, got.low], fixture[f"out/{kind}/max_min"], rtol=1e-6)
    score = np.asarray(similarity.normalise(got, inverted=True).score)[fixture[f"out/{kind}/item"]]
    np.testing.assert_allclose(score, fixture[f"out/{kind}/top1_normalised_score"], atol=1e-6)


@pytest.mark.parametrize("path", FILES)
def test_online_inverted(path: Any) -> None:
    fixture = load(path)
    table = jnp.asarray(fixture["in/online/embedding"])
    got = jax.jit(lambda table: similarity.online(table, inverted=True, block=16))(table)
    np.testing.assert_array_equal(got.item[1:], fixture["out/online/first"])
    np.testing.assert_allclose([got.high, got.low], fixture["out/online/max_min"], rtol=1e-5)
    score = similarity.normalise(got, inverted=True).score[1:]
    real = fixture["out/online/first"] > 0
    np.testing.assert_allclose(score[real], fixture["out/online/first_score"][real], atol=1e-5)


@pytest.mark.parametrize("path", FILES)
def test_online_as_the_paper_means_it(path: Any) -> None:
    table = load(path)["in/online/embedding"]
    products = table.astype(np.float64) @ table.T
    np.fill_diagonal(products, -np.inf)
    got = similarity.online(jnp.asarray(table), block=16)
    np.testing.assert_array_equal(got.item[1:], products[1:, 1:].argmax(1) + 1)
