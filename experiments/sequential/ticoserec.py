"""SASRec, CoSeRec and TiCoSeRec on the same split (Dang et al., AAAI 2023, arXiv 2212.08262).

Train: events 1..n-3 of each user predict the next; validation target n-1, test target n; full ranking.
An encoder (post-norm SASRec) is trained with binary cross-entropy, one sampled negative an event. CoSeRec
adds 0.1 × NT-Xent between two randomly augmented views of each user; TiCoSeRec chooses where to augment
by the gaps between events, and begins to after a warm-up without views.

Departs from the official code, each with an option for its way: views are compared as means over their
events (--form flat), the users left alone are those of the most even gaps (--official-bug), similar items
are the most similar ones (--inverted-similarity), seen items are no candidates (--seen zero), negatives avoid
training items only (--reject all).

Beauty, Sports and Yelp-A are TiCoSeRec's files, coserec-* are CoSeRec's (no times, a day in another order).
Published numbers have a difference beside the file they were measured on, under --seen zero, their rule.

Run:     python -m experiments.sequential.ticoserec --dataset ml-100k
Also:    --dataset coserec-Beauty --seen zero (beside the figures of CoSeRec's files)
         --rows ticoserec-bce --opposite (Ti operators reversed), --operators C (one operator alone),
         --similarity item2vec, --no-warm-up, --form flat (views as the official code compares them)
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.published import NONE, Published
from experiments.saving import means, save
from experiments.sequential.ticoserec_recipes import (
    COSEREC,
    COSEREC_FILES,
    OFFICIAL_WAYS,
    TICOSEREC,
    Dataset,
    Recipe,
    published_for,
    remarks_of,
)
from experiments.settings import check_seeds, described
from jaxrec import config as command_line
from jaxrec import packing
from jaxrec.augment import operators as ops
from jaxrec.augment import similarity
from jaxrec.augment.similarity import SimilarItems
from jaxrec.augment.views import View, operators_by_initials, plan_in_blocks, unaugmented_users
from jaxrec.config import check_run
from jaxrec.data.events.interactions import Sequences, gap_variance_rank
from jaxrec.data.events.split import leave_one_out
from jaxrec.data.sources import coserec, movielens, ticoserec
from jaxrec.data.synthetic.sequences import markov_chain
from jaxrec.nn.layers.dropout import counter_bits
from jaxrec.nn.sequential.sasrec import SASRec
from jaxrec.optim.loss_weighting import static
from jaxrec.packing import Packing
from jaxrec.protocols import next_item as ranking
from jaxrec.tasks import contrastive
from jaxrec.tasks.combine import combine
from jaxrec.tasks.next_item import item_table, next_item
from jaxrec.tasks.objectives import sampled_bce
from jaxrec.train.evaluate import evaluate
from jaxrec.train.fit import Fitted, Phase
from jaxrec.train.reuse import fit_reusing
from jaxrec.types import Context, Protocol, Task, Variables

EXPERIMENT = "ticoserec"
Row = Literal["random", "popularity", "sasrec-bce", "coserec-bce", "ticoserec-bce"]
ROWS: tuple[Row, ...] = ("random", "popularity", "sasrec-bce", "coserec-bce", "ticoserec-bce")
FLOORS = ("random", "popularity")


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains and tests the rows of the table, one after the other."""

    dataset: Dataset = "ml-100k"  # what is trained on; coserec-*: CoSeRec's files, which have no times
    rows: tuple[Row, ...] = ()  # rows of the table; none given: all that the data set can have
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)  # trained together, one compilation
    preset: Literal["official", "reproduce"] = "official"  # sizes and epochs; reproduce: a short training
    tiny: bool = False  # a synthetic set and two epochs, in seconds: to see that all works
    form: Literal["mean", "last", "flat"] = "mean"  # vector of a view; flat is the official code's, and slow
    similarity: Literal["item_cf_iuf", "item_cf", "item2vec", "random"] = "item_cf_iuf"  # offline
    operators: str = ""  # only these, for short and long: S, I, M, R, C; empty: the recipe's
    opposite: bool = False  # Ti operators at the largest gaps instead of the smallest, and the reverse
    no_warm_up: bool = False  # views from the first epoch
    official_bug: bool = False  # leave un-augmented the users that the official code does by mistake
    inverted_similarity: bool = False  # the hybrid similarity as the official code has it, upside down
    epochs: int = 0  # epochs to train; 0: as the recipe says
    dim: int = 0  # width of the encoder; 0: as the recipe says
    batch_size: int = 0  # users a step; 0: as the recipe says
    seen: Literal["exclude", "zero"] = "exclude"  # seen items in the ranking; zero: the official rule
    reject: Literal["train", "all"] = "train"  # items no negative is; all: as the official code
    num_devices: int = 1  # devices that share each batch
    save_every: int = 1  # epochs between checkpoints
    accept_changed_code: bool = False  # go on with what other code trained; results name both
    results: str = "runs/results"  # folder of result files
    workdir: str = "runs/ticoserec"  # folder of checkpoints and logs; a run found there is continued

    def __post_init__(self) -> None:
        for name in ("epochs", "dim", "batch_size"):
            if (value := getattr(self, name)) < 0:
                raise ValueError(f"{name}={value}: must be positive, or 0 for the recipe's value")
        check_seeds(self.seeds)
        if set(self.operators) - set("SIMRC"):
            raise ValueError(f"operators={self.operators!r}: letters of SIMRC, such as 'SIM'")
        for name in ("save_every", "num_devices"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        if self.dim % Recipe.num_heads:
            raise ValueError(f"dim={self.dim}: must be a multiple of the {Recipe.num_heads} attention heads")
        if "ticoserec-bce" in self.rows and self.dataset in COSEREC_FILES:
            raise ValueError(
                f"rows={self.rows}: {self.dataset} has no times, by which ticoserec-bce augments; take the "
                "files of TiCoSeRec (Beauty, Sports, Yelp-A) or leave the row out"
            )


def rows_of(config: Config) -> tuple[Row, ...]:
    """The rows asked for, or all that the data set can have."""
    if config.rows:
        return config.rows
    return tuple(row for row in ROWS if row != "ticoserec-bce" or config.dataset not in COSEREC_FILES)


def recipe_of(config: Config, row: Row) -> Recipe:
    """The settings of a row on a data set, with what the command line changes.

    `sasrec-bce` has those of the code base that the data set is of, without views.
    """
    of_coserec = row == "coserec-bce" or config.dataset in COSEREC_FILES
    found = (COSEREC if of_coserec else TICOSEREC)[config.dataset]
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
        return markov_chain(num_users=96, num_items=40, noise=0.1).sequences
    if config.dataset in COSEREC_FILES:
        return coserec.load(COSEREC_FILES[config.dataset])
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
        return View(operators_by_initials(config.operators, **named), window=recipe.max_len)
    return View(
        tuple(named.values()),
        operators_by_initials(recipe.short, **named),
        threshold=recipe.threshold,
        window=recipe.max_len,
    )


def offline_similarity(config: Config, sequences: Sequences, seed: int) -> SimilarItems:
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
            return similarity.random_items(items, offsets, num_items=sequences.num_items)
        case _:
            weighted = config.similarity == "item_cf_iuf"
            return similarity.item_cf(
                items, offsets, num_items=sequences.num_items, inverse_user_frequency=weighted
            )


def augmentation_columns(data: ranking.Data, recipe: Recipe, config: Config, view: View) -> dict[str, Any]:
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
        rank = sequences.gap_variance_rank
        if rank is None:  # the source ships no order: from training events alone
            rank = gap_variance_rank(sequences, data.split.train_length)
        left = unaugmented_users(
            rank,
            recipe.unaugmented,
            user_ids=np.asarray(sequences.user_ids),
            official_bug=config.official_bug,
        )
    return {
        "plan": jax.jit(lambda t, n: plan_in_blocks(view, t, n, width=data.width))(times, length),
        "unaugmented": left,
        "similar": offline_similarity(config, sequences, config.seeds[0]),
    }


def contrastive_task(model: SASRec, data: ranking.Data, recipe: Recipe, config: Config, view: View) -> Task:
    """NT-Xent between two views of each user."""
    views = contrastive.Views(view, view, data.width)
    if config.form == "flat":
        return contrastive.flat(model, views, temperature=recipe.temperature)
    letters = config.operators or recipe.short
    packed = ranking.view_rows(
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
    row: Row, model: SASRec, data: ranking.Data, recipe: Recipe, config: Config, rows: Packing
) -> list[Phase]:
    """Plain epochs, then epochs with views, then epochs whose similar items also come from the item table."""
    task = next_item(model, sampled_bce(data.num_items, data.excluded_width), packed=rows)
    if not recipe.weight:
        return [Phase("plain", task, recipe.epochs)]
    view = view_of(recipe, config)
    data.columns.update(augmentation_columns(data, recipe, config, view))
    offline: SimilarItems = data.columns["similar"]
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
    if row in ("coserec-bce", "ticoserec-bce"):
        parts += [config.form] if config.form != "mean" else []
        parts += [f"only-{config.operators}"] if config.operators else []
        parts += [config.similarity] if config.similarity != "item_cf_iuf" else []
        for flag in ("opposite", "no_warm_up", "official_bug", "inverted_similarity"):
            parts += [flag.replace("_", "-")] if getattr(config, flag) else []
    parts += ["reject-all"] if config.reject == "all" and row not in FLOORS else []
    parts += ["seen-zero"] if config.seen == "zero" else []
    return "+".join(parts)


def train(row: Row, data: ranking.Data, config: Config, protocol: Protocol) -> tuple[Recipe, Fitted, SASRec]:
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
    rows = ranking.training_rows(data, recipe.batch_size, recipe.max_len, config.num_devices)
    phases = phases_of(row, model, data, recipe, config, rows)
    optimiser = optax.chain(optax.add_decayed_weights(recipe.weight_decay), optax.adam(recipe.learning_rate))
    fitted = fit_reusing(
        phases,
        optimiser,
        ranking.training_plan(data, recipe.batch_size, recipe.max_len, rows),
        data.columns,
        ranking.selection(model, data, protocol, patience=recipe.patience),
        seeds=config.seeds,
        workdir=Path(config.workdir) / dataset_name(config) / model_name(row, config),
        description={"row": row, "recipe": dataclasses.asdict(recipe), **described(config)},
        vocabulary=ranking.vocabulary(data),
        num_devices=config.num_devices,
        save_every=config.save_every,
        accept_changed_code=config.accept_changed_code,
    )
    return recipe, fitted, model


def published_numbers(row: Row, config: Config) -> Published:
    """What was published for a row, beside official sizes and epochs, in our ways or the code's."""
    ways = {name: getattr(config, name) for name in OFFICIAL_WAYS}
    if config.form == "last" or described(config) != described(Config(dataset=config.dataset, **ways)):
        return NONE
    return published_for(config.dataset, row, seen=config.seen) or NONE


def note_of(row: Row, config: Config) -> str:
    """What a reader of a row has to know: a training cut short, departures from the official code."""
    recipe, notes = recipe_of(config, row), []
    if config.preset == "reproduce":
        notes.append(f"short training: {recipe.epochs} epochs, width {recipe.dim}")
    elif config.epochs:
        whole = recipe_of(dataclasses.replace(config, epochs=0), row).epochs
        notes.append(f"trained for {recipe.epochs} epochs of the recipe's {whole}")
    ways = {name: getattr(config, name) for name in OFFICIAL_WAYS}
    return "; ".join(remarks_of(row, config.dataset, recipe, ways) + notes)


def run(config: Config) -> None:
    """Trains, tests and stores every row."""
    check_run(config)
    sequences = load(config)
    protocol = Protocol(seen=config.seen, selection="ndcg@20")
    for row in rows_of(config):
        data = ranking.resident(leave_one_out(sequences), reject=config.reject)
        store = functools.partial(
            save, config.results, experiment=EXPERIMENT, dataset=dataset_name(config), seeds=config.seeds
        )
        name = model_name(row, config)
        if row in FLOORS:
            scorer = ranking.random(data) if row == "random" else ranking.popularity(data)
            variables, floor = (
                ranking.floor_variables(config.seeds),
                protocol._replace(selection="none"),
            )
            asked = ranking.evaluation(scorer, data, floor, "test")
            found = evaluate(asked, variables, data.columns, num_devices=config.num_devices)
            path = store(model=name, config={}, protocol=floor, metrics=found)
            print(f"{name}: {means(found)}\nsaved {path}")
            continue
        recipe, fitted, model = train(row, data, config, protocol)
        trained = protocol._replace(loss="bce + contrastive" if recipe.weight else "bce")
        asked = ranking.evaluation(model, data, trained, "test")
        found = evaluate(asked, fitted.variables, data.columns, num_devices=config.num_devices)
        path = store(
            model=name,
            config={"recipe": dataclasses.asdict(recipe), **described(config)},
            protocol=trained,
            metrics=found,
            fitted=fitted,
            note=note_of(row, config),
            **published_numbers(row, config).fields(),
        )
        print(f"{name}: best epochs {fitted.best_epoch}; test {means(found)}\nsaved {path}")


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
