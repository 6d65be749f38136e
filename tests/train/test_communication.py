"""Exchanges are read from a program's text, and the formulas give what the program says."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from jaxrec.train import parallel
from jaxrec.train.communication import (
    Collective,
    TableCost,
    collectives,
    predicted_bytes,
    predicted_memory,
    sent_bytes,
)
from jaxrec.types import Array

TEXT = """
  %all-gather.1 = s32[12]{0} all-gather(%p), channel_id=1, replica_groups=[1,4]<=[4], dimensions={0}
  %all-reduce.2 = (f32[2,3]{1,0}, f32[], pred[], s32[], f32[], /*index=5*/bf16[8]{0}) all-reduce(%a, %b)
  ROOT %reduce-scatter.3 = f32[3,5]{1,0} reduce-scatter(%q), dimensions={0}, to_apply=%add
  %fusion = f32[99]{0} fusion(%all-gather.1), kind=kLoop
  %g = (f32[4]{0}, f32[16]{0}) all-gather-start(%x), dimensions={0}
  %d = f32[16]{0} all-gather-done(%g)
"""


def test_every_exchange_is_read_once_with_the_bytes_of_its_result() -> None:
    assert collectives(TEXT) == [
        Collective("all-gather", 48),
        Collective("all-reduce", 24 + 4 + 1 + 4 + 4 + 16),
        Collective("reduce-scatter", 60),
        Collective("all-gather", 64),
    ]


def test_sent_bytes_are_those_of_a_ring() -> None:
    found = [Collective(kind, 120) for kind in ("all-gather", "all-reduce", "reduce-scatter", "all-to-all")]
    assert sent_bytes([*found, found[0]], 4) == {
        "all-gather": 180.0, "all-reduce": 180.0, "reduce-scatter": 360.0, "all-to-all": 90.0,
    }  # fmt: skip
    assert set(sent_bytes(found, 1).values()) == {0.0}


def test_a_compiled_program_is_read() -> None:
    def fn(x: Array, whole: Array) -> tuple[Array, Array]:
        total = jax.lax.psum(whole, parallel.AXIS)
        return jax.lax.psum_scatter(jnp.tile(x, 4), parallel.AXIS, tiled=True), total

    program = parallel.over_shards(fn, 4, (True, False), gathered=(False, True))
    text = program.lower(jnp.ones(8), jnp.ones(6)).compile().as_text()  # type: ignore[attr-defined]
    assert sent_bytes(collectives(text), 4) == {"reduce-scatter": 3 * 8, "all-reduce": 2 * 0.75 * 24}


@pytest.mark.parametrize(
    ("bucket", "expected"),
    [
        (None, {"all-reduce": 1.5 * 400, "all-gather": 3 * 11 * (4 + 32), "reduce-scatter": 3 * 11 * 32}),
        (5, {"all-reduce": 1.5 * 400, "all-to-all": 3 * 5 * (4 + 32 + 32)}),
    ],
)
def test_the_formula_of_a_step(bucket: int | None, expected: dict[str, float]) -> None:
    assert predicted_bytes([TableCost(1000, 8, 10, bucket)], 100, 4) == pytest.approx(expected)


def test_the_formula_of_memory() -> None:
    """1e9 ids of width 64 with Adagrad on 64 devices: 8 GB on each; layers with Adam three times over."""
    assert predicted_memory([TableCost(10**9, 64, 10)], 10**6, 64) == 8 * 10**9 + 12 * 10**6
    assert predicted_memory([TableCost(10**9, 64, 10, memory=0)], 0, 64) == 4 * 10**9
