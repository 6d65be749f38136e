"""Click models of events: each event, and a sampled item that was not clicked, after the events before."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrec.commands.training.attributes import Categories, read_categories
from jaxrec.commands.training.options import adam, recipe_of
from jaxrec.commands.training.prepared import BaselineRow, Prepared
from jaxrec.commands.training.source import Source, as_file_name, load_sequences
from jaxrec.data.events.interactions import Sequences
from jaxrec.data.tables.click_histories import NO_SIDE_INFO, Clicks, SideInfo, next_clicks
from jaxrec.nn.layers.item_columns import WithItemColumns
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
CATEGORY = "category"  # of the side information


class Events(NamedTuple):
    """Events of users, the examples that are made of them, and categories of items for models that read
    them."""

    sequences: Sequences
    clicks: Clicks
    categories: Categories | None = None


def read(options: Any, source: Source) -> Events:
    """Reads and splits the events of a file, samples items that were not clicked, and reads categories."""
    sequences = load_sequences(source, options)
    if not hasattr(options, "category"):
        return Events(sequences, next_clicks(sequences, split=options.split))
    categories = read_categories(options, np.asarray(sequences.item_ids))
    side_info = SideInfo({CATEGORY: categories.of}, {}, {CATEGORY: len(categories.raw)})
    return Events(sequences, next_clicks(sequences, split=options.split, side_info=side_info), categories)


def prepare(
    name: str, entry: ClickModel, options: Any, events: Events, *, trial: Trial | None = None
) -> Prepared:
    """Builds a model and what it is trained by. trial: of a search of settings."""
    recipe = recipe_of(options, entry.recipe)
    sequences, clicks, categories = events
    data = impressions.resident_clicks(clicks, length=recipe.length)
    axis = axis_name(options.num_devices)
    learned = entry.learn(entry.module(clicks, recipe, axis), clicks, recipe)
    _shapes_of(learned.task, data)  # an error of the model is raised here
    vocabulary = {"item": np.asarray(sequences.item_ids), "user": np.asarray(sequences.user_ids)}
    vocabulary |= {} if categories is None else {CATEGORY: categories.raw}

    def shapes(more: Mapping[str, int]) -> Variables:
        grown = larger(clicks, more)
        return _shapes_of(entry.learn(entry.module(grown, recipe, axis), grown, recipe).task, data)

    kept_as, finished = _served(entry.module(clicks, recipe, None), clicks, categories)
    return Prepared(
        name=f"{name}+{options.calibrate}" if options.calibrate else name,
        dataset=as_file_name(data.name),
        module=kept_as,
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
        finished=finished,
        notes=[describe_clicks(clicks)],
        next_command=(
            f"jaxrec score RUN pairs.csv --out scores.csv   (columns {options.user}, {options.item}; "
            f"{options.user} {vocabulary['user'][0]} is one)"
        ),
    )


def _served(
    module: Any, clicks: Clicks, categories: Categories | None
) -> tuple[Any, Callable[[Variables], tuple[Any, Variables]] | None]:
    """The module that a run keeps, and what makes it and its variables of those that were trained."""
    if categories is None:
        return module, None
    served, of = WithItemColumns(module, (CATEGORY,), clicks.num_items), categories.of

    def finished(variables: Variables) -> tuple[Any, Variables]:
        seeds = jax.tree.leaves(variables)[0].shape[0]
        column = np.broadcast_to(of, (seeds, *of.shape))
        return served, {**variables, "constants": {CATEGORY: column}}

    return served, finished


def larger(clicks: Clicks, more: Mapping[str, int]) -> Clicks:
    """The same examples in larger vocabularies. more: {"user", "item" or "category": number of more ids}."""
    items, side_info = more.get("item", 0), NO_SIDE_INFO
    if CATEGORY in clicks.side_info.items:
        column = np.pad(clicks.side_info.items[CATEGORY], (0, items), mode="maximum")
        known = clicks.side_info.item_sizes()[CATEGORY] - 1 + more.get(CATEGORY, 0)
        side_info = SideInfo({CATEGORY: column}, {}, {CATEGORY: known})
    return dataclasses.replace(
        clicks,
        num_items=clicks.num_items + items,
        num_users=clicks.num_users + more.get("user", 0),
        side_info=side_info,
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
