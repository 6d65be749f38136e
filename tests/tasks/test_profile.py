"""Batches of users with a token behind their events, and the loss over classes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import log_softmax

from jaxrec.nn.sequential.peterrec import PeterRec
from jaxrec.tasks.profile import described_users, profile
from jaxrec.types import Variables

NUM_ITEMS, MAX_LEN, TOKEN = 9, 5, 10
USERS = [[3, 1, 4], [], [1, 5, 9, 2, 6, 5], [7]]
CONTEXT = {
    "items": np.concatenate([np.array(u, np.int32) for u in USERS]),
    "start": np.array([0, 3, 3, 9], np.int32),
    "length": np.array([3, 0, 6, 1], np.int32),
    "label": np.array([2, 1, 3, 3], np.int32),
}
EXAMPLES = {"example": np.array([2, 0, 1, 3]), "mask": np.array([True, True, True, False])}
MODEL = PeterRec(NUM_ITEMS, 3, dim=4, dilations=(1,), kernel_size=2, max_len=MAX_LEN)
TASK = profile(MODEL, token=TOKEN)
BATCH = jax.jit(lambda: TASK.prepare(jax.random.key(0), EXAMPLES, jax.tree.map(jnp.asarray, CONTEXT)))()


def drawn() -> Variables:
    shapes = jax.eval_shape(lambda: TASK.init(jax.random.key(0), BATCH))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


def test_the_token_ends_the_last_events_of_each_user() -> None:
    expected = [[9, 2, 6, 5, TOKEN], [0, 3, 1, 4, TOKEN], [0, 0, 0, 0, TOKEN], [0, 0, 0, 0, TOKEN]]
    assert BATCH["items"].tolist() == expected
    assert BATCH["items"].dtype == jnp.int32
    assert BATCH["label"].tolist() == [3, 2, 1, 0]


def test_users_for_evaluation_are_those_for_training() -> None:
    user, mask = EXAMPLES["example"], EXAMPLES["mask"]
    found = described_users(user, mask, jax.tree.map(jnp.asarray, CONTEXT), token=TOKEN, max_len=MAX_LEN)
    jax.tree.map(np.testing.assert_array_equal, found, dict(BATCH))


def test_the_loss_is_the_cross_entropy_of_real_users() -> None:
    variables = drawn()
    ours, logits = jax.jit(
        lambda v: (TASK.losses(v, BATCH, jax.random.key(0))[0]["profile"], TASK.predict(v, BATCH))
    )(variables)
    assert logits.shape == (4, 3)
    expected = [
        -log_softmax(np.asarray(logits, np.float64)[i])[label - 1] for i, label in enumerate([3, 2, 1])
    ]
    np.testing.assert_allclose(ours, np.mean(expected), rtol=1e-5)


def test_users_none_of_whom_is_real_give_zero() -> None:
    nobody = {**EXAMPLES, "mask": np.zeros(4, bool)}
    batch = TASK.prepare(jax.random.key(0), nobody, jax.tree.map(jnp.asarray, CONTEXT))
    value, gradient = jax.jit(
        jax.value_and_grad(lambda v: TASK.losses(v, batch, jax.random.key(0))[0]["profile"])
    )(drawn())
    assert value == 0.0
    assert all((leaf == 0.0).all() for leaf in jax.tree.leaves(gradient))
