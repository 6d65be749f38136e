"""What the baselines count."""

from __future__ import annotations

from typing import Protocol

from jaxrec.data.events.training_events import TrainingEvents


class EventSplit(Protocol):
    """A split that says what training may read."""

    def training_events(self) -> TrainingEvents: ...


class EventData(Protocol):
    """The data of a protocol: `protocols.next_item.Data`, `protocols.sessions.Data`."""

    @property
    def split(self) -> EventSplit: ...


def training_events(data: EventData | TrainingEvents) -> TrainingEvents:
    """The training events of a protocol's data, or the events that are given."""
    return data if isinstance(data, TrainingEvents) else data.split.training_events()
