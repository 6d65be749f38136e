"""Large tables: numbers written plainly, names of columns, empty lines, files that can't be read."""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jaxrec.data.sources import aliccp, amazon, criteo, fuxictr, taobao
from jaxrec.data.sources.aliccp import Files
from jaxrec.data.tables import table_reader

pytest.importorskip("pyarrow", reason="needs the extra `parquet`")

Write = Callable[[str, str | bytes], Path]


@pytest.mark.parametrize(
    "cell", ["007", "0x1F", " 1", "1 ", "+1", "1_0", "1.0", "-0", "１", "nan", str(2**63)]
)
def test_integers_are_written_plainly(write: Write, cell: str) -> None:
    path = write("t.csv", f"a,b\n1,1\n2,{cell}\n")
    with pytest.raises(
        ValueError, match=r"t.csv: b, in CSV column #1: Row #3: no integer of 64 bits \(digits 0-9"
    ):
        table_reader.read_integers(path, ["b"])


def test_large_integers_are_exact(write: Write) -> None:
    path = write("t.csv", f"a\n{2**63 - 1}\n-5\n{2**53 + 1}\n")
    assert table_reader.read_integers(path, ["a"])["a"].tolist() == [2**63 - 1, -5, 2**53 + 1]


@pytest.mark.parametrize(
    "cell", ["nan", "NaN", "inf", "-Infinity", "NA", "+1", " 1", "1_0", "0x1", "1e400", "１"]
)
def test_numbers_are_plain_and_finite(write: Write, cell: str) -> None:
    path = write("t.csv", f"a,x\nv,1\nv,{cell}\n")
    with pytest.raises(
        ValueError, match=r"t.csv: x, in CSV column #1: Row #3: no finite decimal number: .*repair"
    ):
        table_reader.read_table([path], categories=["a"], numbers=["x"])


def test_numbers_may_have_exponents_and_be_missing(write: Write) -> None:
    path = write("t.csv", "a,x\nv,1e-2\nv,\nv,-.5\nv,3.\n")
    columns, _ = table_reader.read_table([path], categories=["a"], numbers=["x"])
    np.testing.assert_array_equal(columns["x"], np.array([0.01, np.nan, -0.5, 3], np.float32))


def test_an_empty_line_is_no_row_of_missing_values(write: Write) -> None:
    path = write("t.csv", "a,b\nu,v\n\nu,v\n")
    with pytest.raises(ValueError, match="t.csv, line 3: is empty; remove it"):
        table_reader.read_table([path], categories=["a", "b"], numbers=[])
    path = write("t.csv", "a,b\nu,v\n,\nu,v\n")
    assert table_reader.read_table([path], categories=["a", "b"], numbers=[])[1] == [3]


def test_a_column_that_stands_twice_is_refused(write: Write) -> None:
    with pytest.raises(ValueError, match="t.csv: 2 columns are named 'a'"):
        table_reader.read_table([write("t.csv", "a,a\n1,2\n")], categories=["a"], numbers=[])


@pytest.mark.parametrize(
    "name, mark", [("t.csv", b"\xef\xbb\xbf"), ("t.csv.GZ", b"\xef\xbb\xbf"), ("t.GZ", b"")]
)
def test_byte_order_marks_and_suffixes_are_those_of_every_reader(
    write: Write, name: str, mark: bytes
) -> None:
    content = mark + b'"a",x\nv,1\n'
    path = write(name, gzip.compress(content) if name.endswith("GZ") else content)
    assert table_reader.read_first_line(path) == '"a",x' and table_reader.read_column_names(path) == [
        "a",
        "x",
    ]
    assert table_reader.read_table([path], categories=["a"], numbers=["x"])[1] == [1]


def test_a_damaged_archive_is_named(write: Write) -> None:
    with pytest.raises(ValueError, match=r"t.csv.gz: .*(fetch it again|repair the file)"):
        table_reader.read_table([write("t.csv.gz", b"no gzip")], categories=["a"], numbers=[], names=["a"])


def test_a_category_with_a_nul_character_is_refused(write: Write) -> None:
    path = write("t.csv", "a\nv\0\nv\n")
    with pytest.raises(ValueError, match="a: .*has a NUL character"):
        table_reader.read_table([path], categories=["a"], numbers=[])


def criteo_file(mark: str = "") -> str:
    rows = [
        ",".join([str(i % 2), *(str(i % 5) for _ in range(13)), *("c" for _ in range(26))]) for i in range(60)
    ]
    return mark + "\n".join([",".join(criteo.COLUMNS), *rows]) + "\n"


def test_a_criteo_file_may_begin_with_a_byte_order_mark(write: Write) -> None:
    found = criteo.load(write("c.csv", criteo_file("\ufeff")), min_count=1)
    assert found.impressions.num_rows == 60


@pytest.mark.parametrize("cell", ["01", "0x1", " 1", "+1", "1.0"])
@pytest.mark.parametrize("column", [0, 1, 2, 4])
def test_taobao_ids_and_times_are_written_plainly(write: Write, cell: str, column: int) -> None:
    row = ["1", "2", "3", "pv", str(taobao.WINDOW[0])]
    row[column] = cell
    with pytest.raises(ValueError, match=rf"u.csv: .*column #{column}: Row #2: no integer"):
        taobao.load(write("u.csv", f"1,2,3,pv,{taobao.WINDOW[0]}\n{','.join(row)}\n"))


def test_an_amazon_table_takes_a_quoted_header(write: Write) -> None:
    path = write("t.csv", '\ufeff"user_id","item_id","time","cate_id"\n1,5,9,7\n')
    assert amazon.load_table(path)[0].item_ids.tolist() == [5]


@pytest.mark.parametrize("name", ["nan", " A", "A\\u0000"])
def test_amazon_ids_are_checked_as_those_of_other_files(write: Write, name: str) -> None:
    path = write("r.json", f'{{"reviewerID": "{name}", "asin": "P", "unixReviewTime": 1}}\n')
    with pytest.raises(ValueError, match="r.json, line 1: reviewerID"):
        amazon.read_reviews(path)


# Columns are features by name only


def ccp(write: Write, name: str, header: str, cells: Callable[[int], str]) -> Path:
    rows = [f"{i % 2},{(i % 2) * (i // 2 % 2)},{i % 9},{i % 5}{cells(i)}" for i in range(60)]
    return write(name, "\n".join([f"click,purchase,101,205{header}", *rows]) + "\n")


def test_fields_of_the_set_are_features(write: Write) -> None:
    path = ccp(write, "a.csv", ",D109_14,109_14", lambda i: f",{i / 7:.3f},{i % 7}")
    fields = aliccp.load_table(path, path, path).impressions.fields
    assert [(f.name, f.kind) for f in fields] == [
        ("101", "categorical"),
        ("205", "categorical"),
        ("109_14", "categorical"),
        ("D109_14", "numeric"),
    ]


@pytest.mark.parametrize(
    "header, message",
    [
        (",", r"a.csv: column 5 has no name \(''\), such as the index that pandas writes.*features="),
        (",Unnamed: 0", "a.csv: column 5 has no name"),
        (",lab", "a.csv: columns 'lab' are not named like a field .*name those that are in features="),
        (",101", "a.csv: 2 columns are named '101'"),
    ],
)
def test_other_columns_become_features_only_when_named(write: Write, header: str, message: str) -> None:
    path = ccp(write, "a.csv", header, lambda i: f",{i * 3 % 11}")
    with pytest.raises(ValueError, match=message):
        aliccp.load_table(path, path, path)


def test_named_columns_alone_are_read(write: Write) -> None:
    path = ccp(write, "a.csv", ",lab,", lambda i: f",{i * 3 % 11},{i}")
    fields = aliccp.load_table(path, path, path, features=("205", "lab")).impressions.fields
    assert [field.name for field in fields] == ["205", "lab"]
    for wrong in (("205", "brand"), ("click",), (), ("",)):
        with pytest.raises(ValueError, match="a.csv: features=.*name columns of 'click'"):
            aliccp.load_table(path, path, path, features=wrong)


@pytest.mark.parametrize("name", ["lab", "D7"])
@pytest.mark.parametrize("write_it", [str, lambda label: f"{label}.0"])
def test_a_copy_of_a_label_is_seen_as_text_and_as_a_number(
    write: Write, name: str, write_it: Callable[[int], str]
) -> None:
    """With 9 users chance is no argument: it has to be the equality that is seen."""
    path = ccp(write, "a.csv", f",{name}", lambda i: f",{write_it(i % 2)}")
    with pytest.raises(ValueError, match=f"feature '{name}' equals.* the label 'click'"):
        aliccp.load_table(path, path, path, features=("101", name))


@pytest.mark.parametrize(
    "row, message",
    [
        ("1,2,0,ua,1,205\x0250\x031", "s.csv, row 1: click '2', purchase '0': expected 0 or 1"),
        ("1,1, 1,ua,1,205\x0250\x031", "s.csv, row 1: click '1', purchase ' 1'"),
        ("1,,0,ua,1,205\x0250\x031", "s.csv, row 1: click None"),
        ("1,0,0,ua,1,205\x02050\x031", "s.csv: features must read .*'050'"),
        ("1,0,0,ua,1,205\x020x5\x031", "s.csv: features must read .*'0x5'"),
    ],
)
def test_labels_and_ids_of_ali_ccp_logs_are_plain(write: Write, row: str, message: str) -> None:
    skeleton = write("s.csv", f"0,1,0,ua,1,205\x0250\x031\n{row}\n")
    with pytest.raises(ValueError, match=message):
        aliccp.read_logs((Files(skeleton, write("c.csv", "ua,1,101\x021\x031\n")),), single=("101", "205"))


def test_common_features_stand_once(write: Write) -> None:
    files = Files(write("s.csv", "0,1,0,ua,1,205\x0250\x031\n"), write("c.csv", "ua,1,101\x021\x031\n" * 2))
    with pytest.raises(ValueError, match="c.csv: a common feature index stands twice"):
        aliccp.read_logs((files,), single=("101", "205"))


def test_a_feature_of_a_map_has_a_name(write: Write) -> None:
    path = write("m.json", '\ufeff{"labels": ["y"], "features": [{"": {"type": "numeric"}}]}')
    with pytest.raises(ValueError, match="m.json: '': a feature has no name"):
        fuxictr.read_map(path)


def test_a_single_array_is_no_archive_of_columns(write: Write, tmp_path: Path) -> None:
    described = write("m.json", '{"labels": ["y"], "features": [{"x": {"type": "numeric"}}]}')
    np.save(tmp_path / "one.npy", np.zeros(3))
    path = (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    with pytest.raises(ValueError, match="one.npz: .*expected an .npz file of the columns of the map"):
        fuxictr.load(path, path, path, described)
