"""Rating files with times: the three layouts, what Books leaves out, and files that are not whole."""

from __future__ import annotations

import gzip
import hashlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jaxrec.data import store
from jaxrec.data.sources import rating_files
from jaxrec.data.sources.rating_files import LAYOUTS, load, parse

Writer = Callable[[str, str | bytes], Path]
ML_1M = "3::50::5::30\n1::7::4::20\n3::7::1::10\n1::50::3::20\n"
ML_20M = "userId,movieId,rating,timestamp\n3,50,4.5,30\n1,7,4.0,20\n3,7,0.5,10\n1,50,3.0,20\n"


@pytest.mark.parametrize(("name", "text"), [("ml-1m", ML_1M), ("ml-20m", ML_20M)])
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
def test_ratings_are_events_in_the_order_of_time(
    name: str, text: str, packed: bool, write: Writer, cache: Path
) -> None:
    """Equal times keep the order of the file; ids follow the raw ones."""
    content = gzip.compress(text.encode()) if packed else text
    sequences = load(name, str(write("ratings.gz" if packed else "ratings", content)), sample=True)
    assert sequences.user_ids.tolist() == [1, 3] and sequences.item_ids.tolist() == [7, 50]
    assert [sequences.user_items(u).tolist() for u in (0, 1)] == [[1, 2], [1, 2]]
    assert sequences.times is not None and sequences.times.tolist() == [20, 20, 10, 30]
    value = parse(text.encode(), name, "x").value
    assert value is not None and value[0] == (5.0 if name == "ml-1m" else 4.5)


def books() -> list[tuple[str, str, int]]:
    """u1 and u2 rate a, b, c, d, e; u3 rates a..d and the rare r; u4 and u5 a..e; u6 two items often."""
    events = [(f"u{u}", item, 100 * u + i) for u in (1, 2, 4, 5) for i, item in enumerate("abcde")]
    events += [("u3", item, i) for i, item in enumerate("abcdr")]
    return events + [("u6", item, i) for i, item in enumerate("aebe")]


def books_file() -> bytes:
    return "".join(f"{user},{item},5.0,{time}\n" for user, item, time in books()).encode()


def test_books_takes_out_what_is_rare_as_the_research_code_does() -> None:
    """r (1 rating) and u6 (4 ratings) go first; then u3, who has 4 ratings left. e stays: u6's count too."""
    found = parse(books_file(), "Books", "x")
    assert found.user_ids.tolist() == ["u1", "u2", "u4", "u5"]
    assert found.item_ids.tolist() == ["a", "b", "c", "d", "e"]
    kept = [
        found.user_ids[u - 1] + found.item_ids[i - 1] for u, i in zip(found.user, found.item, strict=True)
    ]
    assert kept == [user + item for user, item, _ in books() if user in ("u1", "u2", "u4", "u5")]


def test_an_item_that_only_left_out_users_rated_keeps_its_number() -> None:
    """Each of six users rates z and four items of their own: nobody keeps five ratings but all count z."""
    lines = [f"w{u},{item},1.0,5" for u in range(6) for item in ["z", *(f"{u}{k}" for k in range(4))]]
    with pytest.raises(ValueError, match="books.csv: no user is left with 5 ratings"):
        parse("\n".join(lines).encode(), "Books", "books.csv")
    found = parse(books_file() + "\n".join(lines).encode() + b"\n", "Books", "x")
    assert found.item_ids.tolist() == ["a", "b", "c", "d", "e", "z"]
    assert 6 not in found.item


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("ml-1m", "", "ratings: holds no rating; expected lines `user::item::rating::seconds`"),
        ("ml-1m", "1::2::3\n", "expected lines `user::item::rating::seconds`"),
        ("ml-1m", "1::2::3::4.5\n", "integer seconds"),
        ("ml-1m", "1.5::2::3::4\n", "integer seconds"),
        ("ml-1m", "1::2::3::4#5\n", "integer seconds"),
        ("ml-1m", "# a remark\n1::2::3::4\n", "integer seconds"),
        ("Books", "u,,1.0,5\n", "rating 1 names no item"),
        ("ml-20m", "1,2,3.5,4\n", "expected the header 'userId,movieId,rating,timestamp'"),
        ("ml-20m", "userId,movieId,rating,timestamp\n", "holds no rating"),
        ("Books", f"{'u' * 30},i,1.0,5\n", "user 'uuu.*24 characters or longer"),
    ],
)
def test_lines_of_another_form_are_refused(name: str, content: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(content.encode(), name, "ratings")


@pytest.mark.parametrize("part", [1 << 20, 20])
@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("ml-1m", "01::2::3::4"),
        ("ml-1m", "1::+2::3::4"),
        ("ml-1m", "1::2::3::1_0"),
        ("ml-1m", "1::2::nan::4"),
        ("ml-1m", "1::2::inf::4"),
        ("ml-1m", "1:: 2::3::4"),
        ("ml-1m", "1,2::3::4"),
        ("ml-1m", "1::2::3::-0"),
        ("ml-1m", ""),
        ("ml-20m", "007,2,3.5,4"),
        ("ml-20m", "1,2,+3.5,4"),
        ("Books", "a\0,b,1.0,5"),
        ("Books", "a,b,1.0,05"),
    ],
)
def test_numbers_are_written_plainly(name: str, bad: str, part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy reads most of these, and an id of two spellings would be one."""
    monkeypatch.setattr(rating_files, "_PART", part)
    good = {"ml-1m": ML_1M, "ml-20m": ML_20M, "Books": books_file().decode()}[name]
    line = good.count("\n") + 1
    with pytest.raises(ValueError, match=f"ratings, line {line}: .*expected lines `user.*digits 0-9 alone"):
        parse(f"{good}{bad}\n{good.splitlines()[-1]}\n".encode(), name, "ratings")
    assert parse(good.replace("\n", "\r\n").encode().rstrip(), name, "ratings").user.size


@pytest.mark.parametrize("user", ["nan", "NA", " u", "None"])
def test_text_ids_are_checked_as_those_of_other_files(user: str) -> None:
    with pytest.raises(ValueError, match="books.csv: user .*(is missing|spaces around it)"):
        parse(f"{user},i,1.0,5\n".encode(), "Books", "books.csv")


def test_an_archive_without_the_ratings_is_refused() -> None:
    with pytest.raises(ValueError, match="ml-1m/none.dat: not in the archive, or damaged"):
        rating_files._member(archive(), "ml-1m/none.dat")


def test_an_id_that_is_no_text_is_refused_and_a_number_sign_is_part_of_one() -> None:
    with pytest.raises(ValueError, match="books.csv: a user is no text in UTF-8"):
        parse(b"\xff,i,1.0,5\n", "Books", "books.csv")
    assert "a#1" in parse(books_file().replace(b",a,", b",a#1,"), "Books", "books.csv").item_ids


def test_a_file_that_is_not_whole_is_refused(write: Writer, cache: Path) -> None:
    path = write("ratings.dat", ML_1M)
    with pytest.raises(ValueError, match="ratings.dat: 2 users, expected 6,040: not the whole file"):
        load("ml-1m", str(path))
    with pytest.raises(ValueError, match="data set 'ml-2m': unknown; one of ml-1m, ml-20m, Books"):
        load("ml-2m")
    with pytest.raises(FileNotFoundError, match="absent.dat: no such file"):
        load("ml-1m", str(path.with_name("absent.dat")))


def test_books_has_to_be_named_and_its_digest_is_only_hearsay(
    write: Writer, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(FileNotFoundError, match="its checksum is not known here.*ratings_Books.csv"):
        load("Books")
    load("Books", str(write("ratings_Books.csv", books_file())), sample=True)
    assert "not of the MD5" in capsys.readouterr().err


def archive() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as opened:
        opened.writestr("ml-1m/ratings.dat", ML_1M)
    return stream.getvalue()


def test_an_archive_is_held_to_its_checksum(
    write: Writer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = archive()
    path = write("ml-1m.zip", content)
    with pytest.raises(ValueError, match="truncated"):
        load("ml-1m", str(path), sample=True)
    intact = store.File("movielens-1m/ml-1m.zip", hashlib.sha256(content).hexdigest(), len(content))
    monkeypatch.setitem(rating_files.LAYOUTS, "ml-1m", LAYOUTS["ml-1m"]._replace(archive=intact))
    assert load("ml-1m", str(path), sample=True).num_users == 2
    (cache / "movielens-1m").mkdir(parents=True)
    (cache / "movielens-1m" / "ml-1m.zip").write_bytes(content)
    assert np.array_equal(load("ml-1m", sample=True).items, [1, 2, 1, 2])
    with pytest.raises(ValueError, match="Books comes in no archive"):
        load("Books", str(path), sample=True)
