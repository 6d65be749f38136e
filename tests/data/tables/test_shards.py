"""Shards on disk hold what was written, batches of them hold each row once an epoch, and faults are named."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grain
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxrec.data.tables import shards as shards_module
from jaxrec.data.tables.shard_batches import ShardBatches
from jaxrec.data.tables.shards import (
    MANIFEST,
    Group,
    ShardColumn,
    Shards,
    open_shards,
    read_group,
    write_shards,
)
from tests.data.tables.small_shards import COLUMNS, rows_of, write_small

ROWS, EPOCHS = 103, 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards") / "rows"
    write_small(folder)
    return folder


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "rows"))


def batches(folder: Path, batch_size: int = 16, **changes: Any) -> ShardBatches:
    options = {"epochs": EPOCHS, "seed": 1, "window": 3, **changes}
    return ShardBatches(open_shards(folder, COLUMNS), batch_size, **options)


def real_rows(source: ShardBatches, epoch: int = 0) -> list[int]:
    """Numbers of the rows of an epoch in their order."""
    found: list[int] = []
    for step in range(source.num_steps):
        examples, columns = source[epoch * source.num_steps + step]
        found += columns["row"][examples["mask"]].tolist()
    return found


def same(a: Any, b: Any) -> None:
    for x, y in zip(a, b, strict=True):
        assert x.keys() == y.keys()
        for name in x:
            np.testing.assert_array_equal(x[name], y[name])


def test_shards_hold_the_rows_that_were_written(folder: Path) -> None:
    shards = open_shards(folder, COLUMNS)
    assert [path.name for path in shards.files] == [f"part-0000{i}.parquet" for i in range(4)]
    assert shards.rows == (30, 30, 30, 13) and shards.num_rows == ROWS
    assert [group.rows for group in shards.groups] == [10] * 10 + [3]
    parts = [read_group(shards, group) for group in shards.groups]
    for name, expected in rows_of(ROWS).items():
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), expected)
    assert {name: c.dtype.name for name, c in parts[0].items()} == {
        "row": "int32", "kind": "int32", "price": "float32", "click": "float32"
    }  # fmt: skip
    assert not list(folder.glob("*.partial"))


def test_a_folder_of_another_program_is_read_without_a_list(copy: Path) -> None:
    (copy / MANIFEST).unlink()
    (copy / "part-00003.parquet").unlink()
    assert open_shards(copy, COLUMNS).num_rows == 90


@pytest.mark.parametrize("window", [1, 3, 100])
@pytest.mark.parametrize("batch_size", [7, 16, 200])
def test_an_epoch_has_each_row_once_and_a_masked_tail(folder: Path, window: int, batch_size: int) -> None:
    source = batches(folder, batch_size, window=window)
    assert source.num_steps == -(-ROWS // batch_size) and len(source) == EPOCHS * source.num_steps
    orders = [real_rows(source, epoch) for epoch in range(EPOCHS)]
    for order in orders:
        assert sorted(order) == list(range(ROWS))
    assert orders[0] != orders[1] != orders[2]
    truth = rows_of(ROWS)
    for index in range(source.num_steps):
        examples, columns = source[index]
        assert examples["example"].tolist() == list(range(batch_size))
        for name, column in columns.items():  # columns of a row stay together, in masked places too
            assert column.shape == (batch_size,)
            np.testing.assert_array_equal(column, truth[name][columns["row"]])


def test_a_window_is_all_that_is_shuffled_together(folder: Path) -> None:
    order = np.array(real_rows(batches(folder, 10, window=1)))
    for part in np.split(order // 10, np.flatnonzero(np.diff(order // 10)) + 1):
        assert (part == part[0]).all()
    assert len(set((order // 10).tolist())) == len(np.flatnonzero(np.diff(order // 10))) + 1


def test_the_order_follows_from_the_seed(folder: Path) -> None:
    one, again, other = batches(folder), batches(folder), batches(folder, seed=2)
    for index in range(len(one)):
        for a, b in zip(one[index], again[index], strict=True):
            same([a], [b])
    assert real_rows(one) != real_rows(other)


@pytest.mark.parametrize("first", [1, 6, 7, 13, 20])
def test_any_batch_is_found_without_those_before_it(folder: Path, first: int) -> None:
    source, whole = batches(folder), batches(folder)
    expected = [whole[index] for index in range(len(whole))]
    iterator = iter(
        grain.MapDataset.source(source).to_iter_dataset(
            grain.ReadOptions(num_threads=2, prefetch_buffer_size=3)
        )
    )
    iterator.set_state({"next_index": first})
    found = list(iterator)
    assert len(found) == len(expected) - first
    for a, b in zip(found, expected[first:], strict=True):
        same(a, b)


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_rows_of_every_epoch(folder: Path, processes: int) -> None:
    parts = [batches(folder, 12, process=i, processes=processes) for i in range(processes)]
    assert len({part.num_steps for part in parts}) == 1
    whole = [part[0][0]["example"].tolist() for part in parts]
    assert list(itertools.chain(*whole)) == list(range(12))
    for epoch in range(EPOCHS):
        of_each = [real_rows(part, epoch) for part in parts]
        assert sorted(itertools.chain(*of_each)) == list(range(ROWS))
        assert max(map(len, of_each)) - min(map(len, of_each)) <= 10


def test_two_windows_are_held(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Group] = []
    plain = read_group

    def counting(shards: Shards, group: Group) -> dict[str, np.ndarray]:
        read.append(group)
        return plain(shards, group)

    monkeypatch.setattr("jaxrec.data.tables.shard_batches.read_group", counting)
    source = batches(folder)
    for index in range(source.num_steps):
        _ = source[index]
        assert len(source._held) <= 2
    assert sorted(read) == sorted(open_shards(folder, COLUMNS).groups)  # each group once an epoch


# --- faults ------------------------------------------------------------------------------------------


def remove(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def scramble(path: Path) -> None:
    path.write_bytes(b"PAR1" + b"\0" * 50)


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(path)), path, row_group_size=10)


def with_column(name: str, values: Any) -> Callable[[Path], None]:
    def change(table: pa.Table) -> pa.Table:
        column = pa.array(values(table.num_rows))
        return table.set_column(table.schema.names.index(name), name, column)

    return lambda path: rewrite(path, change)


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (remove, "is missing, but shards.json names it"),
    "cut short": (cut, "cannot be read"),
    "scrambled": (scramble, "cannot be read"),
    "a row less": (lambda p: rewrite(p, lambda t: t.slice(1)), "has 29 rows, shards.json says 30"),
    "no column": (lambda p: rewrite(p, lambda t: t.drop_columns(["kind"])), "has no column 'kind', but row"),
    "text": (with_column("kind", lambda n: ["a"] * n), "kind: string; ids must be integers"),
    "floats": (with_column("row", lambda n: np.ones(n)), "row: double; ids must be integers"),
    "text prices": (with_column("price", lambda n: ["1"] * n), "price: string; numbers must be floats"),
    "an id": (with_column("kind", lambda n: [5] * n), "row group 0: kind: id 5 is outside 0..4"),
    "below 0": (with_column("kind", lambda n: [-1] * n), "kind: id -1 is outside 0..4"),
    "a null": (with_column("price", lambda n: [None] + [1.0] * (n - 1)), "price: 1 values are missing"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_bad_shard_is_named_before_training(copy: Path, name: str) -> None:
    change, message = FAULTS[name]
    change(copy / "part-00001.parquet")
    with pytest.raises(ValueError, match=f"part-00001.parquet.*{message}"):
        open_shards(copy, COLUMNS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove, "is gone; restore it"),
        (cut, "cannot be read"),
        (lambda p: rewrite(p, lambda t: t.slice(1)), "has 29 rows, had 30 when it was opened"),
        (with_column("price", lambda n: np.full(n, np.nan)), "price: 10 numbers are NaN or infinite"),
    ],
)
def test_a_shard_that_changes_while_it_is_read_is_named(
    copy: Path, change: Callable[[Path], None], message: str
) -> None:
    source = batches(copy)
    change(copy / "part-00001.parquet")
    with pytest.raises(ValueError, match=f"part-00001.parquet.*{message}"):
        real_rows(source)


def test_an_id_out_of_range_is_found_without_statistics(copy: Path) -> None:
    path = copy / "part-00001.parquet"
    table = pq.read_table(path)
    kind = table.schema.names.index("kind")
    table = table.set_column(kind, "kind", pa.array([7] * 30, pa.int32()))
    pq.write_table(table, path, row_group_size=10, write_statistics=False)
    with pytest.raises(ValueError, match="part-00001.parquet, row group .: kind: id 7 is outside 0..4"):
        real_rows(batches(copy))


def test_a_strange_folder_is_refused(copy: Path, tmp_path: Path) -> None:
    shutil.copy(copy / "part-00000.parquet", copy / "more.parquet")
    with pytest.raises(ValueError, match="more.parquet: is no shard that shards.json names"):
        open_shards(copy, COLUMNS)
    (copy / MANIFEST).write_text(json.dumps({"format": 9}))
    with pytest.raises(ValueError, match=f"{MANIFEST}: no readable list of shards .has format 9"):
        open_shards(copy, COLUMNS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: holds no .parquet file"):
        open_shards(tmp_path / "empty", COLUMNS)
    with pytest.raises(ValueError, match="columns:.*no name twice"):
        open_shards(copy, (*COLUMNS, ShardColumn("row")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": np.array([1, 5])}, "block 0: kind: id 5 is outside 0..4"),
        ({"kind": np.array([1.0, 2.0])}, "kind: float64.2.; ids must be integers"),
        ({"price": np.array([1.0, np.inf])}, "price: 1 numbers are NaN or infinite"),
        ({"price": np.ones(3)}, "all of one length"),
        ({"cost": np.ones(2)}, "must be .'click', 'kind', 'price', 'row'."),
    ],
)
def test_what_is_written_is_checked(tmp_path: Path, change: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_shards(tmp_path / "rows", [{**rows_of(2), **change}], COLUMNS)
    assert not list(tmp_path.rglob("*.parquet"))


def test_writing_needs_rows_and_an_empty_folder(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there are no rows to write"):
        write_shards(tmp_path / "rows", [], COLUMNS)
    with pytest.raises(ValueError, match="holds shards; name an empty folder"):
        write_small(folder)
    with pytest.raises(ValueError, match="rows_per_group=0, groups_per_file=3: must both be at least 1"):
        write_small(tmp_path / "more", group=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 0}, "window=0: must be at least 1"),
        ({"epochs": 0}, "epochs=0: must be at least 1"),
        ({"seed": -1}, "seed=-1: must be at least 0"),
        ({"process": 2, "processes": 2}, "process=2: must be in 0..1"),
        ({"processes": 3}, "batch_size=16: 3 processes do not divide it"),
        ({"processes": 16}, "processes=16: there are 11 row groups"),
    ],
)
def test_numbers_out_of_range_are_refused(folder: Path, changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        batches(folder, **changes)


def test_without_pyarrow_an_error_names_the_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(what: str) -> Any:
        raise ImportError(f"{what}: reading it needs pyarrow; pip install 'jaxrec[parquet]'")

    monkeypatch.setattr(shards_module, "import_pyarrow", refuse)
    with pytest.raises(ImportError, match="jaxrec.parquet."):
        open_shards(folder, COLUMNS)
