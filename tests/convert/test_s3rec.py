"""Weights of the S3-Rec code family: read, checked, built and written back."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest

from jaxrec.convert import s3rec
from jaxrec.nn.sequential.gru4rec import GRU4Rec
from jaxrec.nn.sequential.sasrec import SASRec

SASREC = SASRec(num_items=9, dim=4, num_layers=2, num_heads=2, inner_dim=6, max_len=5, extra_rows=1)
GRUS = [
    GRU4Rec(num_items=9, dim=4, hidden_dim=5, num_layers=layers, use_bias=bias, extra_rows=1)
    for layers, bias in ((1, False), (2, True))
]
ITEMS = np.array([[0, 0, 3, 1, 9], [1, 2, 3, 4, 5]], np.int32)
both_names = pytest.mark.parametrize("names", [s3rec.S3REC, s3rec.RECBOLE], ids=["s3rec", "recbole"])
every_module = pytest.mark.parametrize("module", [SASREC, *GRUS], ids=["sasrec", "gru", "gru-deep"])


def weights(module: SASRec | GRU4Rec, names: s3rec.Names = s3rec.S3REC) -> dict[str, np.ndarray]:
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), ITEMS, train=False))
    rng = np.random.default_rng(0)
    filled = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    return s3rec.to_state_dict(module, filled, names=names)


@every_module
@both_names
def test_there_and_back(module: SASRec | GRU4Rec, names: s3rec.Names) -> None:
    state = weights(module, names)
    built, variables = s3rec.from_state_dict(state)
    assert built == module
    back = s3rec.to_state_dict(built, variables, names=names)
    assert set(back) == set(state)
    for key, value in state.items():
        np.testing.assert_array_equal(back[key], value)


@every_module
def test_the_variables_are_those_the_module_asks_for(module: SASRec | GRU4Rec) -> None:
    _, variables = s3rec.from_state_dict(weights(module))
    expected = jax.eval_shape(lambda: module.init(jax.random.key(0), ITEMS, train=False))
    assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, expected)


def test_kernels_are_transposed() -> None:
    state = weights(SASREC)
    _, variables = s3rec.from_state_dict(state)
    np.testing.assert_array_equal(
        variables["params"]["layer_1"]["inner"]["kernel"],
        state["item_encoder.layer.1.intermediate.dense_1.weight"].T,
    )


def test_fields_and_mask_rows_are_arguments() -> None:
    model, _ = s3rec.from_state_dict(
        weights(SASREC), num_heads=4, mask_rows=0, mask_value=-10000.0, dropout=0.1
    )
    assert isinstance(model, SASRec)
    assert (model.num_heads, model.num_items, model.extra_rows) == (4, 10, 0)
    assert (model.mask_value, model.dropout) == (-10000.0, 0.1)


QUERY = "item_encoder.layer.0.attention.query.weight"
BROKEN = {
    "missing": (lambda s: s.pop(QUERY), rf"missing: {QUERY}"),
    "no item table": (lambda s: s.pop("item_embeddings.weight"), r"item_embedding.weight: missing"),
    "no positions": (lambda s: s.pop("position_embeddings.weight"), r"position_embeddings.weight: missing"),
    "left over": (
        lambda s: s.update({"head.weight": np.ones(2, np.float32)}),
        r"not understood: head.weight",
    ),
    "shape": (
        lambda s: s.update({QUERY: np.ones((4, 5), np.float32)}),
        rf"{QUERY}: shape \(4, 5\).*\(4, 4\)",
    ),
    "axes": (lambda s: s.update({"item_embeddings.weight": np.ones(4, np.float32)}), r"expected 2 axes"),
    "nan": (lambda s: s.update({QUERY: np.full((4, 4), np.nan, np.float32)}), rf"{QUERY}.*finite"),
    "integers": (lambda s: s.update({QUERY: np.ones((4, 4), np.int32)}), rf"{QUERY}.*int32"),
    "gap in the layers": (
        lambda s: s.update({QUERY.replace(".0.", ".3."): s[QUERY]}),
        r"missing: item_encoder.layer.2",
    ),
}


@pytest.mark.parametrize("change, message", BROKEN.values(), ids=BROKEN)
def test_broken_weights_are_refused(change, message: str) -> None:  # type: ignore[no-untyped-def]
    state = weights(SASREC)
    change(state)
    with pytest.raises(ValueError, match=message):
        s3rec.from_state_dict(state)


@pytest.mark.parametrize("mask_rows", [-1, 10])
def test_mask_rows_must_leave_an_item(mask_rows: int) -> None:
    with pytest.raises(ValueError, match=f"mask_rows={mask_rows}"):
        s3rec.from_state_dict(weights(SASREC), mask_rows=mask_rows)


def test_npz_files_are_read(tmp_path: Path) -> None:
    state = weights(SASREC)
    np.savez(tmp_path / "weights.npz", **state)
    assert s3rec.from_state_dict(s3rec.read(tmp_path / "weights.npz"))[0] == SASREC


@pytest.mark.parametrize(
    "name", ["CoSeRec-Beauty-0", "ICLRec-Beauty-1", "RepPad-SASRec-Beauty-1", "TADA-GRU4Rec-Beauty-original"]
)
def test_published_checkpoints(data_dir: Path, name: str) -> None:
    path = data_dir / "checkpoints" / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"the data directory has no checkpoints/{name}.npz")
    state = s3rec.read(path)
    model, variables = s3rec.from_state_dict(state)
    assert (model.num_items, model.extra_rows, model.dim) == (12101, 1, 64)
    assert model.num_layers == (1 if name.startswith(("ICLRec", "TADA")) else 2)
    back = s3rec.to_state_dict(model, variables)
    assert all(np.array_equal(back[key], value) for key, value in state.items())
    hidden = jax.jit(lambda v: model.apply(v, ITEMS, train=False))(variables)
    assert np.isfinite(np.asarray(hidden)).all()
