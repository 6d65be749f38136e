"""Selection on validation that watches the test queries too, for papers that report the epoch best on test.

One training then gives both figures: that of the epoch best on validation, from `Fitted.variables`, and that
of the epoch best on test, from the history. The second one is chosen on what it is measured on: it only
serves to compare with numbers that were chosen in this way, and its result says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxrec.data.events.split import Queries
from jaxrec.protocols import next_item
from jaxrec.protocols.next_item import Data
from jaxrec.tasks.next_item import Encoder
from jaxrec.train.fit import Fitted, Selection
from jaxrec.types import Protocol

TEST = "test/"  # before the names of metrics of the test queries, in the history behind "valid/"


def selection(model: Encoder, data: Data, protocol: Protocol, *, patience: int | None = None) -> Selection:
    """As `next_item.selection`; each evaluation also measures the test queries, which choose nothing.

    Raises:
      ValueError: candidates are sampled, which validation and test draw otherwise.
    """
    if protocol.candidates != "all":
        raise ValueError(
            f"protocol.candidates={protocol.candidates!r}: the test queries can be watched where all items "
            "are candidates"
        )
    validation, test = data.split.validation, data.split.test
    both = Queries(*(np.concatenate(columns) for columns in zip(validation, test, strict=True)))
    of_both = data._replace(split=dataclasses.replace(data.split, validation=both))
    found = next_item.evaluation(model, of_both, protocol, "validation")
    number = len(validation.user)

    def summarise(values: np.ndarray, queries: Mapping[str, np.ndarray]) -> dict[str, float]:
        mask = np.asarray(queries["mask"])
        first = (np.arange(mask.size) < number).reshape(mask.shape)
        chosen = found.summarise(values, {**queries, "mask": mask & first})
        watched = found.summarise(values, {**queries, "mask": mask & ~first})
        return {**chosen, **{f"{TEST}{name}": value for name, value in watched.items()}}

    return Selection(found._replace(summarise=summarise), protocol.selection, patience=patience)


def best_on_test(fitted: Fitted, metric: str, *, every: int = 1) -> tuple[list[dict[str, float]], Fitted]:
    """The test metrics of each seed at its epoch of the best `metric` on test, among every `every`-th epoch.

    Also the run as if test had been its validation: its best epochs and values, and "valid/…" in its history.
    Its variables are not those of these epochs.

    Raises:
      ValueError: no test was watched, or none of these epochs was evaluated.
    """
    name = f"valid/{TEST}{metric}"
    step = max(every, 1)
    entries = [entry for entry in fitted.history if (entry["epoch"] + 1) % step == 0 and name in entry]
    if every < 1 or not entries:
        raise ValueError(
            f"every={every}: must be at least 1, and one of {len(fitted.history)} epochs a multiple of it "
            f"that was evaluated with {name!r}"
        )
    values = np.array([entry[name] for entry in entries], float)  # [epochs, S]
    best = np.argmax(np.where(np.isnan(values), -np.inf, values), axis=0)
    watched = [key for key in entries[0] if key.startswith(f"valid/{TEST}")]
    metrics = [
        {key.removeprefix(f"valid/{TEST}"): float(entries[at][key][seed]) for key in watched}
        for seed, at in enumerate(best)
    ]
    as_chosen = fitted._replace(
        history=[_on_test(entry) for entry in fitted.history],
        best_epoch=[int(entries[at]["epoch"]) for at in best],
        best_value=[float(values[at, seed]) for seed, at in enumerate(best)],
    )
    return metrics, as_chosen


def _on_test(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of the history whose "valid/…" are the metrics of the test."""
    start = f"valid/{TEST}"
    own = {key: value for key, value in entry.items() if not key.startswith("valid/")}
    return own | {f"valid/{key.removeprefix(start)}": v for key, v in entry.items() if key.startswith(start)}
