"""TiCoSeRec's operators against their official code, on real sequences.

Everything agrees (equal) except, by nature: single random events of Crop and the order inside Reorder's
window are checked for membership. The reference computes variances in float64, ours are exact and the last
of equal windows wins: where the best and second-best window are equal or nearly so (relative margin below
1e-9), rounding may decide otherwise in the reference. There, the variances of both choices must be the same
to 1e-9, and ours the best in whole numbers.
"""

import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.augment import operators as ops
from jaxrec.augment.similarity import SimilarItems, keep_larger
from jaxrec.augment.views import augment
from tests.golden.fixtures import golden_files

ROUNDING = 1e-9
FILES = golden_files("ticoserec_augment")
MAKE: dict[str, Any] = {
    "crop": ops.ti_crop,
    "mask": ops.ti_mask,
    "reorder": ops.ti_reorder,
    "substitute": ops.ti_substitute,
    "insert": ops.ti_insert,
}


@functools.cache
def load(path: Any) -> Any:
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def cases(fixture: Any) -> Any:
    """(prefix of the keys, equal-length times?, operator, mode, rate) of every case of a file."""
    for name in fixture:
        if name.endswith("/status"):
            *start, operator, mode, rate, _ = name.split("/")
            yield name.removesuffix("/status"), "eq" in start, operator, mode, float(rate)


def right_aligned(values: Any, lengths: Any, width: Any) -> Any:
    out = np.zeros((len(values), width), values.dtype)
    for row, (value, n) in enumerate(zip(values, lengths, strict=True)):
        out[row, width - n :] = value[:n]
    return out


def similar_tables(path: Any) -> Any:
    fixture = load(path)

    def table(name: Any) -> Any:
        item = fixture[f"in/{name}"].astype(np.int32)
        score = jnp.asarray(fixture[f"in/{name}_score"])
        pool = jnp.arange(len(item), dtype=jnp.int32)
        return SimilarItems(
            jnp.asarray(item), score, jnp.float32(0), jnp.float32(1), pool, jnp.int32(len(item))
        )

    first, second = table("most_similar"), table("most_similar_2")
    marked = first._replace(item=jnp.full_like(first.item, len(first.item)))  # an id that no event has
    return {"first": first, "hybrid": keep_larger(first, second), "marked": marked}


@functools.cache
def rows_of(path: Any, equal: Any) -> Any:
    """Right-aligned items, rebased times (equal: as many as items) and lengths."""
    fixture = load(path)
    length, times = fixture["in/length"], fixture["in/times"]
    width = int(length.max())
    times = np.where(times >= 0, times - times[:, :1], 0)
    assert times.max() < 2**31
    stamps = length if equal else fixture["in/times_length"]
    return (
        jnp.asarray(right_aligned(fixture["in/items"], length, width)),
        jnp.asarray(right_aligned(times.astype(np.int32), stamps, width + (not equal))),
        jnp.asarray(length),
    )


@functools.cache
def run(
    path: Any, equal: Any, operator: Any, mode: Any, rate: Any, substitutes: Any = None, window: Any = None
) -> Any:
    """Output of an operator as lists of items, for every sequence of the fixture."""
    similar = substitutes and similar_tables(path)[substitutes]
    rows, times, length = rows_of(path, equal)
    window = window or rows.shape[1] * (2 if operator == "insert" else 1)
    operate = MAKE[operator](rate, largest={"maximum": True, "minimum": False}[mode])
    # Not compiled and at full width: that spends the least time on so many cases of one shape.
    out = augment(operate, jax.random.key(0), rows, times, length, similar, window=window, widths=())
    items, length = map(np.asarray, out)
    assert not np.any(items[np.arange(window) < window - length[:, None]])
    return [row[window - n :].tolist() for row, n in zip(items, length, strict=True)]


def originals(fixture: Any) -> Any:
    return [row[:n].tolist() for row, n in zip(fixture["in/items"], fixture["in/length"], strict=True)]


def stored(rows: Any) -> Any:
    return [row[row != -1].tolist() for row in rows]


def exact_variance(times: Any, start: Any, size: Any) -> Any:
    gaps = [
        abs(int(b) - int(a)) for a, b in zip(times[start:], times[start + 1 : start + size - 1], strict=False)
    ]
    return len(gaps) * sum(d * d for d in gaps) - sum(gaps) ** 2


@pytest.mark.parametrize("path", FILES)
@pytest.mark.parametrize("operator", ["mask", "substitute", "insert"])
def test_picks_the_same_events(path: Any, operator: Any) -> None:
    fixture = load(path)
    for prefix, equal, *case in cases(fixture):
        if case[0] != operator:
            continue
        ran = fixture[prefix + "/status"] == 0
        got = run(path, equal, *case, None if operator == "mask" else "first")
        want = stored(fixture[prefix + "/items_stable_sort"])
        assert [g for g, r in zip(got, ran, strict=True) if r] == [
            w for w, r in zip(want, ran, strict=True) if r
        ]
        no_tie = ran & ~fixture[prefix + "/tie_at_boundary"]
        unstable = stored(fixture[prefix + "/items"])
        assert all(g == w for g, w, t in zip(got, unstable, no_tie, strict=True) if t)
        if operator != "mask":
            hybrid = run(path, equal, *case, "hybrid")
            want = stored(fixture[prefix + "/items_hybrid"])
            assert all(g == w for g, w, r in zip(hybrid, want, ran, strict=True) if r)


@pytest.mark.parametrize("path", FILES)
@pytest.mark.parametrize("operator", ["mask", "substitute", "insert"])
def test_picks_the_same_positions(path: Any, operator: Any) -> None:
    fixture = load(path)
    new = 0 if operator == "mask" else len(fixture["in/most_similar"])
    for prefix, equal, *case in cases(fixture):
        if case[0] != operator:
            continue
        rows = zip(
            run(path, equal, *case, None if operator == "mask" else "marked"),
            fixture[prefix + "/positions"],
            strict=True,
        )
        for row, ((got, positions), status) in enumerate(zip(rows, fixture[prefix + "/status"], strict=True)):
            places = [i for i, item in enumerate(got) if item == new]
            if (
                operator == "insert"
            ):  # the k-th new item stands right after its event, k + 1 places further on
                places = [place - k - 1 for k, place in enumerate(places)]
            assert status or places == sorted(p for p in positions.tolist() if p != -1), (prefix, row)


def best_start(times: Any, count: Any, size: Any, largest: Any) -> Any:
    """The right-most of the windows with the extreme variance, in whole numbers."""
    variances = [exact_variance(times, start, size) for start in range(count - size + 1)]
    best = (max if largest else min)(variances)
    return max(start for start, variance in enumerate(variances) if variance == best), variances


@pytest.mark.parametrize("path", FILES)
def test_crop_keeps_the_same_window(path: Any) -> None:
    fixture = load(path)
    for prefix, equal, *case in cases(fixture):
        if case[0] != "crop":
            continue
        columns = [fixture[f"{prefix}/{name}"] for name in ("status", "is_random", "start", "margin")]
        rows = zip(
            run(path, equal, *case), originals(fixture), stored(fixture[prefix + "/items"]), strict=True
        )
        for row, (mine, items, want) in enumerate(rows):
            status, is_random, start, margin = (column[row] for column in columns)
            size = int(case[2] * len(items))
            if status:
                continue
            assert is_random == (size <= 2)
            if size <= 2:
                assert len(mine) == 1
                assert mine[0] in items[: len(items) - size]
                continue
            ours, variances = best_start(fixture["in/times"][row], len(items), size, case[1] == "maximum")
            assert mine == items[ours : ours + size]
            assert mine == want or margin < ROUNDING, (prefix, row)
            assert abs(variances[ours] - variances[start]) <= ROUNDING * variances[start]


@pytest.mark.parametrize("path", FILES)
def test_reorder_shuffles_the_same_window(path: Any) -> None:
    fixture = load(path)
    moved = 0
    for prefix, equal, *case in cases(fixture):
        if case[0] != "reorder":
            continue
        columns = [fixture[f"{prefix}/{name}"] for name in ("status", "start", "window_length", "margin")]
        for row, (mine, items) in enumerate(zip(run(path, equal, *case), originals(fixture), strict=True)):
            status, start, size, margin = (column[row] for column in columns)
            if status:
                continue
            if size == 0:
                assert mine == items
                continue
            ours, variances = best_start(fixture["in/times"][row], len(items), size, case[1] == "maximum")
            assert ours == start or margin < ROUNDING, (prefix, row)
            assert abs(variances[ours] - variances[start]) <= ROUNDING * variances[start]
            assert mine[:ours] == items[:ours]
            assert mine[ours + size :] == items[ours + size :]
            assert sorted(mine) == sorted(items)
            moved += mine != items
    assert moved


@pytest.mark.parametrize("path", FILES)
def test_output_is_cut_after_the_operator_ran_on_the_whole_sequence(path: Any) -> None:
    fixture = load(path)
    prefix, equal, *case = next(c for c in cases(fixture) if c[2] == "insert" and not c[1])
    want = [row[-50:] for row in stored(fixture[prefix + "/items_stable_sort"])]
    assert run(path, equal, *case, "first", window=50) == want


@pytest.mark.parametrize("path", FILES)
def test_no_case_is_left_out(path: Any) -> None:
    fixture = load(path)
    rates = json.loads(str(fixture["meta"]))["config"]["rates"]
    assert {operator for _, _, operator, _, _ in cases(fixture)} == set(rates) == set(MAKE)
