"""What holds for every model of several tasks over features [B, F], and of one task under a condition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np
import pytest

from jaxrec.nn.layers.experts import Gate
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.multitask.aitm import AITM
from jaxrec.nn.multitask.attention_gated_mmoe import AttentionGatedMMoE
from jaxrec.nn.multitask.cgc import CGC
from jaxrec.nn.multitask.dbmtl import DBMTL
from jaxrec.nn.multitask.escm2 import ESCM2
from jaxrec.nn.multitask.esm2 import ESM2
from jaxrec.nn.multitask.esmm import ESMM
from jaxrec.nn.multitask.mmoe import MMoE
from jaxrec.nn.multitask.moe import OMoE
from jaxrec.nn.multitask.nmtr import NMTR
from jaxrec.nn.multitask.ple import PLE
from jaxrec.nn.multitask.shared_bottom import SharedBottom
from jaxrec.nn.multitask.snr import SNR
from jaxrec.nn.ranking.apg import APG
from jaxrec.nn.ranking.epnet import EPNet
from jaxrec.nn.ranking.poso import PersonalMMoE
from jaxrec.nn.ranking.ppnet import PersonalisedTower, PPNet
from jaxrec.nn.ranking.star import STAR
from tests.nn import family

rng = np.random.default_rng(0)
X = rng.normal(size=(8, 6)).astype(np.float32)
PAIRS = rng.normal(size=(8, 2, 3)).astype(np.float32)
CODE = rng.normal(size=(8, 3)).astype(np.float32)
DOMAIN = np.array([0, 1, 2, 0, 1, 2, 0, 1], np.int32)


class Body(NamedTuple):
    """How a model is built for an axis of devices, and what it reads."""

    build: Callable[[str | None], Any]
    inputs: tuple[np.ndarray, ...] = (X,)


def mlp(axis: str | None) -> Factory:
    return family.noisy(axis, activation=nn.silu)


def gate(axis: str | None) -> Factory:
    return Factory(Gate, dims=(4,), logits_batch_norm=True, axis_name=axis, mlp=mlp(axis))


def own_layers(axis: str | None) -> dict[str, Any]:
    """Fields of a model that has dropout and batch norm in layers of its own."""
    return dict(mlp(axis).keywords)


CHAIN = ((), (0,))
BODIES = {
    "shared_bottom": Body(lambda a: SharedBottom(2, bottom_dims=(5,), tower_dims=(4,), mlp=mlp(a))),
    "omoe": Body(lambda a: OMoE(2, num_experts=3, expert_dims=(5,), mlp=mlp(a), gate=gate(a))),
    "mmoe": Body(lambda a: MMoE(2, num_experts=3, expert_dims=(5,), mlp=mlp(a), gate=gate(a))),
    "cgc": Body(lambda a: CGC(2, num_specific=2, expert_dims=(5,), mlp=mlp(a), gate=gate(a))),
    "ple": Body(lambda a: PLE(2, num_specific=2, expert_dims=((5,), (4,)), mlp=mlp(a), gate=gate(a))),
    "attention": Body(lambda a: AttentionGatedMMoE(2, num_experts=3, expert_dims=(5,), mlp=mlp(a))),
    "snr": Body(lambda a: SNR(2, num_subnets=(2, 3), dims=((5,), (5,)), mlp=mlp(a))),
    "esmm": Body(lambda a: ESMM((4,), mlp=mlp(a))),
    "esm2": Body(lambda a: ESM2((4,), mlp=mlp(a))),
    "escm2": Body(lambda a: ESCM2(impute=True, num_experts=3, expert_dims=(5,), mlp=mlp(a), gate=gate(a))),
    "aitm": Body(lambda a: AITM(3, (4,), mlp=mlp(a), transfer_mlp=mlp(a))),
    "dbmtl": Body(lambda a: DBMTL(CHAIN, (5,), num_experts=3, tower_dims=(4,), mlp=mlp(a), gate=gate(a))),
    "nmtr": Body(lambda a: NMTR(2, mlp_dims=(4,), mlp=mlp(a)), (PAIRS,)),
    "star": Body(lambda a: STAR(3, (5,), (4,), **own_layers(a)), (X, DOMAIN)),
    "poso_mmoe": Body(
        lambda a: PersonalMMoE(2, num_experts=3, expert_dims=(5,), mlp=mlp(a), gate=gate(a)), (X, CODE)
    ),
    "epnet": Body(lambda a: EPNet((5,), mlp=mlp(a)), (X, CODE)),
    "ppnet": Body(lambda a: PPNet(2, (5,), tower=Factory(PersonalisedTower, **own_layers(a))), (X, CODE)),
    "apg": Body(lambda a: APG((5,), 2, rank=2, hyper_dims=(4,), **own_layers(a)), (X, CODE)),
}
every_body = pytest.mark.parametrize("name", BODIES)


@every_body
def test_examples_do_not_see_each_other(name: str) -> None:
    family.check_examples_do_not_see_each_other(BODIES[name].build, *BODIES[name].inputs)


@every_body
def test_gradients_are_finite_and_reach_every_parameter(name: str) -> None:
    family.check_gradients_are_finite_and_reach_all(BODIES[name].build, *BODIES[name].inputs)


@every_body
def test_devices_change_nothing(name: str) -> None:
    family.check_devices_change_nothing(BODIES[name].build, *BODIES[name].inputs)
