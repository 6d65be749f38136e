"""Watch times as quantiles within groups of similar duration, and back.

Zhan et al., KDD 2022, arXiv:2206.06003, section 4: a video's duration decides both how it is shown and how
long it is watched, so watch times are compared among videos of like duration only.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class DurationGroups(NamedTuple):
    """M groups of durations, and the watch times of each.

    edges: of durations between groups, ascending, float32 [M - 1]; group m has edges[m - 1] <= d < edges[m].
    levels: of the table, evenly from 0 to 1, float32 [Q]. times: the watch time at each level of each group,
    rising along the levels, float32 [M, Q].
    """

    edges: np.ndarray
    levels: np.ndarray
    times: np.ndarray

    @property
    def num_groups(self) -> int:
        return len(self.times)

    def group(self, duration: np.ndarray) -> np.ndarray:
        """Numbers of the groups, int32 [N]; durations beyond those of training are in the first or last.

        Raises:
          ValueError: a duration is NaN, which would be in the last.
        """
        missing = np.flatnonzero(np.isnan(duration))
        if missing.size:
            raise ValueError(
                f"duration: missing (NaN) at position {missing[0]} ({missing.size:,} such); fill it in or "
                "remove it"
            )
        return np.searchsorted(self.edges, np.asarray(duration, np.float32), side="right").astype(np.int32)

    def quantile(self, watched: np.ndarray, group: np.ndarray) -> np.ndarray:
        """The level at which the table of each watch time's group has it, float32 [N], in 0..1.

        A watch time below or above all of its group is at the first or last level. Where a table is flat,
        because many watch times are equal, it is the middle of the flat part.
        """
        found = np.empty(len(watched), np.float32)
        watched = np.asarray(watched, np.float32)  # as the tables are, so that equal times are found in them
        for number, table in enumerate(self.times):
            of_group = group == number
            ranks = [np.searchsorted(table, watched[of_group], side=side) for side in ("left", "right")]
            low, high = ranks
            flat = 0.5 * (self.levels[np.minimum(low, len(table) - 1)] + self.levels[np.maximum(high - 1, 0)])
            between = np.interp(watched[of_group], table, self.levels)
            found[of_group] = np.where(high > low, flat, between)
        return found

    def time(self, quantile: np.ndarray, group: np.ndarray) -> np.ndarray:
        """The watch time of a level in each group, float32 [N]; between levels on a straight line."""
        found = np.empty(len(quantile), np.float32)
        for number, table in enumerate(self.times):
            of_group = group == number
            found[of_group] = np.interp(quantile[of_group], self.levels, table)
        return found


def duration_groups(
    duration: np.ndarray, watched: np.ndarray, *, num_groups: int = 30, num_levels: int = 1001
) -> DurationGroups:
    """Groups of about equally many training examples each, and their tables of watch times.

    Equal durations are in one group, so that there may be fewer groups than asked for. A table inverts the
    empirical distribution: the i-th smallest of n watch times, from 1, stands at (i - 1/2) / n, and the least
    and the largest also at 0 and 1.

    Args:
      duration: of the training examples, in any unit, [N]. watched: their watch times, [N].
      num_groups: M, at most. num_levels: Q; with fewer levels than examples of a group the table is coarser.

    Raises:
      ValueError: a count is out of range, there is no example, or a value is not finite or negative.
    """
    if num_groups < 1 or num_levels < 2:
        raise ValueError(
            f"num_groups={num_groups}, num_levels={num_levels}: must be at least 1 and at least 2"
        )
    if len(duration) != len(watched) or not len(duration):
        raise ValueError(
            f"{len(duration):,} durations and {len(watched):,} watch times: one each, at least 1"
        )
    for name, values in (("duration", duration), ("watch time", watched)):
        bad = np.flatnonzero(~np.isfinite(values) | (np.asarray(values) < 0))
        if bad.size:
            raise ValueError(f"{name} {values[bad[0]]} at position {bad[0]}: must be finite, at least 0")
    ordered = np.sort(np.asarray(duration, np.float32))
    cuts = np.ceil(np.arange(1, num_groups) * len(ordered) / num_groups).astype(int)
    edges = np.unique(ordered[np.minimum(cuts, len(ordered) - 1)])
    edges = edges[edges > ordered[0]]
    levels = np.linspace(0.0, 1.0, num_levels)
    group = np.searchsorted(edges, np.asarray(duration, np.float32), side="right")
    times = np.empty((len(edges) + 1, num_levels), np.float32)
    for number in range(len(edges) + 1):
        of_group = np.sort(np.asarray(watched, np.float64)[group == number])
        at = (np.arange(len(of_group)) + 0.5) / len(of_group)
        times[number] = np.interp(levels, at, of_group)
    return DurationGroups(edges, levels.astype(np.float32), times)
