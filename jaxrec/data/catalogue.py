"""Every data set and file format by name: what it is, on what terms, and how it is loaded.

    load("movielens/ml-100k")                               a public set, found or downloaded
    load("movielens/ml-100k", kind="impressions", seed=1)   the same as a labelled table
    load("criteo", "train.txt")                             files of yours in a known format

This is the one list of sources; `python -m jaxrec.data` reads it too. A source is imported when it is needed.
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
    from jaxrec.data.events.interactions import Sequences
    from jaxrec.data.events.sessions import Sessions
    from jaxrec.data.tables.click_histories import SideInfo
    from jaxrec.data.tables.impressions import ImpressionSplit

Kind = Literal["events", "impressions", "sessions", "clicks"]
Reader = Callable[..., Any]

RETURNS: Mapping[Kind, str] = {
    "events": "Sequences, the events of each user in time order",
    "impressions": "ImpressionSplit, a labelled table in three parts",
    "sessions": "Sessions, click sessions for training and test",
    "clicks": "(Sequences, SideInfo), events and what is known of items, of which next_clicks makes examples",
}
# What a source offers: its tuple of descriptions, and the function that loads one by name.
_OFFERS: Mapping[Kind, tuple[str, str]] = {
    "events": ("DATASETS", "load"),
    "impressions": ("TABLES", "load_impressions"),
    "sessions": ("LOGS", "load"),
}
# Modules of jaxrec.data.sources whose files have a public address, in the order that names are listed.
SOURCES = ("movielens", "ticoserec", "coserec", "sasrec", "census", "retailrocket", "sessions")
_MODULE_OF = {"sessions": "session_logs"}  # where a source's name is not its module's
# What papers and other files call a set that has another name here.
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
}


class Entry(NamedTuple):
    """A name that `load` takes.

    readers: for each kind the set can be loaded as, what gives the function that does so, which imports its
      source; the first kind is the default.
    source: where a public set comes from and on what terms; None for files of yours.
    files: each file of a public set, as alternatives of which the first found is read.
    paths: what the files of yours are that `load` takes, in order; none for a public set.
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
        """What `load` gives if no kind is asked for."""
        return self.kinds[0]

    @property
    def returns(self) -> str:
        """What `load` returns, in words."""
        return RETURNS[self.kind]

    @property
    def licence(self) -> str:
        return "that of your files" if self.source is None else self.source.licence

    @property
    def size(self) -> int:
        """Bytes of a public set's original files, uncompressed; 0 for files of yours."""
        return sum(alternatives[-1].size for alternatives in self.files)

    @property
    def state(self) -> store.State | None:
        """The state of a public set is that of the file hardest to get; None for files of yours."""
        order: tuple[store.State, ...] = ("in JAXREC_DATA_DIR", "cached", "to download", "not available")
        states = [store.file_state(*alternatives) for alternatives in self.files]
        return max(states, key=order.index) if states else None

    def options(self, kind: Kind | None = None) -> tuple[str, ...]:
        """Names of the options that `load` takes for this kind (None: the default one)."""
        parameters = inspect.signature(self.readers[kind or self.kind]()).parameters.values()
        return tuple(p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY)


def _function(module: str, function: str = "load") -> Callable[[], Reader]:
    """What gives a function of a source, importing that source when called."""
    return lambda: getattr(importlib.import_module(f"jaxrec.data.sources.{module}"), function)


def _aliccp_logs() -> Reader:
    from jaxrec.data.sources import aliccp

    @functools.wraps(aliccp.load)
    def read(a: Path, b: Path, c: Path, d: Path, **options: Any) -> ImpressionSplit:
        return aliccp.load(aliccp.Files(a, b), aliccp.Files(c, d), **options)

    return read


def _own(name: str, kind: Kind, paths: str, reader: Callable[[], Reader]) -> Entry:
    return Entry(name, {kind: reader}, None, (), tuple(paths.split()))


# Formats of files that no public address gives.
_FORMATS = (
    _own("criteo", "impressions", "FILE", _function("criteo")),
    _own("aliexpress", "impressions", "TRAIN TEST", _function("aliexpress")),
    _own("ali-ccp", "impressions", "TRAIN VALIDATION TEST", _function("aliccp", "load_table")),
    _own(
        "ali-ccp-logs", "impressions", "SKELETON_TRAIN COMMON_TRAIN SKELETON_TEST COMMON_TEST", _aliccp_logs
    ),
    _own("fuxictr", "impressions", "TRAIN VALIDATION TEST FEATURE_MAP", _function("fuxictr")),
    _own("amazon", "clicks", "REVIEWS METADATA", _function("amazon")),
    _own("amazon-din", "clicks", "FILE", _function("amazon", "load_table")),
    _own("taobao", "clicks", "FILE", _function("taobao")),
)


def formats() -> dict[str, Entry]:
    """The known formats of files of yours, by name."""
    return {entry.name: entry for entry in _FORMATS}


def public() -> dict[str, Entry]:
    """Every public data set by name, `source/set`, in the order of the sources."""
    return {name: entry for source in SOURCES for name, entry in _sets_of(source).items()}


def entries() -> dict[str, Entry]:
    """All that `load` takes by name: public data sets, then formats of files of yours."""
    return {**public(), **formats()}


def names() -> tuple[str, ...]:
    """The names that `load` takes.

    >>> names()[:3]
    ('movielens/ml-100k', 'movielens/ml-1m', 'ticoserec/Beauty')
    """
    return tuple(entries())


def _sets_of(source: str) -> dict[str, Entry]:
    """The data sets of one source, which is imported, by name."""
    module = importlib.import_module(f"jaxrec.data.sources.{_MODULE_OF.get(source, source)}")
    offered = {
        kind: {described.name: described for described in getattr(module, attribute, ())}
        for kind, (attribute, _) in _OFFERS.items()
    }

    def reader(kind: Kind, name: str) -> Callable[[], Reader]:
        return lambda: functools.partial(getattr(module, _OFFERS[kind][1]), name)

    found = {}
    for name in dict.fromkeys(name for described in offered.values() for name in described):
        kinds = [kind for kind, described in offered.items() if name in described]
        files = offered[kinds[0]][name].files  # other kinds are made from the same files
        readers = {kind: reader(kind, name) for kind in kinds}
        found[f"{source}/{name}"] = Entry(f"{source}/{name}", readers, module.SOURCE, files, ())
    return found


def find(name: str, among: Mapping[str, Entry] | None = None) -> Entry:
    """The entry of this name, among all by default; ValueError naming the nearest and all names.

    A set has one name: what else it is called in papers is refused with the name it has here.
    """
    source = name.partition("/")[0]
    near = _sets_of(source) if among is None and source in SOURCES else {}  # no other source is imported
    if name in near:
        return near[name]
    among = entries() if among is None else among
    if name in among:
        return among[name]
    if _OTHER_NAMES.get(name) in among:
        raise ValueError(f"data set {name!r}: is called {_OTHER_NAMES[name]} here; give that name")
    guesses = _nearest(name, tuple(among))
    hint = f" (did you mean {' or '.join(guesses)}?)" if guesses else ""
    raise ValueError(f"data set {name!r}: unknown{hint}; one of {', '.join(among)}")


def _nearest(name: str, known: tuple[str, ...]) -> list[str]:
    """The names that a wrong one may stand for: those whose last part it is, or else the most similar one."""
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
def load(name: str, *files: str | Path, kind: Kind | None = None, **options: Any) -> Any: ...
def load(name: str, *files: str | Path, kind: Kind | None = None, **options: Any) -> Any:
    """Loads a data set by its name, downloading it first if need be.

    Args:
      name: of a public set, such as "movielens/ml-100k", or of a format, such as "criteo"; see `names`.
      files: of yours, for a format only, in the order of its `Entry.paths`.
      kind: what to load, where a set can be read as more than one; None: the first of its `Entry.kinds`.
      options: of the source's function, such as `seed` and `negatives` of impressions; see `Entry.options`.

    Returns Sequences for events, ImpressionSplit for impressions, Sessions for sessions, and
    (Sequences, SideInfo) for clicks.

    Raises ValueError for an unknown name, kind or option, naming the nearest or all, for a wrong number of
    files, and as the source does; FileNotFoundError for a public file that is not available.
    """
    entry = find(name)
    kind = entry.kind if kind is None else kind
    if kind not in entry.readers:
        raise ValueError(f"{name}: kind={kind!r}: is read as {' or '.join(entry.kinds)}")
    check_files(entry, files)
    known = entry.options(kind)
    for option in options:
        if option not in known:
            takes = f"one of {', '.join(known)}" if known else "there are none"
            raise ValueError(f"{name}: option {option!r}: unknown for {kind}; {takes}")
    return entry.readers[kind]()(*files, **options)


def check_files(entry: Entry, files: tuple[str | Path, ...]) -> None:
    """Raises ValueError unless as many files are given as the entry takes."""
    if len(files) != len(entry.paths):
        expected = " ".join(entry.paths) or "none: it is found or downloaded"
        raise ValueError(f"{entry.name}: {len(files)} files given, expected {expected}")


def describe(data: Sequences | ImpressionSplit | Sessions | tuple[Sequences, SideInfo]) -> str:
    """The statistics of what `load` returns, in lines, as `python -m jaxrec.data stats` prints them."""
    from jaxrec.data.events.sessions import Sessions, format_session_statistics
    from jaxrec.data.tables.impressions import ImpressionSplit
    from jaxrec.data.tables.summary import format_impressions

    if isinstance(data, ImpressionSplit):
        return format_impressions(data)
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
            f"{few:,} users have fewer than 3 events: leave_one_out needs short='train', or a k-core of 3"
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
