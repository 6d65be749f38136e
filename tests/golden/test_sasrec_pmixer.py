"""SASRec.pytorch, both orders of normalisation: encoder, scores, losses and all gradients."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses
from jaxrec.convert import pmixer
from jaxrec.convert.state_dict import Converted
from jaxrec.types import Array, Variables
from tests.golden.compare import close_gradients
from tests.golden.fixtures import Golden, golden_files, read

Computed = tuple[Golden, dict[str, Array], dict[str, np.ndarray]]


def converted(golden: Golden) -> Converted:
    config = golden.meta["config"]
    return pmixer.from_state_dict(
        golden.params, num_heads=config["num_heads"], norm_first=config.get("norm_first", False)
    )


@pytest.fixture(params=golden_files("sasrec_pmixer"), scope="module")
def computed(request: pytest.FixtureRequest) -> Computed:
    """The fixture, our outputs by name, and our gradients under PyTorch's names."""
    path: Path = request.param
    golden = read(path)
    model, variables, locations = converted(golden)
    items, positives, negatives, candidates = (
        jnp.asarray(golden.inputs[name], jnp.int32) for name in ("seq", "pos", "neg", "candidates")
    )
    positions = jnp.arange(items.shape[1])
    l2 = golden.meta["config"].get("l2_emb", 0.0)

    def total(variables: Variables) -> tuple[Array, dict[str, Array]]:
        hidden = model.apply(variables, items, positions=positions, train=False)
        table = model.apply(variables, method="item_table")
        pos, neg = (jnp.sum(hidden * table[ids], axis=-1) for ids in (positives, negatives))
        bce = losses.bce(pos, neg, where=positives > 0)
        loss = bce + l2 * jnp.sum(table**2)
        predict = jnp.einsum("bd,bnd->bn", hidden[:, -1], table[candidates])
        outputs = {"log_feats": hidden, "pos_logits": pos, "neg_logits": neg, "predict": predict}
        return loss, outputs | {"bce": bce, "loss": loss}

    gradients, outputs = jax.jit(jax.grad(total, has_aux=True))(variables)
    return golden, outputs, pmixer.to_state_dict(gradients, locations)


def test_outputs_and_losses(computed: Computed) -> None:
    golden, outputs, _ = computed
    assert set(golden.outputs) <= set(outputs)
    for name, theirs in golden.outputs.items():
        np.testing.assert_allclose(outputs[name], theirs, rtol=1e-5, atol=1e-5, err_msg=name)


def test_all_gradients(computed: Computed) -> None:
    golden, _, gradients = computed
    close_gradients(gradients, golden.gradients)


def test_sizes_are_those_of_the_configuration(computed: Computed) -> None:
    golden, *_ = computed
    config, (model, variables, locations) = golden.meta["config"], converted(golden)
    found = (model.dim, model.max_len, model.num_layers, model.num_items)
    assert found == tuple(config[name] for name in ("hidden_units", "maxlen", "num_blocks", "n_items"))
    back = pmixer.to_state_dict(variables, locations)
    assert set(back) == set(golden.params)
    for name, value in back.items():
        np.testing.assert_array_equal(value, golden.params[name], err_msg=name)


@pytest.mark.parametrize("field", ["norms", "output_projection", "skip_padding"])
def test_each_departure_of_this_code_is_seen(computed: Computed, field: str) -> None:
    """With our default in place of any one of the options the encoder's output is another."""
    golden, *_ = computed
    if field == "skip_padding" and golden.inputs["seq"].all():
        pytest.skip("no row of the fixture has padding")
    model, variables, _ = converted(golden)
    default = {"norms": "queries", "output_projection": False, "skip_padding": True}[field]
    items = jnp.asarray(golden.inputs["seq"], jnp.int32)
    other = model.clone(**{field: default})
    hidden = jax.jit(lambda v: other.apply(v, items, positions=jnp.arange(items.shape[1]), train=False))
    assert np.abs(np.asarray(hidden(variables)) - golden.outputs["log_feats"]).max() > 1e-2


@pytest.mark.parametrize("table", ["item_emb.weight", "pos_emb.weight"])
def test_a_padding_row_that_is_not_zero_is_refused(computed: Computed, table: str) -> None:
    params = {name: np.array(value) for name, value in computed[0].params.items()}
    params[table][0, 0] = 1.0
    with pytest.raises(ValueError, match=f"{table}: row 0 is padding"):
        pmixer.from_state_dict(params, num_heads=1, norm_first=True)
