"""A result to store, with what a test wants changed."""

from __future__ import annotations

from typing import Any

from jaxrec.types import Protocol, Result

MANIFEST = {
    "commit": "0123456789abcdef",
    "versions": {"jax": "9.9.9"},
    "python": "3.99",
    "device": {"platform": "cpu", "kind": "abacus", "count": 2},
}


def example(**changes: Any) -> Result:
    """Two seeds of a model on a data set, one metric published."""
    result = Result(
        experiment="ticoserec",
        dataset="Beauty",
        model="sasrec-bce",
        config={"max_len": 50, "rates": (0.1, 0.2), "workdir": "runs/a"},
        protocol=Protocol(loss="bce"),
        seeds=(0, 1),
        metrics={"ndcg@10": (0.25, 0.35), "hit@10": (0.5, 0.5)},
        published={"ndcg@10": 0.4},
        source="a paper, table 2",
        steps=1000,
        seconds=12.5,
        compile_seconds=3.0,
    )
    return result._replace(**changes)
