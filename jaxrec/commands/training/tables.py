"""Models of labelled rows: click models of one label, multi-task models of several."""

from __future__ import annotations

import dataclasses
import functools
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrec.commands.training.options import adam, recipe_of
from jaxrec.commands.training.prepared import BaselineRow, Prepared
from jaxrec.commands.training.source import Source, as_file_name, read_labelled
from jaxrec.commands.training.warm_start import known_values
from jaxrec.data.own_tables import Labelled
from jaxrec.data.tables.impressions import ImpressionSplit
from jaxrec.optim.loss_weighting import static
from jaxrec.protocols import impressions
from jaxrec.protocols.calibrating import of_option
from jaxrec.protocols.gates import expert_shares
from jaxrec.recipes.trainable import Table, TableModel
from jaxrec.tasks.multitask import Target, multitask
from jaxrec.tasks.objectives import loss_name
from jaxrec.train.evaluate import impression_metrics
from jaxrec.train.parallel import axis_name
from jaxrec.train.trial import Trial
from jaxrec.tuning.reads import optimiser
from jaxrec.types import Variables


class Rows(NamedTuple):
    """Labelled rows, as they were read and as training reads them."""

    labelled: Labelled
    data: impressions.Data


def read(options: Any, source: Source) -> Rows:
    """Reads and splits the rows of a file."""
    labelled = read_labelled(source, options)
    return Rows(labelled, impressions.resident(labelled.split))


def prepare(
    name: str, entry: TableModel, options: Any, rows: Rows, *, trial: Trial | None = None
) -> Prepared:
    """Builds a model and what it is trained by. trial: of a search of settings."""
    recipe = recipe_of(options, entry.recipe)
    (labelled, data), split = rows, rows.labelled.split
    table, tasks = split.impressions, split.impressions.tasks
    entry.check(table)
    outputs, extra = entry.outputs(tasks), entry.extra_losses(tasks, recipe)
    targets = impressions.targets(data, outputs)
    used = {name: term for name, term in extra.items() if term.weight}
    task = multitask(
        entry.module(Table(table, axis_name(options.num_devices)), recipe),
        targets,
        terms={name: term.loss for name, term in used.items()},
    )
    impressions.num_parameters(task, data)  # an error of the model is raised here
    without = [term.without for term in extra.values() if not term.weight]
    selection = "auc" if len(targets) > 1 else f"auc/{targets[0].name}"
    losses = [*dict.fromkeys(loss_name(target.loss) for target in targets), *used]
    weights = {t.name: 1.0 for t in targets} | {name: term.weight for name, term in used.items()}
    columns = {name: kind for name, kind in labelled.kinds.items() if kind in ("categorical", "numeric")}

    module = entry.module(Table(table), recipe)
    return Prepared(
        name="+".join([name, *without, *([options.calibrate] if options.calibrate else [])]),
        dataset=as_file_name(data.name),
        module=module,
        protocol=impressions.protocol(data, selection, " + ".join(losses)),
        train=functools.partial(
            impressions.train,
            data,
            task,
            targets,
            selection,
            optimiser(adam, recipe, trial),
            epochs=recipe.epochs,
            batch_size=recipe.batch_size,
            patience=recipe.patience or None,
            weighting=static(weights),
        ),
        test=functools.partial(impressions.run_test, data, task, targets, num_devices=options.num_devices),
        calibrate=of_option(options.calibrate, data, task, targets, options.num_devices),
        baselines=lambda: [base_rate(data, split, targets, options.seeds)],
        kept={
            "kind": "table",
            "encoders": labelled.encoders,
            "outputs": dict(outputs),
            "columns": columns,
        },
        vocabularies=known_values(labelled.encoders),
        shapes=functools.partial(_shapes_of, entry, recipe, rows, targets),
        shares=lambda variables: expert_shares(module, variables, data.validation, [t.name for t in targets]),
        of=f"{len(split.validation):,} validation rows",
        notes=[describe_table(split, data.num_examples)],
        next_command=f"jaxrec score RUN {shlex.quote(options.data)} --out scores.csv"
        + (f" --delimiter {shlex.quote(options.delimiter)}" if options.delimiter else ""),
    )


def _shapes_of(
    entry: TableModel, recipe: Any, rows: Rows, targets: Sequence[Target], more: Mapping[str, int]
) -> Variables:
    """Shapes of a model's variables where vocabularies have so many `more` values."""
    table = rows.labelled.split.impressions
    fields = tuple(
        field._replace(vocab_size=field.vocab_size + more.get(field.vocabulary, 0)) for field in table.fields
    )
    larger = Table(dataclasses.replace(table, fields=fields))
    batch = {name: column[:1] for name, column in rows.data.columns.items()}
    task = multitask(entry.module(larger, recipe), targets)
    found: Variables = jax.eval_shape(lambda: task.init(jax.random.key(0), batch))
    return found


def base_rate(
    data: impressions.Data, split: ImpressionSplit, targets: Sequence[Target], seeds: Sequence[int]
) -> BaselineRow:
    """Predicts for every row the share of training rows that have the label."""
    logits = []
    for target in targets:
        labels = data.columns[target.label]
        space = data.columns[target.space] if target.space else np.ones(len(labels), bool)
        rate = float(np.mean(labels[space], dtype=np.float64))
        logits.append(np.log(rate / (1 - rate)))
    shape = (*data.test["mask"].shape, len(targets))
    scores = np.broadcast_to(np.asarray(logits, np.float32), shape)
    measure = impression_metrics([t.name for t in targets], calibration=True)
    found: Mapping[str, float] = measure(scores, data.test)
    return BaselineRow("base-rate", [dict(found)] * len(seeds), impressions.protocol(data, "none", ""))


def describe_table(split: ImpressionSplit, train: int) -> str:
    """How many rows there are, and how often each label is 1."""
    table = split.impressions
    shares = ", ".join(f"{task} {np.mean(label):.1%}" for task, label in table.labels.items())
    return (
        f"{table.name}: {table.num_rows:,} rows, {len(table.fields)} columns, {split.rule}: {train:,} for "
        f"training, {len(split.validation):,} for validation, {len(split.test):,} for test; labels: {shares}"
    )
