import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

import jaxrec.data
from jaxrec.data import catalogue
from jaxrec.data.__main__ import main
from jaxrec.data.catalogue import Entry, Kind, describe, entries, find_entry, load, names
from jaxrec.data.events.held_out import HeldOut
from jaxrec.data.events.interactions import Sequences
from jaxrec.data.events.sessions import Sessions
from jaxrec.data.store import File
from jaxrec.data.tables.click_histories import SideInfo
from jaxrec.data.tables.impressions import ImpressionSplit
from jaxrec.data.tables.rating_tasks import RatedContent

Write = Callable[[str, str | bytes], Path]
MATRICES = ("lightgcn/gowalla", "kgat/amazon-book", "ncf/ml-1m")
TYPES: dict[Kind, type] = {
    "events": Sequences,
    "impressions": ImpressionSplit,
    "sessions": Sessions,
    "matrix": HeldOut,
    "ratings": RatedContent,
}
# The first has five million rows, 13 s and 1.2 GB: only its entry is tested; the others are loaded elsewhere.
BIG = [
    ("movielens/ml-1m", "impressions"),
    ("melu/ml-1m", "ratings"),
    *((name, "matrix") for name in MATRICES),
]
PUBLIC = [(name, kind) for name, entry in catalogue.public().items() for kind in entry.kinds]
TAOBAO = "1,10,7,pv,1511600000\n1,11,8,pv,1511600001\n2,10,7,pv,1511600002\n"


def exactly(message: str) -> str:
    """A pattern of this message and no other."""
    return f"^{re.escape(message)}$"


@pytest.mark.parametrize("name, kind", [pair for pair in PUBLIC if pair not in BIG])
def test_every_set_that_is_here_loads_as_each_of_its_kinds(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: Kind
) -> None:
    monkeypatch.setenv("JAXREC_DATA_DIR", str(data_dir))
    if find_entry(name).state != "in JAXREC_DATA_DIR":
        pytest.skip(f"{name} is not in the data folder")
    found: Any = load(name, kind=kind)
    named: Any = {"impressions": "impressions", "matrix": "sequences"}.get(kind)
    named = getattr(found, named) if named else found
    assert named.name == name
    assert isinstance(found, TYPES[kind])


@pytest.mark.parametrize("name, entry", entries().items())
def test_every_entry_says_what_it_is(name: str, entry: Entry) -> None:
    assert entry.name == name
    assert entry.kind in get_args(Kind)
    assert entry.licence != "" and entry.returns == catalogue.RETURNS[entry.kind]
    assert (entry.source is None) == bool(entry.paths) == (not entry.files) == (entry.state is None)
    assert (entry.size > 0) == bool(entry.files)
    for kind in entry.kinds:
        assert callable(entry.readers[kind]())
        assert {"name", "files", "kind"}.isdisjoint(entry.options(kind))


def test_names_are_unique_and_of_one_source() -> None:
    assert len(set(names())) == len(names())
    for entry in catalogue.public().values():
        assert entry.source is not None
        assert entry.name.startswith(f"{entry.source.name}/")


def test_every_source_file_is_in_the_catalogue() -> None:
    folder = Path(catalogue.__file__).parent / "sources"
    helpers = {"__init__", "dataset", "matrix_files", "rating_files"}
    helpers |= {"open_bandit"}  # the logs of two policies, which are none of the kinds
    text = Path(catalogue.__file__).read_text(encoding="utf-8")
    missing = [p.stem for p in folder.glob("*.py") if p.stem not in helpers and f'"{p.stem}"' not in text]
    assert missing == []


def test_no_other_file_lists_the_sets() -> None:
    """A file that names sets of three sources or more would be a second list."""
    package = Path(catalogue.__file__).parent
    for path in package.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        named = [
            source for source in catalogue.SOURCES if f'"{source}"' in text or f"sources.{source}" in text
        ]
        assert path.name == "catalogue.py" or len(named) < 3, path


def test_a_set_of_several_kinds_gives_the_first_unless_told() -> None:
    entry = find_entry("movielens/ml-100k")
    assert entry.kinds == ("events", "impressions")
    assert (entry.kind, entry.licence) == ("events", "research use only")


def test_options_reach_the_source(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXREC_DATA_DIR", str(data_dir))
    if find_entry("movielens/ml-100k").state != "in JAXREC_DATA_DIR":
        pytest.skip("movielens/ml-100k is not in the data folder")
    found = load("movielens/ml-100k", kind="impressions", negatives=1)
    assert found.impressions.num_rows == 2 * 100_000


def test_files_of_yours_are_read_by_the_name_of_their_format(write: Write) -> None:
    found = load("taobao", write("clicks.csv", TAOBAO))
    sequences, side_info = found
    assert isinstance(sequences, Sequences) and isinstance(side_info, SideInfo)
    assert (sequences.num_users, sequences.num_items) == (2, 2)


@pytest.mark.parametrize(
    "files, state",
    [
        ((("here",), ("here",)), "in JAXREC_DATA_DIR"),
        ((("here",), ("nowhere",)), "not available"),
        ((("nowhere",), ("here",)), "not available"),
        ((("nowhere", "here"), ("here",)), "in JAXREC_DATA_DIR"),  # one of two that stand for each other
    ],
)
def test_the_state_of_a_set_is_that_of_the_file_hardest_to_get(
    cache: Path, write: Write, monkeypatch: pytest.MonkeyPatch, files: tuple[tuple[str, ...], ...], state: str
) -> None:
    monkeypatch.setenv("JAXREC_DATA_DIR", str(write("here", "").parent))
    entry = find_entry("sasrec/Video")
    wanted = tuple(tuple(File(name, "", 0) for name in alternatives) for alternatives in files)
    assert entry._replace(files=wanted).state == state


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, nearest",
    [
        ("movielens/ml-100", "movielens/ml-100k"),
        ("ml-100k", "movielens/ml-100k"),
        ("MovieLens/ML-100K", "movielens/ml-100k"),
        ("ticosrec/Home", "ticoserec/Home"),
        ("Beauty", "ticoserec/Beauty or coserec/Beauty"),
        ("retailrocket", "retailrocket/funnel"),
        ("critoe", "criteo"),
    ],
)
def test_an_unknown_name_gives_the_nearest_and_all(name: str, nearest: str) -> None:
    message = f"data set {name!r}: unknown (did you mean {nearest}?); one of {', '.join(names())}"
    with pytest.raises(ValueError, match=exactly(message)):
        load(name)


def test_a_name_like_none_gives_all() -> None:
    with pytest.raises(ValueError, match=f"data set '§': unknown; one of {names()[0]}, "):
        load("§")


@pytest.mark.parametrize(
    "name, here",
    [
        ("Games", "sasrec/Video"),
        ("sasrec/Games", "sasrec/Video"),
        ("coserec/Sports", "coserec/Sports_and_Outdoors"),
        ("ticoserec/Sports_and_Outdoors", "ticoserec/Sports"),
    ],
)
def test_another_name_of_a_set_is_refused_with_the_one_it_has(
    cache: Path, capsys: pytest.CaptureFixture[str], name: str, here: str
) -> None:
    message = f"data set {name!r}: is called {here} here; use that name"
    with pytest.raises(ValueError, match=exactly(message)):
        load(name)
    assert main(["stats", name]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"


def test_other_names_are_no_names_and_lead_to_names() -> None:
    assert set(catalogue._OTHER_NAMES).isdisjoint(names())
    assert set(catalogue._OTHER_NAMES.values()) <= set(names())


@pytest.mark.parametrize(
    "name, kind, message",
    [
        ("census/income", "events", "census/income: kind='events': can only be read as impressions"),
        (
            "movielens/ml-100k",
            "table",
            "movielens/ml-100k: kind='table': can only be read as events or impressions",
        ),
    ],
)
def test_a_kind_that_a_set_has_not_is_refused(name: str, kind: Kind, message: str) -> None:
    with pytest.raises(ValueError, match=exactly(message)):
        load(name, kind=kind)


@pytest.mark.parametrize(
    "name, files, message",
    [
        ("sasrec/Video", ("a.txt",), "sasrec/Video: 1 files given, expected none: it is found or downloaded"),
        ("amazon", ("a.json",), "amazon: 1 files given, expected REVIEWS METADATA"),
        ("criteo", (), "criteo: 0 files given, expected FILE"),
    ],
)
def test_another_number_of_files_is_refused(name: str, files: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=exactly(message)):
        load(name, *files)


@pytest.mark.parametrize(
    "name, files, message",
    [
        ("retailrocket/funnel", (), "option 'negative': unknown for impressions; one of negatives, seed"),
        ("sasrec/Video", (), "sasrec/Video: option 'negative': unknown for events; there are none"),
        ("ali-ccp-logs", ("a", "b", "c", "d"), "unknown for impressions; one of single, several, max_values"),
    ],
)
def test_an_unknown_option_is_refused_before_anything_is_read(
    cache: Path, name: str, files: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load(name, *files, negative=4)


# --- what is imported, and the command line ---------------------------------------------------------


@pytest.mark.parametrize(
    "statement, sources",
    [
        ("import jaxrec.data", []),
        ("from jaxrec.data import load", []),
        ("from jaxrec.data.catalogue import formats; formats()", []),
        ("from jaxrec.data.catalogue import find_entry; find_entry('sasrec/Video')", ["sasrec"]),
        ("from jaxrec.data.catalogue import find_entry; find_entry('census/income').options()", ["census"]),
    ],
)
def test_no_source_is_imported_before_it_is_needed(statement: str, sources: list[str]) -> None:
    program = (
        f"import sys\n{statement}\n"
        "print([m.rpartition('.')[2] for m in sys.modules if m.startswith('jaxrec.data.sources.')"
        " and not m.endswith('.dataset')], 'numpy' in sys.modules, 'jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{sources} {bool(sources)} False"


def test_the_package_of_data_has_the_catalogues_load() -> None:
    assert jaxrec.data.load is catalogue.load


def test_stats_prints_the_description(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JAXREC_DATA_DIR", str(data_dir))
    if find_entry("sasrec/Video").state != "in JAXREC_DATA_DIR":
        pytest.skip("sasrec/Video is not in the data folder")
    assert main(["stats", "sasrec/Video"]) == 0
    printed = capsys.readouterr().out
    assert printed == describe(load("sasrec/Video")) + "\n"
    assert printed.startswith("sasrec/Video: 31,013 users, 23,715 items, 287,107 interactions")
    assert "\n112 users have fewer than 3 events" in printed


def test_clicks_are_described_with_what_is_known_of_items(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write("clicks.csv", TAOBAO)
    lines = describe(load("taobao", path)).splitlines()
    assert "2 users, 2 items, 3 interactions" in lines[0]
    assert lines[-1].endswith("of items: 2 values")
    assert main(["events", "taobao", str(path)]) == 0
    assert capsys.readouterr().out.splitlines() == lines
