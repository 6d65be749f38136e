"""Relations of items: the triples that are drawn, and the loss against NumPy."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.data.item_attributes import relation_columns
from jaxrec.nn.retrieval.rcf import RCF
from jaxrec.tasks import pairs
from jaxrec.tasks.relations import draw_relations, with_relations
from tests.lowering import repeated_float_adds
from tests.nn.drawn import drawn
from tests.tasks import small_pairs

# Of 9 items, two attributes: item 9 has no value, item 8 one that it has alone.
FIRST = [(1,), (1, 2), (2,), (1, 3), (3,), (3,), (2, 3), (), ()]
SECOND = [(1,), (1,), (), (2,), (2,), (1,), (2,), (3,), ()]
NUM_ITEMS = small_pairs.NUM_ITEMS
ATTRIBUTES = np.zeros((NUM_ITEMS + 1, 2, 2), np.int32)
for attribute, lists in enumerate((FIRST, SECOND)):
    for item, values in enumerate(lists, 1):
        ATTRIBUTES[item, attribute, : len(values)] = values
CONTEXT: dict[str, Any] = {
    **small_pairs.context(),
    **{name: jnp.asarray(column) for name, column in relation_columns(ATTRIBUTES).items()},
    "attributes": jnp.asarray(ATTRIBUTES),
}
MODEL = RCF(small_pairs.NUM_USERS, NUM_ITEMS, (3, 3), dim=4, max_history=3, attention_dim=2, hidden_dims=(3,))
BASE = pairs.pairwise(MODEL, sampler=pairs.uniform(NUM_ITEMS))
TASK = with_relations(BASE, MODEL, num_items=NUM_ITEMS)
VARIABLES = drawn(MODEL, jnp.array([1]), jnp.array([[1]]), CONTEXT, train=False)


def test_related_items_share_the_value_and_others_do_not() -> None:
    item = jnp.repeat(jnp.arange(1, NUM_ITEMS + 1), 300)
    found = [
        np.asarray(part) for part in draw_relations(jax.random.key(0), item, CONTEXT, num_items=NUM_ITEMS)
    ]
    met: dict[int, set[tuple[int, int]]] = {}
    for i, first, kind, value, second, unrelated, has in zip(item.tolist(), *found, strict=True):
        assert has == (i < 8)
        if has:
            assert first == i != second
            assert value in ATTRIBUTES[i, kind - 1] and value in ATTRIBUTES[second, kind - 1]
            assert value not in ATTRIBUTES[unrelated, kind - 1] and 1 <= unrelated <= NUM_ITEMS
            met.setdefault(i, set()).add((kind, value))
    assert met[4] == {(1, 1), (1, 3), (2, 2)}  # all of an item's values are drawn
    of_four = {
        int(j) for i, k, v, j in zip(item.tolist(), *found[1:4], strict=True) if (i, k, v) == (4, 1, 3)
    }
    assert of_four == {5, 6, 7}  # and all that have them


def test_the_second_loss_is_that_of_numpy_and_the_first_is_kept() -> None:
    batch = dict(TASK.prepare(jax.random.key(0), small_pairs.examples(0, 3, 5, last=False), CONTEXT))
    found = TASK.losses(VARIABLES, batch, jax.random.key(1))[0]
    assert found["pairs"] == BASE.losses(VARIABLES, batch, jax.random.key(1))[0]["pairs"]
    p, wanted = VARIABLES["params"], []
    for row in range(2):
        first, kind, value, second, other = (
            int(batch[name][row]) for name in ("first", "kind", "value", "second", "unrelated")
        )
        assert batch["has_relation"][row]
        q, z = p["item_embedding"], p["value_embedding"][value + (0, 3)[kind - 1]]
        scores = [(q[first] * (p["types"][kind] + z)) @ q[end] for end in (second, other)]
        wanted.append(np.log1p(np.exp(scores[1] - scores[0])))
    np.testing.assert_allclose(found["relation"], np.mean(wanted), rtol=1e-5)
    none = {**batch, "has_relation": jnp.zeros(3, bool)}
    assert TASK.losses(VARIABLES, none, jax.random.key(1))[0]["relation"] == 0


@pytest.mark.long
def test_a_step_adds_no_floats_by_repeated_ids_on_cuda() -> None:
    batch = dict(TASK.prepare(jax.random.key(0), small_pairs.examples(0, 3), CONTEXT))

    def gradient(variables: Any, batch: Any) -> Any:
        return jax.grad(lambda v: TASK.losses(v, batch, jax.random.key(1))[0]["relation"])(variables)

    assert repeated_float_adds(jax.jit(gradient).trace(VARIABLES, batch), "cuda") == []


def test_attributes_are_checked() -> None:
    with pytest.raises(ValueError, match=r"attributes: int32\[10, 2\]: must be integers"):
        relation_columns(ATTRIBUTES[:, 0])
    with pytest.raises(ValueError, match="attributes: no item has a value"):
        relation_columns(np.zeros((3, 1, 1), np.int32))
