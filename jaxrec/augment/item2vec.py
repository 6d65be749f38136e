"""Item2vec: item vectors by skip-gram with negative sampling over users' sequences.

Barkan and Koenigstein, 2016, arXiv 1603.04259. Departs from gensim, which the references call: skip-gram (its
default is CBOW), Adam with a linearly decaying rate, no subsampling of frequent items. As there, the context
window of an item is drawn anew in every epoch, and negatives are drawn in proportion to frequency^0.75.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrec.types import Array, Key

State = tuple[dict[str, Array], optax.OptState]


def item_vectors(
    key: Key,
    histories: list[np.ndarray],
    *,
    num_items: int,
    dim: int = 20,
    window: int = 5,
    epochs: int = 100,
    negatives: int = 5,
    learning_rate: float = 0.025,
    batch_size: int = 1024,
) -> Array:
    """Trains the vectors, float [vocab_size, dim]. An item without events keeps its small random vector.

    Args:
      histories: items of each user, ids 1..num_items, oldest first.
      window: largest distance between an item and its context.
      negatives: negatives per pair.

    Raises:
      ValueError: no user has two events, so no item has a context.
    """
    centre, context, distance = (np.concatenate(x) for x in zip(*_skip_grams(histories, window), strict=True))
    if len(centre) == 0:
        raise ValueError("histories: no user has two events, so no item has a context to learn a vector from")
    frequency = np.bincount(np.concatenate(histories), minlength=num_items + 1)
    noise = jnp.asarray(np.cumsum(frequency**0.75) / np.sum(frequency**0.75), jnp.float32)
    batches = -(-len(centre) // batch_size)
    rate = optax.linear_schedule(learning_rate, learning_rate / 250, epochs * batches)
    adam = optax.adam(rate)
    start_key, train_key = jax.random.split(key)
    table = (jax.random.uniform(start_key, (num_items + 1, dim)) - 0.5) / dim
    tables = {"item": table, "context": jnp.zeros_like(table)}
    columns = [jnp.asarray(column, jnp.int32) for column in (centre, context, distance)]

    def loss(tables: dict[str, Array], i: Array, j: Array, noise_items: Array, real: Array) -> Array:
        vector = tables["item"][i]
        attract = jnp.sum(vector * tables["context"][j], axis=-1)
        repel = jnp.einsum("bd,bnd->bn", vector, tables["context"][noise_items])
        kept = real[:, None] & (noise_items != j[:, None])
        return jnp.sum(jnp.where(real, jax.nn.softplus(-attract), 0)) + jnp.sum(
            jnp.where(kept, jax.nn.softplus(repel), 0)
        )

    def epoch(state: State, key: Key) -> tuple[State, None]:
        order_key, reach_key, noise_key = jax.random.split(key, 3)
        position = jnp.arange(batches * batch_size)
        order = jnp.where(
            position < len(centre),
            jnp.resize(jax.random.permutation(order_key, len(centre)), position.shape),
            -1,
        ).reshape(batches, batch_size)

        def step(state: State, x: tuple[Array, Key, Key]) -> tuple[State, None]:
            (tables, moments), (pairs, reach_key, noise_key) = state, x
            i, j, far = (column[pairs] for column in columns)
            real = (pairs >= 0) & (far <= jax.random.randint(reach_key, pairs.shape, 1, window + 1))
            uniform = jax.random.uniform(noise_key, (batch_size, negatives))
            drawn = jnp.minimum(jnp.searchsorted(noise, uniform, side="right"), num_items)
            updates, moments = adam.update(jax.grad(loss)(tables, i, j, drawn, real), moments)
            return (optax.apply_updates(tables, updates), moments), None

        keys = jax.random.split(reach_key, batches), jax.random.split(noise_key, batches)
        return jax.lax.scan(step, state, (order, *keys))

    train = jax.jit(lambda state, keys: jax.lax.scan(epoch, state, keys)[0])
    (tables, _) = train((tables, adam.init(tables)), jax.random.split(train_key, epochs))
    return tables["item"]


def _skip_grams(histories: list[np.ndarray], window: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Every item with each neighbour at a distance of up to `window`, and the distance."""
    pairs = [(np.zeros(0, np.int64),) * 3]
    for items in histories:
        for far in range(1, min(window, len(items) - 1) + 1):
            distance = np.full(2 * (len(items) - far), far)
            pairs.append((np.r_[items[far:], items[:-far]], np.r_[items[:-far], items[far:]], distance))
    return pairs
