"""Numbers that others publish for a row of ours, and whether the two compare."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Published(NamedTuple):
    """What was published for a row.

    values: {metric: value}, empty where nothing was. source: where they stand. incomparable: why ours is not
    measured alike, so that no difference is printed; "" where the two compare.
    """

    values: Mapping[str, float]
    source: str
    incomparable: str = ""

    def fields(self) -> dict[str, Any]:
        """The arguments of `experiments.saving.save` that hold them."""
        return {"published": dict(self.values), "source": self.source, "incomparable": self.incomparable}


NONE = Published({}, "")


def published(names: tuple[str, ...], source: str, *values: float) -> Published:
    """Published values of the named metrics, in their order."""
    return Published(dict(zip(names, values, strict=True)), source)
