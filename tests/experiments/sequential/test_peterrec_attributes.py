"""Attributes of users: the study runs to its end on made-up users; what is frozen keeps its bits."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import pytest
from flax import traverse_util

from experiments import common
from experiments.sequential import peterrec_attributes as experiment
from experiments.sequential import peterrec_rows
from jaxrec.data.events.split import leave_one_out
from jaxrec.nn.sequential.peterrec import trainable
from jaxrec.protocols import next_item
from jaxrec.recipes import peterrec as recipes
from jaxrec.report.results import read_results
from jaxrec.tasks.profile import profile
from jaxrec.train.initial import check_initial, put_in
from tests.experiments.test_tiny import call

TINY = common.shrink_if_tiny(experiment.Config(tiny=True, seeds=(3, 4)), **experiment.TINY)
DATA = experiment.split(*experiment.load(TINY), TINY)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the command line has left its checkpoints and, in "results", what it found."""
    path = tmp_path_factory.mktemp("peterrec")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXREC_XLA_CACHE", "0")
        kept = ("--seeds", 3, 4, "--results", path / "results", "--workdir", path)
        call(experiment, patch, "--tiny", "--rows", "popularity", "peterrec-serial", *kept)
    return path


@pytest.fixture(scope="module")
def pretrained(folder: Path) -> Any:
    """The parameters that pre-training has left."""
    config = dataclasses.replace(TINY, workdir=str(folder))
    left_out = ("attribute", "split_seed")
    source = next_item.resident(leave_one_out(experiment.load(TINY)[0], short="train"))
    return peterrec_rows.pretrain(source, config, DATA.name, seen="exclude", left_out=left_out)


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
    config = dataclasses.replace(TINY, workdir=str(folder))
    fitted, found = peterrec_rows.train("peterrec-serial", DATA, config, pretrained)
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
    assert len(found.metrics) == 2


@pytest.mark.parametrize("row", ["scratch", "full", "head", "peterrec-parallel"])
def test_what_a_row_starts_from_and_trains(row: str, pretrained: Any) -> None:
    use = peterrec_rows.ROWS[row]
    model = recipes.with_head(use, DATA.num_items, len(DATA.classes), TINY)
    task = profile(model, token=DATA.token)
    examples = {"example": np.arange(4), "mask": np.ones(4, bool)}

    @jax.jit
    def drawn(columns: Any) -> Any:
        return task.init(jax.random.key(1), task.prepare(jax.random.key(0), examples, columns))

    variables = drawn(DATA.columns)
    if row != "scratch":
        given = check_initial(recipes.body(pretrained), trainable, variables, 1)
        variables = put_in(variables, given.values)
    params: Any = variables["params"]
    same = np.array_equal(params["item_embedding"], pretrained["params"]["item_embedding"])
    assert same == (row != "scratch")
    assert ("patch_1" in params["layer_0"]) == row.startswith("peterrec")
    trained, every = recipes.num_trained(use, params, TINY)
    head, patches = 3 * 8, 2 * (2 * 8 * 2 + 2 + 8)
    expected = {"head": head, "peterrec-serial": head + patches, "peterrec-parallel": head + patches}
    assert trained == expected.get(row, every)
    tx = recipes.optimiser(use, TINY)
    tree = {"model": params, "weighting": ()}
    ones = jax.tree.map(np.ones_like, tree)
    change, _ = jax.jit(lambda: tx.update(ones, tx.init(tree), tree))()
    moved = sum(int((np.asarray(leaf) != 0).sum()) for leaf in jax.tree.leaves(change))
    assert moved == trained


def test_users_are_split_once_and_all_are_used() -> None:
    parts = [DATA.train, DATA.validation, DATA.test]
    assert [len(part) for part in parts] == [48, 8, 24]
    assert sorted(np.concatenate(parts).tolist()) == list(range(80))
    other = experiment.split(*experiment.load(TINY), dataclasses.replace(TINY, split_seed=1))
    assert not np.array_equal(other.test, DATA.test)


@pytest.mark.parametrize(("dataset", "users", "first"), [("ml-100k", 943, "M"), ("ml-1m", 6040, "F")])
def test_labels_belong_to_the_users_of_the_sequences(
    dataset: Literal["ml-100k", "ml-1m"],
    users: int,
    first: str,
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """User 1 is a man with 272 events in the small set, and a woman with 53 in the large one."""
    monkeypatch.setenv("JAXREC_DATA_DIR", str(data_dir))
    config = experiment.Config(dataset=dataset)
    data = experiment.split(*experiment.load(config), config)
    assert data.task == "gender"
    assert len(data.columns["label"]) == users
    assert data.classes == ("F", "M") and data.classes[data.columns["label"][0] - 1] == first
    assert data.columns["length"][0] == {"ml-100k": 272, "ml-1m": 53}[dataset]


def test_norms_are_those_of_patched_rows() -> None:
    config = dataclasses.replace(TINY, norms=True)
    params = {"layer_0": {"norm_1": {"scale": 1}, "norm_2": {"scale": 1}, "patch_1": {"up": 1}}, "head": 1}
    own = {"norm_1": {"scale": False}, "norm_2": {"scale": False}, "patch_1": {"up": True}}
    assert recipes.trained_by(recipes.HEAD, params, config) == {"layer_0": own, "head": True}
    own = {**own, "norm_2": {"scale": True}}
    assert recipes.trained_by(recipes.SERIAL, params, config) == {"layer_0": own, "head": True}


@pytest.mark.parametrize(
    "change",
    [
        {"dim": 0},
        {"dilations": ()},
        {"dilations": (1, 0)},
        {"max_len": 1},
        {"epochs": -1},
        {"seeds": (0, 0)},
        {"norms": True, "rows": ("head", "full")},
    ],
)
def test_settings_that_mean_nothing_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(change))}="):
        dataclasses.replace(experiment.Config(), **change)
