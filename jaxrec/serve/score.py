"""Probabilities of each label: of rows of raw columns, or of pairs of a user and an item; or of each class.

A run that ranks items has no labels; its pairs have the score that `recommend` sorts by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.data.own_tables import encode_rows
from jaxrec.data.tables.columns import Coded
from jaxrec.data.tables.rows import read_rows
from jaxrec.serve import queries
from jaxrec.serve.probabilities import POSITIVE, class_probabilities, of_positive, probabilities
from jaxrec.serve.recommend import check_finite, item_table, score_reader
from jaxrec.serve.run_folder import Histories
from jaxrec.tasks.ctr import behaviours
from jaxrec.tasks.generative import after_history
from jaxrec.tasks.profile import with_token
from jaxrec.types import HISTORY, Array, Batch, Context, Variables

if TYPE_CHECKING:
    from jaxrec.serve.load import Run

SIZES = (64, 512, 4096)  # rows of a call: the least that holds all, or as many calls of the last as needed


def score(
    run: Run, rows: Any, *, at: int | None = None, delimiter: str | None = None
) -> dict[str, np.ndarray]:
    """{label: probabilities, float32 [N]} of rows, in their order; {"score": …} of a run that ranks items.

    rows: the path of a file, a mapping of columns to arrays or lists, or a data frame; columns that the
        run was not trained on are not read. Of a table: its raw columns, encoded as the training rows were.
        Of a run of classes: users of the run, the probability of each class after all their events.
        Otherwise users and items of the run, each pair after all events of its user; of a model of actions
        the label is "positive", one of the actions that the run was told are.
    at: seconds since 1970 of the request, for models that read times; None: the latest event.
    delimiter: of a CSV file, one character; None: a tab for .tsv, a comma otherwise.

    Raises:
      ValueError: the run keeps no histories of users; a column is missing or of another type; a user or
        item that the run does not know; `at` of a run without times; a score is not finite.
    """
    if at is not None and not _has_times(run):
        raise ValueError(f"at={at}: {run.kept.name} reads no times; leave it out")
    if run.kept.kind == "table":
        assert run.kept.encoders is not None
        return _probabilities(
            run, encode_rows(run.kept.encoders, rows, delimiter=delimiter), lambda b, _: b, {}
        )
    if run.kept.kind == "profile":
        users = _ids(run, rows, "user", delimiter=delimiter)["user"]
        return classes(run, queries.selected(_known_histories(run), users - 1))
    pairs = _ids(run, rows, "user", "item", delimiter=delimiter)
    if run.kept.kind in ("clicks", "actions"):
        shared, histories = _shared(run), run.kept.histories
        assert histories is not None
        offsets = np.asarray(histories.offsets)
        user = pairs["user"] - 1
        columns = pairs | {"start": offsets[user].astype(np.int32), "end": offsets[user + 1].astype(np.int32)}
        if "times" in shared:
            at = queries.latest_event(histories) if at is None else at
            users, place = np.unique(user, return_inverse=True)
            asked = queries.asked_of(queries.selected(histories, users), at, timed=True)
            assert asked.now is not None
            columns["time"] = asked.now[place]
        if run.kept.kind == "actions":
            return _probabilities(
                run,
                columns,
                lambda batch, shared: after_history(run.module, batch, shared),
                shared,
                of_positive,
                labels=(POSITIVE,),
            )
        length = run.kept.length
        return _probabilities(run, columns, lambda batch, shared: behaviours(batch, shared, length), shared)
    return {"score": _ranking_scores(run, pairs, at)}


def classes(run: Run, histories: Histories) -> dict[str, np.ndarray]:
    """{class: probabilities, float32 [N]} after histories, by a run of classes.

    Raises:
      ValueError: the run is of another kind, a history is empty, a probability is not finite.
    """
    if run.kept.kind != "profile":
        raise ValueError(f"{run.path}: a {run.kept.kind} run knows no classes; use score or recommend")
    offsets, module = np.asarray(histories.offsets), run.module
    length = np.diff(offsets).astype(np.int32)
    if (length == 0).any():
        raise ValueError(f"history {int(np.argmin(length))} is empty: there is nothing to go by")

    def expand(batch: Batch, shared: Context) -> Batch:
        ends = (batch["start"] + batch["length"], batch["length"])
        token = module.num_items + 1
        return {"items": with_token(shared["items"], *ends, token=token, max_len=module.max_len)}

    columns = {"start": offsets[:-1].astype(np.int32), "length": length}
    shared = {"items": jnp.asarray(histories.items)}
    return _probabilities(run, columns, expand, shared, class_probabilities)


def _known_histories(run: Run) -> Histories:
    if run.kept.histories is None:
        raise ValueError(f"{run.path}: keeps no histories of its users; none can be scored")
    return run.kept.histories


def _ranking_scores(run: Run, pairs: Mapping[str, np.ndarray], at: int | None) -> np.ndarray:
    """The score of each pair's item after all events of its user, float32 [N], as `recommend` has it."""
    histories = run.kept.histories
    if histories is None:
        raise ValueError(f"{run.path}: keeps no histories of its users, so no pair can be scored")
    chosen = queries.selected(histories, pairs["user"].astype(np.int64) - 1)
    at = queries.latest_event(histories) if at is None else at
    asked = queries.asked_by(run.kept, chosen, at, pairs["user"])
    if (asked.lengths == 0).any():
        raise ValueError(f"row {int(np.argmin(asked.lengths))}: its user has no event to go by")
    shapes = queries.layout(run.kept, asked, mean=run.seed == "mean")
    key = ("score", *shapes.key)
    if key not in run.programs:
        run.programs[key] = jax.jit(make_pair_program(shapes, num_items=len(run.ids("item").raw)))
    program, table = run.programs[key], item_table(run, shapes.model)
    found: list[np.ndarray] = []
    first = 0
    for columns, context, real in queries.calls(asked, shapes):
        item = np.ones(columns["mask"].size, np.int32)
        item[:real] = pairs["item"][first : first + real]
        first += real
        columns["item"] = item.reshape(columns["mask"].shape)
        columns, context = queries.to_device((columns, context))
        found.append(np.asarray(program(run.variables, table, columns, context)).reshape(-1)[:real])
    scores = np.concatenate(found).astype(np.float32)
    check_finite(run, np.isfinite(scores), "pairs have scores that are")
    return scores


def make_pair_program(shapes: queries.Layout, *, num_items: int) -> Callable[..., Array]:
    """(variables, table, queries, context) -> the score of the item of each query, [group, B]."""

    def program(
        variables: Variables, table: Array | None, columns: Mapping[str, Array], context: Context
    ) -> Array:
        read = score_reader(shapes.model, variables, table, num_items=num_items)

        def of_batch(batch: Mapping[str, Array], context: Context) -> Array:
            return read(batch, context).some(batch["item"][:, None])[:, 0]

        scores: Array = queries.over_batches(shapes, of_batch)(columns, context)
        return scores

    return program


def _has_times(run: Run) -> bool:
    """Whether an answer may depend on the moment of the request."""
    if run.kept.kind == "clicks":
        histories = run.kept.histories
        return histories is not None and histories.times is not None and _reads_ages(run)
    return queries.reads_times(run.kept)


def _reads_ages(run: Run) -> bool:
    """Whether a model of clicks computes with the seconds from events to the request, by its program."""
    one = {name: jnp.zeros(1, jnp.int32) for name in ("user", "item", "start", "end")}
    shared = {"events": jnp.zeros(1, jnp.int32), "items": {}, "users": {}}
    batch = {**behaviours(one, shared, run.kept.length), "mask": jnp.ones(1, bool)}

    def predict(ages: Array, variables: Variables) -> dict[str, Array]:
        aged = {**batch, f"{HISTORY}age": ages}
        return probabilities(run.module, run.kept.outputs, variables, aged, mean=run.seed == "mean")

    traced = jax.make_jaxpr(predict)(batch[f"{HISTORY}item"], run.variables).jaxpr
    return any(traced.invars[0] in step.invars for step in traced.eqns)


def _ids(
    run: Run, rows: Any, *wanted: Literal["user", "item"], delimiter: str | None = None
) -> dict[str, np.ndarray]:
    """Ids of the users or items that rows name, int32 [N] each."""
    kinds = {kind: column for column, kind in run.kept.columns.items()}
    names = {kind: kinds.get(kind, kind) for kind in wanted}
    found = read_rows(
        rows,
        categorical={name: kind for kind, name in names.items()},
        numeric={},
        delimiter=delimiter,
        remedy="it has the name of the training file's; add it to the rows, or rename theirs",
    )
    found_ids: dict[str, np.ndarray] = {}
    for kind, name in names.items():
        column = found.columns[name]
        assert isinstance(column, Coded)
        if (column.codes < 0).any():
            raise ValueError(f"{found.place(int(np.argmin(column.codes)))}: {kind} ({name}) is missing")
        ids = run.ids(kind)
        found_ids[kind] = ids.known(ids.from_text(column.values.tolist()), name)[column.codes]
    return found_ids


def _shared(run: Run) -> dict[str, Any]:
    """What all pairs share, as `tasks.ctr.behaviours` reads it: the events of all users, and their times."""
    histories = run.kept.histories
    assert histories is not None
    shared: dict[str, Any] = {"events": jnp.asarray(histories.items), "items": {}, "users": {}}
    if histories.actions is not None:
        shared["actions"] = jnp.asarray(histories.actions)
    if histories.times is not None:
        asked = queries.asked_of(histories, None, timed=True)
        shared["times"] = jnp.asarray(asked.seconds)
    return shared


def _probabilities(
    run: Run,
    columns: Mapping[str, np.ndarray],
    expand: Callable[[Batch, Context], Batch],
    shared: Context,
    predict: Callable[..., dict[str, Array]] = probabilities,
    labels: Sequence[str] = (),
) -> dict[str, np.ndarray]:
    """Probabilities of all rows, a fixed number of them a call; columns are filled up with their last entry.

    expand: what the module reads, of a batch of columns and what all rows share. predict: as `probabilities`.
    labels: of what it gives; by default those of the run's outputs.
    """
    count = len(next(iter(columns.values())))
    size = next((size for size in SIZES if size >= count), SIZES[-1])
    outputs = run.kept.outputs

    def of_batch(variables: Variables, batch: Batch, shared: Context) -> dict[str, Array]:
        expanded, mean = expand(batch, shared), run.seed == "mean"
        return predict(run.module, outputs, variables, expanded, mean=mean)

    program = run.programs.setdefault("score", jax.jit(of_batch))
    found = {label: np.empty(count, np.float32) for label in labels or outputs}
    for first in range(0, count, size):
        real = min(size, count - first)
        batch = {
            name: np.concatenate([part := column[first : first + real], np.repeat(part[-1:], size - real, 0)])
            for name, column in columns.items()
        }
        answer = jax.device_get(program(run.variables, batch | {"mask": np.arange(size) < real}, shared))
        for label, values in answer.items():
            found[label][first : first + real] = values[:real]
    for label, values in found.items():
        bad = np.flatnonzero(~np.isfinite(values))
        if bad.size:
            raise ValueError(
                f"{run.path}: {label!r} is NaN or infinite for row {bad[0]} ({bad.size:,} such): "
                "the training diverged, or the parameters are damaged; train again"
            )
    return found
