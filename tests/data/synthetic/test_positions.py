"""Clicks at positions: the model made for them finds the curve within its interval, others do not."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from jaxrec.data.synthetic.positions import Displayed, displayed


@pytest.fixture(scope="module", params=[False, True], ids=["examination", "logit"])
def made(request: pytest.FixtureRequest) -> Displayed:
    return displayed(4_000, num_items=20, num_positions=5, additive=request.param)


def likelihood_curve(made: Displayed, *, additive: bool) -> np.ndarray:
    """Log curve of the most likely effects by Newton's method with the expected information, in float64.

    Of the model whose factors are of the probability, or of the odds (additive).
    """
    columns = {name: made.columns[name] - 1 for name in ("position", "item", "group")}
    label = made.columns["label/click"].astype(np.float64)
    design = [np.eye(int(column.max()) + 1)[column] for column in columns.values()]
    sizes = [block.shape[1] for block in design]
    features = np.concatenate(design, axis=1)
    found = np.zeros(features.shape[1])
    found[: sizes[0]] = -0.5
    for _ in range(15):
        log_factor = found[columns["position"]]
        logit = features[:, sizes[0] :] @ found[sizes[0] :]
        if additive:
            probability, slope = 1 / (1 + np.exp(-(logit + log_factor))), np.ones(len(label))
            weight, residual = probability * (1 - probability), label - probability
        else:
            attraction = 1 / (1 + np.exp(-logit))
            probability, slope = np.minimum(np.exp(log_factor) * attraction, 0.999), 1 - attraction
            weight = probability / (1 - probability)
            residual = (label - probability) / (1 - probability)
        by = features * np.where(np.arange(features.shape[1]) < sizes[0], 1.0, slope[:, None])
        step = np.linalg.pinv(by.T @ (weight[:, None] * by), rcond=1e-10) @ (by.T @ residual)
        found += np.clip(step, -0.5, 0.5)
    return found[: sizes[0]] - found[0]


@pytest.mark.parametrize("additive", [False, True], ids=["examination", "logit"])
def test_the_model_made_for_the_clicks_finds_the_curve_and_the_other_does_not(additive: bool) -> None:
    """In nine of ten sets or more, of a joint 95 % interval; 12 of 15 leaves room for luck."""
    inside, of_other = [], []
    for seed in range(15):
        made = displayed(1_500, num_items=8, num_positions=4, additive=additive, seed=seed)
        wanted = np.log(made.curve)
        own, other = (likelihood_curve(made, additive=form) for form in (additive, not additive))
        inside.append(bool((np.abs(own - wanted) <= made.margin).all()))
        of_other.append(bool((np.abs(other - wanted) <= made.margin).all()))
    assert sum(inside) >= 12
    assert sum(of_other) <= 3
    assert made.margin[0] == 0.0 and (made.margin[1:] < 0.4).all()


def test_rates_of_positions_are_not_the_curve_unless_placement_is_random() -> None:
    for placement, inside in ((0.0, True), (1.0, False)):
        found = displayed(8_000, num_items=20, num_positions=5, placement=placement)
        position, label = found.columns["position"], found.columns["label/click"]
        rates = np.bincount(position, label)[1:] / np.bincount(position)[1:]
        close = np.abs(np.log(rates / rates[0]) - np.log(found.curve)) <= found.margin
        assert close.all() == inside


def test_labels_have_their_probabilities(made: Displayed) -> None:
    position = made.columns["position"] - 1
    factor = made.curve[position]
    odds = factor * made.attraction / (1 - made.attraction)
    click = odds / (1 + odds) if made.additive else factor * made.attraction
    for wanted, name in ((click, "click"), (made.attraction, "attracted")):
        label = made.columns[f"label/{name}"]
        for k in range(5):
            here = position == k
            error = np.sqrt((wanted[here] * (1 - wanted[here])).sum()) / here.sum()
            assert abs(label[here].mean() - wanted[here].mean()) < 4 * error
    assert (made.columns["label/click"] <= made.columns["label/attracted"]).all()
    top = position == 0
    assert (made.columns["label/click"][top] == made.columns["label/attracted"][top]).all()


def test_a_list_shows_different_items_and_the_better_ones_above() -> None:
    found = displayed(500, num_items=9, num_positions=4, placement=50.0)
    items = found.columns["item"].reshape(500, 4)
    assert all(len(set(items_of)) == 4 for items_of in items.tolist())
    above = np.zeros((10, 10))
    for of_list in items.tolist():
        for a, b in itertools.pairwise(of_list):
            above[a, b] += 1
    assert np.minimum(above, above.T).sum() < 0.1 * above.sum()  # the policy's one order of all items
    assert (found.columns["position"].reshape(500, 4) == [1, 2, 3, 4]).all()


def test_the_margin_falls_with_the_root_of_the_lists() -> None:
    few, many = (displayed(n, num_items=10, num_positions=3).margin for n in (2_000, 8_000))
    np.testing.assert_allclose(few[1:] / many[1:], 2.0, rtol=0.05)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_lists": 0}, "num_lists=0: must be at least 1"),
        ({"num_groups": 0}, "num_groups=0: must be at least 1"),
        ({"num_positions": 1}, r"num_positions=1: must lie in 2..50"),
        ({"num_items": 4}, r"num_positions=10: must lie in 2..4"),
        ({"decay": -1.0}, "decay=-1.0: must be at least 0"),
        ({"placement": float("nan")}, "placement=nan: must be at least 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        displayed(**change)
