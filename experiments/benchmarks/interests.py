"""MIND on synthetic histories: 6,040 users, 3,706 items, 50 events before each target, all of them real.

Training examples per second in batches of 1,024: four interests of width 64 beside a user's own vector of
16, vectors of length 1, and 20 uniform negatives an event, as torch-rechub builds the model. The peer is
`experiments/benchmarks/peers/torch_rechub_mind.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from experiments.benchmarks.timing import Figure, time_epoch
from jaxrec.data.events.interactions import Sequences
from jaxrec.data.events.split import leave_one_out
from jaxrec.nn.retrieval.mind import MIND
from jaxrec.optim.loss_weighting import static
from jaxrec.protocols import interests as protocol
from jaxrec.protocols import next_item
from jaxrec.tasks.interests import interests
from jaxrec.tasks.objectives import uniform_softmax

USERS, ITEMS, LENGTH, TARGETS, NEGATIVES = 6040, 3706, 50, 17, 20


def figures(repeats: int, tiny: bool) -> Iterator[Figure]:
    """Training examples per second."""
    num_users, batch_size, dim = (64, 32, 8) if tiny else (USERS, 1024, 64)
    data = next_item.resident(leave_one_out(histories(num_users)))
    model = MIND(
        num_items=ITEMS,
        dim=dim,
        max_len=LENGTH,
        num_interests=4,
        adaptive=False,
        over="positions",
        num_users=num_users,
        user_dim=16,
        normalised=True,
    )
    objective = uniform_softmax(ITEMS, NEGATIVES, temperature=1.0)
    yield from time_epoch(
        "interests/mind",
        interests(model, objective),
        static(),
        protocol.every_event(data, batch_size, least=LENGTH),
        data.columns,
        repeats,
        count=num_users * TARGETS,
        of="samples",
    )


def histories(num_users: int) -> Sequences:
    """Users of whose events TARGETS have LENGTH before them; few items are most of the events."""
    length = LENGTH + TARGETS + 2  # the last two are those of validation and test
    rng = np.random.default_rng(0)
    return Sequences(
        name="synthetic",
        items=(1 + ITEMS * rng.random(num_users * length) ** 2).astype(np.int32),
        times=None,
        offsets=length * np.arange(num_users + 1, dtype=np.int64),
        user_ids=np.arange(num_users),
        item_ids=np.arange(ITEMS),
        num_items=ITEMS,
    )
