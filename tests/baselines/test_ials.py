"""iALS: its loss and steps against plain NumPy, its solvers against each other, devices, and projection."""

from __future__ import annotations

import functools
import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxrec.baselines import TrainingEvents, ials
from jaxrec.baselines.als import ALS, Penalty, alternating
from jaxrec.baselines.als_layout import Pairs, lay_out
from jaxrec.baselines.ials import random_start
from jaxrec.optim.least_squares import Blocks, ConjugateGradients, Exact, Solver
from tests.baselines import small

USERS, ITEMS, DIM = 23, 17, 6
PENALTY = Penalty(regularisation=0.05, alpha0=0.2, nu=0.8)
RNG = np.random.default_rng(0)
MET = RNG.random((USERS, ITEMS)) < 0.25
MET[2], MET[3, :-1] = False, True  # a user without items, one with nearly all
MET[:, 5], MET[:, 6] = False, True  # an item without users, one with nearly all
MET[2] = False
USER, ITEM = np.nonzero(MET)
START = [np.asarray(table) for table in random_start(3, USERS, ITEMS, DIM, 1.0)]
SOLVERS: dict[str, Solver] = {
    "exact": Exact(),
    "primal": Exact(dual=False),
    "one block": Blocks(DIM),
    "blocks": Blocks(4),
    "blocks of one": Blocks(1),
    "gradients": ConjugateGradients(3),
    "all gradients": ConjugateGradients(DIM),
}
EXACT = ("exact", "primal", "one block", "all gradients")
WIDE = """
import os
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
import jax, numpy as np
from jaxrec.baselines.als import Penalty, alternating
from jaxrec.baselines.als_layout import Pairs
from jaxrec.baselines.ials import random_start
from jaxrec.optim.least_squares import Exact
number = np.repeat([96, 128, 192, 256, 320], [54, 25, 11, 3, 2])
user = np.concatenate([np.arange(n) for n in number])
item = np.repeat(np.arange(len(number)), number)
pairs = Pairs(user, item)
als = alternating(pairs, 320, len(number), penalty=Penalty(0.003, 0.1, 1.0), solver=Exact())
tables = als.start(*random_start(0, 320, len(number), 200, 0.1))
for _ in range(20):
    tables = jax.block_until_ready(als.half(tables, False))
assert np.isfinite(np.asarray(tables[1])).all()
"""


@functools.cache
def factorise(name: str, num_devices: int = 1) -> tuple[ALS, list[Any]]:
    """A solver's program, and its tables at the start and after the half-steps of two epochs."""
    pairs = Pairs(USER, ITEM)
    als = alternating(pairs, USERS, ITEMS, penalty=PENALTY, solver=SOLVERS[name], num_devices=num_devices)
    tables = als.start(*START)
    steps = [tables]
    for users in (True, False, True, False):
        steps.append(tables := als.half(tables, users))
    return als, [tuple(np.asarray(t, np.float64) for t in als.finish(tables)) for tables in steps]


def ridge(met: np.ndarray) -> np.ndarray:
    """λ of each row of a matrix."""
    return 0.05 * (met.sum(1) + 0.2 * met.shape[1]) ** 0.8


def loss(users: np.ndarray, items: np.ndarray) -> float:
    """The loss as it is written, over all pairs."""
    scores = users @ items.T
    squares = (ridge(MET) * (users**2).sum(1)).sum() + (ridge(MET.T) * (items**2).sum(1)).sum()
    return ((scores - 1) ** 2)[MET].sum() + 0.2 * (scores**2).sum() + squares


def minimum(other: np.ndarray, met: np.ndarray) -> np.ndarray:
    """Every row's minimum, one after the other."""
    rows = []
    for row, weight in zip(met, ridge(met), strict=True):
        matrix = other[row].T @ other[row] + 0.2 * other.T @ other + weight * np.eye(DIM)
        rows.append(np.linalg.solve(matrix, other[row].sum(0)))
    return np.array(rows)


@pytest.mark.parametrize("name", EXACT)
def test_half_steps_are_the_minimum_of_the_loss(name: str) -> None:
    _, steps = factorise(name)
    np.testing.assert_allclose(steps[1][0], minimum(steps[0][1], MET), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(steps[2][1], minimum(steps[1][0], MET.T), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SOLVERS)
def test_no_half_step_raises_the_loss(name: str) -> None:
    losses = [loss(*tables) for tables in factorise(name)[1]]
    assert all(after <= before * (1 + 1e-6) for before, after in itertools.pairwise(losses))
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(("name", "size"), [("blocks", 4), ("blocks of one", 1)])
def test_a_sweep_over_blocks_is_newtons_step_for_each_in_turn(name: str, size: int) -> None:
    """Of the loss itself, along eigenvectors of the Gramian; the last block may be shorter."""
    steps = factorise(name)[1]
    vectors = np.linalg.eigh(steps[0][1].T @ steps[0][1])[1][:, ::-1]
    users, items = (table @ vectors for table in steps[0])
    for first in range(0, DIM, size):
        here = slice(first, first + size)
        for user in range(USERS):
            seen, weight = items[MET[user]], ridge(MET)[user]
            slope = (seen @ users[user] - 1) @ seen[:, here] + weight * users[user, here]
            slope = slope + 0.2 * (items.T @ items)[here] @ users[user]
            matrix = seen[:, here].T @ seen[:, here] + 0.2 * items[:, here].T @ items[:, here]
            users[user, here] -= np.linalg.solve(matrix + weight * np.eye(len(matrix)), slope)
    np.testing.assert_allclose(steps[1][0], users @ vectors.T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wide", [False, True], ids=["32 bits", "64 bits"])
def test_rows_with_fewer_pairs_than_a_block_are_solved_exactly(wide: bool) -> None:
    """Eight pairs at most, blocks of nine of ten coordinates; with 64 bits allowed, solved in 32."""
    few = MET & (np.cumsum(MET, axis=1) <= 8)
    pairs = Pairs(*np.nonzero(few))
    start = random_start(3, USERS, ITEMS, 10, 1.0)
    found = []
    for solver in (Exact(), Blocks(9)):
        with jax.enable_x64(wide):
            als = alternating(pairs, USERS, ITEMS, penalty=PENALTY, solver=solver)
            found.append(als.finish(als.half(als.start(*start), True))[0])
    assert found[0].dtype == found[1].dtype == np.float32
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SOLVERS)
def test_half_steps_are_the_same_with_64_bits(name: str) -> None:
    with jax.enable_x64(True):
        wide = factorise.__wrapped__(name)[1]
    for tables, usual in zip(wide, factorise(name)[1], strict=True):
        for found, wanted in zip(tables, usual, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", SOLVERS)
def test_rows_without_pairs_are_zero(name: str) -> None:
    for users, items in factorise(name)[1]:
        assert not users[2].any() and not items[5].any()
        assert users[3].all() and items[6].all()


@pytest.mark.parametrize("name", ["exact", "blocks", "gradients"])
@pytest.mark.parametrize("num_devices", [2, 4])
def test_devices_give_the_same_tables(name: str, num_devices: int) -> None:
    for found, expected in zip(factorise(name, num_devices)[1], factorise(name)[1], strict=True):
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found[1], expected[1], rtol=1e-4, atol=1e-5)


def test_both_half_steps_are_a_sweep() -> None:
    als, steps = factorise("exact")
    swept = als.finish(als.sweep(als.start(*START)))
    np.testing.assert_allclose(swept[0], steps[2][0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(swept[1], steps[2][1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("num_devices", [1, 3])
def test_every_pair_and_row_is_stored_once(num_devices: int) -> None:
    """Histories of 0 to 300 pairs, over more buckets than one and more chunks than one."""
    rng = np.random.default_rng(1)
    number = np.concatenate([[0, 300, 0, 129], rng.integers(1, 20, 900)])
    user = np.repeat(np.arange(len(number)), number)
    item = np.concatenate([rng.permutation(400)[:n] for n in number])
    pairs = Pairs(user, item, response=np.arange(len(user), dtype=np.float32))
    users, items = lay_out(pairs, len(number), 400, num_devices)
    for side, other, own, others, rows in (
        (users, items, user, item, len(number)),
        (items, users, item, user, 400),
    ):
        assert sorted(side.row[side.row >= 0]) == list(range(rows))
        np.testing.assert_array_equal(side.row[side.place], np.arange(rows))
        assert len(side.row) % num_devices == 0
        found: dict[float, tuple[int, int]] = {}
        start = 0
        blocks = np.split(side.row, num_devices)
        for bucket in side.buckets:
            chunks, size, _ = bucket.place.shape
            count = chunks // num_devices * size
            row = np.concatenate([block[start : start + count] for block in blocks]).reshape(chunks, size, 1)
            start += count
            assert bucket.response is not None
            real = bucket.place >= 0
            np.testing.assert_array_equal(bucket.number, real.sum(2))
            rows_of, ids = np.broadcast_to(row, real.shape)[real], other.row[bucket.place[real]]
            found |= dict(zip(bucket.response[real].tolist(), zip(rows_of, ids, strict=True), strict=True))
        assert found == dict(enumerate(zip(own, others, strict=True)))


def test_the_program_looks_rows_up_and_gathers_no_table() -> None:
    """On 2 devices: a sum for each Gramian, and an exchange of ids and rows for each bucket."""
    pairs = Pairs(USER, ITEM)
    buckets = [len(side.buckets) for side in lay_out(pairs, USERS, ITEMS, 2)]
    als = alternating(pairs, USERS, ITEMS, penalty=PENALTY, solver=Exact(), num_devices=2)
    text = jax.jit(als.sweep).lower(als.start(*START)).as_text()
    assert text.count("stablehlo.all_reduce") == 2
    assert text.count("stablehlo.all_gather") == text.count("stablehlo.reduce_scatter") == sum(buckets)


def test_the_baseline_is_the_factorisation_of_distinct_pairs() -> None:
    """Users 0 to 5 and 6; an item met twice counts once; the start is the seed's."""
    rows = [[1, 2, 1], [2, 3], [1, 2, 4], [3, 4, 3, 2], [5, 1], [2, 1], [6, 2]]
    distinct = np.array(sorted({(u, i - 1) for u, row in enumerate(rows) for i in row}))
    settings: Any = {"dim": 4, "epochs": 2, "seed": 5}
    baseline = ials(small.events_of(rows), regularisation=0.1, alpha0=0.3, nu=0.5, **settings)
    als = alternating(Pairs(*distinct.T), 7, 7, penalty=Penalty(0.1, 0.3, 0.5), solver=Exact())
    users, items = als.finish(als.sweep(als.sweep(als.start(*random_start(5, 7, 7, 4, 0.1)))))
    np.testing.assert_array_equal(baseline.variables["users"][1:], users)
    np.testing.assert_array_equal(baseline.variables["items"][1:], items)
    assert not np.asarray(baseline.variables["users"])[0].any()
    assert not np.asarray(baseline.variables["items"])[[0, 7]].any()  # padding, an item without events


def test_seeds_start_apart_and_are_kept() -> None:
    fit = functools.partial(ials, small.events_of(small.TRAIN), dim=3, epochs=1)
    first, again, other = (np.asarray(fit(seed=seed).variables["items"]) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3


@functools.cache
def projected() -> Any:
    return ials(small.session_data(), dim=5, epochs=2, alpha0=0.2, regularisation=0.05, project=True)


def test_projection_is_the_minimum_for_a_history() -> None:
    """Histories that no user has; repeated items count once; none gives 0."""
    rows = [[], [1, 2, 1, 1], [4], [3] * 70 + [5], [7]]
    queries, context = small.histories(rows)
    items = np.asarray(projected().variables["items"], np.float64)
    found = small.scores(projected(), queries, context, padding=True)
    for row, scores in zip(rows, found, strict=True):
        seen = items[sorted(set(row))]
        weight = 0.05 * (len(seen) + 0.2 * small.NUM_ITEMS)
        matrix = seen.T @ seen + 0.2 * items.T @ items + weight * np.eye(5)
        np.testing.assert_allclose(scores, items @ np.linalg.solve(matrix, seen.sum(0)), atol=1e-5)
    assert not found[0].any() and found[1].any()


def test_projection_is_the_same_with_64_bits() -> None:
    queries, context = small.histories([[], [1, 2, 1], [4, 3]])
    with jax.enable_x64(True):
        wide = small.scores(projected(), queries, context)
    np.testing.assert_allclose(wide, small.scores(projected(), queries, context), rtol=1e-4, atol=1e-5)


def test_users_without_training_events_score_zero_or_are_projected() -> None:
    """Queries of sessions that were not trained."""
    trained = ials(small.session_data(), dim=5, epochs=2)
    queries = small.session_queries(small.session_data())
    assert not small.scores(trained, queries, small.session_data().columns).any()
    assert small.scores(projected(), queries, small.session_data().columns)[:3].any(1).all()


def test_a_user_of_a_split_is_read_by_its_index() -> None:
    """Groups 0, 2, 5 of a split are its users; groups of one's own events are numbered in order."""

    class Split:
        def training_events(self) -> TrainingEvents:
            return TrainingEvents(np.array([0, 0, 2, 5]), np.array([1, 2, 2, 3]), 3)

    class Data:
        split = Split()

    users = np.asarray(ials(Data(), dim=2, epochs=1).variables["users"])
    own = np.asarray(ials(Split().training_events(), dim=2, epochs=1).variables["users"])
    np.testing.assert_array_equal(users[[1, 3, 6]], own[1:])
    assert len(users) == 7 and not users[[0, 2, 4, 5]].any()


def test_wide_vectors_are_solved_on_two_cores() -> None:
    """Large Cholesky factorisations of several buckets at once would wait for each other's threads."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "JAX_PLATFORMS": "cpu"}
    environment.pop("XLA_FLAGS", None)  # one device
    subprocess.run([sys.executable, "-c", WIDE], env=environment, check=True, timeout=90)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dim": 0}, "dim=0: must be at least 1"),
        ({"epochs": 0}, "epochs=0: must be at least 1"),
        ({"regularisation": 0.0}, "regularisation=0.0: must be above 0"),
        ({"alpha0": float("nan")}, "alpha0=nan: must be above 0"),
        ({"stddev": -1.0}, "stddev=-1.0: must be above 0"),
        ({"nu": float("inf")}, "nu=inf: must be a finite number"),
        ({"num_devices": 99}, "num_devices=99: this process has"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ials(small.events_of(small.TRAIN), **wrong)


@pytest.mark.parametrize(
    ("solver", "message"), [(Blocks, "size=0: must"), (ConjugateGradients, "steps=0: must")]
)
def test_solvers_of_nothing_are_refused(solver: type[Solver], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        solver(0)
