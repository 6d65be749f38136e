"""Several tasks as one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from jaxrec.tasks.combine import combine
from jaxrec.types import Task


def constant(name: str, value: float) -> Task:
    """A task with one loss, whose batch is noise."""
    return Task(
        prepare=lambda key, rows, context: {"noise": jax.random.normal(key, (2,))},
        init=lambda key, batch: {"params": {name: jnp.array(value)}},
        losses=lambda variables, batch, key, axis_name=None: (
            {name: value * batch["noise"].sum() + jax.random.normal(key)},
            {name: jnp.array(value)},
        ),
        predict=lambda variables, batch: batch["noise"] + value,
    )


A, B = constant("a", 1.0), constant("b", 2.0)


def test_each_task_has_a_batch_of_its_own() -> None:
    batch = combine(first=A, second=B).prepare(jax.random.key(0), {}, {})
    keys = jax.random.split(jax.random.key(0), 2)
    assert batch["first"]["noise"].tolist() == jax.random.normal(keys[0], (2,)).tolist()
    assert batch["second"]["noise"].tolist() == jax.random.normal(keys[1], (2,)).tolist()


def test_losses_keep_their_names_and_values() -> None:
    both = combine(first=A, second=B)
    batch = both.prepare(jax.random.key(0), {}, {})
    keys = jax.random.split(jax.random.key(1), 2)
    found, updates = both.losses({}, batch, jax.random.key(1))
    assert found == {
        "a": A.losses({}, batch["first"], keys[0])[0]["a"],
        "b": B.losses({}, batch["second"], keys[1])[0]["b"],
    }
    assert updates == {"a": 1.0, "b": 2.0}


def test_the_first_task_makes_the_variables() -> None:
    both = combine(first=A, second=B)
    batch = both.prepare(jax.random.key(0), {}, {})
    assert both.init(jax.random.key(0), batch) == {"params": {"a": 1.0}}


def test_predictions_are_named_by_task() -> None:
    both = combine(first=A, second=B)
    batch = both.prepare(jax.random.key(0), {}, {})
    found = both.predict({}, batch)
    assert found["second"].tolist() == (batch["second"]["noise"] + 2.0).tolist()
    assert set(found) == {"first", "second"}


def test_two_losses_of_one_name_are_an_error() -> None:
    both = combine(first=A, second=constant("a", 3.0))
    batch = both.prepare(jax.random.key(0), {}, {})
    with pytest.raises(ValueError, match=r"task 'second' names a loss \['a'\]"):
        both.losses({}, batch, jax.random.key(0))


def test_two_updates_of_one_collection_are_an_error() -> None:
    """The second would replace what the first has learned from its batch."""
    other = B._replace(losses=lambda *given: (B.losses(*given)[0], {"a": jnp.array(3.0)}))
    both = combine(first=A, second=other)
    batch = both.prepare(jax.random.key(0), {}, {})
    with pytest.raises(ValueError, match="task 'second' updates a, which another task updates"):
        both.losses({}, batch, jax.random.key(0))


def test_no_task_is_an_error() -> None:
    with pytest.raises(ValueError, match="no task"):
        combine()
