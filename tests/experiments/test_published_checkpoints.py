"""Published weights give the published numbers; weights that do not fit are refused."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import published_checkpoints as experiment
from jaxrec.convert import s3rec
from jaxrec.data.store import find_file
from jaxrec.data.synthetic.sequences import markov_chain
from jaxrec.nn.sequential.gru4rec import GRU4Rec
from jaxrec.nn.sequential.sasrec import SASRec
from tests.nn.drawn import applied

SEQUENCES = markov_chain(num_users=20, num_items=12).sequences


def weights(path: Path, *, rows: int, dim: int = 4, names: s3rec.Names = s3rec.S3REC) -> Path:
    """A file of a SASRec that was never trained."""
    module = SASRec(rows - 2, dim=dim, inner_dim=4, num_layers=1, max_len=5, extra_rows=1)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.ones((1, 3), jnp.int32), train=False))
    filled = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes)
    np.savez(path, **s3rec.to_state_dict(module, filled, names=names))  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("number", [0, 1], ids=["RepPad", "ICLRec"])
@pytest.mark.long
def test_the_published_metrics_to_four_decimals(
    number: int, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAXREC_DATA_DIR", str(data_dir))
    paper = experiment.PUBLISHED[number]
    if find_file(paper.files[0]) is None:
        pytest.skip(f"the data folder has no {paper.files[0].path}")
    monkeypatch.setattr(experiment, "PUBLISHED", (paper,))
    monkeypatch.setattr(experiment, "BASELINES", {})
    found = experiment.run(experiment.Config(seen=("zero",), results=str(tmp_path)))
    assert [round(found[paper.row][metric], 4) for metric in experiment.METRICS] == list(paper.metrics)
    assert paper.row.endswith("-bce")
    stored = json.loads(
        (tmp_path / experiment.EXPERIMENT / "coserec-Beauty" / f"{paper.row}.json").read_text()
    )
    assert stored["published"] == dict(zip(experiment.METRICS, paper.metrics, strict=True))
    assert stored["protocol"]["seen"] == "zero"
    assert stored["baseline"] is False  # its authors trained it


@pytest.mark.parametrize("rows, extra", [(13, 0), (14, 1)])
@pytest.mark.parametrize("names", [s3rec.S3REC, s3rec.RECBOLE], ids=["s3rec", "recbole"])
def test_tables_with_and_without_a_mask_row(
    tmp_path: Path, rows: int, extra: int, names: s3rec.Names
) -> None:
    path = weights(tmp_path / "weights.npz", rows=rows, names=names)
    module, _ = experiment.module_of(path, SEQUENCES, heads=1)
    assert (module.num_items, module.extra_rows) == (12, extra)


@pytest.mark.parametrize("rows", [12, 15])
def test_a_table_of_other_items_is_refused(tmp_path: Path, rows: int) -> None:
    path = weights(tmp_path / "weights.npz", rows=rows)
    with pytest.raises(ValueError, match=rf"has {rows} rows, but {SEQUENCES.name} has 12 items.*--dataset"):
        experiment.module_of(path, SEQUENCES, heads=1)


def test_heads_that_do_not_divide_the_width_are_refused(tmp_path: Path) -> None:
    path = weights(tmp_path / "weights.npz", rows=14)
    with pytest.raises(ValueError, match="heads=3: must divide the width 4"):
        experiment.module_of(path, SEQUENCES, heads=3)


def test_a_missing_file_and_foreign_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere.pt: no such file"):
        experiment.module_of(tmp_path / "nowhere.pt", SEQUENCES, heads=1)
    np.savez(tmp_path / "other.npz", kernel=np.ones((2, 2), np.float32))
    with pytest.raises(ValueError, match="other.npz: item_embedding.weight: missing"):
        experiment.module_of(tmp_path / "other.npz", SEQUENCES, heads=1)


@pytest.mark.parametrize("name", ["nowhere.npz", "foreign.npz"])
def test_weights_are_read_before_anything_is_stored(name: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "foreign.npz", kernel=np.ones((2, 2), np.float32))
    config = experiment.Config(checkpoint=str(tmp_path / name), results=str(tmp_path / "results"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "load", lambda config: SEQUENCES)
        with pytest.raises(ValueError, match=name):
            experiment.run(config)
    assert not (tmp_path / "results").exists()


def test_left_padding_is_fed_to_a_gru_unless_the_row_says_otherwise() -> None:
    module = GRU4Rec(12, dim=4, hidden_dim=4, extra_rows=1)
    items = np.array([3, 5, 7], np.int32)
    variables = jax.jit(functools.partial(module.init, train=False))(jax.random.key(0), items[None])
    table = np.array(variables["params"]["item_embedding"])
    table[0] = 1.0  # the vector of padding, which never trains
    variables = {"params": {**variables["params"], "item_embedding": table}}
    queries = {"user": np.array([0]), "length": np.array([3]), "mask": np.array([True])}
    context = {"items": items, "start": np.array([0])}
    readings = experiment.retrievers_of(module, None, max_len=6)
    fed, skipped = (
        np.asarray(jax.jit(readings[end].query)(variables, queries, context)) for end in ("", "+skip-padding")
    )
    left_padded = np.array([[0, 0, 0, 3, 5, 7]])
    expected = applied(module.clone(skip_padding=False), variables, left_padded, train=False)
    np.testing.assert_allclose(fed, np.asarray(expected)[:, -1], rtol=1e-6)
    expected = applied(module, variables, items[None], train=False)
    np.testing.assert_allclose(skipped, np.asarray(expected)[:, -1], rtol=1e-6)
    assert np.abs(fed - skipped).max() > 1e-3


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"dataset": "Sport"}, r"dataset='Sport': coserec has .*; the nearest is Sports"),
        ({"dataset": "Toys", "source": "ticoserec"}, r"ticoserec has Beauty, Sports, Home, Yelp"),
        ({"dataset": "Toys"}, r"published weights are for Beauty of coserec; name other weights"),
        ({"checkpoint": "x.pt", "tiny": True}, r"give one of the two"),
        ({"heads": 0}, r"heads=0"),
        ({"seen": ()}, r"seen=\(\)"),
        ({"seeds": (1, 1)}, r"seeds=\(1, 1\)"),
    ],
)
def test_settings_that_make_no_sense_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        experiment.Config(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["Sports", "Sports_and_Outdoors"])
def test_a_data_set_goes_by_its_short_name_and_by_its_own(name: str) -> None:
    assert experiment.Config(checkpoint="x.pt", dataset=name).dataset == name
