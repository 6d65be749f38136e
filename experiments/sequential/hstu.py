"""HSTU beside SASRec on one split, with one budget (Zhai et al., ICML 2024, arXiv:2402.17152, section 4.1).

Train: events 1..n-2 of each user predict the next. Full ranking with the parameters of the best validation
NDCG@10: candidates are the items that have events (3,706 on ML-1M) without all the earlier ones of the user,
however long ago. The paper's public code ranks the whole movie file (3,883) without the last 200 inputs.

All rows share width, layers, heads, length, dropout, optimiser, batch and epochs, those of that code for the
nearest of its data sets; the blocks differ: HSTU's have no feed-forward network.

    sasrec-bce           SASRec as its authors published it: dot products, one negative an event
    sasrec-original-ssm  the same encoder with HSTU's objective: cosines over a temperature of 0.05, and a
                         softmax over the target and 128 or 512 uniform negatives of each event
    sasrec-ssm           SASRec as the public code builds it for its baseline, with that objective
    hstu-ssm             HSTU with its bias by place and by time
    hstu-large-ssm       HSTU with more layers and heads, as the code's "large" settings

HSTU reads when each event happened and when the next one is asked for, in evaluation the target's own time,
as the public code does. Data without times (Video) ask for --no-times, which leaves out the bias by time.

Run:     python -m experiments.sequential.hstu
Also:    --dataset Beauty, --dataset Video --no-times --dropout 0.2, --alpha 1.6 (stochastic length),
         --dtype bfloat16, --num-layers 2,
         --shared (one set of negatives a batch: on CPU the loss is most of a step otherwise)
Published settings, for whoever has the files:
         --dataset ml-1m --select test            (downloads ml-1m.zip of GroupLens, or --file ratings.dat)
         --dataset ml-20m --select test           (ml-20m.zip, or --file ratings.csv)
         --dataset Books --select test --file ratings_Books.csv

The code has no validation split: it trains on all events but the last, and its README's numbers are read off
the curves of the test metric. --select test does that; its rows are labelled so, and are no fair comparison.
They alone carry the published numbers, without a difference, as the candidates of the ranking are others.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
import optax

from experiments import settings
from experiments.published import NONE, Published
from experiments.saving import means, save
from experiments.sequential.hstu_recipes import LARGE, OTHER_CANDIDATES, PUBLISHED, README, RECIPES, Recipe
from jaxrec import config as command_line
from jaxrec import packing
from jaxrec.augment.stochastic_length import stochastic_length
from jaxrec.config import check_run
from jaxrec.data.events.interactions import Sequences
from jaxrec.data.events.split import Split, leave_one_out
from jaxrec.data.sources import movielens, rating_files, sasrec, ticoserec
from jaxrec.data.synthetic.sequences import markov_chain
from jaxrec.nn.layers.dropout import counter_bits
from jaxrec.nn.sequential.cosine import Cosine
from jaxrec.nn.sequential.hstu import HSTU
from jaxrec.nn.sequential.sasrec_hstu import SASRecHSTU
from jaxrec.nn.sequential.sasrec_original import SASRecOriginal
from jaxrec.packing import Packing
from jaxrec.protocols import next_item as ranking
from jaxrec.tasks.next_item import Encoder, next_item
from jaxrec.tasks.objectives import Objective, sampled_bce, uniform_softmax
from jaxrec.train.evaluate import evaluate
from jaxrec.train.fit import Fitted, Phase
from jaxrec.train.reuse import fit_reusing
from jaxrec.types import Protocol, Task

EXPERIMENT = "hstu"
Row = Literal[
    "random",
    "popularity",
    "sasrec-bce",
    "sasrec-original-ssm",
    "sasrec-ssm",
    "hstu-ssm",
    "hstu-large-ssm",
]
ROWS: tuple[Row, ...] = (
    "random", "popularity", "sasrec-bce", "sasrec-original-ssm", "sasrec-ssm", "hstu-ssm",
)  # fmt: skip
FLOORS = ("random", "popularity")
SPARE_SLOTS = 11  # by which the public code pads its rows past max_len
TEMPERATURE = 0.05
KS = (5, 10, 20, 50, 200)


TINY: Mapping[str, Any] = {
    "dim": 8, "num_layers": 1, "num_heads": 2, "head_dim": 4, "max_len": 12, "num_samples": 16, "epochs": 2,
    "evaluate_every": 1, "patience": 0,
}  # fmt: skip
PUBLIC = ("ml-1m", "ml-20m", "Books")  # the data sets of the paper's public experiments


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains and tests the rows of the table, one after the other."""

    dataset: Literal["ml-100k", "Beauty", "Sports", "Video", "ml-1m", "ml-20m", "Books"] = "ml-100k"
    file: str = ""  # the rating file of ml-1m, ml-20m or Books; none: the archive, found or downloaded
    rows: tuple[Row, ...] = ROWS
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)  # trained together, one compilation
    tiny: bool = (
        False  # a synthetic set (or a sample in --file), two epochs, in seconds: to see that all works
    )
    select: Literal["validation", "test"] = (
        "validation"  # test: as the public code, on all events but the last
    )
    times: bool = True  # HSTU's bias by time; data without times need --no-times
    alpha: float = 0.0  # HSTU's stochastic length, above 1 and at most 2: the lower, the shorter; 0: off
    shared: bool = False  # one set of negatives for the whole batch in place of one for each event
    dtype: Literal["float32", "bfloat16"] = "float32"  # of products; parameters stay float32
    block: int = 0  # queries of HSTU's attention at a time, for long histories; 0: all
    num_layers: int = 0  # layers of every encoder; 0: as the recipe says
    epochs: int = 0  # epochs to train; 0: as the recipe says
    dropout: float | None = None  # None: as the recipe says
    batch_size: int = 128  # users a step
    learning_rate: float = 1e-3  # of Adam
    b2: float = 0.98  # decay of Adam's second moment
    num_devices: int = 1  # devices that share each batch
    save_every: int = 10  # epochs between checkpoints
    accept_changed_code: bool = False  # go on with what other code trained; results name both
    results: str = "runs/results"  # folder of result files
    workdir: str = "runs/hstu"  # folder of checkpoints and logs; a run found there is continued

    def __post_init__(self) -> None:
        settings.check(self, "batch_size", "num_devices", "save_every")
        for name in ("num_layers", "epochs", "block"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: must be positive, or 0 for the default")
        if self.alpha != 0 and not 1 < self.alpha <= 2:
            raise ValueError(f"alpha={self.alpha}: must be above 1 and at most 2, or 0 for whole histories")
        if self.file and self.dataset not in PUBLIC:
            raise ValueError(f"file={self.file!r}: goes with one of {', '.join(PUBLIC)}, not {self.dataset}")


def recipe_of(config: Config, row: Row) -> Recipe:
    """The settings of a row on a data set, with what the command line changes."""
    recipe = RECIPES[config.dataset]
    if row == "hstu-large-ssm":
        recipe = dataclasses.replace(recipe, **LARGE[recipe.dim])
    if config.tiny:
        recipe = dataclasses.replace(recipe, **TINY)
    if config.num_layers:
        recipe = dataclasses.replace(recipe, num_layers=config.num_layers)
    if config.epochs:
        recipe = dataclasses.replace(recipe, epochs=config.epochs)
    if config.dropout is not None:
        recipe = dataclasses.replace(recipe, dropout=config.dropout)
    return dataclasses.replace(recipe, evaluate_every=min(recipe.evaluate_every, recipe.epochs))


def load(config: Config) -> Sequences:
    """The sequences of a data set.

    Raises:
      ValueError: HSTU is to read times and the data set has none.
    """
    if config.tiny and not config.file:
        return markov_chain(num_users=96, num_items=40, noise=0.1).sequences
    match config.dataset:
        case "ml-100k":
            found = movielens.load("ml-100k")
        case "Beauty" | "Sports":
            found = ticoserec.load(config.dataset)
        case "Video":
            found = sasrec.load("Video")
        case _:
            found = rating_files.load(config.dataset, config.file, sample=config.tiny)
    if config.times and found.times is None:
        raise ValueError(f"{config.dataset}: has no times; --no-times leaves out HSTU's bias by time")
    return found


def dataset_name(config: Config) -> str:
    """The data set's name in results and folders."""
    if not config.tiny:
        return config.dataset
    return f"{config.dataset}-sample" if config.file else "synthetic"


def split_of(sequences: Sequences, select: str) -> Split:
    """Leave-one-out; select "test" is the public code's way: no validation, training on all but the last."""
    found = leave_one_out(sequences, short="train")
    if select == "validation":
        return found
    asked = sequences.lengths >= 3
    return Split(
        sequences,
        train_length=np.where(asked, sequences.lengths - 1, sequences.lengths).astype(np.int32),
        validation=found.test,
        test=found.test,
        rule=f"{found.rule}, without validation: training on all events but the last",
    )


def reads_times(row: Row, config: Config) -> bool:
    """Whether a row's encoder reads the times of events."""
    return row.startswith("hstu") and config.times


def encoder_of(row: Row, num_items: int, config: Config) -> Encoder:
    """The encoder of a row."""
    recipe = recipe_of(config, row)
    dtype = None if config.dtype == "float32" else jnp.bfloat16
    if row.startswith("hstu"):
        return HSTU(
            num_items,
            dim=recipe.dim,
            num_layers=recipe.num_layers,
            num_heads=recipe.num_heads,
            key_dim=recipe.head_dim,
            value_dim=recipe.head_dim,
            max_len=recipe.max_len,
            spare_slots=SPARE_SLOTS,
            dropout=recipe.dropout,
            linear_dropout=recipe.dropout,
            time_bias=config.times,
            block=config.block or None,
            bits=counter_bits,
            dtype=dtype,
        )
    shared: dict[str, Any] = {
        "dim": recipe.dim,
        "num_layers": recipe.num_layers,
        "num_heads": recipe.num_heads,
        "max_len": recipe.max_len,
        "dropout": recipe.dropout,
        "bits": counter_bits,
        "dtype": dtype,
    }
    if row == "sasrec-ssm":
        return Cosine(SASRecHSTU(num_items, **shared, spare_slots=SPARE_SLOTS))
    encoder = SASRecOriginal(num_items, **shared)
    return encoder if row == "sasrec-bce" else Cosine(encoder)


def objective_of(row: Row, data: ranking.Data, config: Config) -> tuple[Objective, str]:
    """How a row is trained, and its name in the protocol."""
    if row == "sasrec-bce":
        return sampled_bce(data.num_items, data.excluded_width), "bce"
    samples = recipe_of(config, row).num_samples
    per = "a batch" if config.shared else "an event"
    name = f"softmax of cosines / {TEMPERATURE}, {samples} uniform negatives {per}"
    return uniform_softmax(data.num_items, samples, temperature=TEMPERATURE, shared=config.shared), name


def shortened_rows(data: ranking.Data, config: Config, max_len: int) -> Packing:
    """Packed rows that hold a batch of inputs after stochastic length."""
    whole_up_to = max_len ** (config.alpha / 2)

    def cut(rng: np.random.Generator, lengths: np.ndarray) -> np.ndarray:
        whole = (lengths <= whole_up_to) | (
            rng.random(lengths.size) < whole_up_to**2 / np.maximum(lengths, 1) ** 2
        )
        return np.where(whole, lengths, int(whole_up_to + 1e-6))

    lengths = np.minimum(data.inputs, max_len)
    return Packing(
        packing.rows_needed(lengths, config.batch_size, max_len, multiple=config.num_devices, grow=cut),
        max_len,
    )


def task_of(row: Row, model: Encoder, data: ranking.Data, config: Config) -> tuple[Task, Packing, bool]:
    """The task, its packed rows, and whether the order of an epoch has to place users in them."""
    max_len = model.max_len
    objective, _ = objective_of(row, data, config)
    if config.alpha and row.startswith("hstu"):
        rows = shortened_rows(data, config, max_len)
        shorten = functools.partial(stochastic_length, max_len=max_len, alpha=config.alpha)
        return next_item(model, objective, packed=rows, shorten=shorten), rows, False
    rows = ranking.training_rows(data, config.batch_size, max_len, config.num_devices)
    return next_item(model, objective, packed=rows), rows, True


def model_name(row: Row, config: Config) -> str:
    """The row's name, with what an option changes."""
    if row in FLOORS:
        return row
    parts: list[str] = [row]
    if row.startswith("hstu"):
        parts += [] if config.times else ["no-times"]
        parts += [f"alpha-{config.alpha:g}"] if config.alpha else []
    parts += ["shared"] if config.shared and row != "sasrec-bce" else []
    parts += [f"layers-{config.num_layers}"] if config.num_layers else []
    parts += [] if config.dropout is None else [f"dropout-{config.dropout:g}"]
    parts += ["bf16"] if config.dtype == "bfloat16" else []
    parts += ["test-selected"] if config.select == "test" else []
    return "+".join(parts)


def published_numbers(row: Row, config: Config) -> Published:
    """What was published for a row, beside the settings that it belongs to.

    These select on test, as the code did. The candidates of the ranking differ, so no difference is printed.
    """
    whole = Config(dataset=config.dataset, file=config.file, select="test", block=config.block)
    if settings.described(config) != settings.described(whole) or (config.dataset, row) not in PUBLISHED:
        return NONE
    return Published(PUBLISHED[config.dataset, row], README, OTHER_CANDIDATES[config.dataset])


def train(row: Row, data: ranking.Data, config: Config, protocol: Protocol) -> tuple[Encoder, Fitted]:
    """Trains a row for all seeds."""
    recipe, model = recipe_of(config, row), encoder_of(row, data.num_items, config)
    task, rows, placed = task_of(row, model, data, config)
    fitted = fit_reusing(
        [Phase("train", task, recipe.epochs)],
        optax.adam(config.learning_rate, b2=config.b2),
        ranking.training_plan(data, config.batch_size, recipe.max_len, rows if placed else None),
        data.columns,
        ranking.selection(
            model,
            data,
            protocol,
            every=recipe.evaluate_every,
            patience=recipe.patience or None,
        ),
        seeds=config.seeds,
        workdir=Path(config.workdir) / dataset_name(config) / model_name(row, config),
        description={
            "row": row, "recipe": dataclasses.asdict(recipe), **settings.described(config, beside=("file",))
        },
        vocabulary=ranking.vocabulary(data),
        num_devices=config.num_devices,
        save_every=config.save_every,
        accept_changed_code=config.accept_changed_code,
    )  # fmt: skip
    return model, fitted


def run(config: Config) -> None:
    """Trains, tests and stores every row."""
    check_run(config)
    data = ranking.resident(split_of(load(config), config.select))
    chosen = "ndcg@10" if config.select == "validation" else "ndcg@10 on test"
    store = functools.partial(
        save, config.results, experiment=EXPERIMENT, dataset=dataset_name(config), seeds=config.seeds
    )
    for row in config.rows:
        protocol = Protocol(split=data.split.rule, ks=KS, selection="none")
        if row in FLOORS:
            scorer = ranking.random(data) if row == "random" else ranking.popularity(data)
            variables = ranking.floor_variables(config.seeds)
            asked = ranking.evaluation(scorer, data, protocol, "test")
            found = evaluate(asked, variables, data.columns, num_devices=config.num_devices)
            path = store(model=row, config={}, protocol=protocol, metrics=found)
        else:
            protocol = protocol._replace(loss=objective_of(row, data, config)[1], selection="ndcg@10")
            model, fitted = train(row, data, config, protocol)
            asked = ranking.evaluation(model, data, protocol, "test")
            found = evaluate(asked, fitted.variables, data.columns, num_devices=config.num_devices)
            path = store(
                model=model_name(row, config),
                config={
                    "recipe": dataclasses.asdict(recipe_of(config, row)),
                    **settings.described(config, beside=("file",)),
                },
                protocol=protocol._replace(selection=chosen),
                metrics=found,
                fitted=fitted,
                note=note_of(row, config),
                **published_numbers(row, config).fields(),
            )
        print(f"{model_name(row, config)}: {means(found)}\nsaved {path}", flush=True)


def note_of(row: Row, config: Config) -> str:
    """What a reader of a row has to know beside its protocol."""
    notes = ["reads the time of the target"] if reads_times(row, config) else []
    notes += ["parameters of the best epoch on test"] if config.select == "test" else []
    return "; ".join(notes)


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
