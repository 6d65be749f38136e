"""CoSeRec's published checkpoint for Beauty: encoder, ranking and the metrics its own program prints."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import metrics
from jaxrec.convert import s3rec
from jaxrec.data.sources import coserec
from jaxrec.nn.sequential.sasrec import SASRec
from jaxrec.types import Array, Variables
from tests.golden.fixtures import golden_files
from tests.nn.drawn import applied
from tests.programs import run

BATCH, SHORT = 512, 10
CUTS = (5, 10, 20)


class Reference(NamedTuple):
    arrays: Mapping[str, np.ndarray]
    model: Any  # a SASRec
    variables: Variables


@pytest.fixture(params=golden_files("coserec_beauty"), scope="module")
def reference(request: pytest.FixtureRequest) -> Reference:
    path: Path = request.param
    with np.load(path) as file:
        arrays = dict(file)
    config = json.loads(str(arrays["meta"]))["config"]
    state = {key.removeprefix("param/"): value for key, value in arrays.items() if key.startswith("param/")}
    model, variables = s3rec.from_state_dict(state, num_heads=config["heads"])
    assert isinstance(model, SASRec)
    sizes = (model.dim, model.num_layers, model.inner_dim, model.max_len, model.num_items + 2)
    names = ("hidden_size", "layers", "inner_size", "max_seq_length", "item_size")
    assert sizes == tuple(config[name] for name in names)
    return Reference(arrays, model, jax.tree.map(jnp.asarray, variables))


@functools.partial(jax.jit, static_argnums=0, compiler_options={"xla_backend_optimization_level": 3})
def ranks(model: Any, variables: Variables, items: Array, seen: Array, answers: Array) -> tuple[Array, Array]:
    """Pessimistic and optimistic rank of each answer, [B], where seen items score 0."""
    query = model.apply(variables, items, train=False)[:, -1]
    table = model.apply(variables, method="item_table")
    scores = metrics.apply_seen(query @ table.T, metrics.seen_mask(seen, table.shape[0]), "zero")
    return metrics.rank_of_target(scores, answers), metrics.rank_of_target(scores, answers, ties="optimistic")


@pytest.fixture(scope="module")
def histories(data_dir: Path) -> list[list[int]]:
    """All users' items, oldest first, in the order of the file."""
    if not (data_dir / "coserec" / "Beauty.txt.gz").is_file():
        pytest.skip("the data directory has no coserec/Beauty.txt.gz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXREC_DATA_DIR", str(data_dir))
        sequences = coserec.load("Beauty")
    return [part.tolist() for part in np.split(sequences.items, sequences.offsets[1:-1])]


def rows(histories: list[list[int]], held_out: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Everything but the last `held_out` items, right-aligned [U, width], and the next item [U]."""
    filled = np.zeros((len(histories), width), np.int32)
    for row, history in zip(filled, histories, strict=True):
        kept = history[:-held_out][-width:]
        row[width - len(kept) :] = kept
    return filled, np.array([history[-held_out] for history in histories], np.int32)


def rank_all(
    reference: Reference, histories: list[list[int]], held_out: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pessimistic and optimistic ranks of every user's answer, seen items at score 0: [U] each.

    Users of like length go together, in rows no wider than they need: positions count from the last slot.
    """
    items, answers = rows(histories, held_out, reference.model.max_len)
    seen, _ = rows(histories, held_out, max(map(len, histories)))
    model = reference.model, reference.variables

    found = np.zeros((2, len(items)), np.int32)
    lengths = (seen > 0).sum(axis=1)
    for low, high in ((0, SHORT), (SHORT, seen.shape[1])):
        users = np.flatnonzero((lengths > low) & (lengths <= high))
        for start in range(0, len(users), BATCH):
            some = users[start : start + BATCH]
            full = np.pad(some, (0, BATCH - len(some)), mode="edge")
            worst, best = ranks(*model, items[full, -high:], seen[full, -high:], answers[full])
            found[:, some] = np.stack([worst, best])[:, : len(some)]
    return found[0], found[1]


def test_last_slot_and_top_of_the_ranking(reference: Reference) -> None:
    arrays = reference.arrays
    items = jnp.asarray(arrays["in/input_ids"], jnp.int32)
    hidden = jax.jit(lambda i: reference.model.apply(reference.variables, i, train=False)[:, -1])(items)
    np.testing.assert_allclose(hidden, arrays["out/encoder_last"], rtol=1e-5, atol=1e-5)
    table = np.asarray(applied(reference.model, reference.variables, method="item_table"))
    seen = run(metrics.seen_mask, items, size=len(table))
    scores = run(metrics.apply_seen, np.asarray(hidden) @ table.T, seen, rule="zero")
    answer = np.take_along_axis(scores, arrays["in/answer"][:, None].astype(np.int64), axis=1)[:, 0]
    np.testing.assert_allclose(answer, arrays["out/answer_score"], rtol=1e-5, atol=2e-5)
    theirs = np.take_along_axis(scores, arrays["out/top20"].astype(np.int64), axis=1)
    np.testing.assert_allclose(theirs, arrays["out/top20_score"], rtol=1e-5, atol=2e-5)
    best = -np.sort(-scores, axis=1)[:, : theirs.shape[1]]
    np.testing.assert_allclose(best, theirs, rtol=1e-5, atol=2e-5)  # ids may swap where scores differ less


def test_inputs_are_the_last_items_of_each_history(reference: Reference, histories: list[list[int]]) -> None:
    index = reference.arrays["in/user_index"]
    items, answers = rows([histories[i] for i in index], 1, reference.model.max_len)
    np.testing.assert_array_equal(items, reference.arrays["in/input_ids"])
    np.testing.assert_array_equal(answers, reference.arrays["in/answer"])


@pytest.mark.parametrize("stage, held_out", [("test", 1), ("valid", 2)])
def test_ranks_and_metrics_of_all_users(
    reference: Reference, histories: list[list[int]], stage: str, held_out: int
) -> None:
    worst, best = rank_all(reference, histories, held_out)
    if stage == "test":  # scores that differ by a rounding error change places: never by more than a few
        theirs = reference.arrays["out/answer_rank_all_users"] + 1
        assert np.mean(best == theirs) > 0.99
        assert np.abs(best - theirs).max() <= 3
    np.testing.assert_array_equal(worst[worst <= max(CUTS)], best[worst <= max(CUTS)])
    ours = [float(run(metric, worst, k=k).mean()) for k in CUTS for metric in (metrics.hit, metrics.ndcg)]
    np.testing.assert_allclose(ours, reference.arrays[f"out/{stage}_metrics"], atol=5e-6)
