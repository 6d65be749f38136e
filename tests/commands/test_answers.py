"""`jaxrec recommend`, `score` and `embed` on tiny runs: what they print and write, and refuse."""

from __future__ import annotations

import builtins
import csv
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrec import config, serve
from jaxrec.commands import embed, recommend, score
from jaxrec.serve import files
from jaxrec.serve.run_folder import write
from jaxrec.types import Protocol
from tests.serve.label_runs import click_run
from tests.serve.small_runs import ITEMS, MODULES, USERS, kept, table_run
from tests.serve.test_score import click_run as click_run_of_ages

ROWS = "price,city\n2.0,b\n,new\n4.0,\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of sequences and one of a table, a file of rows and files of ids."""
    folder = tmp_path_factory.mktemp("runs")
    write(folder / "sasrec", kept(MODULES["sasrec"]))
    write(folder / "table", table_run())
    write(folder / "clicks", click_run())
    write(folder / "keep", kept(MODULES["sasrec"], protocol=Protocol(seen="keep", selection="ndcg@10")))
    write(folder / "hstu", kept(MODULES["hstu"]))
    write(folder / "ages", click_run_of_ages())
    (folder / "rows.csv").write_text(ROWS)
    (folder / "users.txt").write_text("u2\n\nu0\n")
    (folder / "items.txt").write_text("i01\ni02\ni03\n")
    return folder


def typed(verb: Any, *words: object) -> None:
    """What the command line does."""
    verb.run(config.cli(verb.Options, prog="jaxrec", args=[str(word) for word in words]))


def lists(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_lines_of_json_are_what_python_gives(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typed(recommend, folder / "sasrec", "--user", "u1", "u3", "--k", "3", "--json")
    printed = capsys.readouterr()
    found = lists(printed.out)
    expected = serve.load(folder / "sasrec").recommend(["u1", "u3"], k=3)
    assert [line["user"] for line in found] == ["u1", "u3"]
    for line, answer in zip(found, expected, strict=True):
        assert set(line) == {"user", "items", "scores"}
        assert line["items"] == answer.items.tolist()
        np.testing.assert_array_equal(np.float32(line["scores"]), answer.scores)
    assert "seed 8 (the best of 3, 8" in printed.err


def test_a_table_has_a_line_for_each_item(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typed(recommend, folder / "sasrec", "--history", "i01,i02", "i03", "--k", "2", "--seed", "3")
    header, _, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["user", "rank", "item", "score", "by"]
    expected = [[history, rank] for history in ("i01,i02", "i03") for rank in ("1", "2")]
    assert [line.split()[:2] for line in lines] == expected


def test_users_candidates_and_blocked_items_from_files(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed(
        recommend, folder / "sasrec", "--user", folder / "users.txt", "u3",
        "--candidates", folder / "items.txt", "--block", "i02", "--keep-seen", "--json",
    )  # fmt: skip
    printed = capsys.readouterr()
    found = lists(printed.out)
    assert [line["user"] for line in found] == ["u2", "u0", "u3"]
    assert all(sorted(line["items"]) == ["i01", "i03"] for line in found)
    assert "3 lists have fewer than 10 items" in printed.err
    typed(recommend, folder / "sasrec", "--history", "i05", "--block", folder / "items.txt", "--json")
    assert not {"i01", "i02", "i03"} & set(lists(capsys.readouterr().out)[0]["items"])


@pytest.mark.parametrize("form", [".jsonl", ".csv", ".tsv"])
def test_all_users_in_a_file(folder: Path, tmp_path: Path, form: str) -> None:
    out = tmp_path / f"lists{form}"
    typed(recommend, folder / "sasrec", "--user", "all", "--k", "2", "--out", out)
    expected = [
        (answer.user, item)
        for answer in serve.load(folder / "sasrec").recommend("all", k=2)
        for item in answer.items.tolist()
    ]
    if form == ".jsonl":
        found = [(line["user"], item) for line in lists(out.read_text()) for item in line["items"]]
    else:
        with out.open(newline="") as file:
            rows = csv.DictReader(file, delimiter="\t" if form == ".tsv" else ",")
            found = [(row["user"], row["item"]) for row in rows]
    assert found == expected


@pytest.mark.parametrize(("words", "count"), [((), len(ITEMS)), (("--exclude-seen",), len(ITEMS) - 3)])
def test_seen_items_are_excluded_on_request(
    folder: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], count: int
) -> None:
    """u1 has three of the items, in a run that was measured with them."""
    typed(recommend, folder / "keep", "--user", "u1", "--k", "100", "--json", *words)
    assert len(lists(capsys.readouterr().out)[0]["items"]) == count


def test_times_and_the_moment_of_a_request_are_read(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--history", "i01,i02", "i03", "--times", "5,9", "700", "--at", "90000", "--json")
    typed(recommend, folder / "hstu", *words)
    asked: Any = {"histories": [["i01", "i02"], ["i03"]], "times": [[5, 9], [700]]}
    for line, answer in zip(
        lists(capsys.readouterr().out), serve.load(folder / "hstu").recommend(**asked, at=90_000), strict=True
    ):
        np.testing.assert_array_equal(np.float32(line["scores"]), answer.scores)
    (tmp_path / "pairs.csv").write_text("user,item\nu5,i02\n")
    typed(score, folder / "ages", tmp_path / "pairs.csv", "--at", "6000")
    expected = serve.load(folder / "ages").score({"user": ["u5"], "item": ["i02"]}, at=6000)["click"]
    assert capsys.readouterr().out == f"click\n{expected[0]:.9g}\n"


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        (recommend, ("sasrec", "--user", "u1", "--seed", "3")),
        (embed, ("sasrec", "items", "--out", "OUT", "--seed", "3")),
        (score, ("table", "rows.csv", "--seed", "1")),
    ],
)
def test_another_seed_answers_on_request(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    verb: Any,
    words: tuple[str, ...],
) -> None:
    monkeypatch.chdir(folder)
    typed(verb, *(str(tmp_path / "vectors.npy") if word == "OUT" else word for word in words))
    assert f", seed {words[-1]} (of " in capsys.readouterr().err


def test_a_cold_user_is_marked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typed(recommend, folder / "sasrec", "--user", "new", "u0", "--cold", "popularity", "--json")
    assert [line.get("by") for line in lists(capsys.readouterr().out)] == ["popularity", None]


def test_a_user_called_all(tmp_path: Path) -> None:
    users = np.array(["all", *USERS[1:]])
    write(tmp_path, kept(MODULES["sasrec"], vocabulary={"item": ITEMS, "user": users}))
    with pytest.raises(ValueError, match="user='all': is a user of this run"):
        typed(recommend, tmp_path, "--user", "all")


def test_scores_have_a_column_for_each_label(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scores.csv"
    typed(score, folder / "table", folder / "rows.csv", "--out", out)
    with out.open(newline="") as file:
        found = list(csv.DictReader(file))
    expected = serve.load(folder / "table").score(folder / "rows.csv")
    assert len(found) == 3
    for label, values in expected.items():
        np.testing.assert_array_equal(np.float32([row[label] for row in found]), values)
    capsys.readouterr()
    typed(score, folder / "table", folder / "rows.csv")
    assert capsys.readouterr().out == out.read_text()
    (tmp_path / "rows.csv").write_text(ROWS.replace(",", ";"))
    typed(score, folder / "table", tmp_path / "rows.csv", "--delimiter", ";")
    assert capsys.readouterr().out == out.read_text()


@pytest.mark.parametrize("what", ["items", "users"])
def test_vectors_in_a_file(folder: Path, tmp_path: Path, what: str) -> None:
    out = tmp_path / "vectors.npz"
    typed(embed, folder / "sasrec", what, "--out", out)
    expected = serve.load(folder / "sasrec").embed(what)  # type: ignore[arg-type]
    with np.load(out) as found:
        np.testing.assert_array_equal(found["ids"], expected.ids)
        np.testing.assert_array_equal(found["vectors"], expected.vectors)


@pytest.mark.parametrize(
    ("verb", "words", "message"),
    [
        (recommend, ("sasrec",), "give --user or --history"),
        (recommend, ("sasrec", "--user", "u1", "--history", "i01"), "give --user or --history"),
        (recommend, ("sasrec", "--user", "u1", "--keep-seen", "--exclude-seen"), "one of the two"),
        (recommend, ("sasrec", "--user", "u1", "--out", "lists.txt"), "out='lists.txt': must end in .jsonl"),
        (recommend, ("sasrec", "--user", "u1", "--out", "a.csv", "--json"), "out='a.csv': --json writes"),
        (recommend, ("sasrec", "--history", "i01", "--times", "x"), "times='x': must be whole seconds"),
        (recommend, ("sasrec", "--history", "i01", "--times", "1_0"), "times='1_0': must be whole seconds"),
        (recommend, ("sasrec", "--user", "u9"), "users: the run has no user 'u9'"),
        (recommend, ("sasrec", "--user", "u" * 300), "users: the run has no user 'uuu"),
        (recommend, ("sasrec", "--history", "i01,zz"), "histories: the run has no item 'zz'"),
        (recommend, ("table", "--user", "u1"), "a table run scores rows; use score"),
        (recommend, ("clicks", "--user", "u1"), "a clicks run scores pairs; use score"),
        (
            recommend,
            ("sasrec", "--user", "u1", "--out", "no/a.csv"),
            "out='no/a.csv': there is no folder 'no'",
        ),
        (score, ("table", "rows.csv", "--out", "no/a.csv"), "out='no/a.csv': there is no folder 'no'"),
        (embed, ("sasrec", "items", "--out", "no/a.npy"), "out='no/a.npy': there is no folder 'no'"),
        (recommend, ("none", "--user", "u1"), "no such folder: not a finished run"),
        (score, ("sasrec", "rows.csv"), "rows.csv: there is no user column .* add it to the rows, or rename"),
        (score, ("table", "rows.csv", "--at", "5"), "at=5: linear reads no times; leave it out"),
        (score, ("sasrec", "rows.csv", "--at", "5"), "at=5: mine reads no times; leave it out"),
        (score, ("table", "rows.csv", "--out", "scores.json"), "out='scores.json': must end in .csv or .tsv"),
        (embed, ("sasrec", "items"), "out='': must end in .npz"),
        (embed, ("table", "items", "--out", "a.npy"), "a table run has no vectors"),
    ],
)
def test_wrong_words_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, verb: Any, words: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(folder)
    before = sorted(folder.iterdir())
    with pytest.raises(ValueError, match=message):
        typed(verb, *words)
    assert sorted(folder.iterdir()) == before


def test_a_file_of_ids_has_one_a_line(tmp_path: Path) -> None:
    """A line ends where a file's lines do, not at every character that Unicode calls an end."""
    path = tmp_path / "ids.txt"
    path.write_bytes("\ufeffa\r\n\nb\x85c\nd\u2028e".encode())
    assert recommend.read_ids(str(path)) == ["a", "b\x85c", "d\u2028e"]


def test_a_file_of_candidates_that_is_missing(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing.txt"):
        typed(recommend, folder / "sasrec", "--user", "u1", "--candidates", "nothing.txt")


# --- writes that fail -------------------------------------------------------------------------------------

WRITES = {
    "recommend": (recommend, ("sasrec", "--user", "all"), "lists.jsonl", 6),
    "recommend.csv": (recommend, ("sasrec", "--user", "all"), "lists.csv", 1),
    "score": (score, ("table", "rows.csv"), "scores.csv", 1),
    "embed.npz": (embed, ("sasrec", "items"), "vectors.npz", 3),
    "embed.npy": (embed, ("sasrec", "users"), "vectors.npy", 2),
}
CASES = [
    (name, call, at)
    for name, (*_, number) in WRITES.items()
    for call, count in (("mkstemp", 1), ("write", number), ("fsync", 1), ("replace", 1))
    for at in range(count)
]


@pytest.mark.parametrize(("name", "call", "at"), CASES)
@pytest.mark.parametrize("before", [None, b"before"])
def test_a_write_that_fails_leaves_nothing_half(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, call: str, at: int, before: Any
) -> None:
    verb, words, file, _ = WRITES[name]
    out = tmp_path / file
    if before is not None:
        out.write_bytes(before)
    monkeypatch.chdir(folder)
    fail_at(monkeypatch, call, at)
    with pytest.raises(OSError, match=r"^[^\n]*: could not be written \(No space left on device\)$"):
        typed(verb, *words, "--out", out)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == (
        {} if before is None else {file: before}
    )


def fail_at(monkeypatch: pytest.MonkeyPatch, call: str, at: int) -> None:
    """The at-th call, counted from 0, finds the disk full."""
    count = iter(range(10_000))

    def failing(real: Callable[..., Any]) -> Callable[..., Any]:
        def inner(*args: Any, **options: Any) -> Any:
            if next(count) == at:
                raise OSError(28, "No space left on device")
            return real(*args, **options)

        return inner

    if call != "write":
        owner: Any = tempfile if call == "mkstemp" else os
        monkeypatch.setattr(owner, call, failing(getattr(owner, call)))
        return

    class Full:
        """A file whose at-th write finds the disk full."""

        def __init__(self, *args: Any) -> None:
            self.file = builtins.open(*args)  # noqa: SIM115
            self.write = failing(self.file.write)

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *args: object) -> None:
            self.file.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    monkeypatch.setattr(files, "open", Full, raising=False)
