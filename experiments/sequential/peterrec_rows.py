"""The rows of both experiments on PeterRec: a model is pre-trained once, then each row is trained and tested.

    random              random logits
    popularity          logits are the log shares of the classes in training
    co-visitation and so on    `peterrec_floors`: a class is an event after the last one
    scratch             trains all parameters, from random initial values
    full                trains all parameters, from the pre-trained ones
    head                trains the head alone; the pre-trained model is frozen
    peterrec-serial     trains the head and two patches per block, each after a convolution
    peterrec-parallel   trains the head and two patches per block, each in parallel with a convolution

The pre-trained model, of one seed, is shared by all rows; seeds differ in the initial values and batches of a
row. In tables, the names of trained rows end in their loss, `ce`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import optax

from experiments import common
from experiments.sequential import peterrec_floors
from jaxrec.nn.sequential.peterrec import trainable
from jaxrec.protocols import next_item, profiles
from jaxrec.recipes import peterrec as recipes
from jaxrec.tasks.objectives import full_softmax
from jaxrec.train.fit import Fitted
from jaxrec.types import Protocol, Tested, Variables

EXPERIMENT = "peterrec"
ROWS: Mapping[str, recipes.Use] = {
    "scratch": recipes.SCRATCH,
    "full": recipes.FULL,
    "head": recipes.HEAD,
    "peterrec-serial": recipes.SERIAL,
    "peterrec-parallel": recipes.PARALLEL,
}
PLAIN = {"random": profiles.random_test, "popularity": profiles.popularity_test}
BASELINES = (*PLAIN, *peterrec_floors.NEIGHBOURS)
OF_ROWS = (
    "norms",
    "batch_size",
    "epochs",
    "patience",
    "learning_rate",
)  # settings that pre-training does not read


@dataclasses.dataclass(frozen=True)
class Options(common.Options, recipes.Recipe):
    """The settings of both experiments."""

    rows: tuple[str, ...] = (*BASELINES, *ROWS)  # rows of the table
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)  # trained together in one compiled program
    split_seed: int = 0  # of the random split
    save_every: int = 5  # epochs between checkpoints
    workdir: str = "runs/peterrec"  # folder of checkpoints and logs; a run found there is continued

    def __post_init__(self) -> None:
        common.check_rows(self.rows, (*BASELINES, *ROWS))
        sizes = ("pretrain_batch_size", "pretrain_epochs", "pretrain_patience", "epochs", "patience")
        common.check(self, "dim", "batch_size", *sizes, "num_devices", "save_every")
        if not self.dilations or min(self.dilations) < 1:
            raise ValueError(f"dilations={self.dilations}: give at least one, each at least 1")
        if self.max_len < 2:
            raise ValueError(f"max_len={self.max_len}: must be at least 2, for an event and the token")
        patched = any(ROWS[row].patched for row in self.rows if row in ROWS)
        if patched and self.dim % 4:
            raise ValueError(f"dim={self.dim}: must be a multiple of 4, as a patch has dim / 4 channels")
        if self.norms and not patched:
            raise ValueError(f"norms=True: none of the rows {self.rows} has patches; add peterrec-serial")


def pretrain(
    source: next_item.Data, config: Options, name: str, *, seen: str, left_out: tuple[str, ...]
) -> Variables:
    """Parameters of the NextItNet with the best validation NDCG@10 of the next item.

    seen: the rule for seen items. left_out: settings that pre-training does not read.
    """
    model = recipes.backbone(source.num_items, config)
    objective = full_softmax(num_items=source.num_items)
    kept = common.training_options(config, name, "pretrain")
    settings = common.describe_settings(config, left_out=(*OF_ROWS, *left_out))
    fitted = next_item.train(
        model,
        objective,
        source,
        Protocol(seen=seen, loss=objective.description, selection="ndcg@10"),
        optax.adam(config.pretrain_learning_rate),
        epochs=config.pretrain_epochs,
        batch_size=config.pretrain_batch_size,
        patience=config.pretrain_patience,
        **{**kept, "seeds": (config.pretrain_seed,), "description": {"row": "pretrain", **settings}},
    )
    found = max(entry["valid/ndcg@10"][0] for entry in fitted.history)
    print(f"pretrain: best epoch {fitted.best_epoch[0]}, validation ndcg@10 {found:.4f}", flush=True)
    return jax.tree.map(lambda leaf: leaf[0], fitted.variables)


def name_of(row: str, config: Options) -> str:
    """The row's name in tables, with its loss, and with `norms` if it trains them."""
    if row in BASELINES:
        return row
    return f"{row}-norms-ce" if config.norms and ROWS[row].patched else f"{row}-ce"


def train(
    row: str, data: profiles.Data, config: Options, pretrained: Variables | None
) -> tuple[Fitted, Tested]:
    """Trains a row for all seeds; returns the run and its test."""
    use = ROWS[row]
    model = recipes.with_head(use, data.num_items, len(data.classes), config)
    options = common.training_options(config, data.name, data.task, name_of(row, config), row=row)
    if use.pretrained and pretrained is not None:
        options |= {"initial": recipes.body(pretrained), "newly_initialised": trainable}
    fitted = profiles.train(
        model,
        data,
        recipes.optimiser(use, config),
        epochs=config.epochs,
        batch_size=config.batch_size,
        patience=config.patience,
        **options,
    )
    return fitted, profiles.run_test(model, data, fitted.variables, num_devices=config.num_devices)


def run_rows(data: profiles.Data, config: Options, pretrained: Variables | None) -> None:
    """Trains, tests and stores every row."""
    for row in config.rows:
        fitted, settings, dataset = None, {}, f"{data.name}-{data.task}"
        if row in PLAIN:
            found = PLAIN[row](data, config.seeds)
            protocol = profiles.protocol(data, "", "none")
        elif row in BASELINES:
            made, found = peterrec_floors.fit_and_test(row, data, config, EXPERIMENT, dataset)
            protocol, settings = made.protocol, made.settings
        else:
            fitted, found = train(row, data, config, pretrained)
            protocol = profiles.protocol(data, "ce")
            one = jax.tree.map(lambda leaf: leaf[0], fitted.variables)
            trained, every = recipes.num_trained(ROWS[row], one["params"], config)
            sizes = {"parameters": every, "trained": trained, "trained_share": trained / every}
            settings = {**common.describe_settings(config), **sizes}
        path = common.save(
            config.results,
            experiment=EXPERIMENT,
            dataset=dataset,
            model=name_of(row, config),
            config=settings,
            protocol=protocol,
            seeds=config.seeds,
            metrics=found,
            fitted=fitted,
        )
        share = f" (trains {settings['trained']:,} of {settings['parameters']:,})" if fitted else ""
        print(f"{name_of(row, config)}{share}: {common.means(found)}\nsaved {path}", flush=True)


def needs_pretraining(config: Options) -> bool:
    """Whether a row starts from the pre-trained model."""
    return any(row in ROWS and ROWS[row].pretrained for row in config.rows)
