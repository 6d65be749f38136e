"""Every data set and file format by name: its content, its terms, and how to load it.

    load("movielens/ml-100k")                               a public data set, found or downloaded
    load("movielens/ml-100k", kind="impressions", seed=1)   the same as a labelled table
    load("criteo", "train.txt")                             your own files in a known format

This is the only list of sources; `python -m jaxrec.data` reads it too. A source is imported when needed.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

from jaxrec.data import store

if TYPE_CHECKING:
    from jaxrec.data.events.held_out import HeldOut
    from jaxrec.data.events.interactions import Sequences
    from jaxrec.data.events.sessions import Sessions
    from jaxrec.data.tables.click_histories import SideInfo
    from jaxrec.data.tables.impressions import ImpressionSplit
    from jaxrec.data.tables.rating_tasks import RatedContent

Kind = Literal["events", "impressions", "sessions", "clicks", "matrix", "ratings"]
Reader = Callable[..., Any]

RETURNS: Mapping[Kind, str] = {
    "events": "Sequences, the events of each user in time order",
    "impressions": "ImpressionSplit, a labelled table in three parts",
    "sessions": "Sessions, click sessions for training and test",
    "clicks": "(Sequences, SideInfo), events and side information, from which next_clicks makes examples",
    "matrix": "HeldOut, each user's items of training and of test",
    "ratings": "RatedContent, ratings with what is known of users and items, new ones among them",
}
# Attributes of a source: its tuple of data sets, and the function that loads one by name.
_ATTRIBUTES: Mapping[Kind, tuple[str, str]] = {
    "events": ("DATASETS", "load"),
    "impressions": ("TABLES", "load_impressions"),
    "sessions": ("LOGS", "load"),
    "matrix": ("MATRICES", "load_matrix"),
    "ratings": ("RATINGS", "load_ratings"),
}
# Sources whose files have a public address, in the order in which names are listed.
SOURCES = (
    "movielens", "ticoserec", "coserec", "sasrec", "census", "retailrocket", "sessions", "lightgcn", "kgat",
    "ncf", "melu", "citeulike", "steam",
)  # fmt: skip
_MODULES = {"sessions": "session_logs"}  # where a source is not named like its module
# Names of data sets in papers and other files, and their names here.
_OTHER_NAMES = {
    "sasrec/Games": "sasrec/Video",
    "sasrec/Video_Games": "sasrec/Video",
    "Games": "sasrec/Video",
    "Video_Games": "sasrec/Video",
    "coserec/Sports": "coserec/Sports_and_Outdoors",
    "coserec/Toys": "coserec/Toys_and_Games",
    "Toys": "coserec/Toys_and_Games",
    "ticoserec/Sports_and_Outdoors": "ticoserec/Sports",
    "ticoserec/Yelp": "ticoserec/Yelp-A",
    "sessions/yoochoose": "sessions/yoochoose1_64",
    "gowalla": "lightgcn/gowalla",
    "lightgcn/amazon-book": "kgat/amazon-book",
    "citeulike-a": "citeulike/a",
    "citeulike-t": "citeulike/t",
}


class Entry(NamedTuple):
    """A data set or format that `load` takes by name.

    readers: for each kind it can be loaded as, a function that imports the source and returns its reader; the
      first kind is the default.
    source: origin and terms of a public set; None for your own files.
    files: each file of a public set, as alternatives of which the first found is read.
    paths: what your own files are, in the order in which `load` takes them; empty for a public set.
    """

    name: str
    readers: Mapping[Kind, Callable[[], Reader]]
    source: store.Source | None
    files: tuple[tuple[store.File, ...], ...]
    paths: tuple[str, ...]

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return tuple(self.readers)

    @property
    def kind(self) -> Kind:
        """The kind that `load` returns by default."""
        return self.kinds[0]

    @property
    def returns(self) -> str:
        """Description of what `load` returns."""
        return RETURNS[self.kind]

    @property
    def licence(self) -> str:
        return "that of your files" if self.source is None else self.source.licence

    @property
    def size(self) -> int:
        """Bytes of a public set's original files, uncompressed; 0 for your own files."""
        return sum(alternatives[-1].size for alternatives in self.files)

    @property
    def state(self) -> store.State | None:
        """The worst state of a public set's files; None for your own files."""
        order: tuple[store.State, ...] = ("in JAXREC_DATA_DIR", "cached", "to download", "not available")
        states = [store.file_state(*alternatives) for alternatives in self.files]
        return max(states, key=order.index) if states else None

    def options(self, kind: Kind | None = None) -> tuple[str, ...]:
        """Names of the options that `load` takes for this kind (None: the default)."""
        parameters = inspect.signature(self.readers[kind or self.kind]()).parameters.values()
        return tuple(p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY)


def _lazy_reader(module: str, function: str = "load") -> Callable[[], Reader]:
    """A function that imports a source and returns its reader."""
    return lambda: getattr(importlib.import_module(f"jaxrec.data.sources.{module}"), function)


def _aliccp_logs() -> Reader:
    from jaxrec.data.sources import aliccp

    @functools.wraps(aliccp.load)
    def read(a: Path, b: Path, c: Path, d: Path, **options: Any) -> ImpressionSplit:
        return aliccp.load(aliccp.Files(a, b), aliccp.Files(c, d), **options)

    return read


def _format(name: str, kind: Kind, paths: str, reader: Callable[[], Reader]) -> Entry:
    return Entry(name, readers={kind: reader}, source=None, files=(), paths=tuple(paths.split()))


# Formats of files that have no public address.
_FORMATS = (
    _format("criteo", kind="impressions", paths="FILE", reader=_lazy_reader("criteo")),
    _format("aliexpress", kind="impressions", paths="TRAIN TEST", reader=_lazy_reader("aliexpress")),
    _format(
        "ali-ccp",
        kind="impressions",
        paths="TRAIN VALIDATION TEST",
        reader=_lazy_reader("aliccp", "load_table"),
    ),
    _format(
        "ali-ccp-logs",
        kind="impressions",
        paths="SKELETON_TRAIN COMMON_TRAIN SKELETON_TEST COMMON_TEST",
        reader=_aliccp_logs,
    ),
    _format(
        "fuxictr",
        kind="impressions",
        paths="TRAIN VALIDATION TEST FEATURE_MAP",
        reader=_lazy_reader("fuxictr"),
    ),
    _format("amazon", kind="clicks", paths="REVIEWS METADATA", reader=_lazy_reader("amazon")),
    _format("amazon-din", kind="clicks", paths="FILE", reader=_lazy_reader("amazon", "load_table")),
    _format("taobao", kind="clicks", paths="FILE", reader=_lazy_reader("taobao")),
)


def formats() -> dict[str, Entry]:
    """The known formats of your own files, by name."""
    return {entry.name: entry for entry in _FORMATS}


def public() -> dict[str, Entry]:
    """Every public data set by name, `source/set`, in the order of the sources."""
    return {name: entry for source in SOURCES for name, entry in _source_entries(source).items()}


def entries() -> dict[str, Entry]:
    """All that `load` takes by name: public data sets, then formats of your own files."""
    return {**public(), **formats()}


def names() -> tuple[str, ...]:
    """The names that `load` takes.

    >>> names()[:3]
    ('movielens/ml-100k', 'movielens/ml-1m', 'ticoserec/Beauty')
    """
    return tuple(entries())


def _source_entries(source: str) -> dict[str, Entry]:
    """The data sets of one source, by name; imports the source."""
    module = importlib.import_module(f"jaxrec.data.sources.{_MODULES.get(source, source)}")
    offered = {
        kind: {described.name: described for described in getattr(module, attribute, ())}
        for kind, (attribute, _) in _ATTRIBUTES.items()
    }

    def reader(kind: Kind, name: str) -> Callable[[], Reader]:
        return lambda: functools.partial(getattr(module, _ATTRIBUTES[kind][1]), name)

    found = {}
    for name in dict.fromkeys(name for described in offered.values() for name in described):
        kinds = [kind for kind, described in offered.items() if name in described]
        files = offered[kinds[0]][name].files  # all kinds are made from the same files
        readers = {kind: reader(kind, name) for kind in kinds}
        found[f"{source}/{name}"] = Entry(
            f"{source}/{name}", readers=readers, source=module.SOURCE, files=files, paths=()
        )
    return found


def find_entry(name: str, known: Mapping[str, Entry] | None = None) -> Entry:
    """The entry of this name; ValueError naming the nearest and all names.

    known: entries to search, by default all. A name that only papers use is refused, with the name here.
    """
    source = name.partition("/")[0]
    near = _source_entries(source) if known is None and source in SOURCES else {}  # imports no other source
    if name in near:
        return near[name]
    known = entries() if known is None else known
    if name in known:
        return known[name]
    if _OTHER_NAMES.get(name) in known:
        raise ValueError(f"data set {name!r}: is called {_OTHER_NAMES[name]} here; use that name")
    guesses = _similar_names(name, tuple(known))
    hint = f" (did you mean {' or '.join(guesses)}?)" if guesses else ""
    raise ValueError(f"data set {name!r}: unknown{hint}; one of {', '.join(known)}")


def _similar_names(name: str, known: tuple[str, ...]) -> list[str]:
    """Suggestions for an unknown name: names that end in it, or else the most similar one."""
    lower = {candidate: candidate.lower() for candidate in known}
    ends = [candidate for candidate in known if lower[candidate].endswith(f"/{name.lower()}")]
    if ends:
        return ends
    similar = difflib.get_close_matches(name.lower(), lower.values(), n=1, cutoff=0.3)
    return [candidate for candidate in known if lower[candidate] in similar]


@overload
def load(name: str, *files: str | Path, kind: Literal["events"], **options: Any) -> Sequences: ...
@overload
def load(name: str, *files: str | Path, kind: Literal["impressions"], **options: Any) -> ImpressionSplit: ...
@overload
def load(name: str, *files: str | Path, kind: Literal["sessions"], **options: Any) -> Sessions: ...
@overload
def load(
    name: str, *files: str | Path, kind: Literal["clicks"], **options: Any
) -> tuple[Sequences, SideInfo]: ...
@overload
def load(name: str, *files: str | Path, kind: Literal["matrix"], **options: Any) -> HeldOut: ...
@overload
def load(name: str, *files: str | Path, kind: Literal["ratings"], **options: Any) -> RatedContent: ...
@overload
def load(name: str, *files: str | Path, kind: Kind | None = None, **options: Any) -> Any: ...
def load(name: str, *files: str | Path, kind: Kind | None = None, **options: Any) -> Any:
    """Loads a data set by its name, downloading it first if necessary.

    Args:
      name: of a public set, such as "movielens/ml-100k", or of a format, such as "criteo"; see `names`.
      files: your own files, for a format only, in the order of its `Entry.paths`.
      kind: what to load, if a set can be read as several kinds; None: the first of its `Entry.kinds`.
      options: of the source's reader, such as `seed` and `negatives` of impressions; see `Entry.options`.

    Returns Sequences for events, ImpressionSplit for impressions, Sessions for sessions,
    (Sequences, SideInfo) for clicks, HeldOut for a matrix, and RatedContent for ratings.

    Raises ValueError for an unknown name, kind or option, naming the nearest or all, for a wrong number of
    files, and as the source does; FileNotFoundError for a public file that is not available.
    """
    entry = find_entry(name)
    kind = entry.kind if kind is None else kind
    if kind not in entry.readers:
        raise ValueError(f"{name}: kind={kind!r}: can only be read as {' or '.join(entry.kinds)}")
    check_num_files(entry, files)
    known = entry.options(kind)
    for option in options:
        if option not in known:
            takes = f"one of {', '.join(known)}" if known else "there are none"
            raise ValueError(f"{name}: option {option!r}: unknown for {kind}; {takes}")
    return entry.readers[kind]()(*files, **options)


def check_num_files(entry: Entry, files: tuple[str | Path, ...]) -> None:
    """Raises ValueError unless the number of files is the one that the entry takes."""
    if len(files) != len(entry.paths):
        expected = " ".join(entry.paths) or "none: it is found or downloaded"
        raise ValueError(f"{entry.name}: {len(files)} files given, expected {expected}")


def describe(
    data: Sequences | ImpressionSplit | Sessions | HeldOut | RatedContent | tuple[Sequences, SideInfo],
) -> str:
    """Statistics of what `load` returns, as text; `python -m jaxrec.data stats` prints it."""
    from jaxrec.data.events.held_out import HeldOut, format_matrix
    from jaxrec.data.events.sessions import Sessions, format_session_statistics
    from jaxrec.data.tables.impressions import ImpressionSplit
    from jaxrec.data.tables.rating_tasks import RatedContent, format_ratings
    from jaxrec.data.tables.summary import format_impressions

    if isinstance(data, ImpressionSplit):
        return format_impressions(data)
    if isinstance(data, HeldOut):
        return format_matrix(data)
    if isinstance(data, RatedContent):
        return format_ratings(data)
    if isinstance(data, Sessions):
        return format_session_statistics(data.name, data.statistics())
    if isinstance(data, tuple):
        sequences, side_info = data
        columns = [
            f"{name} of items: {int(column.max()):,} values" for name, column in side_info.items.items()
        ]
        return "\n".join([_describe_events(sequences), *columns])
    return _describe_events(data)


def _describe_events(sequences: Sequences) -> str:
    from jaxrec.data.events.interactions import format_statistics
    from jaxrec.data.events.split import format_repeats, future_share, leave_one_out

    lines = [format_statistics(sequences.name, sequences.statistics())]
    few = int((sequences.lengths < 3).sum())
    if few:
        lines.append(
            f"{few:,} users have fewer than 3 events: leave_one_out needs short='train', or a 3-core"
        )
    elif sequences.times is not None and sequences.lengths.max() > 3:
        share = future_share(leave_one_out(sequences))
        lines.append(
            f"leave_one_out: {share:.1%} of the training events happened after the test target, on average; "
            "split_by_time has no such leak"
        )
    if sequences.lengths.max() > 3:
        lines.append(format_repeats(leave_one_out(sequences, short="train")))
    return "\n".join(lines)
