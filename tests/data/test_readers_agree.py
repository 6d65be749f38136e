"""What one reader refuses, all refuse: missing ids, spaces, NUL; one long id costs its own length only."""

import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrec.data import validation, vocab
from jaxrec.data.events.event_files import read_csv, read_parquet
from jaxrec.data.events.interactions import Interactions
from jaxrec.data.events.sequence_files import read_sequences
from jaxrec.report import results

Write = Callable[[str, str | bytes], Path]
Reader = Callable[..., Interactions]


@pytest.fixture(params=["csv", "parquet", "parquet-dictionary", "list", "array"])
def read(request: pytest.FixtureRequest, tmp_path: Path) -> Reader:
    """Reads one item id an event, by each way that events come in."""

    def reader(items: Sequence[str], **options: Any) -> Interactions:
        users, times = ["u"] * len(items), list(range(len(items)))
        if request.param == "csv":
            rows = "".join(f'u,"{item}",{time}\n' for item, time in zip(items, times, strict=True))
            (tmp_path / "e.csv").write_text("user,item,time\n" + rows, newline="")
            return read_csv(tmp_path / "e.csv", **options)
        if request.param in ("list", "array"):
            column = items if request.param == "list" else np.array(items, object)
            return Interactions.from_raw("e", users, column, np.array(times), **options)
        pa = pytest.importorskip("pyarrow", reason="needs the extra `parquet`")
        import pyarrow.parquet as pq

        column = pa.array(items)
        if request.param == "parquet-dictionary":
            column = column.dictionary_encode()
        pq.write_table(pa.table({"user": users, "item": column, "time": times}), tmp_path / "e.parquet")
        return read_parquet(tmp_path / "e.parquet", **options)

    return reader


@pytest.mark.parametrize("mark", ["", "nan", "None", "NULL", "<NA>", "NaT", "N/A", "\\N", "NA", "inf"])
def test_marks_of_missing_ids_are_refused_alike(read: Reader, mark: str) -> None:
    with pytest.raises(ValueError, match="item is missing"):
        read(["a", mark])


@pytest.mark.parametrize(
    "text, rule", [(" a", "spaces around it"), ("a\t", "spaces"), ("a\0", "NUL character")]
)
def test_spaces_and_nul_characters_are_refused_alike(read: Reader, text: str, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        read(["a", text])


def test_an_id_that_reads_like_a_mark_is_taken_by_name(read: Reader) -> None:
    assert read(["NA", "b", "NA"], real_ids=("NA",)).item_ids.tolist() == ["NA", "b"]
    with pytest.raises(ValueError, match=r"item is missing \('nan'\)"):
        read(["NA", "nan"], real_ids=("NA",))


@pytest.mark.parametrize(
    "order, want", [("appearance", ["b", "a", "01", "1"]), ("sorted", ["01", "1", "a", "b"])]
)
def test_texts_are_numbered_alike(read: Reader, order: str, want: list[str]) -> None:
    found = read(["b", "a", "b", "01", "1"], order=order)
    assert found.item_ids.tolist() == want
    assert found.item_ids[found.item - 1].tolist() == ["b", "a", "b", "01", "1"]


def test_one_long_id_costs_its_own_length(read: Reader) -> None:
    """20,000 events of 100 items, one of 5,000 characters: in fixed width every event would take 20 kB."""
    items = [f"i{i % 100}" for i in range(20_000)]
    items[5] = "x" * 5_000
    tracemalloc.start()
    found = read(items)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.num_items == 101
    assert peak < 20_000 * 5_000 * 4 / 10


def test_an_id_that_would_make_all_others_huge_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocab, "MAX_ARRAY_BYTES", 4 * 100 * 100)
    ids = [f"i{i}" for i in range(100)]
    assert len(vocab.build("item", [*ids, "x" * 90])) == 101
    with pytest.raises(
        ValueError, match=r"item: 'xxx.*\(200 characters\) is far longer than the other 101 ids"
    ):
        vocab.build("item", [*ids, "x" * 200])
    assert len(vocab.build("item", ["x" * 200 + i for i in ids])) == 100  # all of them long: none is wasted


def parquet(folder: Path, **columns: Any) -> Path:
    pa = pytest.importorskip("pyarrow", reason="needs the extra `parquet`")
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), folder / "p.parquet")
    return folder / "p.parquet"


def test_unsigned_parquet_integers_do_not_wrap(tmp_path: Path) -> None:
    small, large = np.array([7, 5], np.uint64), np.array([2**64 - 1, 1], np.uint64)
    found = read_parquet(parquet(tmp_path, user=small, item=small, time=small))
    assert found.item_ids.tolist() == [7, 5]
    assert found.time is not None and found.time.tolist() == [7, 5]
    for name in ("item", "time"):
        path = parquet(tmp_path, **{"user": small, "item": small, "time": small} | {name: large})
        with pytest.raises(ValueError, match=rf"{name} \({name}\): 18446744073709551615 is 2\^63 or more"):
            read_parquet(path)


@pytest.mark.parametrize("items", [[1.0, 2.0], [1.0, float("nan")], [None, "a"], [None, 1]])
def test_parquet_ids_that_are_floats_or_nothing_are_refused(tmp_path: Path, items: list[Any]) -> None:
    with pytest.raises(ValueError, match=r"item \(item\) is (of type double|missing)"):
        read_parquet(parquet(tmp_path, user=[1, 2], item=items), time=None)


def test_parquet_columns_that_are_not_read_do_not_matter(tmp_path: Path) -> None:
    path = parquet(tmp_path, user=[1], item=[2], other=[[{"a": 1}]])
    assert read_parquet(path, time=None).num_items == 1


def test_a_table_without_a_header_line_names_its_columns(write: Write) -> None:
    path = write("ratings.dat", "1::1193::5::978300760\n2::661::3::978302109\n")
    found = read_csv(path, delimiter="::", columns=("user", "item", "stars", "time"), value="stars")
    assert found.item_ids.tolist() == ["1193", "661"]
    assert found.value is not None and found.value.tolist() == [5, 3]
    with pytest.raises(ValueError, match=r"line 1: has 4 cells, the header has 3"):
        read_csv(path, delimiter="::", columns=("user", "item", "time"))


def test_a_text_with_another_delimiter_says_which(write: Write) -> None:
    for by in ("::", ";", "\t"):
        with pytest.raises(ValueError, match=f"is one column; give delimiter={by!r}".replace("\\", r"\\")):
            read_csv(write("e.csv", by.join(("user", "item", "time")) + "\n"))


@pytest.mark.parametrize("cell", ["1_0", "007", "+1", "１", " 1", "1.0"])
def test_distinct_ids_do_not_become_one_number(write: Write, cell: str) -> None:
    with pytest.raises(ValueError, match=r"e.csv, line 3: item .*is not an integer; ids='keep'"):
        read_csv(write("e.csv", f"user,item,time\n1,1,1\n1,{cell},2\n"), ids="keep")
    with pytest.raises(ValueError, match=r"e.csv, line 2: user .*is not an integer"):
        read_csv(write("e.csv", f"user,item,time\n{cell},1,1\n"), ids="keep")


@pytest.mark.parametrize("cell", ["1_0", "007", "+1", "１", "1.0", "-0", "1-2", "5-"])
@pytest.mark.parametrize("line", ["{} 2 3", "1 2 {}"])
def test_lines_take_plain_integers_only(write: Write, cell: str, line: str) -> None:
    with pytest.raises(
        ValueError, match=r"e.txt, line 2: .* is not an integer of 64 bits; .*digits 0-9 alone"
    ):
        read_sequences(write("e.txt", "8 1 2\n" + line.format(cell) + "\n"))


def test_lines_may_begin_with_a_byte_order_mark_and_end_in_any_case(write: Write) -> None:
    assert read_sequences(write("e.TXT", b"\xef\xbb\xbf7 1 2\n")).user_ids.tolist() == [7]


def test_a_name_that_can_not_name_a_file_is_refused(write: Write) -> None:
    events, lines = write("my data.csv", "user,item,time\na,x,1\n"), write("my lines.txt", "1 2 3\n")
    for read_it in (lambda **o: read_csv(events, **o), lambda **o: read_sequences(lines, **o)):
        with pytest.raises(ValueError, match=r"data set name 'my .*': cannot name a file; .*another name="):
            read_it()
        assert read_it(name="mine").name == "mine"


@pytest.mark.parametrize("name", ["", ".hidden", "a/", "/a", "../a", "a b", "a=1", "a" * 201, "é"])
def test_a_name_of_a_data_set_can_name_a_folder(name: str) -> None:
    with pytest.raises(ValueError, match="cannot name a file"):
        Interactions.from_raw(name, [1], [2])
    assert Interactions.from_raw("movielens/ml-1m_x+y@2.csv", [1], [2]).num_items == 1


def test_names_are_those_that_results_can_be_stored_under() -> None:
    assert results.FILE_NAME.pattern == validation._PART
