"""`jaxrec train tiger`: codes of items are learned and kept, and a run answers by a beam over them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import serve
from jaxrec.commands.train import train
from jaxrec.commands.training.codes import describe_codes, prepare, read
from jaxrec.commands.training.listing import find
from jaxrec.commands.training.models import options_type
from jaxrec.commands.training.options import made
from jaxrec.commands.training.source import source_of
from jaxrec.index import semantic_ids
from jaxrec.nn.retrieval.tiger import TIGER
from jaxrec.report.results import read_results
from jaxrec.serve.export import export
from jaxrec.tasks import semantic_ids as task
from tests.commands.small_data import EVENTS, ITEMS, write_events, write_vectors

WIDTH, DEPTH, MAX_LEN = 20, 2, 4
SMALL: dict[str, Any] = {
    **EVENTS, "num_codes": 4, "levels": 1, "k_means_rounds": 5, "dim": 8, "num_heads": 2, "head_dim": 4,
    "inner_dim": 8, "num_layers": 1, "max_len": MAX_LEN, "width": WIDTH, "batch_size": 32, "epochs": 1,
    "evaluate_every": 1,
}  # fmt: skip
OF_CO_VISITS = {**SMALL, "vector_dim": 3}  # read where no vectors of the items are given


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiger")
    write_events(folder / "events.csv")
    write_vectors(folder / "vectors.npz")
    given = {**SMALL, "item_vectors": str(folder / "vectors.npz"), "seeds": (0, 1)}
    train("tiger", folder / "events.csv", run=folder / "run", **given)
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> serve.Run:
    return serve.load(folder / "run", seed=1)


def likelihoods(run: serve.Run, seed: int, history: list[Any]) -> dict[Any, float]:
    """The log-likelihood of each item after a history, by teacher forcing with the module itself."""
    variables = jax.tree.map(lambda leaf: leaf[run.kept.seeds.index(seed)], dict(run.kept.variables))
    raw, codes = run.vocabulary["item"].tolist(), variables[task.COLUMN]["codes"]
    module = TIGER(4, DEPTH, 8, 2, 4, 8, num_layers=1, max_len=MAX_LEN, num_users=0)
    recent = np.array([1 + raw.index(item) for item in history[-MAX_LEN:]])
    read = np.zeros((1, MAX_LEN, DEPTH), np.int32)
    read[0, : len(recent)] = codes[recent]
    mask = np.arange(MAX_LEN)[None] < len(recent)
    n = len(raw)
    logits = module.apply(
        variables["model"], *(jnp.repeat(x, n, axis=0) for x in (read, mask)), codes[1:], train=False
    )
    each = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), codes[1:, :, None], axis=2)[..., 0]
    return dict(zip(raw, each.sum(axis=1), strict=True))


def test_codes_of_the_items_vectors_are_kept_with_the_run(folder: Path, run: serve.Run) -> None:
    with np.load(folder / "vectors.npz") as file:
        by_item = dict(zip(file["sku"].tolist(), file["vectors"], strict=True))
    vectors = np.stack([by_item[raw] for raw in run.vocabulary["item"].tolist()])
    learned = semantic_ids.residual_k_means(
        vectors, num_codes=4, levels=1, rounds=5, key=jax.random.key(0)
    ).codes
    ids = semantic_ids.build(np.asarray(learned), num_codes=4)
    kept = task.resident_ids(run.variables)
    jax.tree.map(np.testing.assert_array_equal, kept, ids)
    np.testing.assert_array_equal(
        semantic_ids.items_of(kept, kept.codes[1:]), np.arange(1, ITEMS + 1)
    )  # also of colliding codes: 12 items share 4 codes
    found = {record.result.model for record in read_results(folder / "run" / "results")}
    assert found == {"random", "popularity", "tiger-ce+vectors"}


def test_a_run_recommends_by_the_modules_own_likelihoods(run: serve.Run) -> None:
    history = ["sku3", "sku4", "sku5", "sku6", "sku7", "sku8"]  # more than the module reads
    expected = likelihoods(run, 1, history)
    left = sorted(set(expected) - set(history), key=lambda item: -expected[item])
    (answer,) = run.recommend(histories=[history], k=ITEMS)
    assert answer.items.tolist() == left  # the beam is wider than there are items
    np.testing.assert_allclose(answer.scores, [expected[item] for item in left], atol=1e-5)
    (kept,) = run.recommend(histories=[history], k=3, seen="keep", block=[left[0]])
    among = sorted(set(expected) - {left[0]}, key=lambda item: -expected[item])
    assert kept.items.tolist() == among[:3]


def test_pairs_are_scored_exactly_whoever_found_them(run: serve.Run) -> None:
    histories = run.kept.histories
    assert histories is not None
    history = run.vocabulary["item"][histories.items[: histories.offsets[1]] - 1].tolist()
    expected = likelihoods(run, 1, history)
    rows = {"uid": [run.vocabulary["user"][0]] * len(expected), "sku": list(expected)}
    np.testing.assert_allclose(run.score(rows)["score"], list(expected.values()), atol=1e-5)


def test_the_mean_of_seeds_is_that_of_likelihoods(folder: Path, run: serve.Run) -> None:
    history = ["sku3", "sku4"]
    both = [likelihoods(run, seed, history) for seed in (0, 1)]
    (answer,) = serve.load(folder / "run", seed="mean").recommend(histories=[history], k=3)
    expected = [(both[0][item] + both[1][item]) / 2 for item in answer.items.tolist()]
    np.testing.assert_allclose(answer.scores, expected, atol=1e-5)


def test_items_outside_the_beam_are_in_no_list(run: serve.Run) -> None:
    narrow = task.resident_scorer(run.module.scores.keywords["model"], width=3)
    kept = serve.Run(run.path, run.kept._replace(module=narrow), run.seed, run.why, run.variables)
    (answer,) = kept.recommend(histories=[["sku3"]], k=ITEMS, seen="keep")
    assert len(answer.items) == 3
    every = likelihoods(run, 1, ["sku3"])
    np.testing.assert_allclose(answer.scores, [every[item] for item in answer.items.tolist()], atol=1e-5)


def test_an_exported_run_answers_alike(run: serve.Run, tmp_path: Path) -> None:
    pytest.importorskip("flatbuffers", reason="flatbuffers (extra `export`) is not installed")
    export(run, tmp_path / "export", k=5)
    spec = importlib.util.spec_from_file_location("reader", tmp_path / "export" / "reader.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    histories = [["sku3", "sku4"], [f"sku{item}" for item in range(10)]]
    found = module.Reader(tmp_path / "export").recommend(histories, k=5)
    for ours, theirs in zip(found, run.recommend(histories=histories, k=5), strict=True):
        assert ours["items"] == theirs.items.tolist()
        np.testing.assert_allclose(ours["scores"], theirs.scores, atol=1e-5)


def test_what_a_run_does_not_know_or_have_is_refused(run: serve.Run) -> None:
    with pytest.raises(ValueError, match="histories.*sku99"):
        run.recommend(histories=[["sku99"]])
    with pytest.raises(ValueError, match="users.*u99"):
        run.recommend(["u99"])
    with pytest.raises(ValueError, match="has no vectors of items where its scores are no products"):
        run.embed("items")


def prepared(folder: Path, **given: Any) -> Any:
    entry = find("tiger")
    options = made(options_type(entry), {"data": "x", "run": "y", **OF_CO_VISITS, **given})
    return prepare("tiger", entry, options, read(options, source_of(folder / "events.csv")))


def test_codes_are_of_co_visits_where_no_vectors_are_given(folder: Path) -> None:
    found = prepared(folder)
    assert found.name == "tiger-ce" and found.shapes is None
    assert found.notes[-1].startswith("codes: 4 are used of each level; ")


def test_use_of_codes_is_told_in_words() -> None:
    use = {"used_codes/1": 4.0, "used_codes/2": 3.0, "collisions": 0.5, "largest_bucket": 3.0}
    assert describe_codes(use) == (
        "codes: 4, 3 are used of each level; 50.0% of the items share theirs with others, 3 at most, and are "
        "told apart by the last digit"
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_codes": 256}, "num_codes=256: must be at most 12, the number of items; take fewer"),
        ({"num_codes": 2}, "items have the codes .* learn finer codes"),
        ({"vector_dim": 12}, "vector_dim=12: must be below 12, the number of items, .*; take a smaller"),
        ({"width": 10}, "width=10: must be at least 20, the longest list"),
        ({"levels": 0}, "levels=0: must be at least 1"),
        ({"warm_start": "run"}, "warm_start='run': a run of tiger makes codes of its own"),
        ({"item_vector_ids": "ids.txt"}, "names the items of --item-vectors, which is not given"),
        ({"num_users": 5}, "num_users=5: no such option; the nearest is"),
        ({"weight_decay": -1.0}, "weight_decay=-1.0: must be"),
    ],
)
def test_wrong_options_are_refused_before_training(folder: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train("tiger", folder / "events.csv", run=folder / "bad", **{**OF_CO_VISITS, **given})
    assert not (folder / "bad").exists()


def test_tokens_of_users_are_not_served() -> None:
    with pytest.raises(ValueError, match="num_users=3: histories of anybody have no user's token"):
        task.resident_scorer(TIGER(4, DEPTH, num_users=3), width=3)
