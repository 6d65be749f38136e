"""SASRec, CoSeRec and TiCoSeRec on the same split (Dang et al., AAAI 2023, arXiv 2212.08262).

Train: events 1..n-3 of each user predict the next; validation target n-1, test target n; full ranking.
An encoder (post-norm SASRec) is trained with binary cross-entropy, one sampled negative an event. CoSeRec
adds 0.1 × NT-Xent between two randomly augmented views of each user; TiCoSeRec chooses where to augment
by the gaps between events, and begins to after a warm-up without views.

Departs from the official code, each with an option for its way: views are compared as means over their
events (--form flat), the users left alone are those of the most even gaps (--official-bug), similar items
are the most similar ones (--inverted-similarity), seen items are no candidates (--seen zero), negatives avoid
training items only (--reject all).

Run:     python -m experiments.ticoserec --dataset ml-100k
Also:    --rows ticoserec --opposite (Ti operators reversed), --operators C (one operator alone),
         --similarity item2vec, --no-warm-up, --form flat (views as the official code compares them)
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import sequential as lab
from experiments.saving import means, save
from experiments.settings import check_seeds, described
from jaxrec import config as command_line
from jaxrec import packing
from jaxrec.augment import operators as ops
from jaxrec.augment import similarity
from jaxrec.augment.similarity import Similar
from jaxrec.augment.views import View, chosen, plan_rows, unaugmented_users
from jaxrec.data import synthetic
from jaxrec.data.interactions import Sequences, uniform_rank
from jaxrec.data.sources import movielens, ticoserec
from jaxrec.data.split import leave_one_out
from jaxrec.nn.layers.dropout import counter_bits
from jaxrec.nn.sequential.sasrec import SASRec
from jaxrec.optim.loss_weighting import static
from jaxrec.tasks import contrastive
from jaxrec.tasks.combine import combine
from jaxrec.tasks.next_item import Rows, item_table, next_item
from jaxrec.tasks.objectives import sampled_bce
from jaxrec.train.fit import Fitted, Phase, fit
from jaxrec.types import Context, Protocol, Task, Variables

EXPERIMENT = "ticoserec"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How one row is trained. Defaults: the official TiCoSeRec code."""

    dim: int = 128
    inner_dim: int = 256
    num_layers: int = 2
    num_heads: int = 2
    max_len: int = 50
    dropout: float = 0.5
    attention_dropout: float = 0.2
    learning_rate: float = 1e-3
    weight_decay: float = 1e-6  # added to the gradient, as L2
    batch_size: int = 128
    epochs: int = 350
    patience: int = 150  # epochs without a better validation NDCG@20
    warm_up: int = 40  # epochs before the first views
    hybrid_after: int = 80  # epochs before similarities also come from the item table
    weight: float = 0.1  # of the contrastive loss; 0: no views at all
    temperature: float = 1.0
    unaugmented: float = 0.15  # share of users, those of the most even gaps, whose views are themselves
    by_gaps: bool = True  # TiCoSeRec's operators; False: CoSeRec's random ones
    threshold: int = 12  # longest sequence that counts as short
    short: str = "SIM"  # operators of short sequences; long ones draw from all five
    crop: float = 0.7  # rates
    mask: float = 0.5
    reorder: float = 0.2
    substitute: float = 0.1
    insert: float = 0.5
    mask_largest: bool | None = None  # True: largest gaps, False: smallest, None: random positions


TICOSEREC: Mapping[str, Recipe] = {
    "ml-100k": Recipe(),  # the paper has no such data: the code's defaults
    "Beauty": Recipe(hybrid_after=350, mask_largest=True, substitute=0.2, crop=0.4, mask=0.7, reorder=0.5),
    "Sports": Recipe(substitute=0.2, weight_decay=1e-5, patience=100),
    "Yelp-A": Recipe(),  # its options are not published: the code's defaults
}

_COSEREC = Recipe(
    dim=64,
    attention_dropout=0.5,
    weight_decay=0.0,
    batch_size=256,
    epochs=300,
    patience=40,
    warm_up=0,
    hybrid_after=160,
    unaugmented=0.0,
    by_gaps=False,
    threshold=4,
    crop=0.2,
    mask=0.7,
    reorder=0.7,  # its code gives Reorder the rate of Mask
    substitute=0.1,
    insert=0.4,
)

COSEREC: Mapping[str, Recipe] = {
    "ml-100k": _COSEREC,
    "Beauty": dataclasses.replace(
        _COSEREC, threshold=12, hybrid_after=220, short="SIMRC", insert=0.5, substitute=0.05
    ),
    "Sports": _COSEREC,
    "Yelp-A": dataclasses.replace(_COSEREC, hybrid_after=300, insert=0.5),
}

README = "README of the official code"
TABLE_MCLREC = "README of the MCLRec code (SIGIR 2023), a third party's runs"
SIX = ("hit@5", "ndcg@5", "hit@10", "ndcg@10", "hit@20", "ndcg@20")
FOUR = ("hit@5", "hit@20", "ndcg@5", "ndcg@20")


def _published(names: tuple[str, ...], source: str, *values: float) -> tuple[dict[str, float], str]:
    return dict(zip(names, values, strict=True)), source


PUBLISHED: Mapping[tuple[str, str], tuple[dict[str, float], str]] = {
    ("Beauty", "ticoserec"): _published(SIX, README, 0.0504, 0.0343, 0.0740, 0.0418, 0.1068, 0.0501),
    ("Sports", "ticoserec"): _published(SIX, README, 0.0334, 0.0227, 0.0514, 0.0284, 0.0768, 0.0348),
    ("Sports", "coserec"): _published(SIX, README, 0.0287, 0.0194, 0.0437, 0.0242, 0.0635, 0.0292),
    ("Beauty", "coserec"): _published(FOUR, TABLE_MCLREC, 0.0504, 0.1034, 0.0339, 0.0487),
    ("Yelp-A", "coserec"): _published(FOUR, TABLE_MCLREC, 0.0241, 0.0649, 0.0151, 0.0263),
    ("Beauty", "sasrec-bce"): _published(FOUR, TABLE_MCLREC, 0.0377, 0.0894, 0.0241, 0.0386),
    ("Sports", "sasrec-bce"): _published(FOUR, TABLE_MCLREC, 0.0214, 0.0500, 0.0144, 0.0224),
    ("Yelp-A", "sasrec-bce"): _published(FOUR, TABLE_MCLREC, 0.0160, 0.0443, 0.0101, 0.0179),
}

# where our defaults depart from the official code: either way of these stands beside its numbers
OFFICIAL_WAYS = ("form", "official_bug", "inverted_similarity", "seen", "reject")

Row = Literal["random", "popularity", "sasrec-bce", "coserec", "ticoserec"]


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains and tests the rows of the table, one after the other."""

    dataset: Literal["ml-100k", "Beauty", "Sports", "Yelp-A"] = "ml-100k"  # what is trained on
    rows: tuple[Row, ...] = (
        "random",
        "popularity",
        "sasrec-bce",
        "coserec",
        "ticoserec",
    )  # rows of the table
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)  # trained together, one compilation
    preset: Literal["official", "reproduce"] = "official"  # reproduce: fewer epochs, for a first look
    tiny: bool = False  # a synthetic set and two epochs, in seconds: to see that all works
    form: Literal["mean", "last", "flat"] = "mean"  # vector of a view; flat is the official code's, and slow
    similarity: Literal["item_cf_iuf", "item_cf", "item2vec", "random"] = (
        "item_cf_iuf"  # offline similarities
    )
    operators: str = ""  # only these, for short and long: S, I, M, R, C; empty: the recipe's
    opposite: bool = False  # Ti operators at the largest gaps instead of the smallest, and the reverse
    no_warm_up: bool = False  # views from the first epoch
    official_bug: bool = False  # leave un-augmented the users that the official code does by mistake
    inverted_similarity: bool = False  # the hybrid similarity as the official code has it, upside down
    epochs: int = 0  # epochs to train; 0: as the recipe says
    dim: int = 0  # width of the encoder; 0: as the recipe says
    batch_size: int = 0  # users a step; 0: as the recipe says
    seen: Literal["exclude", "zero"] = "exclude"  # seen items in the ranking; zero: the official rule
    reject: Literal["train", "all"] = (
        "train"  # items no negative is; all: the official code's, test items too
    )
    num_devices: int = 1  # devices that share each batch
    save_every: int = 1  # epochs between checkpoints
    results: str = "results"  # folder of result files
    workdir: str = "runs/ticoserec"  # folder of checkpoints and logs; a run found there is continued

    def __post_init__(self) -> None:
        for name in ("epochs", "dim", "batch_size"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"{name}={getattr(self, name)}: must be positive, or 0 for the recipe's value"
                )
        check_seeds(self.seeds)
        if set(self.operators) - set("SIMRC"):
            raise ValueError(f"operators={self.operators!r}: letters of SIMRC, such as 'SIM'")
        if self.save_every < 1:
            raise ValueError(f"save_every={self.save_every}: must be at least 1")


def recipe_of(config: Config, row: Row) -> Recipe:
    """The official settings of a row on a data set, with what the command line changes."""
    found = (COSEREC if row == "coserec" else TICOSEREC)[config.dataset]
    change: dict[str, Any] = {}
    if config.preset == "reproduce":
        change |= {"dim": 64, "batch_size": 32, "epochs": 30, "warm_up": 8 if found.warm_up else 0}
        change |= {"hybrid_after": 16}
    if config.tiny:
        change |= {"dim": 8, "inner_dim": 16, "max_len": 12, "batch_size": 32, "epochs": 3, "hybrid_after": 2}
        change |= {"warm_up": 1 if found.warm_up else 0}
    if row == "sasrec-bce":
        change["weight"] = 0.0
    change |= {name: value for name in ("epochs", "dim", "batch_size") if (value := getattr(config, name))}
    if config.no_warm_up:
        change["warm_up"] = 0
    return dataclasses.replace(found, **change)


def load(config: Config) -> Sequences:
    """The sequences of a data set."""
    if config.tiny:
        return synthetic.markov_chain(num_users=96, num_items=40, noise=0.1).sequences
    return movielens.load("ml-100k") if config.dataset == "ml-100k" else ticoserec.load(config.dataset)


def dataset_name(config: Config) -> str:
    """The data set's name in results and folders."""
    return "synthetic" if config.tiny else config.dataset


def view_of(recipe: Recipe, config: Config) -> View:
    """The random choice of an operator for each sequence (section 3.3 of the paper)."""
    if recipe.by_gaps:
        mask_largest = recipe.mask_largest
        named = {
            "crop": ops.ti_crop(recipe.crop, largest=config.opposite),
            "mask": ops.ti_mask(
                recipe.mask, largest=mask_largest if mask_largest is None else mask_largest != config.opposite
            ),
            "reorder": ops.ti_reorder(recipe.reorder, largest=config.opposite),
            "insert": ops.ti_insert(recipe.insert, largest=not config.opposite),
            "substitute": ops.ti_substitute(recipe.substitute, largest=config.opposite),
        }
    else:
        named = {
            "crop": ops.crop(recipe.crop),
            "mask": ops.mask(recipe.mask),
            "reorder": ops.reorder(recipe.reorder),
            "insert": ops.insert(recipe.insert),
            "substitute": ops.substitute(recipe.substitute),
        }
    if config.operators:
        return View(chosen(config.operators, **named), window=recipe.max_len)
    return View(
        tuple(named.values()),
        chosen(recipe.short, **named),
        threshold=recipe.threshold,
        window=recipe.max_len,
    )


def offline_similarity(config: Config, sequences: Sequences, seed: int) -> Similar:
    """Which item stands in for which, from training events."""
    items, offsets = sequences.items, sequences.offsets
    match config.similarity:
        case "item2vec":
            return similarity.item2vec(
                jax.random.key(seed),
                items,
                offsets,
                num_items=sequences.num_items,
                epochs=2 if config.tiny else 100,
            )
        case "random":
            return similarity.random(items, offsets, num_items=sequences.num_items)
        case _:
            weighted = config.similarity == "item_cf_iuf"
            return similarity.item_cf(
                items, offsets, num_items=sequences.num_items, inverse_user_frequency=weighted
            )


def augmentation_columns(data: lab.Data, recipe: Recipe, config: Config, view: View) -> dict[str, Any]:
    """What the views read beside the sequences: gap plans, users to leave alone, similar items."""
    sequences = data.split.sequences
    length = jnp.asarray(data.inputs, jnp.int32)
    times = None
    if recipe.by_gaps:
        end = jnp.asarray(data.columns["start"]) + length
        stamps = jnp.where(length > 0, length + 1, 0)
        times = packing.window(jnp.asarray(data.columns["seconds"]), end + 1, stamps, data.width + 1)
    left = np.zeros(sequences.num_users, bool)
    if recipe.unaugmented > 0:
        rank = sequences.uniform_rank
        if rank is None:  # the source ships no order: from training events alone
            rank = uniform_rank(sequences, data.split.train_length)
        left = unaugmented_users(
            rank,
            recipe.unaugmented,
            user_ids=np.asarray(sequences.user_ids),
            official_bug=config.official_bug,
        )
    return {
        "plan": jax.jit(lambda t, n: plan_rows(view, t, n, width=data.width))(times, length),
        "unaugmented": left,
        "similar": offline_similarity(config, sequences, config.seeds[0]),
    }


def contrastive_task(model: SASRec, data: lab.Data, recipe: Recipe, config: Config, view: View) -> Task:
    """NT-Xent between two views of each user."""
    views = contrastive.Views(view, view, data.width)
    if config.form == "flat":
        return contrastive.flat(model, views, temperature=recipe.temperature)
    letters = config.operators or recipe.short
    packed = lab.view_rows(
        data,
        recipe.batch_size,
        recipe.max_len,
        insert_share=letters.count("I") / len(letters),
        insert_rate=recipe.insert,
        num_devices=config.num_devices,
    )
    pool = contrastive.mean_of_events if config.form == "mean" else contrastive.last_event
    return contrastive.pooled(model, views, packed=packed, pool=pool, temperature=recipe.temperature)


def phases_of(
    row: Row, model: SASRec, data: lab.Data, recipe: Recipe, config: Config, rows: Rows
) -> list[Phase]:
    """Plain epochs, then epochs with views, then epochs whose similar items also come from the item table."""
    task = next_item(model, sampled_bce(data.num_items, data.excluded_width), packed=rows)
    if not recipe.weight:
        return [Phase("plain", task, recipe.epochs)]
    view = view_of(recipe, config)
    data.columns.update(augmentation_columns(data, recipe, config, view))
    offline: Similar = data.columns["similar"]
    both = combine(next_item=task, contrastive=contrastive_task(model, data, recipe, config, view))
    weighting = static({"next_item": 1.0, "contrastive": recipe.weight})

    def refresh(variables: Variables, context: Context) -> Context:
        live = similarity.online(item_table(model, variables), inverted=config.inverted_similarity)
        return {"similar": similarity.hybrid(offline, live, inverted=config.inverted_similarity)}

    plain = min(recipe.warm_up, recipe.epochs)
    with_views = max(min(recipe.hybrid_after + 1, recipe.epochs) - plain, 0)
    hybrid = recipe.epochs - plain - with_views
    phases = [
        Phase("plain", task, plain),
        Phase("views", both, with_views, weighting),
        Phase("hybrid", both, hybrid, weighting, refresh),
    ]
    return [phase for phase in phases if phase.epochs]


def model_name(row: Row, config: Config) -> str:
    """The row's name, with what an ablation changes."""
    parts: list[str] = [row]
    if row in ("coserec", "ticoserec"):
        parts += [config.form] if config.form != "mean" else []
        parts += [f"only-{config.operators}"] if config.operators else []
        parts += [config.similarity] if config.similarity != "item_cf_iuf" else []
        for flag in ("opposite", "no_warm_up", "official_bug", "inverted_similarity"):
            parts += [flag.replace("_", "-")] if getattr(config, flag) else []
    parts += ["reject-all"] if config.reject == "all" else []
    return "+".join(parts)


def train(row: Row, data: lab.Data, config: Config, protocol: Protocol) -> tuple[Recipe, Fitted, SASRec]:
    """Trains a row for all seeds."""
    recipe = recipe_of(config, row)
    model = SASRec(
        num_items=data.num_items,
        dim=recipe.dim,
        inner_dim=recipe.inner_dim,
        num_layers=recipe.num_layers,
        num_heads=recipe.num_heads,
        max_len=recipe.max_len,
        dropout=recipe.dropout,
        attention_dropout=recipe.attention_dropout,
        mask_value=-1e4 if config.form == "flat" and recipe.weight else -np.inf,
        bits=counter_bits,
    )
    rows = lab.training_rows(data, recipe.batch_size, recipe.max_len, config.num_devices)
    phases = phases_of(row, model, data, recipe, config, rows)
    optimiser = optax.chain(optax.add_decayed_weights(recipe.weight_decay), optax.adam(recipe.learning_rate))
    fitted = fit(
        phases,
        optimiser,
        lab.training_plan(data, recipe.batch_size, recipe.max_len, rows),
        data.columns,
        lab.selection(model, data, protocol, config.num_devices, patience=recipe.patience),
        seeds=config.seeds,
        workdir=Path(config.workdir) / dataset_name(config) / model_name(row, config),
        description={"row": row, "recipe": dataclasses.asdict(recipe), **described(config)},
        vocabulary=lab.vocabulary(data),
        num_devices=config.num_devices,
        save_every=config.save_every,
    )
    return recipe, fitted, model


def published_numbers(row: Row, config: Config) -> tuple[dict[str, float], str]:
    """A row's published numbers and where they stand: beside official settings, in our ways or the code's."""
    ways = {name: getattr(config, name) for name in OFFICIAL_WAYS}
    if config.form == "last" or described(config) != described(Config(dataset=config.dataset, **ways)):
        return {}, ""
    return PUBLISHED.get((config.dataset, row), ({}, ""))


def run(config: Config) -> None:
    """Trains, tests and stores every row."""
    sequences = load(config)
    protocol = Protocol(seen=config.seen, selection="ndcg@20")
    for row in config.rows:
        data = lab.resident(leave_one_out(sequences), reject=config.reject)
        published, source = published_numbers(row, config)
        store = functools.partial(
            save, config.results, experiment=EXPERIMENT, dataset=dataset_name(config), seeds=config.seeds
        )
        if row in ("random", "popularity"):
            scorer = lab.random(data) if row == "random" else lab.popularity(data)
            variables, floor = lab.floor_variables(config.seeds), protocol._replace(selection="none")
            found = lab.test(scorer, variables, data, floor, max_len=1, num_devices=config.num_devices)
            store(model=row, config={}, protocol=floor, metrics=found)
            continue
        recipe, fitted, model = train(row, data, config, protocol)
        trained = protocol._replace(loss="bce + contrastive" if recipe.weight else "bce")
        found = lab.test(
            model, fitted.variables, data, trained, max_len=recipe.max_len, num_devices=config.num_devices
        )
        path = store(
            model=model_name(row, config),
            config={"recipe": dataclasses.asdict(recipe), **described(config)},
            protocol=trained,
            metrics=found,
            published=published,
            source=source,
            fitted=fitted,
        )
        print(
            f"{model_name(row, config)}: best epochs {fitted.best_epoch}; test {means(found)}\nsaved {path}"
        )


def main() -> None:
    config = command_line.cli(Config, description=__doc__)
    command_line.start(config)
    run(config)


if __name__ == "__main__":
    main()
