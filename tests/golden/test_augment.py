"""TiCoSeRec's operators against their official code, on real sequences.

Everything agrees (equal) except, by nature: single random events of Crop and the order inside Reorder's
window are checked for membership. The reference computes variances in float64, ours are exact: where its
relative margin between best and second-best window is below 1e-9, yet not zero, rounding decides there, and
only that the exact variance of both windows is the same to 1e-9 is asked.
"""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.augment import operators as ops
from jaxrec.augment.similarity import Similar, larger
from jaxrec.augment.views import augment
from tests.golden.fixtures import golden_files

FILES = golden_files("ticoserec_augment")
MAKE = {
    "crop": ops.ti_crop,
    "mask": ops.ti_mask,
    "reorder": ops.ti_reorder,
    "substitute": ops.ti_substitute,
    "insert": ops.ti_insert,
}


@functools.cache
def load(path):
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def cases(fixture):
    """(prefix of the keys, equal-length times?, operator, mode, rate) of every case of a file."""
    for name in fixture:
        if name.endswith("/status"):
            *start, operator, mode, rate, _ = name.split("/")
            yield name.removesuffix("/status"), "eq" in start, operator, mode, float(rate)


def right_aligned(values, lengths, width):
    out = np.zeros((len(values), width), values.dtype)
    for row, (value, n) in enumerate(zip(values, lengths, strict=True)):
        out[row, width - n :] = value[:n]
    return out


def similar_tables(fixture):
    def table(name):
        item = fixture[f"in/{name}"].astype(np.int32)
        score = jnp.asarray(fixture[f"in/{name}_score"])
        pool = jnp.arange(len(item), dtype=jnp.int32)
        return Similar(jnp.asarray(item), score, jnp.float32(0), jnp.float32(1), pool, jnp.int32(len(item)))

    return table("most_similar"), table("most_similar_2")


def run(fixture, equal, operator, mode, rate, similar, window=None):
    """Output of an operator as lists of items, for every sequence of the fixture."""
    length = fixture["in/length"]
    width = int(length.max())
    first = fixture["in/times"][:, :1]
    times = np.where(fixture["in/times"] >= 0, fixture["in/times"] - first, 0)
    assert times.max() < 2**31
    stamps = length if equal else fixture["in/times_length"]
    operate = MAKE[operator](rate, largest={"maximum": True, "minimum": False}[mode])
    items, out_length = jax.jit(lambda key, *rows: augment(operate, key, *rows, window=window or 2 * width))(
        jax.random.key(0),
        jnp.asarray(right_aligned(fixture["in/items"], length, width)),
        jnp.asarray(right_aligned(times.astype(np.int32), stamps, width + (not equal))),
        jnp.asarray(length),
        similar,
    )
    items, out_length = np.asarray(items), np.asarray(out_length)
    assert not np.any(items[np.arange(items.shape[1]) < items.shape[1] - out_length[:, None]])
    return [row[items.shape[1] - n :].tolist() for row, n in zip(items, out_length, strict=True)]


def originals(fixture):
    return [row[:n].tolist() for row, n in zip(fixture["in/items"], fixture["in/length"], strict=True)]


def stored(rows):
    return [row[row != -1].tolist() for row in rows]


def exact_variance(times, start, size):
    gaps = [
        abs(int(b) - int(a)) for a, b in zip(times[start:], times[start + 1 : start + size - 1], strict=False)
    ]
    return len(gaps) * sum(d * d for d in gaps) - sum(gaps) ** 2


@pytest.mark.parametrize("path", FILES)
@pytest.mark.parametrize("operator", ["mask", "substitute", "insert"])
def test_picks_the_same_events(path, operator):
    fixture = load(path)
    first, second = similar_tables(fixture)
    for prefix, equal, *case in cases(fixture):
        if case[0] != operator:
            continue
        ran = fixture[prefix + "/status"] == 0
        got = run(fixture, equal, *case, first)
        want = stored(fixture[prefix + "/items_stable_sort"])
        assert [g for g, r in zip(got, ran, strict=True) if r] == [
            w for w, r in zip(want, ran, strict=True) if r
        ]
        no_tie = ran & ~fixture[prefix + "/tie_at_boundary"]
        unstable = stored(fixture[prefix + "/items"])
        assert all(g == w for g, w, t in zip(got, unstable, no_tie, strict=True) if t)
        if operator != "mask":
            hybrid = run(fixture, equal, *case, larger(first, second))
            want = stored(fixture[prefix + "/items_hybrid"])
            assert all(g == w for g, w, r in zip(hybrid, want, ran, strict=True) if r)


@pytest.mark.parametrize("path", FILES)
@pytest.mark.parametrize("operator", ["mask", "substitute", "insert"])
def test_picks_the_same_positions(path, operator):
    fixture = load(path)
    first, _ = similar_tables(fixture)
    marked = first._replace(item=jnp.full_like(first.item, len(first.item)))  # an id that no event has
    for prefix, equal, *case in cases(fixture):
        if case[0] != operator:
            continue
        rows = zip(run(fixture, equal, *case, marked), fixture[prefix + "/positions"], strict=True)
        new = 0 if operator == "mask" else len(first.item)
        for row, ((got, positions), status) in enumerate(zip(rows, fixture[prefix + "/status"], strict=True)):
            places = [i for i, item in enumerate(got) if item == new]
            if (
                operator == "insert"
            ):  # the k-th new item stands right after its event, k + 1 places further on
                places = [place - k - 1 for k, place in enumerate(places)]
            assert status or places == sorted(p for p in positions.tolist() if p != -1), (prefix, row)


@pytest.mark.parametrize("path", FILES)
def test_crop_keeps_the_same_window(path):
    fixture = load(path)
    for prefix, equal, *case in cases(fixture):
        if case[0] != "crop":
            continue
        get = lambda name, prefix=prefix: fixture[f"{prefix}/{name}"]  # noqa: E731
        got = run(fixture, equal, *case, None)
        for row, (mine, items) in enumerate(zip(got, originals(fixture), strict=True)):
            if get("status")[row]:
                continue
            size = int(case[2] * len(items))
            assert get("is_random")[row] == (size <= 2)
            if size <= 2:
                assert len(mine) == 1 and mine[0] in items[: len(items) - size]
            elif 0 < get("margin")[row] < 1e-9:
                times, start = fixture["in/times"][row], get("start")[row]
                ours = next(i for i in range(len(items)) if items[i : i + size] == mine)
                variances = [exact_variance(times, i, size) for i in (ours, start)]
                assert abs(variances[0] - variances[1]) <= 1e-9 * max(variances)
            else:
                assert mine == stored(get("items"))[row], (prefix, row)
                assert mine == items[get("start")[row] :][: get("window_length")[row]]


@pytest.mark.parametrize("path", FILES)
def test_reorder_shuffles_the_same_window(path):
    fixture = load(path)
    moved = 0
    for prefix, equal, *case in cases(fixture):
        if case[0] != "reorder":
            continue
        get = lambda name, prefix=prefix: fixture[f"{prefix}/{name}"]  # noqa: E731
        got = run(fixture, equal, *case, None)
        for row, (mine, items) in enumerate(zip(got, originals(fixture), strict=True)):
            start, size = get("start")[row], get("window_length")[row]
            if get("status")[row] or 0 < get("margin")[row] < 1e-9:
                continue
            if size == 0:
                assert mine == items
                continue
            assert mine[:start] == items[:start] and mine[start + size :] == items[start + size :]
            assert sorted(mine) == sorted(items)
            moved += mine != items
    assert moved


@pytest.mark.parametrize("path", FILES)
def test_output_is_cut_after_the_operator_ran_on_the_whole_sequence(path):
    fixture = load(path)
    first, _ = similar_tables(fixture)
    prefix, equal, *case = next(c for c in cases(fixture) if c[2] == "insert" and not c[1])
    want = [row[-50:] for row in stored(fixture[prefix + "/items_stable_sort"])]
    assert run(fixture, equal, *case, first, window=50) == want


@pytest.mark.parametrize("path", FILES)
def test_no_case_is_left_out(path):
    fixture = load(path)
    rates = json.loads(str(fixture["meta"]))["config"]["rates"]
    assert {operator for _, _, operator, _, _ in cases(fixture)} == set(rates) == set(MAKE)
