"""Click models of events: each event, and a sampled item that was not clicked, after the events before."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrec.commands.training.options import adam, recipe_of
from jaxrec.commands.training.prepared import BaselineRow, Prepared
from jaxrec.commands.training.source import Source, as_file_name, load_sequences
from jaxrec.data.events.interactions import Sequences
from jaxrec.data.tables.click_histories import Clicks, next_clicks
from jaxrec.optim.loss_weighting import static
from jaxrec.protocols import impressions
from jaxrec.protocols.calibrating import of_option
from jaxrec.recipes.trainable import ClickModel
from jaxrec.serve.run_folder import Histories
from jaxrec.tasks.multitask import Target
from jaxrec.train.evaluate import impression_metrics
from jaxrec.train.parallel import axis_name
from jaxrec.train.trial import Trial
from jaxrec.tuning.reads import optimiser
from jaxrec.types import Variables

CLICK = Target("click", None, "label/click")
SELECTION = "auc/click"


class Events(NamedTuple):
    """Events of users, and the examples that are made of them."""

    sequences: Sequences
    clicks: Clicks


def read(options: Any, source: Source) -> Events:
    """Reads and splits the events of a file, and samples items that were not clicked."""
    sequences = load_sequences(source, options)
    return Events(sequences, next_clicks(sequences, split=options.split))


def prepare(
    name: str, entry: ClickModel, options: Any, events: Events, *, trial: Trial | None = None
) -> Prepared:
    """Builds a model and what it is trained by. trial: of a search of settings."""
    recipe = recipe_of(options, entry.recipe)
    sequences, clicks = events
    data = impressions.resident_clicks(clicks, length=recipe.length)
    axis = axis_name(options.num_devices)
    learned = entry.learn(entry.module(clicks, recipe, axis), clicks, recipe)
    _shapes_of(learned.task, data)  # an error of the model is raised here
    vocabulary = {"item": np.asarray(sequences.item_ids), "user": np.asarray(sequences.user_ids)}

    def shapes(more: Mapping[str, int]) -> Variables:
        larger = dataclasses.replace(
            clicks,
            num_items=clicks.num_items + more.get("item", 0),
            num_users=clicks.num_users + more.get("user", 0),
        )
        return _shapes_of(entry.learn(entry.module(larger, recipe, axis), larger, recipe).task, data)

    return Prepared(
        name=f"{name}+{options.calibrate}" if options.calibrate else name,
        dataset=as_file_name(data.name),
        module=entry.module(clicks, recipe, None),
        protocol=impressions.protocol(data, SELECTION, learned.loss),
        train=functools.partial(
            impressions.train,
            data,
            learned.task,
            [CLICK],
            SELECTION,
            optimiser(adam, recipe, trial),
            epochs=recipe.epochs,
            batch_size=recipe.batch_size,
            patience=recipe.patience or None,
            weighting=static(dict(learned.weights)),
        ),
        test=functools.partial(
            impressions.run_test, data, learned.task, [CLICK], num_devices=options.num_devices
        ),
        calibrate=of_option(options.calibrate, data, learned.task, [CLICK], options.num_devices),
        baselines=lambda: [popularity(data, clicks, len(options.seeds))],
        kept={
            "kind": "clicks",
            "vocabulary": vocabulary,
            "histories": Histories(sequences.items, sequences.offsets, sequences.times),
            "outputs": {"click": None},
            "length": recipe.length,
            "columns": {options.user: "user", options.item: "item"},
        },
        vocabularies=vocabulary,
        shapes=shapes,
        notes=[describe_clicks(clicks)],
        next_command=(
            f"jaxrec score RUN pairs.csv --out scores.csv   (columns {options.user}, {options.item}; "
            f"{options.user} {vocabulary['user'][0]} is one)"
        ),
    )


def _shapes_of(task: Any, data: impressions.Data) -> Variables:
    """Shapes of a model's variables, from its first batch."""

    def first(columns: Any) -> Any:
        examples = {"example": np.zeros(2, np.int32), "mask": np.ones(2, bool)}
        return task.init(jax.random.key(0), task.prepare(jax.random.key(0), examples, columns))

    found: Variables = jax.eval_shape(first, data.columns)
    return found


def popularity(data: impressions.Data, clicks: Clicks, num_seeds: int) -> BaselineRow:
    """The share of clicks among the training examples of an item, one click and one other added to each."""
    item, label = clicks.item[clicks.train], clicks.click[clicks.train]
    shown = np.bincount(item, minlength=clicks.num_items + 1)
    clicked = np.bincount(item, label, minlength=clicks.num_items + 1)
    log_odds = np.log((clicked + 1) / (shown - clicked + 1)).astype(np.float32)
    found = impression_metrics(["click"], group=data.group, calibration=True)(
        log_odds[data.test["item"]][..., None], data.test
    )
    return BaselineRow("popularity", [found] * num_seeds, impressions.protocol(data, "none", ""))


def describe_clicks(clicks: Clicks) -> str:
    """How many examples there are."""
    return (
        f"{clicks.name}: {clicks.num_users:,} users, {clicks.num_items:,} items; {clicks.rule}: "
        f"{len(clicks.train):,} training, {len(clicks.validation):,} validation and {len(clicks.test):,} "
        "test examples, half of them sampled items that were not clicked"
    )
