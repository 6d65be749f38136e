"""The best items for users of a run, or for histories of anybody.

Scores and their order are those of `index.chunked.top_k`: all items in blocks, of equal scores the smaller id
first. Items that were seen, are blocked or no candidates, or that a search did not find, are in no list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import metrics
from jaxrec.data.validation import as_integers
from jaxrec.index import chunked
from jaxrec.index.chunked import BatchScores, Block
from jaxrec.serve import queries
from jaxrec.serve.queries import Asked, Layout
from jaxrec.serve.run_folder import Histories
from jaxrec.tasks.deep_retrieval import was_found
from jaxrec.types import Array, Context, Retriever, Scorer, Variables

if TYPE_CHECKING:
    from jaxrec.serve.load import Run


class Recommendation(NamedTuple):
    """The best items of one user or history, best first, none of which needs to be left.

    user: its raw id, None of a history. items: raw ids [n], n at most k. scores: float32 [n].
    by: "model", or "popularity" for a cold user, whose scores are numbers of training events.
    """

    user: Any
    items: np.ndarray
    scores: np.ndarray
    by: str


class Question(NamedTuple):
    """What is asked of a run, see `load.Run.stream`."""

    users: Iterable[Any] | Literal["all"] | None
    histories: Iterable[Iterable[Any]] | None
    k: int = 10
    seen: Literal["exclude", "keep"] | None = None
    candidates: Iterable[Any] | None = None
    block: Iterable[Any] = ()
    cold: Literal["error", "popularity"] = "error"
    times: Iterable[Iterable[int]] | None = None
    at: int | None = None
    actions: Iterable[Iterable[int]] | None = None


def stream(run: Run, question: Question) -> Iterator[Recommendation]:
    """Answers one after the other. A wrong question raises here, before the first answer is read."""
    _check(run, question)
    users, numbers, histories = _asked_histories(run, question)
    cold = np.diff(histories.offsets) == 0
    if cold.any() and question.cold == "error":
        raise ValueError(
            f"history {int(np.argmax(cold))} is empty ({int(cold.sum()):,} such): there is nothing to go by; "
            "cold='popularity' (--cold popularity) gives the most popular items"
        )
    allowed = allowed_items(run, question)
    if not allowed.any():
        raise ValueError("candidates: none is left, since all of them are blocked; give others")
    popular = _most_popular(run, allowed, question.k) if cold.any() else None
    warm = np.flatnonzero(~cold)
    at = queries.latest_event(run.kept.histories, histories) if question.at is None else question.at
    asked = queries.asked_by(run.kept, queries.selected(histories, warm), at, numbers[warm])
    answers = _best(run, asked, question, allowed)
    raw = run.ids("item").raw

    def one_by_one() -> Iterator[Recommendation]:
        for number, user in enumerate(users):
            if cold[number]:
                assert popular is not None
                yield popular._replace(user=user)
            else:
                ids, scores = next(answers)
                left = ids > 0
                yield Recommendation(user, raw[ids[left] - 1], scores[left], "model")

    return one_by_one()


def check_recommends(run: Run) -> None:
    """Raises ValueError for a run that ranks no items."""
    scored = {"table": "rows", "clicks": "pairs", "profile": "users"}.get(run.kept.kind)
    if scored is not None:
        raise ValueError(f"{run.path}: a {run.kept.kind} run scores {scored}; use score")


def _check(run: Run, question: Question) -> None:
    check_recommends(run)
    if (question.users is None) == (question.histories is None):
        raise ValueError("give users (--user) or histories (--history), one of the two")
    if as_integers([question.k], "k")[0] < 1:
        raise ValueError(f"k={question.k}: must be at least 1")
    if question.seen not in (None, "exclude", "keep"):
        raise ValueError(f"seen={question.seen!r}: must be 'exclude', 'keep' or None")
    if question.cold not in ("error", "popularity"):
        raise ValueError(f"cold={question.cold!r}: must be 'error' or 'popularity'")
    for name in ("times", "actions"):
        if getattr(question, name) is not None and question.histories is None:
            raise ValueError(f"{name}: belong to histories; those of the run's users are kept with it")
    if question.actions is not None and run.kept.kind != "actions":
        raise ValueError(f"actions: {run.kept.name} reads none; leave them out")
    for name in ("times", "at"):
        if getattr(question, name) is not None and not queries.reads_times(run.kept):
            raise ValueError(f"{name}: {run.kept.name} reads no times; leave it out")


def _asked_histories(run: Run, question: Question) -> tuple[list[Any], np.ndarray, Histories]:
    """The users asked about (None of histories), their ids (0: unknown), and the events of each."""
    if question.histories is not None:
        check_histories(run)
        users, histories = _given_histories(run, question)
        return users, np.zeros(len(users), np.int32), histories
    kept = run.kept.histories
    ids = run.ids("user")
    if kept is None:
        raise ValueError(f"{run.path}: keeps no histories of its users; give histories (--history)")
    if isinstance(question.users, str):
        if question.users != "all":
            raise ValueError(f"users={question.users!r}: one text; give a list of raw ids, or 'all'")
        return ids.raw.tolist(), np.arange(1, len(ids.raw) + 1, dtype=np.int32), kept
    users = listed("users", question.users)
    if not users:
        raise ValueError("users: none is given; name at least one")
    if question.cold == "popularity":
        numbers = ids.numbers(users)
    else:
        remedy = "; cold='popularity' (--cold popularity) gives new users the most popular items"
        numbers = ids.known(users, "users", remedy)
    return users, numbers, queries.selected(kept, numbers.astype(np.int64) - 1)


def check_histories(run: Run) -> None:
    """Raises ValueError for a run that knows the users of its data alone."""
    if run.kept.kind == "factors":
        raise ValueError(
            f"{run.path}: {run.kept.name} knows the users of its data and reads no histories; ask "
            "for users (--user), or train a model that reads them, such as ease or sasrec"
        )


def _given_histories(run: Run, question: Question) -> tuple[list[Any], Histories]:
    histories = given_histories(run, question.histories)
    lengths = np.diff(histories.offsets).tolist()
    return [None] * len(lengths), histories._replace(
        times=_of_events("times", question.times, lengths),
        actions=_of_events("actions", question.actions, lengths),
    )


def given_histories(run: Run, histories: Any) -> Histories:
    """Histories of raw ids. Raises ValueError: there is none, or an item that the run does not know."""
    given = lists("histories", histories)
    if not given:
        raise ValueError("histories: none is given; give at least one list of items")
    flat = [item for part in given for item in part]
    items = run.ids("item").known(flat, "histories")
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in given])]).astype(np.int64)
    return Histories(items, offsets)


def _of_events(name: str, values: Any, lengths: list[int]) -> np.ndarray | None:
    """A whole number for each event of the histories, end to end; None where there are none."""
    if values is None:
        return None
    of_histories = lists(name, values)
    if [len(part) for part in of_histories] != lengths:
        raise ValueError(f"{name}: must be one number for each event of each history")
    return as_integers([number for part in of_histories for number in part], name)


def listed(name: str, values: Any) -> list[Any]:
    """Raw ids from a sequence, an array or a column of a data frame."""
    found = values.tolist() if hasattr(values, "tolist") else values
    if isinstance(found, str):
        raise ValueError(f"{name}={found!r}: one text; give a list of raw ids")
    if not isinstance(found, Iterable):
        raise ValueError(f"{name}={found!r}: must be a list of raw ids, an array or a column")
    return list(found)


def lists(name: str, values: Any) -> list[list[Any]]:
    """A list for each history, from sequences or arrays of sequences or arrays."""
    try:
        return [listed(name, part) for part in listed(name, values)]
    except ValueError:
        raise ValueError(f"{name}: must be a list for each history, such as [['a', 'b']]") from None


def allowed_items(run: Run, question: Question) -> np.ndarray:
    """Which ids may be recommended, bool [V + 1]."""
    ids = run.ids("item")
    allowed = np.zeros(len(ids.raw) + 1, bool)
    if question.candidates is None:
        allowed[1:] = True
    else:
        found = ids.known(listed("candidates", question.candidates), "candidates")
        if not found.size:
            raise ValueError("candidates: none is given; leave the option out to have all items")
        allowed[found] = True
    allowed[ids.known(listed("block", question.block), "block")] = False
    return allowed


def _most_popular(run: Run, allowed: np.ndarray, k: int) -> Recommendation:
    """The allowed items with the most training events; of equal numbers the smaller id first."""
    counts = run.kept.counts
    if counts is None:
        if run.kept.histories is None:
            raise ValueError(f"{run.path}: keeps no numbers of events, so popularity is not known")
        counts = np.bincount(np.asarray(run.kept.histories.items), minlength=len(allowed))
    ids = np.flatnonzero(allowed)
    best = ids[np.argsort(-counts[ids], kind="stable")[:k]]
    return Recommendation(None, run.ids("item").raw[best - 1], counts[best].astype(np.float32), "popularity")


# --- on the device -----------------------------------------------------------------------------------


def _best(
    run: Run, asked: Asked, question: Question, allowed: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Ids and scores of each history, [k] twice; 0 and -inf where there is no further item.

    The next call is under way while the answers of one are read.
    """
    if not len(asked.lengths):
        return
    shapes = queries.layout(run.kept, asked, mean=run.seed == "mean")
    exclude, num_items = (question.seen or run.protocol.seen) != "keep", len(allowed) - 1
    k = min(int(question.k), num_items)  # longer lists would be filled up, and may not fit into memory
    key = ("recommend", k, exclude, *shapes.key)
    if key not in run.programs:
        run.programs[key] = jax.jit(make_program(shapes, num_items=num_items, k=k, exclude=exclude))
    program, table, mask = run.programs[key], item_table(run, shapes.model), jnp.asarray(allowed)
    pending: list[tuple[Any, int]] = []
    for columns, context, real in queries.calls(asked, shapes):
        columns, context = queries.to_device((columns, context))
        pending.append((program(run.variables, table, columns, context, mask), real))
        if len(pending) > 1:
            yield from _read(run, *pending.pop(0))
    for answer, real in pending:
        yield from _read(run, answer, real)


def _read(run: Run, answer: Any, real: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    scores, ids, finite = (np.asarray(part) for part in jax.device_get(answer))
    scores, ids = (part.reshape(-1, part.shape[-1])[:real] for part in (scores, ids))
    check_finite(run, finite.reshape(-1)[:real], "histories have scores that are")
    yield from zip(ids, scores, strict=True)


def check_finite(run: Run, finite: np.ndarray, what: str) -> None:
    """Raises ValueError where numbers are NaN or infinite. what: has them, for the message."""
    if not finite.all():
        raise ValueError(
            f"{run.path}: {int((~finite).sum()):,} of {finite.size:,} {what} NaN or infinite: the training "
            "diverged, or the parameters are damaged; train again with a lower learning rate"
        )


def item_table(run: Run, model: Retriever | Scorer) -> Array | None:
    """The vectors of all ids [V, D], computed once for a run; None of a `Scorer`, which has none."""
    if not isinstance(model, Retriever):
        return None
    if "table" not in run.programs:
        run.programs["table"] = jax.jit(model.items)(run.variables)
    return run.programs["table"]


def score_reader(
    model: Retriever | Scorer, variables: Variables, table: Array | None, *, num_items: int
) -> Callable[[Mapping[str, Array], Context], BatchScores]:
    """`chunked.reader` of a model whose item vectors are made already (`item_table`)."""
    if isinstance(model, Retriever):
        assert table is not None
        model = model._replace(items=lambda variables: table)
    return chunked.reader(model, variables, num_items=num_items)


def make_program(shapes: Layout, *, num_items: int, k: int, exclude: bool) -> Callable[..., Any]:
    """(variables, table, queries, context, allowed [V + 1]) -> the best [group, B, k] of all batches."""

    def program(
        variables: Variables,
        table: Array | None,
        columns: Mapping[str, Array],
        context: Context,
        allowed: Array,
    ) -> Any:
        read = score_reader(shapes.model, variables, table, num_items=num_items)

        def of_batch(batch: Mapping[str, Array], context: Context) -> chunked.Best:
            def apply_rule(block: Block) -> Block:
                out = ~allowed.at[block.ids].get(mode="fill", fill_value=False)
                if exclude:
                    out = out | metrics.seen_mask(batch["seen"], len(block.ids), first=block.ids[0])
                if isinstance(shapes.model, Scorer):
                    out = out | ~was_found(block.scores)
                return block._replace(scores=jnp.where(out, -jnp.inf, block.scores))

            return chunked.top_k(read(batch, context).every(apply_rule), k)

        return queries.over_batches(shapes, of_batch)(columns, context)

    return program
