"""Word hashing: what does not matter, what is counted, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxrec.data.letter_trigrams import count_ngrams, letter_ngrams

WORDS = st.lists(st.text("abcde", min_size=1, max_size=6), min_size=1, max_size=6)


@given(WORDS, st.randoms())
def test_order_of_words_does_not_matter_and_repetition_counts(words: list[str], random: object) -> None:
    shuffled = list(words)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    counts, _ = count_ngrams([" ".join(words), " ".join(shuffled), " ".join(words * 2)])
    np.testing.assert_array_equal(counts[0], counts[1])
    np.testing.assert_array_equal(2 * counts[0], counts[2])
    assert counts[0].sum() == sum(map(len, words))  # as many trigrams as letters


@pytest.mark.parametrize("n, expected", [(1, 6), (2, 5), (3, 4), (6, 1), (9, 1)])
def test_a_word_has_as_many_ngrams_as_fit(n: int, expected: int) -> None:
    assert sum(letter_ngrams("good", n).values()) == expected


def test_ngrams_outside_the_vocabulary_are_left_out() -> None:
    counts, ngrams = count_ngrams(["good food"], vocabulary=["ood", "#go", "xyz"])
    assert (counts.tolist(), ngrams) == ([[2.0, 1.0, 0.0]], ["ood", "#go", "xyz"])


def test_wrong_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="n=0: must be at least 1"):
        letter_ngrams("good", 0)
    with pytest.raises(ValueError, match="n-grams: 0; give a word"):
        count_ngrams(["  "])
    with pytest.raises(ValueError, match="texts: 0"):
        count_ngrams([])
    with pytest.raises(ValueError, match="'ood' is given twice"):
        count_ngrams(["good"], vocabulary=["ood", "ood"])
