"""Interest models asked about users that they were not trained on."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.ranking import din
from jaxrec.report.results import read_results
from tests.experiments.test_tiny import call


def test_the_split_by_users_needs_no_times() -> None:
    assert din.Config(dataset="Beauty", split="user").split == "user"
    assert din.Config().split == "last"


def test_tiny_tests_on_other_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXREC_XLA_CACHE", "0")
    clicks = din.load(din.Config(tiny=True, split="user"))
    users = [set(clicks.user[rows].tolist()) for rows in (clicks.train, clicks.validation, clicks.test)]
    assert [len(some) for some in users] == [48, 6, 6] and len(set.union(*users)) == 60
    places = ("--results", tmp_path / "results", "--workdir", tmp_path)
    call(din, monkeypatch, "--tiny", "--rows", "base", "--split", "user", "--seeds", 0, *places)
    (stored,) = [read.result for read in read_results(tmp_path / "results")]
    assert stored.protocol.split.startswith("users 80/10/10, seed 0; ")
