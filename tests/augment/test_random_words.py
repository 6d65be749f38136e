from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxrec.augment import random_words
from jaxrec.augment.operators import shuffle


def test_rows_have_streams_of_their_own_and_fewer_words_are_a_prefix() -> None:
    seeds = random_words.row_seeds(jax.random.key(0), 100)
    many = np.asarray(random_words.words(seeds, random_words.ORDER_OFFSET, 50))
    np.testing.assert_array_equal(random_words.words(seeds, random_words.ORDER_OFFSET, 16), many[:, :16])
    np.testing.assert_array_equal(random_words.words(seeds[3:4], random_words.ORDER_OFFSET, 50), many[3:4])
    assert len(np.unique(many)) == many.size


def test_a_key_for_each_row_gives_the_row_its_own_result() -> None:
    keys = jax.random.split(jax.random.key(0), 6)
    np.testing.assert_array_equal(random_words.row_seeds(keys, 6)[2:], random_words.row_seeds(keys[2:], 4))


@pytest.mark.parametrize(
    "begin", [random_words.CHOICE_OFFSET, random_words.ORDER_OFFSET, random_words.SUBSTITUTE_OFFSET]
)
def test_bits_are_fair_and_independent_of_their_neighbours(begin: Any) -> None:
    words = np.asarray(random_words.words(random_words.row_seeds(jax.random.key(1), 4096), begin, 8))
    bits = (words[..., None] >> np.arange(32)) & 1
    deviation = np.sqrt(0.25 / bits.size * 32)
    assert np.abs(bits.mean((0, 1)) - 0.5).max() < 5 * deviation
    flips = bits[:, 1:] ^ bits[:, :-1]  # the next word of the row
    assert np.abs(flips.mean((0, 1)) - 0.5).max() < 5 * deviation
    flips = bits[1:] ^ bits[:-1]  # the same word of the next row
    assert np.abs(flips.mean((0, 1)) - 0.5).max() < 5 * deviation


def test_shuffles_are_uniform_over_all_orders() -> None:
    rows = 24_000
    words = random_words.words(random_words.row_seeds(jax.random.key(2), rows), random_words.ORDER_OFFSET, 6)
    low, count = jnp.full(rows, 1), jnp.full(rows, 4)
    order = np.asarray(shuffle(words, low, count, 8))
    assert (order[:, [0, 5, 6, 7]] >= 4).all()
    _, frequency = np.unique(order[:, 1:5], axis=0, return_counts=True)
    assert len(frequency) == 24
    assert stats.chisquare(frequency).pvalue > 1e-4
