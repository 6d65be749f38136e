"""Clicks whose conversions arrive late, and the examples that are known of them by a moment, in time order.

Times and delays are in one unit, such as days.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np


class Conversions(NamedTuple):
    """Clicks in ascending order of time, [N].

    columns: features of each. time: of the click. delay: from click to conversion; infinite where there is
    none, or none was seen. end: of the observation, after which nothing was seen; None: all conversions are
    known, however late, as in generated data.
    """

    columns: Mapping[str, np.ndarray]
    time: np.ndarray
    delay: np.ndarray
    end: float | None = None

    def check(self) -> Conversions:
        """The same clicks.

        Raises:
          ValueError: there is no click, lengths differ, times are not finite or descend, a delay is negative
            or NaN, or a click or conversion is after the end of the observation.
        """
        count = len(self.time)
        sizes = {name: len(column) for name, column in self.columns.items()} | {"delay": len(self.delay)}
        if not count or any(size != count for size in sizes.values()):
            raise ValueError(f"clicks: {count:,} times, and {sizes}; must be as many of each, at least one")
        if not np.isfinite(self.time).all():
            raise ValueError("time: NaN or infinite; every click needs the time when it happened")
        if (np.diff(self.time) < 0).any():
            first = int(np.argmax(np.diff(self.time) < 0)) + 1
            raise ValueError(
                f"time: click {first} at {self.time[first]:g} comes after one at {self.time[first - 1]:g}: "
                "sort the clicks by time"
            )
        wrong = ~(self.delay >= 0)
        if wrong.any():
            raise ValueError(
                f"delay: {self.delay[wrong][0]:g} of click {int(np.argmax(wrong))} ({wrong.sum():,} such): a "
                "conversion comes after its click; infinity means that there is none"
            )
        when = self.time + np.where(np.isfinite(self.delay), self.delay, 0.0)
        if self.end is not None and (when > self.end).any():
            late = int(np.argmax(when > self.end))
            raise ValueError(
                f"end={self.end:g}: click {late} or its conversion is at {when[late]:g}, after the "
                "observation ended; set the delay to infinity, or give the end of the log"
            )
        return self


class Examples(NamedTuple):
    """What is trained on, in the order of time in which it becomes known, [M].

    click: number of the click, int32. time: when the example is known. label: 1 for a conversion, float32.
    delay: from click to conversion, 0 where there is none, float32. elapsed: from click to the moment of the
    snapshot, or to that of the example in a stream, float32.
    """

    click: np.ndarray
    time: np.ndarray
    label: np.ndarray
    delay: np.ndarray
    elapsed: np.ndarray

    def columns(self, clicks: Conversions) -> dict[str, np.ndarray]:
        """Columns of a batch: features, `label/conversion`, `converted`, `delay`, `elapsed`."""
        known = {"label/conversion": self.label, "converted": self.label}
        known |= {"delay": self.delay, "elapsed": self.elapsed}
        return {name: column[self.click] for name, column in clicks.columns.items()} | known


def snapshot(clicks: Conversions, now: float, *, since: float = -np.inf) -> Examples:
    """Each click before `now`, with the conversion if it came by then.

    Raises:
      ValueError: there is no click from `since` on and before `now`, or `now` is after the end.
    """
    chosen = _clicks_between(clicks, since, now)
    return _examples(
        clicks, chosen, clicks.time[chosen], now, clicks.delay[chosen] <= now - clicks.time[chosen]
    )


def complete(clicks: Conversions, now: float, *, since: float = -np.inf, until: float = np.inf) -> Examples:
    """Each click from `since` on and before `now`, with its conversion however late, or by `until`.

    Raises:
      ValueError: as `snapshot`.
    """
    chosen = _clicks_between(clicks, since, now)
    converted = clicks.time[chosen] + clicks.delay[chosen] <= until
    return _examples(clicks, chosen, clicks.time[chosen], now, converted & np.isfinite(clicks.delay[chosen]))


def waited(clicks: Conversions, now: float, *, window: float) -> Examples:
    """Each click that is `window` old by `now`, with the conversion if it came within the window.

    Raises:
      ValueError: window < 0; as `snapshot`.
    """
    _check_wait("window", window)
    chosen = _clicks_between(clicks, -np.inf, now - window)
    return _examples(clicks, chosen, clicks.time[chosen] + window, now, clicks.delay[chosen] <= window)


def stream(clicks: Conversions, now: float, *, wait: float = 0.0) -> Examples:
    """Each click after `wait`, and again, as a positive, when its conversion arrives later than that.

    With wait=0 every click is a negative at once. What is known at `now` or later is left out.

    Raises:
      ValueError: wait < 0; as `snapshot`.
    """
    _check_wait("wait", wait)
    first = _clicks_between(clicks, -np.inf, now - wait)
    late = np.flatnonzero((clicks.delay > wait) & (clicks.time + clicks.delay < now))
    if wait == 0:
        at_once = np.zeros(len(first), bool)
        late = np.flatnonzero(clicks.time + clicks.delay < now)
    else:
        at_once = clicks.delay[first] <= wait
    click = np.concatenate([first, late])
    time = np.concatenate([clicks.time[first] + wait, clicks.time[late] + clicks.delay[late]])
    order = np.argsort(time, kind="stable")
    converted = np.concatenate([at_once, np.ones(len(late), bool)])[order]
    return _examples(clicks, click[order], time[order], time[order], converted)


def observed_labels(
    clicks: Conversions, now: float, *, deadline: float
) -> tuple[Examples, dict[str, np.ndarray]]:
    """What FSIW's models learn: a snapshot `deadline` before `now`, and what is known of it now.

    Returns:
      The snapshot, and columns: `label/observed`, whether a conversion that is known now was seen then, in
      `space/observed`, the clicks that have one; `label/negative`, whether there is none by now, in
      `space/negative`, the clicks of which none was seen then.

    Raises:
      ValueError: deadline < 0; as `snapshot`.
    """
    _check_wait("deadline", deadline)
    then = snapshot(clicks, now - deadline)
    known = clicks.time[then.click] + clicks.delay[then.click] <= now
    return then, _labels(observed=(then.label > 0, known), negative=(~known, then.label == 0))


def delayed_labels(
    clicks: Conversions, now: float, *, wait: float, window: float
) -> tuple[Examples, dict[str, np.ndarray]]:
    """What ES-DFM's models learn, of clicks that are `window` old by `now`.

    Returns:
      The clicks, and columns: `label/delayed`, whether a conversion came after `wait` and by `now`, in
      `space/delayed`, all of them; `label/negative`, whether there is none by now, in `space/negative`, the
      clicks without one within `wait`.

    Raises:
      ValueError: wait < 0, or the window is not longer; as `snapshot`.
    """
    _check_wait("wait", wait)
    if not window > wait:
        raise ValueError(
            f"window={window:g}: must be longer than wait={wait:g}, after which conversions count"
        )
    found = complete(clicks, now - window, until=now)
    delay = clicks.delay[found.click]
    known, early = found.label > 0, delay <= wait
    everywhere = np.ones(len(known), bool)
    return found, _labels(delayed=(known & ~early, everywhere), negative=(~known, ~early))


def _labels(**columns: tuple[np.ndarray, np.ndarray]) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for name, (label, space) in columns.items():
        if not space.any() or len(set(label[space])) < 2:
            raise ValueError(
                f"label {name}: of {space.sum():,} clicks that have it all are the same; give more "
                "clicks, or other waits"
            )
        found |= {f"label/{name}": (label & space).astype(np.float32), f"space/{name}": space}
    return found


def _clicks_between(clicks: Conversions, since: float, now: float) -> np.ndarray:
    clicks.check()
    if clicks.end is not None and now > clicks.end:
        raise ValueError(f"now={now:g}: is after the end of the observation, {clicks.end:g}")
    low, high = np.searchsorted(clicks.time, [since, now], side="left")
    if low >= high:
        raise ValueError(
            f"no click from {since:g} on and before {now:g}; clicks are at {clicks.time[0]:g}.."
            f"{clicks.time[-1]:g}"
        )
    return np.arange(low, high, dtype=np.int32)


def _check_wait(name: str, value: float) -> None:
    if not value >= 0:
        raise ValueError(f"{name}={value:g}: must be at least 0")


def _examples(
    clicks: Conversions, click: np.ndarray, time: np.ndarray, seen: float | np.ndarray, converted: np.ndarray
) -> Examples:
    delay = np.where(converted, clicks.delay[click], 0.0).astype(np.float32)
    elapsed = (seen - clicks.time[click]).astype(np.float32)
    return Examples(click.astype(np.int32), time, converted.astype(np.float32), delay, elapsed)
