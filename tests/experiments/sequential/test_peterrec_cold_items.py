"""Cold items: the study runs to its end on made-up sessions, and transfer helps where it can."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import common
from experiments.sequential import peterrec_cold_items as experiment
from experiments.sequential import peterrec_rows
from jaxrec.protocols import next_item, profiles
from jaxrec.report.results import read_results
from tests.experiments.test_tiny import call

TINY = common.shrink_if_tiny(experiment.Config(tiny=True, seeds=(3, 4)), **experiment.TINY)


def test_tiny_runs_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXREC_XLA_CACHE", "0")
    rows = ("--rows", "random", "popularity", "peterrec-parallel")
    kept = ("--seeds", 3, "--results", tmp_path / "results", "--workdir", tmp_path)
    call(experiment, monkeypatch, "--tiny", "--norms", *rows, "--labels", 30, *kept)
    records = {record.result.model: record.result for record in read_results(tmp_path / "results")}
    assert set(records) == {"random", "popularity", "peterrec-parallel-norms-ce"}
    for result in records.values():
        assert result.dataset == "groups-600x60-cold-30"
        assert set(result.metrics) == {"hit@5", "mrr@5", "log_loss"}
        assert result.protocol.candidates == "all 6 cold" and result.protocol.ties == "pessimistic"
    learned = records["peterrec-parallel-norms-ce"]
    assert learned.protocol.selection == "mrr@5"
    assert learned.config["trained"] == 7 * 8 + 2 * (2 * 8 * 2 + 2 + 8) + 2 * 8  # head, patches, a norm


def test_the_pretrained_model_depends_on_what_its_source_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cold items decide the source, which examples are tested does not."""
    seen: list[Any] = []

    class Stop(Exception):
        """Raised in place of training."""

    def train(*arguments: Any, **options: Any) -> Any:
        seen.append(options["description"])
        raise Stop

    monkeypatch.setattr(next_item, "train", train)

    def described(**change: Any) -> Any:
        config = dataclasses.replace(TINY, **{"labels": 5, **change})
        source, target = experiment.split(experiment.load(config), config)
        left_out = ("labels", "validation", "test")
        with pytest.raises(Stop):
            peterrec_rows.pretrain(source, config, target.name, seen="keep", left_out=left_out)
        return seen.pop()

    whole = described()
    for name in ("labels", "epochs", "patience", "batch_size"):
        assert described(**{name: 7}) == whole
    for name in ("split_seed", "pretrain_batch_size", "max_len"):
        assert described(**{name: 17}) != whole


@pytest.mark.long
def test_a_head_on_what_sessions_taught_tells_cold_items(tmp_path: Path) -> None:
    """40 labels, 54 warm items: the source teaches which of them go together, and so how to tell all."""
    config = dataclasses.replace(
        TINY,
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
    source, target = experiment.split(experiment.load(config), config)
    pretrained = peterrec_rows.pretrain(source, config, target.name, seen="keep", left_out=())
    found = {row: peterrec_rows.train(row, target, config, pretrained)[1] for row in ("head", "scratch")}
    found["popularity"] = profiles.popularity_test(target, config.seeds)
    mrr = {row: np.mean([seed["mrr@5"] for seed in test.metrics]) for row, test in found.items()}
    assert mrr["head"] > mrr["popularity"] + 0.2, mrr
    assert mrr["head"] > mrr["scratch"] + 0.1, mrr


def test_cold_items_of_yoochoose(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXREC_DATA_DIR", str(data_dir))
    config = experiment.Config()
    log = experiment.load(config)
    source, target = experiment.split(log, config)
    assert (target.name, target.task, len(target.classes)) == ("yoochoose1_64-cold", "300", 100)
    parts = [target.train, target.validation, target.test]
    assert [len(part) for part in parts] == [300, 500, 2000]
    assert len(np.unique(np.concatenate(parts))) == 2800
    assert source.num_items == 17_745 - 100
    _, more = experiment.split(log, dataclasses.replace(config, labels=400))
    np.testing.assert_array_equal(more.test, target.test)
    assert set(target.train) < set(more.train)
