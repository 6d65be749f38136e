"""The best of scored ids, against a sort on the host."""

from __future__ import annotations

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from jaxrec.index.scored import best_of

COMPILED = jax.jit(best_of, static_argnums=2)


@settings(deadline=None)  # the first example of a shape compiles
@given(
    scores=arrays(np.float32, (2, 5), elements=st.sampled_from([-np.inf, -1.0, 0.0, 2.0])),
    first=st.permutations(range(5)),
    k=st.integers(1, 7),
)
def test_best_of_is_a_sort_by_score_and_id(scores: np.ndarray, first: list[int], k: int) -> None:
    ids = np.array([first, range(5)], np.int32)
    found, places = COMPILED(scores, ids, k)
    for row in range(2):
        pairs = [(-s, i) for s, i in zip(scores[row], ids[row], strict=True) if i > 0 and s > -np.inf]
        best = sorted(pairs)[:k] + [(np.inf, 0)] * (k - len(pairs))
        assert places[row].tolist() == [i for _, i in best]
        np.testing.assert_array_equal(found[row], [-s for s, _ in best])
