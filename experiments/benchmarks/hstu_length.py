"""Time and memory of a training step of HSTU by the length of histories, with and without attention blocks.

For each length, with one user of that many events: seconds of a forward and backward pass through the whole
model, and the memory that the compiled program allocates in addition to its arguments (stated by the
compiler, also for programs too large to run). "plain" keeps all scores [L, L] of every layer for the backward
pass; "blocked" keeps those of a block of queries and recomputes the others. Both give the same numbers: where
both ran, the largest difference of their outputs and of their gradients is printed, relative to the largest
entry of each array. Gradients of the bias by time are sums of L² terms into few numbers, whose rounding is
nearly all of that difference.

Run:     python -m experiments.benchmarks.hstu_length
Also:    --longest 2048, --block 256, --dtype bfloat16
Prints a table and writes (runs/results/hstu_length.json) a list of {name, unit, median, min, max, repeats}:
hstu_length/<plain or blocked>_<length>, and the same with :memory (one number, from the compiler).
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tabulate import tabulate

from experiments.benchmarks.timing import Figure
from jaxrec import config as command_line
from jaxrec.config import check_run
from jaxrec.nn.sequential.hstu import HSTU
from jaxrec.report.results import write_atomically
from jaxrec.types import Array, Variables

MIB = 2.0**20
KINDS = ("plain", "blocked")


@dataclasses.dataclass(frozen=True)
class Config:
    """Lengths are powers of two, from the shortest to the longest."""

    shortest: int = 256  # events
    longest: int = 8192  # events
    block: int = 128  # queries per block of the blocked form
    memory: int = 6144  # MiB: a program that allocates more is compiled but not run
    repeats: int = 5  # timed runs, after a warm-up run
    batch_size: int = 1  # users
    dim: int = 64  # width
    num_layers: int = 2  # layers
    num_heads: int = 2  # heads, of dim / num_heads each
    dtype: Literal["float32", "bfloat16"] = "float32"  # of products; parameters stay float32
    tiny: bool = False  # 32 events and one layer, in seconds, to check that everything runs
    results: str = "runs/results"  # folder of hstu_length.json

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if type(value) is int and value < 1:
                raise ValueError(f"{field.name}={value}: must be at least 1")
        for name in ("shortest", "longest"):
            if (length := getattr(self, name)) & (length - 1):
                raise ValueError(f"{name}={length}: must be a power of two")
        if self.longest < self.shortest:
            raise ValueError(f"longest={self.longest}: must be at least shortest={self.shortest}")
        if self.dim % self.num_heads:
            raise ValueError(f"num_heads={self.num_heads}: must divide dim={self.dim}")


class Measured(NamedTuple):
    """One program at one length. bytes: allocated. seconds: of each run, empty if it was too large."""

    kind: str
    length: int
    bytes: int
    seconds: list[float]


def shrink_if_tiny(config: Config) -> Config:
    """The settings with those of --tiny."""
    if not config.tiny:
        return config
    return dataclasses.replace(config, shortest=32, longest=32, block=8, repeats=2, dim=8, num_layers=1)


def lengths(config: Config) -> list[int]:
    """The powers of two from the shortest to the longest."""
    return [2**n for n in range(config.shortest.bit_length() - 1, config.longest.bit_length())]


def model_of(kind: str, length: int, config: Config) -> Any:
    """HSTU for histories of this length, without dropout."""
    head_dim = config.dim // config.num_heads
    return HSTU(
        num_items=1000,
        dim=config.dim,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        key_dim=head_dim,
        value_dim=head_dim,
        max_len=length,
        dropout=0.0,
        linear_dropout=0.0,
        block=config.block if kind == "blocked" else None,
        dtype=None if config.dtype == "float32" else jnp.bfloat16,
    )


def measure(config: Config) -> Iterator[Measured]:
    """Measures both programs at each length, and prints the differences of their gradients."""
    for length in lengths(config):
        rng = np.random.default_rng(length)
        shape = (config.batch_size, length)
        items = jnp.asarray(rng.integers(1, 1001, shape), jnp.int32)
        times = jnp.asarray(np.cumsum(rng.integers(0, 86_400, shape), axis=1), jnp.int32)
        weight = jnp.asarray(rng.normal(size=(*shape, config.dim)), jnp.float32)
        variables = jax.jit(model_of("plain", length, config).init)(jax.random.key(0), items[:1, :8])
        found: dict[str, tuple[Any, Array]] = {}
        for kind in KINDS:
            compiled = jax.jit(jax.grad(loss_of(model_of(kind, length, config)), has_aux=True))
            step = compiled.lower(variables, items, times, weight).compile()
            memory: Any = step.memory_analysis()
            allocated = int(memory.temp_size_in_bytes + memory.output_size_in_bytes)
            seconds: list[float] = []
            if allocated <= config.memory * MIB:
                found[kind] = step(variables, items, times, weight)
                for _ in range(config.repeats):
                    start = time.perf_counter()
                    jax.block_until_ready(step(variables, items, times, weight))
                    seconds.append(time.perf_counter() - start)
            yield Measured(kind, length, allocated, seconds)
        if len(found) == len(KINDS):
            (gradient, output), (other_gradient, other_output) = (found[kind] for kind in KINDS)
            gap, wide = difference(output, other_output), difference(gradient, other_gradient)
            print(f"length {length}: outputs differ by {gap:.1e}, gradients by {wide:.1e}", flush=True)


def loss_of(model: Any) -> Callable[..., tuple[Array, Array]]:
    """A weighted sum of the outputs, to which every parameter and slot contributes, and the outputs."""

    def loss(variables: Variables, items: Array, times: Array, weight: Array) -> tuple[Array, Array]:
        outputs = model.apply(variables, items, times=times)
        return jnp.sum(outputs * weight), outputs

    return loss


def difference(a: Any, b: Any) -> float:
    """The largest difference between two trees, relative to the largest entry of each leaf of the first."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(jnp.abs(x - y).max() / jnp.maximum(jnp.abs(x).max(), 1e-30)) for x, y in pairs)


def figures(measured: Measured) -> Iterator[Figure]:
    """The lines of the stored list."""
    name = f"hstu_length/{measured.kind}_{measured.length}"
    if measured.seconds:
        median = float(np.median(measured.seconds))
        yield Figure(name, "s", median, min(measured.seconds), max(measured.seconds), len(measured.seconds))
    size = measured.bytes / MIB
    yield Figure(f"{name}:memory", "MiB", size, size, size, 1)


def table(found: list[Measured]) -> str:
    """One line per length: seconds and MiB of both, and the ratio of their memory."""
    by = {(m.kind, m.length): m for m in found}
    rows = []
    for length in sorted({m.length for m in found}):
        pair = [by[kind, length] for kind in KINDS]
        seconds = [f"{np.median(m.seconds):.4g}" if m.seconds else "too large" for m in pair]
        rows.append(
            [length, *seconds, *(f"{m.bytes / MIB:.1f}" for m in pair), pair[0].bytes / pair[1].bytes]
        )
    columns = ["events", "plain, s", "blocked, s", "plain, MiB", "blocked, MiB", "MiB ratio"]
    return tabulate(rows, columns, floatfmt=".1f", disable_numparse=[1, 2, 3, 4])


def run(config: Config) -> list[Measured]:
    """Measures, prints and stores everything."""
    check_run(config)
    config = shrink_if_tiny(config)
    found = []
    for measured in measure(config):
        found.append(measured)
        for figure in figures(measured):
            print(f"{figure.name:42s} {figure.median:12.4g} {figure.unit}", flush=True)
    print(table(found))
    path = Path(config.results) / "hstu_length.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = [figure._asdict() for measured in found for figure in figures(measured)]
    write_atomically(path, json.dumps(stored, indent=1) + "\n")
    return found


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
