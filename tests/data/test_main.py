import gzip
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from jaxrec.data.__main__ import main

Write = Callable[[str, str | bytes], Path]
Capture = pytest.CaptureFixture[str]


def test_list_names_every_set_with_its_state(cache: Path, capsys: Capture) -> None:
    assert main(["list"]) == 0
    printed = capsys.readouterr().out
    for name in ("movielens/ml-100k", "ticoserec/Yelp-A", "coserec/Toys_and_Games", "sasrec/Video"):
        assert any(name in line and "to download" in line for line in printed.splitlines())


@pytest.mark.parametrize(
    "line",
    [
        "movielens/ml-100k            events+table    2.1 MB  to download         research use only",
        "census/income                table          55.5 MB  to download         CC BY 4.0",
        "retailrocket/funnel          table           0.5 MB  not available       CC BY-NC-SA 4.0",
        "sessions/tmall               sessions        3.2 MB  to download         no licence file",
        "aliexpress                   table                   files of your own: table aliexpress TRAIN TEST",
        "taobao                       events                  files of your own: events taobao FILE",
    ],
)
def test_list_says_what_a_set_is_and_on_what_terms(cache: Path, capsys: Capture, line: str) -> None:
    assert main(["list"]) == 0
    assert line in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["table", "amazon", "a", "b"], "format 'amazon': unknown; one of criteo, aliexpress, ali-ccp, "),
        (["events", "criteo", "a"], "format 'criteo': unknown; one of amazon, amazon-din, taobao"),
        (["table", "criteo", "a", "b"], "criteo: 2 files given, expected FILE"),
        (
            ["table", "criteo", "a", "--features", "101"],
            "--features: is for ali-ccp; every criteo file has the same",
        ),
        (["events", "amazon", "a", "b", "--drop-outside"], "--drop-outside: is for taobao; leave it out"),
        (["stats", "criteo"], "data set 'criteo': unknown"),
    ],
)
def test_a_format_of_another_command_or_without_its_files_is_refused(
    cache: Path, capsys: Capture, arguments: list[str], message: str
) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


def test_list_tells_what_is_in_the_data_folder(
    cache: Path, data_dir: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not (data_dir / "sasrec/Video.txt.gz").exists():
        pytest.skip("sasrec/Video.txt.gz is not in the data folder")
    monkeypatch.setenv("JAXREC_DATA_DIR", str(data_dir))
    assert main(["list"]) == 0
    assert any(
        "sasrec/Video" in line and "in JAXREC_DATA_DIR" in line
        for line in capsys.readouterr().out.splitlines()
    )


@pytest.mark.parametrize("command", ["stats", "download"])
def test_a_public_set_is_described_and_verified(
    cache: Path, data_dir: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    if not (data_dir / "coserec/Toys_and_Games.txt.gz").exists():
        pytest.skip("coserec/Toys_and_Games.txt.gz is not in the data folder")
    monkeypatch.setenv("JAXREC_DATA_DIR", str(data_dir))
    assert main([command, "coserec/Toys_and_Games"]) == 0
    want = {"stats": "19,412 users", "download": "Toys_and_Games.txt.gz: sha256 verified"}
    assert want[command] in capsys.readouterr().out


@pytest.mark.parametrize("command", ["stats", "download"])
def test_an_unknown_name_gives_the_nearest(cache: Path, capsys: Capture, command: str) -> None:
    assert main([command, "ticosrec/Beauty"]) == 2
    assert "did you mean ticoserec/Beauty?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, content, options",
    [
        ("e.csv", "user,item,time\n1,5,1\n1,6,2\n2,5,3\n", []),
        ("e.tsv", "u\ti\n1\t5\n1\t6\n2\t5\n", ["--user", "u", "--item", "i", "--time", "None"]),
        ("e.txt", "1 1 2\n2 1\n", []),
        ("e.csv", "user,item,time\n1,1,1\n1,2,2\n2,1,3\n", ["--keep-ids"]),
    ],
)
def test_a_good_file_is_described(
    write: Write, capsys: Capture, name: str, content: str, options: list[str]
) -> None:
    assert main(["validate", str(write(name, content)), *options]) == 0
    printed = capsys.readouterr().out
    assert "2 users, 2 items, 3 interactions" in printed
    assert "2 users have fewer than 3 events" in printed


def test_the_leak_of_leave_one_out_is_measured(write: Write, capsys: Capture) -> None:
    rows = [f"{user},{item},{100 * user + item}" for user in (1, 2) for item in (1, 2, 3, 4)]
    assert main(["validate", str(write("e.csv", "\n".join(["user,item,time", *rows]) + "\n"))]) == 0
    # User 1 is asked at 104, when the 2 events of user 2 among the 4 for training lie ahead; user 2 at 204.
    assert f"{(2 / 4 + 0) / 2:.1%} of the training events happened after" in capsys.readouterr().out


def test_a_parquet_file_is_described(tmp_path: Path, capsys: Capture) -> None:
    pa = pytest.importorskip("pyarrow", reason="needs the extra `parquet`")
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"user": [1, 1], "item": [4, 5], "time": [1, 2]}), tmp_path / "e.parquet")
    assert main(["validate", str(tmp_path / "e.parquet")]) == 0
    assert "1 users, 2 items, 2 interactions" in capsys.readouterr().out


def test_a_core_can_be_taken_first(write: Write, capsys: Capture) -> None:
    path = write("e.csv", "user,item,time\n1,5,1\n1,6,2\n2,5,3\n2,6,4\n3,9,1\n")
    assert main(["validate", str(path), "--k-core", "2"]) == 0
    assert "2 users, 2 items, 4 interactions" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("e.csv", "user,item\n1,5\n", "there is no time column 'time'"),
        ("e.csv", "user,item,time\n1,5,1400000000000\n", "looks like milliseconds"),
        ("e.txt", "1\n", "line 1"),
        ("e.xml", "{}", "expected CSV (.csv, .tsv, .dat), JSON lines"),
    ],
)
def test_a_bad_file_ends_with_2_and_its_error(
    write: Write, capsys: Capture, name: str, content: str, message: str
) -> None:
    assert main(["validate", str(write(name, content))]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert captured.out == ""


def test_a_missing_file_ends_with_2(tmp_path: Path, capsys: Capture) -> None:
    assert main(["validate", str(tmp_path / "none.csv")]) == 2
    assert "none.csv" in capsys.readouterr().err


def test_the_command_line_prints_no_traceback(write: Write) -> None:
    command = [sys.executable, "-m", "jaxrec.data", "validate", str(write("e.csv", ""))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "the file is empty" in done.stderr
    assert "Traceback" not in done.stderr


GOOD = "user,item,time\n1,5,1\n1,6,2\n2,5,3\n"


@pytest.mark.parametrize(
    "name, content, options",
    [
        ("e.CSV", GOOD, []),
        ("e.Csv.GZ", gzip.compress(GOOD.encode(), mtime=0), []),
        ("e.TSV", GOOD.replace(",", "\t"), []),
        ("e.csv", GOOD.replace(",", "\t"), ["--delimiter", "\\t"]),
        ("e.csv", GOOD.replace(",", "::"), ["--delimiter", "::"]),
        ("e.dat", GOOD.replace(",", "::"), ["--delimiter", "::"]),
        ("e.dat", "1::5::1\n1::6::2\n2::5::3\n", ["--delimiter", "::", "--columns", "user", "item", "time"]),
        ("e.csv", GOOD.replace("1,5", "NA,5").replace("1,6", "NA,6"), ["--real-ids", "NA"]),
        ("my e.csv", GOOD, ["--name", "e.csv"]),
    ],
)
def test_suffixes_and_delimiters_of_any_form_are_taken(
    write: Write, capsys: Capture, name: str, content: str | bytes, options: list[str]
) -> None:
    assert main(["validate", str(write(name, content)), *options]) == 0
    assert "2 users, 2 items, 3 interactions" in capsys.readouterr().out


def test_kept_ids_stay_in_a_core_unless_they_are_renumbered_by_name(write: Write, capsys: Capture) -> None:
    rows = [f"{u},{i},{i}\n" for u in (1, 2, 3) for i in (2, 4, 5)]
    path = str(write("e.csv", "user,item,time\n" + "".join(rows) + "1,1,9\n"))
    command = ["validate", path, "--keep-ids", "--k-core", "3"]
    assert main(command) == 0
    assert "an item table needs the ids 1..5" in capsys.readouterr().out
    assert main([*command, "--renumber"]) == 0
    assert "item table" not in capsys.readouterr().out
    assert main(["validate", path, "--k-core", "3", "--renumber"]) == 2
    assert "--renumber: is for --keep-ids with --k-core" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, content, options, message",
    [
        ("e.csv", GOOD.replace(",", "::"), [], "give delimiter='::'"),
        ("e.csv", GOOD, ["--delimiter", ""], "delimiter='': must be one character or several"),
        ("e.csv", GOOD, ["--delimiter", "\n"], "delimiter='\\n': must be"),
        ("e.csv", GOOD, ["--times-file", "t.txt"], "--times-file t.txt: is for a .txt file"),
        ("e.txt", "1 2\n", ["--delimiter", ";"], "--delimiter ;: is for a table"),
        ("e.parquet", b"PAR1", ["--delimiter", ";"], "--delimiter ;: is for a table of text"),
        ("e.parquet", b"PAR1 no table", [], "e.parquet: not a readable Parquet file"),
        ("e.parquet", b"", [], "e.parquet: not a readable Parquet file"),
        ("e.csv.gz", b"no gzip", [], "e.csv.gz: truncated or corrupt gzip file"),
        ("e.txt.GZ", b"no gzip", [], "e.txt.GZ: truncated or corrupt gzip file"),
        ("e.csv", GOOD.encode("utf-16"), [], "e.csv, after line 0: not UTF-8 text"),
        ("my e.csv", GOOD, [], "data set name 'my e.csv': cannot name a file"),
        ("e.csv", "user,item,time\nNA,1,1\n", [], "user is missing ('NA')"),
        ("e.csv", "user,item,time\n" + "9" * 5000 + ",1,1\n", ["--keep-ids"], "is not an integer of 64 bits"),
    ],
)
def test_whatever_is_wrong_ends_with_2_and_one_line(
    write: Write, capsys: Capture, name: str, content: str | bytes, options: list[str], message: str
) -> None:
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow", reason="needs the extra `parquet`")
    assert main(["validate", str(write(name, content)), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", ["e.csv", "e.parquet", "e.txt"])
def test_a_folder_for_a_file_ends_with_2(tmp_path: Path, capsys: Capture, name: str) -> None:
    (tmp_path / name).mkdir()
    assert main(["validate", str(tmp_path / name)]) == 2
    assert "directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["table", "criteo", "{}"],
        ["table", "aliexpress", "{}", "{}"],
        ["table", "ali-ccp", "{}", "{}", "{}"],
        ["table", "ali-ccp-logs", "{}", "{}", "{}", "{}"],
        ["table", "fuxictr", "{}", "{}", "{}", "{}"],
        ["events", "taobao", "{}"],
        ["events", "amazon", "{}", "{}"],
        ["events", "amazon-din", "{}"],
    ],
)
@pytest.mark.parametrize(
    "content", [None, b"", b"\xff\xfe\x00", b"no gzip"], ids=["folder", "empty", "text", "gz"]
)
def test_files_of_known_formats_end_with_2_too(
    write: Write, tmp_path: Path, capsys: Capture, arguments: list[str], content: bytes | None
) -> None:
    pytest.importorskip("pyarrow", reason="needs the extra `parquet`")
    name = "e.csv.gz" if content == b"no gzip" else "e.csv"
    path = tmp_path if content is None else write(name, content)
    assert main([argument.format(path) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and path.name in error


def test_an_error_of_another_kind_is_told_in_one_line_too(
    write: Write, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError("out of\nmemory")

    monkeypatch.setattr("jaxrec.data.__main__.read_events", fail)
    assert main(["validate", str(write("e.csv", GOOD))]) == 2
    assert capsys.readouterr().err == "error: MemoryError: out of memory\n"
