"""Epochs over data that does not fit on a device: the batch of every step comes from the host, through grain.

`Batches` gathers them from columns in the host's memory: the order of the examples, the key of every step and
the step itself are those of the resident epoch (`jaxrec.train.epoch`), so both give the same parameters.
`data.tables.shard_batches.ShardBatches` reads them from files, for what does not fit into memory either, in
an order of its own. `train.streamed` trains a run with checkpoints. An element of a source is a whole batch,
because reading single records was measured 80 times slower, and its number is that of the step: where a run
stands is the one integer `state.step`, whatever the number of devices or threads.

For one seed a run; a data set that does not fit on a device is not trained several times at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jax.random import fold_in

from jaxrec.train import parallel
from jaxrec.train.epoch import Plan
from jaxrec.train.state import PLAN, TrainState
from jaxrec.train.step import Step, epoch_mean
from jaxrec.types import Array, Context, Key

HostExamples = Mapping[str, np.ndarray]
Gather = Callable[[HostExamples], tuple[HostExamples, Mapping[str, Any]]]


class Source(Protocol):
    """What `StreamedEpoch` reads: element i is the batch of step i, (examples, columns), the same each time.

    num_steps: of an epoch. processes: 1: an element is the global batch; more: the part of it that this one
    of so many processes reads.
    """

    num_steps: int
    processes: int

    def __len__(self) -> int: ...
    def __getitem__(self, index: Any) -> tuple[HostExamples, Mapping[str, Any]]: ...


class Batches:
    """The global batch of every step of a run, by the step's number: a random-access source for grain.

    plan, key: as of the resident run; columns: what the plan's `lengths` read, if it has any.
    gather(examples) -> (examples, columns) reads on the host what a step's examples refer to, and numbers
    them anew within what it read, such as `jaxrec.data.events.batching.gather_users`. It gives the same
    shapes every time.
    """

    processes = 1

    def __init__(
        self, plan: Plan, key: Key, gather: Gather, *, epochs: int, columns: Context | None = None
    ) -> None:
        if epochs < 1:
            raise ValueError(f"epochs={epochs}: must be at least 1")
        self.num_steps, self._gather, self._epochs = plan.num_steps, gather, epochs
        self._columns = jax.tree.map(jnp.asarray, dict(columns or {}))
        self._draw = jax.jit(lambda epoch, seen: plan.draw(fold_in(fold_in(key, PLAN), epoch), seen))
        self._drawn: tuple[int, HostExamples] = (-1, {})

    def __len__(self) -> int:
        return self._epochs * self.num_steps

    def __getitem__(self, index: Any) -> tuple[HostExamples, Mapping[str, Any]]:
        epoch, step = divmod(int(index), self.num_steps)
        return self._gather({name: column[step] for name, column in self._drawn_in(epoch).items()})

    def _drawn_in(self, epoch: int) -> HostExamples:
        number, examples = self._drawn  # threads may draw the same epoch twice, to the same examples
        if number != epoch:
            examples, ok = jax.device_get(self._draw(np.int32(epoch), self._columns))
            if not ok:
                raise ValueError(
                    f"epoch {epoch}: no order of the examples fits the packed rows; give more rows "
                    "(packing.rows_needed with a larger `deviations`)"
                )
            self._drawn = epoch, examples
        return examples


class StreamedEpoch:
    """run(state) -> (state, means of the losses): from the step where the state stands to the epoch's end.

    step: of `train.step.make_step`, compiled once; the state is donated, so it is updated in place.
    context: columns that stay on the device; those of a batch take precedence.
    prefetch: batches that `threads` read ahead, and steps that wait on the device, so memory is bounded.
    """

    def __init__(
        self,
        step: Step,
        batches: Source,
        context: Context,
        *,
        num_devices: int = 1,
        prefetch: int = 4,
        threads: int = 1,
    ) -> None:
        if min(prefetch, threads) < 1:
            raise ValueError(f"prefetch={prefetch}, threads={threads}: must both be at least 1")
        parallel.check_parts(batches.processes)
        self._batches, self._num_devices = batches, num_devices
        self._context = parallel.replicate(dict(context), num_devices)
        self._options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)
        self._iterator: Any = None
        self._next = -1  # number of the iterator's next batch

        def run(state: TrainState, batch: Any, context: Context) -> tuple[TrainState, dict[str, Array]]:
            examples, columns = batch
            return step(state, examples, {**context, **columns})

        self._step = parallel.over_devices(run, num_devices, (0, 0, 0))

    def __call__(
        self, state: TrainState, num_steps: int | None = None
    ) -> tuple[TrainState, dict[str, float]]:
        """num_steps: leave earlier, after so many steps; never goes on into the next epoch.

        Raises:
          ValueError: the source's epochs are over; num_steps is below 1.
        """
        if num_steps is not None and num_steps < 1:
            raise ValueError(f"num_steps={num_steps}: must be at least 1, or None for the rest of the epoch")
        first = int(parallel.unreplicate(state.step, self._num_devices))
        if first >= len(self._batches):
            raise ValueError(
                f"step {first}: the source ends after {len(self._batches)} steps; give it more epochs"
            )
        left = self._batches.num_steps - first % self._batches.num_steps
        logs = []
        for batch in self._read(first, left if num_steps is None else min(num_steps, left)):
            batch = parallel.from_parts(batch, self._batches.processes)
            state, losses = self._step(state, parallel.replicate(batch, self._num_devices), self._context)
            logs.append(parallel.unreplicate(losses, self._num_devices))
            jax.block_until_ready(logs[max(len(logs) - 1 - self._options.prefetch_buffer_size, 0)])
        together = jax.tree.map(lambda *values: np.stack(values), *jax.device_get(logs))
        means = epoch_mean(together, jnp.ones(len(logs), bool))
        return state, {name: float(value) for name, value in means.items()}

    def _read(self, first: int, count: int) -> Iterator[Any]:
        if self._next != first:
            dataset = grain.MapDataset.source(self._batches).to_iter_dataset(self._options)
            self._iterator = iter(dataset)
            self._iterator.set_state({"next_index": first})
            self._next = first
        for _ in range(count):
            batch = next(self._iterator)
            self._next += 1
            yield batch
