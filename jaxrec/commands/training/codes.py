"""Models that name items code by code: codes are learned before, from vectors of items, and kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxrec.commands.training.items import asked, prepared, protocol_of
from jaxrec.commands.training.options import recipe_of
from jaxrec.commands.training.prepared import Prepared
from jaxrec.commands.training.sequences import Events, read, row_name
from jaxrec.index.semantic_ids import usage
from jaxrec.protocols import next_item
from jaxrec.recipes.tiger import check_width, with_ids
from jaxrec.recipes.trainable_apart import SemanticIdModel
from jaxrec.tasks import semantic_ids as task
from jaxrec.train.trial import Trial
from jaxrec.tuning.reads import optimiser
from jaxrec.types import Tested, Variables

__all__ = ["prepare", "read"]


def prepare(
    name: str, entry: SemanticIdModel, options: Any, events: Events, *, trial: Trial | None = None
) -> Prepared:
    """Learns the codes, and builds the model and what it is trained by. trial: of a search of settings.

    Raises:
      ValueError: it is to start from another run, whose codes are others.
    """
    if options.warm_start:
        raise ValueError(
            f"warm_start={options.warm_start!r}: a run of {name} makes codes of its own, and the parameters "
            "of another run belong to the codes of that run; train it anew"
        )
    recipe = recipe_of(options, entry.recipe)
    protocol = protocol_of(events.data, options, "ce of codes")
    check_width(protocol, recipe)
    ids = entry.ids(events.data, events.vectors, recipe)
    data, module = with_ids(events.data, ids), entry.module(ids, recipe)
    ranked, served = (make(module, width=recipe.width) for make in (task.scorer, task.resident_scorer))

    def train(**given: Any) -> Any:
        return entry.train(module, data, protocol, optimiser(entry.optimiser, recipe, trial), recipe, **given)

    def test(variables: Variables) -> Tested:
        return next_item.run_test(ranked, data, protocol, variables, **asked(options))

    made = prepared(
        row_name(name, "ce", events.vectors),
        options,
        data,
        protocol,
        module=served,
        train=train,
        test=test,
        finished=lambda variables: (served, task.with_ids(variables, ids)),
    )
    return made._replace(notes=[*made.notes, describe_codes(usage(ids))])


def describe_codes(use: Mapping[str, float]) -> str:
    """How many codes of each level items have, and how many items share theirs."""
    levels = [value for name, value in use.items() if name.startswith("used_codes/")]
    shown = ", ".join(f"{value:.0f}" for value in levels)
    return (
        f"codes: {shown} are used of each level; {use['collisions']:.1%} of the items share theirs with "
        f"others, {use['largest_bucket']:.0f} at most, and are told apart by the last digit"
    )
