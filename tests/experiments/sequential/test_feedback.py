"""The experiment of explicit feedback: a tiny run, the same again, and ratings of a file."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest

from experiments.sequential import feedback as experiment
from jaxrec.report.results import read_results

ROWS = ("popularity", "sasrec-ce", "sasrec-ce-pair")
ONE_LAYER = ("--num-layers", "1")


def call(folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setenv("JAXREC_XLA_CACHE", "0")
    places = ("--results", str(folder / "results"), "--workdir", str(folder / "work"))
    monkeypatch.setattr(sys, "argv", [experiment.__name__, *arguments, *ONE_LAYER, "--seeds", "3", *places])
    experiment.main()


def test_tiny_runs_to_the_end_and_is_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call(tmp_path, monkeypatch, "--tiny", "--rows", *ROWS)
    found = {record.result.model: record.result for record in read_results(tmp_path / "results")}
    assert set(found) == set(ROWS)
    for result in found.values():
        assert not result.published
        values = {name: value[0] for name, value in result.metrics.items()}
        for k in (10, 20):
            expected = values[f"hit@{k}/liked"] - values[f"hit@{k}/disliked"]
            assert values[f"separation@{k}"] == pytest.approx(expected)
            parts = sorted((values[f"hit@{k}/liked"], values[f"hit@{k}/disliked"]))
            assert 0 <= parts[0] <= values[f"hit@{k}"] <= parts[1] <= 1
    assert found["popularity"].protocol.selection == "none"
    assert found["sasrec-ce-pair"].protocol.selection == "ndcg@10/liked"
    assert found["sasrec-ce-pair"].protocol.loss == "ce-pair"
    assert found["sasrec-ce-pair"].metrics != found["sasrec-ce"].metrics
    capsys.readouterr()
    call(tmp_path, monkeypatch, "--tiny", "--rows", "sasrec-ce-pair")
    again = {record.result.model: record.result for record in read_results(tmp_path / "results")}
    assert again["sasrec-ce-pair"].metrics == found["sasrec-ce-pair"].metrics
    assert "found complete" in capsys.readouterr().out


@pytest.mark.long
def test_a_row_that_learns_what_not_to_recommend_runs_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call(tmp_path, monkeypatch, "--tiny", "--rows", "sasrec-ce-reject")
    (found,) = (record.result for record in read_results(tmp_path / "results"))
    assert found.model == "sasrec-ce-reject" and not found.published
    assert found.steps > 0 and found.protocol.selection == "ndcg@10/liked"


def test_ratings_of_a_file_are_in_the_order_of_its_events(tmp_path: Path) -> None:
    path = tmp_path / "ratings.csv"
    path.write_text("uid,sku,stars,ts\nb,x,1,5\na,y,5,9\na,x,3,2\nb,y,4,4\n", encoding="utf-8")
    config = experiment.Config(data=str(path), user="uid", item="sku", rating="stars", time="ts")
    sequences, ratings = experiment.load(config)
    ids = sequences.item_ids[sequences.items - 1].tolist()
    rated = dict(zip(zip(sequences.user_ids[sequences.event_users], ids, strict=True), ratings, strict=True))
    assert rated == {("b", "x"): 1, ("a", "y"): 5, ("a", "x"): 3, ("b", "y"): 4}


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"liked": 2.0}, r"disliked=2\.0: must be below liked=2\.0"),
        ({"temperature": 0.0}, r"temperature=0\.0"),
        ({"liked_margin": 3.0}, r"liked_margin=3\.0"),
        ({"weight": -1.0}, r"weight=-1\.0"),
        ({"window": 0}, "window=0"),
        ({"rating": "stars"}, "rating='stars': is for your own file"),
        ({"rows": ("sasrec-ce-pairs",)}, "nearest is 'sasrec-ce-pair'"),
        ({"replacement": True}, "replacement=True"),
        ({"num_heads": 5}, "must divide dim=64"),
    ],
)
def test_settings_are_checked(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        dataclasses.replace(experiment.Config(), **options)
