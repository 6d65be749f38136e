"""One label per sequence: users with an attribute, or sessions followed by a cold item.

The label is predicted from the state after the last event. Each example of a part is scored once. Classes
that are items are ranked (hit rate and MRR); for other classes the metrics are accuracy, log loss and, if
there are two, AUC.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
import scipy.special

from jaxrec import metrics
from jaxrec.data.validation import as_int32_ids
from jaxrec.tasks.encoder import Encoder
from jaxrec.tasks.profile import described_users, profile
from jaxrec.train.epoch import shuffled
from jaxrec.train.evaluate import evaluate_and_keep, make_scores
from jaxrec.train.fit import Fitted, Phase, Selection
from jaxrec.train.per_user import auc_contributions, group_sums
from jaxrec.train.reuse import fit_reusing
from jaxrec.types import Batch, Context, Evaluation, GroupSums, Protocol, Summarise, Tested, Variables

EVALUATION_BATCH = 256
K = 5  # of hit@k and mrr@k


class Data(NamedTuple):
    """Examples with a label.

    name, task: names of the data set and of the task. rule: how it was split. columns: of the examples, on
    the device (`data.events.batching.labelled_columns`). classes: names of labels 1..T. train, validation,
    test: indices of the examples of each part. num_items: items of the events; the next id is the token after
    the last event. ranked: whether the classes are items, to be ranked.
    """

    name: str
    task: str
    rule: str
    columns: dict[str, np.ndarray]
    classes: tuple[str, ...]
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    num_items: int
    ranked: bool

    @property
    def token(self) -> int:
        """The id of the token after an example's last event."""
        return self.num_items + 1

    @property
    def selection(self) -> str:
        """The validation metric that chooses an epoch."""
        return f"mrr@{K}" if self.ranked else "log_loss"

    @property
    def summarise(self) -> Summarise:
        """Computes the metrics from logits."""
        return rank_metrics if self.ranked else class_metrics


def protocol(data: Data, loss: str, selection: str | None = None) -> Protocol:
    """Each example is scored once: its item is ranked against all cold items, or its class predicted."""
    return Protocol(
        split=data.rule,
        candidates=f"all {len(data.classes)} cold" if data.ranked else "impressions",
        seen="keep",
        ties="pessimistic" if data.ranked else "half",
        ks=(K,) if data.ranked else (),
        loss=loss,
        selection=data.selection if selection is None else selection,
    )


def batches(examples: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Batches of examples to score: user (the index of the example), label and mask, [batches, B]."""
    size = min(EVALUATION_BATCH, len(examples))
    count = -(-len(examples) // size)
    pad = (0, count * size - len(examples))
    columns = {"user": examples, "label": labels[examples], "mask": np.ones(len(examples), bool)}
    return {name: np.pad(column, pad).reshape(count, size) for name, column in columns.items()}


def evaluation(model: Encoder, data: Data, examples: np.ndarray) -> Evaluation:
    """Scores examples by an encoder whose item table has a row for each class."""

    def expand(queries: Batch, context: Context) -> Batch:
        user, mask = queries["user"], queries["mask"]
        return described_users(user, mask, context, token=data.token, max_len=model.max_len)

    scores = make_scores(profile(model, token=data.token).predict, expand)
    queries = batches(examples, data.columns["label"])
    return Evaluation(scores, queries, data.summarise, protocol(data, "ce"), profile_sums)


def train(
    model: Encoder,
    data: Data,
    tx: optax.GradientTransformation,
    *,
    epochs: int,
    batch_size: int,
    patience: int | None = None,
    **options: Any,
) -> Fitted:
    """Trains an encoder to predict the class of each example, with softmax cross-entropy, all seeds at once.

    Each seed keeps its best epoch by the data's validation metric. options: seeds, workdir, description,
    initial and other arguments of `train.fit.fit`.
    """
    return fit_reusing(
        [Phase("train", profile(model, token=data.token), epochs)],
        tx,
        shuffled(len(data.columns["label"]), batch_size, examples=data.train),
        data.columns,
        Selection(
            evaluation(model, data, data.validation),
            data.selection,
            patience=patience,
            lower_is_better=data.selection == "log_loss",
        ),
        **options,
    )


def test(
    model: Encoder,
    data: Data,
    variables: Variables,
    *,
    num_devices: int = 1,
) -> list[dict[str, float]]:
    """Test metrics of each seed: variables have a leading seeds axis."""
    return run_test(model, data, variables, num_devices=num_devices).metrics


def run_test(model: Encoder, data: Data, variables: Variables, *, num_devices: int = 1) -> Tested:
    """Metrics as `test` returns them, with the values of every example, to be stored beside the result."""
    found = evaluation(model, data, data.test)
    return evaluate_and_keep(found, variables, data.columns, num_devices=num_devices)


def random_test(data: Data, seeds: tuple[int, ...]) -> Tested:
    """The test of each seed for random logits."""
    scored = batches(data.test, data.columns["label"])
    shape = (*scored["mask"].shape, len(data.classes))
    draws = np.stack([np.random.default_rng(seed).normal(size=shape) for seed in seeds])
    return Tested([data.summarise(logits, scored) for logits in draws], profile_sums(draws, scored))


def popularity_test(data: Data, seeds: tuple[int, ...]) -> Tested:
    """The test for the log shares of the classes in training (counts + 1) as logits, the same by seed."""
    labels = data.columns["label"]
    scored = batches(data.test, labels)
    shape = (*scored["mask"].shape, len(data.classes))
    shares = np.bincount(labels[data.train], minlength=len(data.classes) + 1)[1:] + 1.0
    logits = np.broadcast_to(np.log(shares), shape)
    return Tested([data.summarise(logits, scored)] * len(seeds), profile_sums(logits[None], scored))


def class_metrics(logits: np.ndarray, queries: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Accuracy and log loss of logits [batches, B, T], and for two classes the AUC."""
    found, label = real_examples(logits, queries)
    values = {"accuracy": float(np.mean(found.argmax(axis=1) == label)), "log_loss": log_loss(found, label)}
    if found.shape[1] == 2:
        values["auc"] = float(metrics.auc(jnp.asarray(found[:, 1] - found[:, 0]), jnp.asarray(label)))
    return values


def rank_metrics(logits: np.ndarray, queries: Mapping[str, np.ndarray]) -> dict[str, float]:
    """hit@5, mrr@5 (0 if rank > 5) and log loss of logits [batches, B, T]; ties rank the target last."""
    found, label = real_examples(logits, queries)
    rank = metrics.rank_of_target(jnp.asarray(found, jnp.float32), jnp.asarray(label))
    return {
        f"hit@{K}": float(np.asarray(metrics.hit(rank, k=K), np.float64).mean()),
        f"mrr@{K}": float(np.asarray(metrics.mrr(rank, k=K), np.float64).mean()),
        "log_loss": log_loss(found, label),
    }


def profile_sums(logits: np.ndarray, queries: Mapping[str, np.ndarray]) -> GroupSums:
    """What both kinds of metrics are means of, for logits [S, batches, B, T], each example by itself."""
    found: dict[str, list[np.ndarray]] = {}
    for of_seed in logits:
        scores, label = real_examples(of_seed, queries)
        chosen = scores[np.arange(len(label)), label]
        rank = (scores.astype(np.float32) >= chosen.astype(np.float32)[:, None]).sum(axis=1)
        values = {
            "accuracy": scores.argmax(axis=1) == label,
            f"hit@{K}": rank <= K,
            f"mrr@{K}": np.where(rank <= K, 1.0 / rank, 0.0),
            "log_loss": scipy.special.logsumexp(scores, axis=1) - chosen,
        }
        if scores.shape[1] == 2:
            every = np.ones(len(label), bool)
            values["auc"] = auc_contributions(scores[:, 1] - scores[:, 0], label, every)
        for name, of_examples in values.items():
            found.setdefault(name, []).append(of_examples)
    user = np.asarray(queries["user"])[np.asarray(queries["mask"])]
    columns = {name: (np.stack(of_seeds), None) for name, of_seeds in found.items()}
    return group_sums(user, columns, {"label": label})


def real_examples(logits: np.ndarray, queries: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Logits [M, T] in float64 and labels 0..T-1 [M] of the examples that are not padding."""
    mask = np.asarray(queries["mask"])
    found, label = np.asarray(logits, np.float64)[mask], np.asarray(queries["label"])[mask]
    as_int32_ids(label, found.shape[1], "label, a class")
    return found, label - 1


def log_loss(logits: np.ndarray, label: np.ndarray) -> float:
    """Mean of -log softmax of the labelled class, in nats."""
    chosen = logits[np.arange(len(label)), label]
    return float(np.mean(scipy.special.logsumexp(logits, axis=1) - chosen))
