"""The PeterRec experiment runs to its end on made-up users and sessions; what is frozen keeps its bits."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import pytest
from flax import traverse_util

from experiments.sequential import peterrec as experiment
from jaxrec.report.results import read_results
from jaxrec.tasks.profile import profile
from tests.experiments.test_tiny import call

TINY = experiment.effective(experiment.Config(dataset="ml-100k", tiny=True, seeds=(3, 4)))
COLD = experiment.effective(experiment.Config(tiny=True, seeds=(3, 4)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the command line has left its checkpoints and, in "results", what it found."""
    path = tmp_path_factory.mktemp("peterrec")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXREC_XLA_CACHE", "0")
        call(experiment, patch, "--tiny", "--dataset", "ml-100k", "--rows", "popularity", "peterrec-serial",
             "--seeds", 3, 4, "--results", path / "results", "--workdir", path)  # fmt: skip
    return path


@pytest.fixture(scope="module")
def pretrained(folder: Path) -> Any:
    """The parameters that pre-training has left."""
    return experiment.pretrain(experiment.load(TINY), dataclasses.replace(TINY, workdir=str(folder)))


def test_tiny_runs_to_the_end(folder: Path) -> None:
    records = {record.result.model: record.result for record in read_results(folder / "results")}
    assert set(records) == {"popularity", "peterrec-serial-ce"}
    for model, result in records.items():
        assert result.experiment == "peterrec" and result.dataset == "chain-80x24-half"
        assert {len(values) for values in result.metrics.values()} == {2}
        assert set(result.metrics) == {"accuracy", "log_loss", "auc"}
        assert not result.published
        assert (result.config.get("trained_share", 1.0) < 0.5) == (model != "popularity")


def test_frozen_parameters_keep_their_bits(pretrained: Any, folder: Path) -> None:
    """After two epochs of two seeds; what the row has of its own is the head and two patches a block."""
    data = experiment.load(TINY)
    config = dataclasses.replace(TINY, workdir=str(folder))
    fitted, found = experiment.train("peterrec-serial", data, config, pretrained)
    own, before = set(), traverse_util.flatten_dict(pretrained["params"])
    after = traverse_util.flatten_dict(fitted.variables["params"])
    for path, leaf in after.items():
        if path in before:
            for of_seed in np.asarray(leaf):
                np.testing.assert_array_equal(of_seed, before[path])
        else:
            own.add(path[:2])
            assert not np.array_equal(leaf[0], leaf[1])
    assert own == {("head",), ("layer_0", "patch_1"), ("layer_0", "patch_2")}
    assert {path[0] for path in before.keys() - after.keys()} == {"output_embedding", "output_bias"}
    assert len(found) == 2


@pytest.mark.parametrize("row", ["scratch", "full", "head", "peterrec-parallel"])
def test_what_a_row_starts_from_and_trains(row: experiment.Row, pretrained: Any) -> None:
    data = experiment.load(TINY)
    task = profile(experiment.model_of(row, data, TINY), token=data.token)
    models = (experiment.model_of(row, data, TINY), experiment.backbone(data, TINY))
    start = experiment.started(task, None if row == "scratch" else pretrained, models)
    rows = {"user": np.arange(4), "mask": np.ones(4, bool)}

    @jax.jit
    def params_of(columns: Any) -> Any:
        return start.init(jax.random.key(1), start.prepare(jax.random.key(0), rows, columns))["params"]

    params = params_of(data.columns)
    same = np.array_equal(params["item_embedding"], pretrained["params"]["item_embedding"])
    assert same == (row != "scratch")
    assert ("patch_1" in params["layer_0"]) == row.startswith("peterrec")
    trained, every = experiment.num_trained(row, params, TINY)
    head, patches = 3 * 8, 2 * (2 * 8 * 2 + 2 + 8)
    expected = {"head": head, "peterrec-serial": head + patches, "peterrec-parallel": head + patches}
    assert trained == expected.get(row, every)
    tx = experiment.optimiser(row, TINY)
    tree = {"model": params, "weighting": ()}
    ones = jax.tree.map(np.ones_like, tree)
    change, _ = jax.jit(lambda: tx.update(ones, tx.init(tree), tree))()
    moved = sum(int((np.asarray(leaf) != 0).sum()) for leaf in jax.tree.leaves(change))
    assert moved == trained


def test_users_are_split_once_and_all_are_used() -> None:
    data = experiment.load(TINY)
    parts = [data.train, data.validation, data.test]
    assert [len(part) for part in parts] == [48, 8, 24]
    assert sorted(np.concatenate(parts).tolist()) == list(range(80))
    other = experiment.load(dataclasses.replace(TINY, split_seed=1))
    assert not np.array_equal(other.test, data.test)


def test_batches_of_users_are_padded_and_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    users, labels = np.arange(5, 12).astype(np.int32), np.arange(20, dtype=np.int32) % 2 + 1
    monkeypatch.setattr(experiment, "EVALUATION_BATCH", 4)
    found = experiment.batches(users, labels)
    assert found["mask"].shape == (2, 4)
    assert found["user"][found["mask"]].tolist() == users.tolist()
    assert found["label"][found["mask"]].tolist() == labels[users].tolist()


def test_metrics_by_hand() -> None:
    """Logits of three users and a padded one: two right, one wrong; one of two pairs in order."""
    logits = np.log([[[0.8, 0.2], [0.3, 0.7], [0.1, 0.9], [0.5, 0.5]]])
    queries = {"mask": np.array([[True, True, True, False]]), "label": np.array([[1, 2, 1, 0]])}
    found = experiment.summarise(logits, queries)
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["log_loss"] == pytest.approx(-np.log(0.8 * 0.7 * 0.1) / 3)
    assert found["auc"] == pytest.approx(1 / 2)
    three = experiment.summarise(
        np.zeros((1, 2, 3)), {"mask": np.ones((1, 2), bool), "label": np.array([[1, 3]])}
    )
    assert "auc" not in three and three["log_loss"] == pytest.approx(np.log(3))


def test_popularity_knows_the_shares_of_classes() -> None:
    data = experiment.load(TINY)
    (found, _) = experiment.test_floor("popularity", data, TINY)
    labels = data.columns["label"]
    most = np.bincount(labels[data.train]).argmax()
    assert found["accuracy"] == pytest.approx((labels[data.test] == most).mean())
    assert found["auc"] == pytest.approx(0.5)


@pytest.mark.parametrize(("dataset", "users", "first"), [("ml-100k", 943, "M"), ("ml-1m", 6040, "F")])
@pytest.mark.usefixtures("data_dir")
def test_labels_belong_to_the_users_of_the_sequences(
    dataset: Literal["ml-100k", "ml-1m"], users: int, first: str
) -> None:
    """User 1 is a man with 272 events in the small set, and a woman with 53 in the large one."""
    data = experiment.load(experiment.effective(experiment.Config(dataset=dataset)))
    assert data.task == "gender"
    assert len(data.columns["label"]) == users
    assert data.classes == ("F", "M") and data.classes[data.columns["label"][0] - 1] == first
    assert data.columns["length"][0] == {"ml-100k": 272, "ml-1m": 53}[dataset]


@pytest.mark.parametrize(
    "change",
    [
        {"dim": 0},
        {"dilations": ()},
        {"dilations": (1, 0)},
        {"max_len": 1},
        {"epochs": -1},
        {"seeds": (0, 0)},
        {"attribute": "gender"},  # sessions have none
        {"labels": 5, "dataset": "ml-100k"},  # of users all are told
        {"norms": True, "rows": ("head", "full")},
    ],
)
def test_settings_that_mean_nothing_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(change))}="):
        dataclasses.replace(experiment.Config(), **change)


def test_settings_are_those_of_the_task_where_none_are_given() -> None:
    found = experiment.effective(experiment.Config(epochs=7))
    assert (found.labels, found.attribute, found.max_len, found.epochs) == (300, None, 21, 7)
    found = experiment.effective(experiment.Config(dataset="ml-1m", max_len=50))
    assert (found.labels, found.attribute, found.max_len, found.epochs) == (0, "gender", 50, 30)


# --- cold items ---


def test_cold_items_tiny_runs_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXREC_XLA_CACHE", "0")
    call(experiment, monkeypatch, "--tiny", "--norms", "--rows", "random", "popularity", "peterrec-parallel",
         "--seeds", 3, "--labels", 30, "--results", tmp_path / "results", "--workdir", tmp_path)  # fmt: skip
    records = {record.result.model: record.result for record in read_results(tmp_path / "results")}
    assert set(records) == {"random", "popularity", "peterrec-parallel-norms-ce"}
    for result in records.values():
        assert result.dataset == "groups-600x60-cold-30"
        assert set(result.metrics) == {"hit@5", "mrr@5", "log_loss"}
        assert result.protocol.candidates == "all 6 cold" and result.protocol.ties == "pessimistic"
    learned = records["peterrec-parallel-norms-ce"]
    assert learned.protocol.selection == "mrr@5"
    assert learned.config["trained"] == 7 * 8 + 2 * (2 * 8 * 2 + 2 + 8) + 2 * 8  # head, patches, a norm


def test_random_logits_rank_by_chance_and_by_seed() -> None:
    data = experiment.load(COLD)
    seeds = tuple(range(20))
    found = experiment.test_floor("random", data, dataclasses.replace(COLD, seeds=seeds))
    hits = [of_seed["hit@5"] for of_seed in found]
    assert len(set(hits)) > 1
    assert np.mean(hits) == pytest.approx(experiment.K / len(data.classes), abs=0.03)


def test_ranks_by_hand() -> None:
    """Seven classes: the target first, tied with one other, sixth; and a padded example."""
    logits = np.zeros((2, 2, 7))
    logits[0, 0, 2] = 3.0
    logits[0, 1, [4, 5]] = 1.0
    logits[1, 0] = np.arange(7)
    queries = {"mask": np.array([[True, True], [True, False]]), "label": np.array([[3, 5], [2, 0]])}
    found = experiment.summarise_ranks(logits, queries)
    assert found["hit@5"] == pytest.approx(2 / 3)
    assert found["mrr@5"] == pytest.approx((1 + 1 / 2 + 0) / 3)
    terms = [3 - np.log(np.exp(3) + 6), 1 - np.log(2 * np.e + 5), 1 - np.log(np.exp(np.arange(7)).sum())]
    assert found["log_loss"] == pytest.approx(-np.mean(terms))


def test_equal_logits_earn_nothing() -> None:
    queries = {"mask": np.ones((1, 6), bool), "label": np.arange(1, 7)[None]}
    found = experiment.summarise_ranks(np.zeros((1, 6, 6)), queries)
    assert found["hit@5"] == found["mrr@5"] == 0.0
    assert found["log_loss"] == pytest.approx(np.log(6))


def test_the_pretrained_model_hangs_on_what_its_source_hangs_on() -> None:
    """Cold items decide the source of sessions; which users are tested decides nothing of theirs."""

    def same(config: experiment.Config, **change: Any) -> bool:
        other = dataclasses.replace(config, **change)
        return experiment.pretraining(config) == experiment.pretraining(other)

    for name in ("labels", "epochs", "patience", "batch_size"):
        assert same(COLD, **{name: 17})
    assert not same(COLD, split_seed=17) and same(TINY, split_seed=17)
    assert not same(COLD, pretrain_batch_size=17) and not same(COLD, max_len=17)


def test_norms_are_those_of_patched_rows() -> None:
    config = dataclasses.replace(COLD, norms=True)
    params = {"layer_0": {"norm_1": {"scale": 1}, "norm_2": {"scale": 1}, "patch_1": {"up": 1}}, "head": 1}
    own = {"norm_1": {"scale": False}, "norm_2": {"scale": False}, "patch_1": {"up": True}}
    assert experiment.trains("head", params, config) == {"layer_0": own, "head": True}
    own = {**own, "norm_2": {"scale": True}}
    assert experiment.trains("peterrec-serial", params, config) == {"layer_0": own, "head": True}


def test_a_head_on_what_sessions_taught_tells_cold_items(tmp_path: Path) -> None:
    """40 labels, 54 warm items: who knows from the source which of them go together knows all of them."""
    config = dataclasses.replace(
        COLD,
        workdir=str(tmp_path),
        dim=16,
        pretrain_batch_size=64,
        pretrain_epochs=12,
        pretrain_patience=12,
        pretrain_learning_rate=1e-2,
        epochs=40,
        patience=40,
        learning_rate=3e-3,
        save_every=100,
    )
    data = experiment.load(config)
    pretrained = experiment.pretrain(data, config)
    rows: tuple[experiment.Row, ...] = ("head", "scratch")
    found = {row: experiment.train(row, data, config, pretrained)[1] for row in rows}
    found["popularity"] = experiment.test_floor("popularity", data, config)
    mrr = {row: np.mean([of_seed["mrr@5"] for of_seed in values]) for row, values in found.items()}
    assert mrr["head"] > mrr["popularity"] + 0.2, mrr
    assert mrr["head"] > mrr["scratch"] + 0.1, mrr


@pytest.mark.usefixtures("data_dir")
def test_cold_items_of_yoochoose() -> None:
    config = experiment.effective(experiment.Config())
    data = experiment.load(config)
    assert (data.name, data.task, len(data.classes)) == ("yoochoose1_64-cold", "300", 100)
    parts = [data.train, data.validation, data.test]
    assert [len(part) for part in parts] == [300, 500, 2000]
    assert len(np.unique(np.concatenate(parts))) == 2800
    assert data.source.num_items == 17_745 - 100
    more = experiment.load(dataclasses.replace(config, labels=400))
    np.testing.assert_array_equal(more.test, data.test)
    assert set(data.train) < set(more.train)
