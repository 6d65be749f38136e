"""The rows of `experiments.floors` that count neighbours, on examples with a label.

The label of an example is an event after its last one, so that a method scores labels as it scores items.
Logits are log(score + share of the label in training), of scores of 0 and more.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from experiments import floors
from experiments.floors import Fit
from jaxrec.data.events.training_events import TrainingEvents
from jaxrec.protocols import profiles
from jaxrec.train.evaluate import evaluate_and_keep, make_scores
from jaxrec.types import Array, Batch, Context, Evaluation, Protocol, Scorer, Tested, Variables

NEIGHBOURS = {name: made for name, made in floors.RANKING.items() if name not in ("random", "popularity")}


class Labelled(NamedTuple):
    """Examples as the methods read them."""

    profile: profiles.Data

    @property
    def split(self) -> Labelled:
        return self

    @property
    def columns(self) -> dict[str, np.ndarray]:
        return self.profile.columns

    def training_events(self) -> TrainingEvents:
        """The events of the training examples, each followed by its label as the item num_items + label."""
        columns, count = self.columns, self.profile.num_items
        start, length, label = (columns[name][self.profile.train] for name in ("start", "length", "label"))
        end = np.cumsum(length + 1)  # one more for the label
        group = np.repeat(np.arange(len(end)), length + 1)
        item = np.empty(end[-1], np.int32)
        last = np.zeros(len(item), bool)
        last[end - 1] = True
        place = np.arange(len(item)) - np.repeat(end - length - 1, length + 1)
        item[~last] = columns["items"][(np.repeat(start, length + 1) + place)[~last]]
        item[last] = count + label
        return TrainingEvents(group, item, count + len(self.profile.classes))


def evaluation(
    model: Any, data: Labelled, protocol: Protocol, part: Literal["validation", "test"]
) -> Evaluation:
    """Scores the examples of a part. model: a Scorer, or a Baseline of one."""
    profile = data.profile
    scorer = model if isinstance(model, Scorer) else model.model
    label = profile.columns["label"]
    share = np.bincount(label[profile.train], minlength=len(profile.classes) + 1)[1:] + 1.0
    share = (share / share.sum()).astype(np.float32)

    def expand(queries: Batch, context: Context) -> Batch:
        length = jnp.where(queries["mask"], jnp.asarray(context["length"])[queries["user"]], 0)
        return {"user": queries["user"], "length": length, "mask": queries["mask"], **events_of(context)}

    def predict(variables: Variables, batch: Batch) -> Array:
        scores = scorer.scores(variables, batch, events_of(batch))
        return jnp.log(jnp.maximum(scores[:, profile.num_items + 1 :], 0) + share)

    examples = profile.validation if part == "validation" else profile.test
    queries = profiles.batches(examples, label)
    measure = make_scores(predict, expand)
    return Evaluation(measure, queries, profile.summarise, protocol, profiles.profile_sums)


def events_of(context: Any) -> dict[str, Any]:
    """The events of all examples."""
    return {name: context[name] for name in ("items", "start")}


def fit_and_test(name: str, profile: profiles.Data, config: Any, *names: str) -> tuple[Fit, Tested]:
    """A row with the settings that are best on validation, and its test. names: experiment and data set."""
    data, asked = Labelled(profile), profiles.protocol(profile, "")
    made = floors.fit(name, data, asked, config, *names, evaluation=evaluation, known=NEIGHBOURS)
    tested = evaluation(made.model, data, made.protocol, "test")
    return made, evaluate_and_keep(tested, made.variables, data.columns, num_devices=config.num_devices)
