"""ANNCUR's approximation of a score matrix, with U from the intersection and from the whole matrix."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.index import cur, exact
from jaxrec.index.cur import Anchors
from tests.golden.fixtures import Golden, golden_files, read


class Built(NamedTuple):
    golden: Golden
    known: np.ndarray  # the matrix's first rows, with a column for padding
    new: np.ndarray  # the scores of new queries for the anchor items
    anchors: dict[str, Anchors]


@pytest.fixture(params=golden_files("cur"), scope="module")
def built(request: pytest.FixtureRequest) -> Built:
    golden = read(request.param)
    matrix, rows, items = (golden.inputs[name] for name in ("matrix", "rows", "cols"))
    number = golden.meta["config"]["rows"]
    known = np.pad(matrix[:number], ((0, 0), (1, 0)))
    whole = cur.whole_weights(known, rows, items + 1)
    anchors = {
        "intersection": cur.build(known[rows], items + 1),
        "whole": cur.build(known[rows], items + 1, weights=whole),
    }
    return Built(golden, known, matrix[number:][:, items], anchors)


@pytest.mark.parametrize("form", ["intersection", "whole"])
def test_weights_and_both_orders_of_the_product(built: Built, form: str) -> None:
    anchors, outputs = built.anchors[form], built.golden.outputs
    columns = built.known[:, built.golden.inputs["cols"] + 1]
    rows = built.known[built.golden.inputs["rows"], 1:]
    close_weights(anchors.weights, outputs[f"{form}/U"], built)
    approximations = {
        "rows": anchors.approximate(jnp.asarray(columns))[:, 1:],
        "cols": columns @ (anchors.weights @ rows),
    }
    for name, ours in approximations.items():
        close(ours, outputs[f"{form}/{name}/approximation"], columns, built, form)


@pytest.mark.parametrize("form", ["intersection", "whole"])
def test_new_queries(built: Built, form: str) -> None:
    anchors, outputs = built.anchors[form], built.golden.outputs
    expected = outputs[f"{form}/new_rows"]
    best = next(value for name, value in outputs.items() if name.startswith(f"{form}/new_rows_top"))
    close(anchors.approximate(jnp.asarray(built.new))[:, 1:], expected, built.new, built, form)
    found = exact.search(anchors.columns, anchors.query(jnp.asarray(built.new)), best.shape[1])
    np.testing.assert_array_equal(found.ids - 1, best)


def test_double_precision(built: Built) -> None:
    close_weights(
        built.anchors["intersection"].weights, built.golden.outputs["intersection/U_float64"], built
    )


def close_weights(ours: Any, theirs: np.ndarray, built: Built) -> None:
    """To 1e-5 of the largest, or to what rounding of the anchor scores in float32 does to an inverse."""
    inputs = built.golden.inputs
    condition = np.linalg.cond(inputs["matrix"][np.ix_(inputs["rows"], inputs["cols"])].astype(np.float64))
    relative = max(1e-5, condition * np.finfo(np.float32).eps)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=relative * np.abs(theirs).max())


def close(ours: Any, theirs: np.ndarray, columns: np.ndarray, built: Built, form: str) -> None:
    """To 1e-5, or to two roundings of the terms of C U R, which cancel where U is large."""
    rows = np.abs(built.known[built.golden.inputs["rows"], 1:])
    terms = np.abs(columns) @ np.abs(np.asarray(built.anchors[form].weights)) @ rows
    bound = 1e-5 + 1e-5 * np.abs(theirs) + 2 * np.finfo(np.float32).eps * terms
    assert (np.abs(np.asarray(ours) - theirs) <= bound).all()
