"""jaxrec recommend: items for users or histories, by a trained run.

jaxrec recommend runs/mine --user u1 u2 --k 10

jaxrec recommend runs/mine --history a,b,c --keep-seen --json

jaxrec recommend runs/mine --user all --out lists.jsonl
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tabulate import tabulate

from jaxrec.data.cells import parse_integer
from jaxrec.data.delimited import read_text_lines

if TYPE_CHECKING:
    from jaxrec.serve.ids import Ids
    from jaxrec.serve.load import Run
    from jaxrec.serve.recommend import Recommendation

FORMS = (".jsonl", ".json", ".csv", ".tsv")  # of --out; the first two hold lines of JSON
COLUMNS = ("user", "rank", "item", "score", "by")


@dataclasses.dataclass(frozen=True)
class Options:
    """Items for users or histories, by a trained run."""

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]  # folder of the run
    user: tuple[str, ...] = ()  # users of the run, files of them (one a line), or `all`
    history: tuple[str, ...] = ()  # or histories of anybody: items with commas between them, oldest first
    times: tuple[str, ...] = ()  # seconds since 1970 of each history's events, with commas between them
    actions: tuple[str, ...] = ()  # what was done in each event, with commas, for a model of actions
    at: int | None = None  # seconds since 1970 of the request, if the model reads times; else the last event
    k: int = 10  # largest number of items
    keep_seen: bool = False  # items of the history may be recommended; by default as the run was measured
    exclude_seen: bool = False  # items of the history may not be recommended
    candidates: str = ""  # file of the only items that may be recommended, one a line
    block: tuple[str, ...] = ()  # items that may not be recommended, or files of them (one a line)
    cold: Literal["error", "popularity"] = "error"  # what unknown users and empty histories get
    seed: int | Literal["mean"] | None = None  # of the parameters; by default the best on validation
    json: bool = False  # a line of JSON for each user, in place of a table
    out: str = ""  # file to write: .jsonl, .csv or .tsv; by default the lists are printed


def run(options: Options) -> None:
    """Prints or writes the recommendations.

    Raises:
      ValueError: options that contradict each other; as of `serve.load` and `Run.stream`.
      OSError: a file can't be read or written.
    """
    _check(options)
    from jaxrec import serve
    from jaxrec.serve.files import check_parent
    from jaxrec.serve.recommend import check_recommends

    if options.out:
        check_parent(options.out)
    loaded = serve.load(options.run, seed=options.seed)
    check_recommends(loaded)
    print(loaded, file=sys.stderr)
    items = loaded.ids("item")
    histories = [items.from_text(_parts(text)) for text in options.history] or None
    seen: Any = "keep" if options.keep_seen else "exclude" if options.exclude_seen else None
    answers = loaded.stream(
        _users(options.user, loaded) if options.user else None,
        histories,
        k=options.k,
        seen=seen,
        candidates=items.from_text(read_ids(options.candidates)) if options.candidates else None,
        block=items.from_text(words_or_files(options.block, items)),
        cold=options.cold,
        times=[_numbers("times", text, "seconds") for text in options.times] or None,
        actions=[_numbers("actions", text, "numbers") for text in options.actions] or None,
        at=options.at,
    )
    named = _named(answers, options)
    if options.out:
        write(options.out, named)
    elif options.json:
        for line in json_lines(named):
            print(line)
    else:
        print(table(named))


def _check(options: Options) -> None:
    if bool(options.user) == bool(options.history):
        raise ValueError("give --user or --history, one of the two")
    if options.keep_seen and options.exclude_seen:
        raise ValueError("--keep-seen and --exclude-seen: give one of the two")
    if options.out and Path(options.out).suffix not in FORMS:
        raise ValueError(f"out={options.out!r}: must end in {', '.join(FORMS)}")
    if options.out and options.json and Path(options.out).suffix not in FORMS[:2]:
        raise ValueError(
            f"out={options.out!r}: --json writes lines of JSON; end it in .jsonl, or remove --json"
        )


def _parts(text: str) -> list[str]:
    return text.split(",") if text else []


def _numbers(option: str, text: str, what: str) -> list[int]:
    try:
        return [parse_integer(part) for part in _parts(text)]
    except (ValueError, OverflowError):
        raise ValueError(f"{option}={text!r}: must be whole {what} with commas between them") from None


def _users(words: Sequence[str], loaded: Run) -> Any:
    ids = loaded.ids("user")
    if tuple(words) != ("all",):
        return ids.from_text(words_or_files(words, ids))
    if "all" in ids.texts:
        raise ValueError("user='all': is a user of this run, too; list the users in a file, --user FILE")
    return "all"


def read_ids(path: str) -> list[str]:
    """The ids in a file, one a line; empty lines are skipped."""
    return [line for text in read_text_lines(path) if (line := text.rstrip("\r\n"))]


def words_or_files(words: Sequence[str], ids: Ids) -> list[str]:
    """Ids as they are typed; a word that is no id of the run but a file stands for the ids in it."""
    known = ids.texts if words else ()
    return [
        text
        for word in words
        for text in (read_ids(word) if word not in known and os.path.isfile(word) else [word])
    ]


# --- what is printed or written -----------------------------------------------------------------------

Named = tuple[dict[str, Any], "Recommendation"]


def _named(answers: Iterable[Recommendation], options: Options) -> Iterator[Named]:
    """Lists with the user or history; at the end a note on stderr says how many are shorter than k."""
    shorter = 0
    for number, answer in enumerate(answers):
        who = {"history": _parts(options.history[number])} if options.history else {"user": answer.user}
        shorter += len(answer.items) < options.k
        yield who, answer
    if shorter:
        print(
            f"{shorter:,} lists have fewer than {options.k} items: the others were seen, are blocked or no "
            "candidates",
            file=sys.stderr,
        )


def json_lines(answers: Iterable[Named]) -> Iterator[str]:
    """{"user": …, "items": […], "scores": […]} for each; of a cold user also "by": "popularity"."""
    for who, answer in answers:
        cold = {} if answer.by == "model" else {"by": answer.by}
        scores = [float(f"{score:.9g}") for score in answer.scores.tolist()]  # all digits of a float32
        yield json.dumps({**who, "items": answer.items.tolist(), "scores": scores, **cold})


def rows(answers: Iterable[Named]) -> Iterator[tuple[Any, int, Any, str, str]]:
    """(user or history, rank, item, score, by) for each item."""
    for who, answer in answers:
        (name,) = who.values()
        shown = ",".join(name) if isinstance(name, list) else name
        for rank, (item, score) in enumerate(
            zip(answer.items.tolist(), answer.scores.tolist(), strict=True), 1
        ):
            yield shown, rank, item, f"{score:.6g}", answer.by


def table(answers: Iterable[Named]) -> str:
    """A line for each item."""
    return tabulate([tuple(map(str, row)) for row in rows(answers)], COLUMNS, disable_numparse=True)


def write(path: str, answers: Iterable[Named]) -> None:
    """Writes the lists as they come, so that not all are in memory; the file appears when it is complete."""
    from jaxrec.serve.files import write_whole

    def lines(file: IO[bytes]) -> None:
        if Path(path).suffix in FORMS[:2]:
            for line in json_lines(answers):
                file.write(line.encode() + b"\n")
            return
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        try:
            writer = csv.writer(text, delimiter="\t" if path.endswith(".tsv") else ",", lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(rows(answers))
        finally:
            text.detach()

    write_whole(path, lines)
