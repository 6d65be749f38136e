from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.augment.exact_variance import first_extreme, scaled_variance

WIDTH = 24
scaled = jax.jit(scaled_variance, static_argnums=1)


def numbers(words: Any) -> Any:
    high, middle, low = (np.asarray(word).astype(object) for word in words)
    return (high << 64) + (middle << 32) + low


def gaps_of(kind: Any, rows: Any = 12) -> Any:
    rng = np.random.default_rng(0)
    return {
        "largest": np.full((rows, WIDTH), 2**31 - 1),
        "largest and none": rng.integers(0, 2, (rows, WIDTH)) * (2**31 - 1),
        "any": rng.integers(0, 2**31, (rows, WIDTH)),
        "days": 86_400 * rng.integers(0, 300, (rows, WIDTH)),
        "near": 2**31 - 1 - rng.integers(0, 2, (rows, WIDTH)),
        "zero": np.zeros((rows, WIDTH), np.int64),
    }[kind]


@pytest.mark.parametrize("kind", ["largest", "largest and none", "any", "days", "near", "zero"])
@pytest.mark.parametrize("first", [1, 2])
def test_equals_whole_numbers_of_any_size(kind: Any, first: Any) -> None:
    gaps = gaps_of(kind)
    end = first + np.arange(len(gaps)) * 2
    got = numbers(scaled(jnp.asarray(gaps, jnp.uint32), first, jnp.asarray(end), jnp.asarray(end - first)))
    for row, size in enumerate(end):
        for k in range(WIDTH - size + 1):
            d = [int(x) for x in gaps[row, k + first : k + size]]
            assert got[row, k] == len(d) * sum(x * x for x in d) - sum(d) ** 2


def test_longest_row_does_not_overflow() -> None:
    width = 4096
    gaps = np.where(np.arange(width) % 2, 2**31 - 1, 0)
    end = np.array([width])
    words = scaled_variance(jnp.asarray(gaps[None], jnp.uint32), 1, jnp.asarray(end), jnp.asarray(end - 1))
    d = gaps[1:].tolist()
    assert numbers(words)[0, 0] == len(d) * sum(x * x for x in d) - sum(d) ** 2


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("word", [0, 1, 2])
def test_extreme_is_decided_by_any_word_and_ties_by_the_first_column(largest: Any, word: Any) -> None:
    values = [3, 1, 7, 7, 1, 2**32 - 1 if largest else 0, 5]
    words = [jnp.full((1, 7), 9, jnp.uint32)] * 3
    words[word] = jnp.asarray([values], jnp.uint32)
    valid = jnp.asarray([[True, True, True, True, True, False, True]])
    assert first_extreme(words, valid, largest=largest).tolist() == [2 if largest else 1]


def test_more_significant_words_come_first() -> None:
    words = [
        jnp.asarray([[1, 2]], jnp.uint32),
        jnp.asarray([[9, 0]], jnp.uint32),
        jnp.zeros((1, 2), jnp.uint32),
    ]
    valid = jnp.ones((1, 2), bool)
    assert first_extreme(words, valid, largest=True).tolist() == [1]
    assert first_extreme(words, valid, largest=False).tolist() == [0]
