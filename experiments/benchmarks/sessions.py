"""Click sessions: an epoch of STAMP and of GRU4Rec on Diginetica.

The settings are those of `experiments.sequential.stamp`. The first 40 steps of an epoch are timed, and the
result is scaled to the whole epoch.
"""

from __future__ import annotations

from collections.abc import Iterator

from experiments.benchmarks.timing import Figure, time_epoch
from experiments.sequential import stamp as paper
from jaxrec.data.events.sessions import split_sessions
from jaxrec.optim.loss_weighting import static
from jaxrec.protocols import sessions
from jaxrec.recipes import stamp as recipes

STEPS = 40
ROWS = ("stamp-ce", "gru4rec-ce")


def figures(repeats: int, tiny: bool) -> Iterator[Figure]:
    """Seconds of an epoch of each."""
    setting = paper.complete_settings(paper.Config(dataset="diginetica", tiny=tiny))
    split = split_sessions(paper.load(setting), share=setting.share, by=setting.validation)
    data = sessions.resident(split)
    for row in ROWS:
        how = paper.training_of(paper.ROWS[row], data, setting)
        whole = paper.ROWS[row].whole
        yield from time_epoch(
            f"sessions/{row.removesuffix('-ce')}_epoch",
            how.task,
            static(),
            how.plan,
            data.columns,
            repeats,
            tx=recipes.adam(setting) if whole else recipes.summed_adam(setting),
            steps=1 if tiny else STEPS,
        )
