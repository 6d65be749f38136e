"""Ratings on the command line: fitted, measured beside the mean and biases, and recommended from."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrec import serve
from jaxrec.commands.train import train
from jaxrec.data.events.ratings import Ratings, RatingSplit, split_ratings
from jaxrec.data.sources import movielens
from jaxrec.protocols import ratings
from jaxrec.recipes import ratings as recipes

OPTIONS: dict[str, Any] = {"user": "u", "item": "i", "time": "", "value": "stars", "factors": 2, "epochs": 3}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("ratings") / "ratings.csv"
    with path.open("w", newline="") as opened:
        lines = csv.writer(opened)
        lines.writerow(["u", "i", "stars"])
        for user in range(20):
            for item in rng.permutation(10)[:7]:
                lines.writerow([f"u{user}", f"i{item}", np.clip(round(user % 3 + item / 4 + 1), 1, 5)])
    return path


def test_ratings_are_predicted_and_recommended(file: Path) -> None:
    run = train("biased-mf", file, run=file.parent / "run", seeds=(0, 1), **OPTIONS)
    found = sorted(path.stem for path in (file.parent / "run/results").rglob("*.json"))
    assert found == ["biased-mf", "biases", "mean"]
    assert run.kind == "factors" and run.protocol.selection == "rmse"
    assert "(seed 0)" in run.protocol.split and "cut to the range" in run.protocol.split
    assert len(run.metrics["rmse"]) == 2 and 0 < run.metrics["rmse"][0] < 1
    loaded, user = serve.load(file.parent / "run"), run.vocabulary["user"][0]
    (answer,) = loaded.recommend([user], k=10)
    assert len(answer.items) == 3  # of ten, of which the user has rated seven
    assert (np.diff(answer.scores) <= 0).all()
    scores = loaded.score({"u": [user] * 3, "i": answer.items.tolist()})["score"]
    np.testing.assert_allclose(scores, answer.scores, rtol=1e-5)
    assert scores.min() > 0 and scores.max() < 7  # expected ratings


def test_errors_are_of_ratings_and_of_predictions_within_their_range() -> None:
    """Predictions of 9 stars count as 5, the most of training; both errors are means over ratings."""
    user, item, value = np.array([1, 1, 1, 2]), np.array([1, 2, 3, 1]), np.array([5, 4, 1, 2], np.float32)
    part = Ratings(user, item, value, 2, 3)
    split = RatingSplit(None, part, part, part, "rule")  # type: ignore[arg-type]
    nine = {"users": np.full((1, 3, 1), 9.0, np.float32), "items": np.ones((1, 4, 1), np.float32)}
    (found,) = ratings.errors(nine, split, part)
    assert found == pytest.approx({"rmse": np.sqrt((0 + 1 + 16 + 9) / 4), "mae": (0 + 1 + 4 + 3) / 4})
    with pytest.raises(ValueError, match="is NaN or infinite"):
        ratings.errors({**nine, "users": nine["users"] * np.nan}, split, part)


def test_what_makes_no_sense_is_refused(file: Path) -> None:
    with pytest.raises(ValueError, match="there is no value column 'rating'"):
        train("biased-mf", file, run=file.parent / "no", **{**OPTIONS, "value": "rating"})
    with pytest.raises(ValueError, match="num_devices=2: biased-mf is fitted on one device"):
        train("biased-mf", file, run=file.parent / "no", num_devices=2, **OPTIONS)


@pytest.mark.long
def test_movielens_is_predicted_better_than_by_biases() -> None:
    split = split_ratings(movielens.load_interactions("ml-100k"))
    rmse = {}
    for factors in (0, 8):
        made = recipes.fit(split.train, recipes.Recipe(factors=factors, epochs=10), 0)
        rmse[factors] = ratings.errors(made.for_seeds((0,)), split, split.test)[0]["rmse"]
    assert rmse[8] < rmse[0] < np.std(split.test.value)
