"""The rows of `experiments.floors` on click sessions, which `gru4rec` and `stamp` share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax

from experiments import floors
from experiments.floors import Fit, Floor
from jaxrec import baselines
from jaxrec.baselines.events import EventData
from jaxrec.data.events.sessions import Part
from jaxrec.protocols import sessions
from jaxrec.types import Baseline, Evaluation, Protocol


def random_baseline(columns: EventData) -> Baseline:
    """Random scores, drawn with the keys of the stored results."""
    return baselines.random(columns, keys=jax.random.split)


RANKING: Mapping[str, Floor] = {
    **floors.RANKING,
    "random": Floor(floors.RANDOM._replace(make=lambda data, recipe, seed: random_baseline(data))),
}
PLAIN: Mapping[str, Callable[..., Baseline]] = {  # of `stamp` besides
    "session-popularity": baselines.session_popularity,
    "item-knn": baselines.item_knn,
    "markov": baselines.markov,
}


def fit(
    name: str,
    columns: sessions.Data,
    protocol: Protocol,
    config: Any,
    *names: str,
    part: Part = "validation",
) -> Fit:
    """`floors.fit` of a row. names: experiment, dataset and model. part: whose clicks choose settings."""
    evaluation = functools.partial(of_part, part)
    return floors.fit(name, columns, protocol, config, *names, evaluation=evaluation, known=RANKING)


def of_part(part: Part, model: Any, columns: sessions.Data, protocol: Protocol, _: str) -> Evaluation:
    """Ranks the clicks of a part of the sessions."""
    return sessions.evaluation(model, columns, protocol, sessions.queries(columns, part))
