"""Every model that the recipes build, at small sizes, with the columns it reads."""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
import typing
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np

from jaxrec import recipes
from jaxrec.data.tables.click_histories import SideInfo
from jaxrec.nn.layers.features import Categorical, Featured, FeatureEmbedding, Numeric
from jaxrec.recipes import (
    autoencoders,
    deep_retrieval,
    dupn,
    funnel,
    gru4rec,
    hstu,
    hstu_generative,
    interaction,
    interest,
    interests,
    item_cold,
    item_graphs,
    kuaishou_ebr,
    latent_cross,
    melu,
    mobius,
    multitask,
    nann,
    objectives,
    peterrec,
    relational,
    sasrec,
    scenarios,
    search,
    stamp,
    strong,
    tdm,
    ticoserec,
    tiger,
)

NUM_ITEMS, L, B = 30, 6, 3
CLICKS: Any = SimpleNamespace(
    num_items=NUM_ITEMS,
    side_info=SideInfo({"category": np.array([4]), "style": np.array([3])}, {"age": np.array([2])}),
)
CITY, DEVICE, PRICE = Categorical("city", 7, 4), Categorical("device", 5, 4), Numeric("price", 4)
ITEM, STYLE = Categorical("item", NUM_ITEMS + 1, 4), Categorical("style", 4, 4)
EMBEDDING = FeatureEmbedding((CITY, DEVICE, PRICE))
TABLE = interaction.Columns((CITY, DEVICE, PRICE))
HISTORIES = interaction.Columns((CITY, ITEM, STYLE), (ITEM, STYLE))
INPUTS = scenarios.Inputs(EMBEDDING, "city", 4)
SIZES: dict[str, Any] = {"dim": 8, "num_layers": 1, "num_heads": 2, "max_len": L}


class Sequence(NamedTuple):
    """An encoder of items, behind `tasks.next_item`."""

    module: Any


class MultiInterest(NamedTuple):
    """A model of several interests, behind `tasks.interests`."""

    module: Any


class Other(NamedTuple):
    """A module called with columns, or with arrays one after the other."""

    module: Any
    columns: Mapping[str, tuple[int, ...]]  # {column: shape of an example}, of ids unless its name is "price"
    as_batch: bool = True


ROWS: dict[str, tuple[int, ...]] = {"city": (), "device": (), "price": ()}
WITH_HISTORY: dict[str, tuple[int, ...]] = {
    "city": (), "item": (), "style": (), "history_item": (L,), "history_style": (L,)
}  # fmt: skip
CLICK_COLUMNS: dict[str, tuple[int, ...]] = {
    "item": (), "category": (), "style": (), "age": (),
    "history_item": (L,), "history_category": (L,), "history_style": (L,), "history_age": (L,),
}  # fmt: skip


def of_tasks(build: Callable[..., nn.Module], recipe: Any, num_tasks: int = 3) -> Other:
    return Other(Featured(EMBEDDING, build(num_tasks, recipe)), ROWS)


def of_clicks(build: Callable[..., nn.Module], negatives: bool = False) -> Other:
    return Other(interest.with_history(build(None), CLICKS, dim=4, negatives=negatives), CLICK_COLUMNS)


def of_search(build: Callable[..., nn.Module]) -> Other:
    return Other(build(CLICKS, search.Recipe(recent=2, k=3, slots=2)), CLICK_COLUMNS)


def cascade() -> Other:
    model = funnel.nmtr(3, FUNNEL)
    return Other(funnel.pairs(EMBEDDING, user="city", item="device", model=model), ROWS)


SASREC = sasrec.Recipe(**SIZES)
HSTU = hstu.Recipe(**SIZES, head_dim=4)
STAMP = stamp.Recipe(dim=8, max_len=L, max_norm=1.0)
PETERREC = peterrec.Recipe(dim=8, dilations=(1, 2), max_len=L)
KUAISHOU = kuaishou_ebr.Recipe(**SIZES, inner_dim=8, intent_dim=8)
TASKS = multitask.Recipe(
    dim=4, num_experts=2, expert_dims=(4,), bottom_dims=(4,), tower_dims=(3,), subnet_dims=(4, 4)
)
FUNNEL = funnel.Recipe(
    dim=4, bottom_dims=(4,), num_experts=2, expert_dims=(4,), tower_dims=(3,), deep_tower_dims=(4,)
)
SCENARIOS = scenarios.Recipe(dim=4, dims=(4, 3), rank=2)

MODELS: dict[Callable[..., Any], Sequence | MultiInterest | Other] = {
    sasrec.original: Sequence(sasrec.original(NUM_ITEMS, SASREC)),
    sasrec.post_norm: Sequence(sasrec.post_norm(NUM_ITEMS, SASREC)),
    sasrec.gru4rec: Sequence(sasrec.gru4rec(NUM_ITEMS, SASREC)),
    gru4rec.network: Sequence(
        gru4rec.network(CLICKS, gru4rec.Recipe(dim=8, max_len=L), gru4rec.OF_LOSS["ssm"])
    ),
    stamp.stamp: Sequence(stamp.stamp(NUM_ITEMS, STAMP)),
    stamp.stmp: Sequence(stamp.stmp(NUM_ITEMS, STAMP)),
    stamp.gru4rec: Sequence(stamp.gru4rec(NUM_ITEMS, STAMP)),
    stamp.sasrec: Sequence(stamp.sasrec(NUM_ITEMS, STAMP)),
    strong.ligr: Sequence(strong.ligr(NUM_ITEMS, strong.Recipe(**SIZES))),
    strong.sasrec: Sequence(strong.sasrec(NUM_ITEMS, strong.Recipe(**SIZES))),
    hstu.hstu: Sequence(hstu.hstu(NUM_ITEMS, HSTU)),
    hstu.sasrec: Sequence(hstu.sasrec(NUM_ITEMS, HSTU)),
    hstu.sasrec_original: Sequence(hstu.sasrec_original(NUM_ITEMS, HSTU)),
    hstu.sasrec_original_cosine: Sequence(hstu.sasrec_original_cosine(NUM_ITEMS, HSTU)),
    ticoserec.encoder: Sequence(ticoserec.encoder(NUM_ITEMS, ticoserec.Recipe(**SIZES, inner_dim=8))),
    peterrec.backbone: Sequence(peterrec.backbone(NUM_ITEMS, PETERREC)),
    peterrec.with_head: Sequence(peterrec.with_head(peterrec.SERIAL, NUM_ITEMS, NUM_ITEMS, PETERREC)),
    kuaishou_ebr.sasrec: Sequence(kuaishou_ebr.sasrec(NUM_ITEMS, KUAISHOU)),
    kuaishou_ebr.with_intents: Sequence(kuaishou_ebr.with_intents(NUM_ITEMS, KUAISHOU)),
    **{
        build: MultiInterest(build(NUM_ITEMS, recipe(dim=8, max_len=L, **sizes)))
        for build, recipe, sizes in (
            (interests.comirec_sa, interests.ComiRec, {}),
            (interests.comirec_dr, interests.ComiRecRouted, {}),
            (interests.mind, interests.Mind, {}),
            (interests.sine, interests.Sine, {"num_prototypes": 6}),
            (interests.sdm, interests.Sdm, {"num_heads": 2, "short_len": 3}),
            (interests.poly_encoder, interests.Poly, {"num_interests": 5}),
            (interests.octopus, interests.OctopusRecipe, {"num_channels": 4}),
            (interests.mean_of_events, interests.Mean, {}),
        )
    },
    hstu_generative.generative: Other(
        hstu_generative.generative(
            SimpleNamespace(num_items=NUM_ITEMS, num_actions=3),
            hstu_generative.Recipe(dim=8, key_dim=4, num_layers=1, max_len=L),
        ),
        {"items": (L,), "actions": (L,)},
        as_batch=False,
    ),
    **{
        build: Other(build(TABLE), ROWS)
        for build in (
            interaction.deep, interaction.deepfm, interaction.ipnn, interaction.opnn, interaction.pnn_star,
            interaction.dcn_v2_stacked, interaction.dcn_v2_parallel, interaction.dcn_mix, interaction.dlrm,
        )
    },
    **{
        build: Other(build(HISTORIES), WITH_HISTORY)
        for build in (
            interaction.base, interaction.din, interaction.can, interaction.can_din, interaction.bst
        )
    },
    **{build: of_clicks(build) for build in (interest.base, interest.din, interest.din_dice)},
    interest.dien: of_clicks(interest.dien, negatives=True),
    **{
        build: of_search(build)
        for build in (search.din, search.base, search.mimn, search.sim_hard, search.sim_soft, search.eta)
    },
    **{
        build: of_tasks(build, TASKS)
        for build in (
            multitask.shared_bottom, multitask.omoe, multitask.mmoe, multitask.attention_gated_mmoe,
            multitask.cgc, multitask.ple, multitask.snr_trans, multitask.snr_aver,
        )
    },
    **{
        build: of_tasks(build, FUNNEL)
        for build in (
            funnel.shared_bottom, funnel.mmoe, funnel.esmm, funnel.esm2, funnel.escm2_ips, funnel.escm2_dr,
            funnel.aitm, funnel.dbmtl,
        )
    },
    funnel.nmtr: cascade(),
    **{
        build: Other(build(INPUTS, SCENARIOS), ROWS)
        for build in (
            scenarios.mlp, scenarios.star, scenarios.apg, scenarios.poso, scenarios.epnet, scenarios.ppnet
        )
    },
}  # fmt: skip
BESIDE = (
    *(funnel.pairs, interest.with_history),  # put a model behind features
    # exported behind what reads histories, see tests/commands/test_matrix.py
    *(autoencoders.mult_vae, autoencoders.mult_dae, autoencoders.macrid_vae),
    # served as vectors of users and items, or as scores of histories
    *(item_cold.cb2cf, item_cold.dropoutnet, item_cold.eges),
    *(item_graphs.eges, item_graphs.pinsage, relational.rcf),
    # made of a run by `jaxrec train peterrec`, see tests/commands/test_transfer.py
    peterrec.adapted,
    # searched by learned indexes; other models that `jaxrec train` refuses, whose recipes say what they need
    *(tdm.build, nann.build, deep_retrieval.build, mobius.student, latent_cross.encoder, dupn.dupn),
    *(objectives.shared_bottom, objectives.with_actor, objectives.filled),
    *(tiger.rq_vae, tiger.tiger),  # the second is exported behind its beam, see tests/commands/test_codes.py
    # served by `serve.cold_users`
    *(melu.melu, melu.wide_deep, melu.poso, melu.poso_mean),
)


def name_of(build: Callable[..., Any]) -> str:
    inner = build.func if isinstance(build, functools.partial) else build
    module = inner.__module__.rsplit(".", 1)[-1]
    return f"{module}.{inner.__name__}{'-variant' if inner is not build else ''}"


def functions_left_out() -> set[str]:
    """Public functions of the recipes that build a module of which the table has neither them nor its class.

    They are found by their annotation; `nn.Module` may be any class.
    """
    listed = {type(model.module) for model in MODELS.values()} - {Featured}
    found: set[str] = set()
    for info in pkgutil.iter_modules(recipes.__path__):
        module = importlib.import_module(f"jaxrec.recipes.{info.name}")
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if name.startswith("_") or function.__module__ != module.__name__ or function in BESIDE:
                continue
            returned = typing.get_type_hints(function).get("return")
            builds = isinstance(returned, type) and issubclass(returned, nn.Module)
            if builds and function not in MODELS and returned not in listed:
                found.add(name_of(function))
    return found


def columns_of(model: Other, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """B examples of a model's columns."""
    return {
        name: rng.normal(size=(B, *shape)).astype(np.float32)
        if name == "price"
        else rng.integers(0 if shape else 1, 3, (B, *shape)).astype(np.int32)
        for name, shape in model.columns.items()
    }
