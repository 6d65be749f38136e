"""How much a study may spend: trials, epochs of training, or minutes."""

from __future__ import annotations

import re
from typing import NamedTuple

TRIALS = 40


class Limits(NamedTuple):
    """Bounds of a study; the first that is reached ends it. None: no bound of this kind.

    epochs: over all trials; several trials that train side by side each count theirs. An evaluation of a
    method that is not trained counts as one epoch. minutes: of training, evaluation and compilation.
    """

    trials: int | None = TRIALS
    epochs: int | None = None
    minutes: float | None = None

    def shared_by(self, studies: int) -> Limits:
        """The limits of each of several studies that share a budget; each may have all trials."""
        epochs = None if self.epochs is None else self.epochs // studies
        return Limits(self.trials, epochs, None if self.minutes is None else self.minutes / studies)


def limits(trials: int = 0, budget: str = "") -> Limits:
    """Limits from options. trials: 0 stands for 40, or with a budget for as many as it allows.

    >>> limits(20, "90m")
    Limits(trials=20, epochs=None, minutes=90.0)
    >>> limits(0, "200e")
    Limits(trials=None, epochs=200, minutes=None)

    Raises:
      ValueError: trials is negative, or the budget is no positive number of minutes (m) or epochs (e).
    """
    if trials < 0:
        raise ValueError(f"trials={trials}: must be at least 1, or 0 for {TRIALS} or what the budget allows")
    if not budget:
        return Limits(trials or TRIALS)
    found = re.fullmatch(r"(\d+)\s*e(?:pochs?)?|(\d+(?:\.\d+)?)\s*m(?:in(?:utes?)?)?", budget.strip())
    if found is None or float(found[1] or found[2]) <= 0:
        raise ValueError(f"budget={budget!r}: must be minutes or epochs, such as 30m or 200e")
    if found[1]:
        return Limits(trials or None, int(found[1]))
    return Limits(trials or None, None, float(found[2]))
