"""Multi-task models on synthetic data of the shape of Census-Income: 40 categorical columns, two tasks.

Training examples per second in batches of 1,024, with embeddings of width 8: MMoE with 8 experts of 16 units
and towers of 8, PLE with one level of two specific experts per task and one shared; MMoE with 2 to 64
experts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import numpy as np

from experiments.benchmarks.timing import Figure, time_epoch
from jaxrec.nn.layers.features import Categorical, Featured, FeatureEmbedding
from jaxrec.nn.multitask.mmoe import MMoE
from jaxrec.nn.multitask.ple import PLE
from jaxrec.optim.loss_weighting import static
from jaxrec.tasks.multitask import Target, multitask
from jaxrec.train.epoch import shuffled


def figures(repeats: int, tiny: bool) -> Iterator[Figure]:
    """Training examples per second of multi-task models."""
    rows, values, batch_size = (256, 10, 64) if tiny else (102_400, 100, 1024)
    rng = np.random.default_rng(0)
    names = [f"field_{i}" for i in range(40)]
    columns = {name: rng.integers(1, values, rows).astype(np.int32) for name in names}
    for label in ("label/a", "label/b"):
        columns[label] = (rng.random(rows) < 0.3).astype(np.float32)
    embedding = FeatureEmbedding(tuple(Categorical(name, values, 8) for name in names))
    targets = [Target("a", 0, "label/a"), Target("b", 1, "label/b")]
    small: Any = {"expert_dims": (16,), "tower_dims": (8,)}
    models: dict[str, nn.Module] = {
        "mmoe": MMoE(2, num_experts=8, **small),
        "ple": PLE(2, num_specific=2, num_shared=1, expert_dims=((16,),), tower_dims=(8,)),
    }
    models |= {f"mmoe_experts_{n}": MMoE(2, num_experts=n, **small) for n in (2, 4, 16, 32, 64)}
    for name, model in models.items():
        task = multitask(Featured(embedding, model), targets)
        yield from time_epoch(
            f"multitask/{name}",
            task,
            static(),
            shuffled(rows, batch_size),
            columns,
            repeats,
            count=rows,
            of="samples",
        )
