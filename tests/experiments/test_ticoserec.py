"""The TiCoSeRec experiment: which rows have published numbers beside them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from experiments import ticoserec

OFFICIAL = ticoserec.Config(dataset="Beauty")
OTHERWISE: list[dict[str, Any]] = [
    {"preset": "reproduce"},
    {"form": "last"},
    {"similarity": "random"},
    {"operators": "C"},
    {"opposite": True},
    {"no_warm_up": True},
    {"epochs": 2},
    {"dim": 64},
    {"batch_size": 64},
    {"tiny": True},
]


WAYS: list[dict[str, Any]] = [
    {},
    {"seeds": (7,)},
    {"seen": "zero"},
    {"workdir": "x", "num_devices": 2},
    {"form": "flat", "official_bug": True, "inverted_similarity": True, "seen": "zero", "reject": "all"},
]


@pytest.mark.parametrize("change", WAYS, ids=str)
def test_official_settings_have_the_published_numbers(change: dict[str, Any]) -> None:
    published, source = ticoserec.published_numbers("ticoserec", dataclasses.replace(OFFICIAL, **change))
    assert published["ndcg@20"] == 0.0501
    assert source == ticoserec.README


@pytest.mark.parametrize("change", OTHERWISE, ids=str)
def test_other_settings_have_none(change: dict[str, Any]) -> None:
    assert ticoserec.published_numbers("ticoserec", dataclasses.replace(OFFICIAL, **change)) == ({}, "")


def test_negatives_of_the_official_code_are_named() -> None:
    config = dataclasses.replace(OFFICIAL, reject="all")
    assert ticoserec.model_name("sasrec-bce", config) == "sasrec-bce+reject-all"
