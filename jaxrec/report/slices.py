"""Parts of the test queries: by the length of the history, and by the popularity of the target.

They are read from metrics with names like `ndcg@10/tail`, which rankings have that were asked for more than
hits; `share/tail` is then the share of the queries.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

Values = Sequence[float]  # one for each seed


class Slice(NamedTuple):
    """One part. name: in words; share: of the queries, None if unknown; metrics: a value per seed."""

    name: str
    share: float | None
    metrics: Mapping[str, Values]


class Slices(NamedTuple):
    """Parts by what divides the queries, such as the length of the history, each group in its order."""

    groups: Mapping[str, Sequence[Slice]]

    def metric(self) -> str:
        """The metric to show: NDCG where it was measured, else the first."""
        names = [name for group in self.groups.values() for part in group for name in part.metrics]
        return next((name for name in names if name.startswith("ndcg@")), names[0] if names else "")


LENGTH, POPULARITY, OTHER = "Length of the history", "Popularity of the target", "Groups of users"
_POPULARITY = {
    "head": "head: the most popular items",
    "tail": "tail: the other items",
    "cold": "cold: items without a training event",
    "warm": "warm: items with training events",
}


def slices_of_metrics(metrics: Mapping[str, Values]) -> Slices | None:
    """The slices among a result's metrics, None if there is none.

    >>> found = slices_of_metrics({"share/tail": [0.4], "ndcg@10/tail": [0.1], "ndcg@10": [0.2]})
    >>> found.groups
    {'Popularity of the target': [Slice(name='tail: the other items', share=0.4, metrics={'ndcg@10': [0.1]})]}
    """
    found: dict[str, list[Slice]] = {LENGTH: [], POPULARITY: [], OTHER: []}
    for name in (name.removeprefix("share/") for name in metrics if name.startswith("share/")):
        of_slice = {
            metric.removesuffix(f"/{name}"): values
            for metric, values in metrics.items()
            if metric.endswith(f"/{name}") and not metric.startswith("share/")
        }
        share = metrics[f"share/{name}"][0]
        length = re.fullmatch(r"length_(\d+)(?:-(\d+)|\+)", name)
        if length is not None:
            low, high = length.groups()
            words = f"{low} events or more" if high is None else f"{low} to {high} events"
            found[LENGTH].append(Slice(words, share, of_slice))
        elif name in _POPULARITY:
            found[POPULARITY].append(Slice(_POPULARITY[name], share, of_slice))
        else:
            found[OTHER].append(Slice(name.replace("_", " "), share, of_slice))
    groups = {group: parts for group, parts in found.items() if parts}
    return Slices(groups) if groups else None
