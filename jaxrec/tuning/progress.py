"""What a study sees of trials while they train side by side: their curves, and who is pruned or stopped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxrec.tuning.records import Record


class Progress:
    """The trials of one group.

    trials: the library's, to which values are reported. epochs_left, seconds_left: of the study's budget
    when the group begins; the group ends before it would spend more epochs.
    """

    def __init__(self, trials: Sequence[Any], *, epochs_left: float, seconds_left: float) -> None:
        self.trials = trials
        self.epochs_left, self.seconds_left = epochs_left, seconds_left
        self.states: list[str] = [""] * len(trials)
        self.curves: list[list[list[float]]] = [[] for _ in trials]
        self.lengths = [0] * len(trials)
        self.epochs, self.seconds = 0, 0.0

    def observe(
        self,
        values: np.ndarray | None,
        *,
        seconds: float,
        complete: bool,
        diverged: Sequence[bool] | None = None,
    ) -> bool:
        """Takes note of one more epoch; False if the group ends here.

        values: the best of the validation metric so far, [trials, seeds]; None: this epoch was not evaluated.
        seconds: spent by the group so far. complete: whether training ends with this epoch of its own.
        diverged: which trials have.
        """
        self.epochs += 1
        self.seconds = seconds
        for i, gone in enumerate(diverged or ()):
            if gone and not self.states[i]:
                self._end(i, "diverged")
        if values is not None:
            self._report(values, judge=not complete)
        if complete:
            self._end_all("complete")
        elif (self.epochs + 1) * len(self.trials) > self.epochs_left or seconds >= self.seconds_left:
            self._end_all("stopped")
        return not all(self.states)

    def _report(self, values: np.ndarray, *, judge: bool) -> None:
        means = values.mean(axis=1, dtype=np.float64)
        alive = [i for i, state in enumerate(self.states) if not state]
        for i in alive:
            self.curves[i].append([self.epochs, float(means[i])])
            self.trials[i].report(float(means[i]), step=self.epochs)
        for i in alive if judge else ():
            if self.trials[i].should_prune():
                self._end(i, "pruned")

    def _end(self, trial: int, state: str) -> None:
        self.states[trial], self.lengths[trial] = state, self.epochs

    def _end_all(self, state: str) -> None:
        for i, ended in enumerate(self.states):
            if not ended:
                self._end(i, state)

    def records(self) -> list[Record]:
        """The trials, without their settings.

        A trial that was pruned while others of its group went on has spent their epochs too.
        """
        if not all(self.states):
            raise ValueError("the trials' training ended without saying that it was complete")
        count = len(self.trials)
        return [
            Record(
                number=trial.number,
                settings={},
                state=state,
                value=curve[-1][1] if curve and state != "diverged" else None,
                ended=length,
                epochs=self.epochs,
                seconds=self.seconds / count,
                group=self.trials[0].number,
                validation=curve,
            )
            for trial, state, curve, length in zip(
                self.trials, self.states, self.curves, self.lengths, strict=True
            )
        ]
