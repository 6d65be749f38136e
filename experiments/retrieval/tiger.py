"""TIGER (Rajput et al., NeurIPS 2023, arXiv:2305.05065, table 1) on Amazon Beauty, Sports and Toys: items by
semantic ids, named code by code.

The last event of each user tests, the one before validates. A beam of `width` is searched for the next item,
seen items are left out, and an item outside the beam is a miss. Metrics count items, never tuples: the last
digit tells items of the same codes apart. All training events with an earlier one are targets, so each prefix
of a user's events is a history once an epoch; the parameters are those of the best validation NDCG@10.

    tiger-kmeans-ce             codes by residual k-means of co-visit vectors (truncated SVD)
    tiger-rqvae-ce              codes by an RQ-VAE of the same vectors
    tiger-kmeans-attributes-ce  codes by residual k-means of attributes (SVD of multi-hot rows)
    tiger-rqvae-attributes-ce   codes by an RQ-VAE of these
    tiger-random-ce             random codes
    random, popularity, and the others of `experiments.floors`  are not trained

Not the paper's setting: its codes are of item texts (title, price, brand, categories by Sentence-T5), which
these files lack. Independent runs with text are beside the paper's numbers in each row's note, as none of
them reaches these on Beauty or Toys. On Toys 543 items have the same attributes, more than a digit can tell
apart, so the rows of attributes are refused there, and not among the default ones; ml-100k has none.
Use of codes and collisions are in each row's configuration, under `codes`.

Run:     python -m experiments.retrieval.tiger
Also:    --dataset Sports, --dataset Toys, --dataset ml-100k, --rows tiger-kmeans-ce --epochs 20
Expect:  counting what followed has a hit@10 of .0788 on Beauty, .0502 on Sports and .0933 on Toys. No result
         of TIGER is stored yet.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from experiments import common, floors
from experiments.common import NONE, Published, published
from jaxrec import config as command_line
from jaxrec import data
from jaxrec.baselines.item_svd import attribute_vectors, co_visit_vectors
from jaxrec.config import check_run
from jaxrec.data.events.interactions import Sequences
from jaxrec.data.events.split import leave_one_out
from jaxrec.data.sources import coserec
from jaxrec.data.synthetic.sequences import markov_chain
from jaxrec.index.semantic_ids import SemanticIds, build, random_codes, usage
from jaxrec.protocols import next_item
from jaxrec.recipes import tiger as recipes
from jaxrec.tasks import semantic_ids as task
from jaxrec.train.fit import Fitted
from jaxrec.types import Protocol

EXPERIMENT = "tiger"
FILES = {"Beauty": "Beauty", "Sports": "Sports_and_Outdoors", "Toys": "Toys_and_Games"}
WITHOUT_ATTRIBUTES = ("Toys", "ml-100k")
KS = (5, 10)


class Row(NamedTuple):
    """A trained row: what its codes are made of ("" for nothing), and how."""

    source: Literal["co-visits", "attributes", ""]
    kind: Literal["kmeans", "rqvae", "random"]


ROWS: Mapping[str, Row] = {
    "tiger-kmeans-ce": Row("co-visits", "kmeans"),
    "tiger-rqvae-ce": Row("co-visits", "rqvae"),
    "tiger-kmeans-attributes-ce": Row("attributes", "kmeans"),
    "tiger-rqvae-attributes-ce": Row("attributes", "rqvae"),
    "tiger-random-ce": Row("", "random"),
}
BASELINES = floors.RANKING

FOUR = ("hit@5", "hit@10", "ndcg@5", "ndcg@10")
PAPER = {
    "Beauty": (0.0454, 0.0648, 0.0321, 0.0384),
    "Sports": (0.0264, 0.0400, 0.0181, 0.0225),
    "Toys": (0.0521, 0.0712, 0.0371, 0.0432),
}
INDEPENDENT = {  # the same metrics of independent runs, with item texts
    "XiaoLongtaoo/TIGER": {
        "Beauty": (0.0392, 0.0594, 0.0257, 0.0321),
        "Sports": (0.0233, 0.0379, 0.0150, 0.0197),
        "Toys": (0.0396, 0.0577, 0.0270, 0.0328),
    },
    "NonameUntitled/tiger": {
        "Beauty": (0.0376, 0.0582, 0.0252, 0.0319),
        "Sports": (0.0232, 0.0368, 0.0148, 0.0192),
        "Toys": (0.0349, 0.0522, 0.0236, 0.0292),
    },
}
NO_TEXT = "not the paper's setting: no item text"
TINY: Mapping[str, Any] = {
    "num_codes": 16, "levels": 2, "k_means_rounds": 5, "code_dims": (16,), "latent_dim": 4, "code_epochs": 10,
    "code_batch_size": 32, "dim": 8, "num_heads": 2, "head_dim": 4, "inner_dim": 16, "num_layers": 1,
    "max_len": 6, "num_users": 5, "width": 15, "batch_size": 64, "epochs": 2, "evaluate_every": 1,
    "vector_dim": 6,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config(common.EventOptions, recipes.Recipe):
    """Trains and tests the rows of the table, one after the other. Sizes: the paper's."""

    dataset: Literal["Beauty", "Sports", "Toys", "ml-100k"] = "Beauty"  # data set
    seen: Literal["exclude", "keep"] = "exclude"  # whether items of the history are left out of lists
    vector_dim: int = 64  # of the vectors that codes are made of
    workdir: str = "runs/tiger"  # folder of checkpoints and logs; a run found there is continued

    def __post_init__(self) -> None:
        common.check_rows(self.rows, (*BASELINES, *ROWS))
        common.check(self, "num_devices", "save_every", "vector_dim")
        recipes.Recipe.__post_init__(self)
        recipes.check_width(Protocol(ks=KS), self)


def load(config: Config) -> Sequences:
    """The sequences of a data set or of your own file; synthetic for --tiny."""
    if config.data:
        return common.own_events(config)
    if config.tiny:
        return markov_chain(num_users=96, num_items=40, noise=0.1).sequences
    return data.load(f"coserec/{FILES[config.dataset]}" if config.dataset in FILES else "movielens/ml-100k")


def rows_of(config: Config) -> tuple[str, ...]:
    """The rows: those asked for, or all that the data allow.

    Raises:
      ValueError: a row of attributes is asked for where there are none, or too few to tell items apart.
    """
    lacking = bool(config.data) or (not config.tiny and config.dataset in WITHOUT_ATTRIBUTES)
    without = [row for row, made in ROWS.items() if lacking and made.source == "attributes"]
    if bad := [row for row in config.rows if row in without]:
        raise ValueError(
            f"rows: {bad[0]!r} reads attributes of items, which {config.data or config.dataset} lacks or has "
            "too few of to tell its items apart; leave it out"
        )
    return config.rows or tuple(row for row in (*BASELINES, *ROWS) if row not in without)


def vectors_of(source: str, columns: next_item.Data, config: Config) -> np.ndarray:
    """What codes are made of, [I, vector_dim]."""
    if source == "co-visits":
        return co_visit_vectors(columns.split.training_events(), dim=config.vector_dim)
    if not config.tiny:
        return attribute_vectors(coserec.load_attributes(FILES[config.dataset]), dim=config.vector_dim)
    item = np.arange(columns.num_items + 1)[:, None]
    made = np.where(item > 0, np.concatenate([1 + item % 5, 6 + item % 7], axis=1), 0)
    return attribute_vectors(made, dim=config.vector_dim)


def ids_of(row: str, columns: next_item.Data, config: Config) -> SemanticIds:
    """The semantic ids of a row's items."""
    made, size = ROWS[row], {"num_codes": config.num_codes, "levels": config.levels}
    if made.kind == "random":
        return build(
            random_codes(columns.num_items, seed=config.codes_seed, **size), num_codes=config.num_codes
        )
    vectors = vectors_of(made.source, columns, config)
    if made.kind == "kmeans":
        return build(recipes.residual_k_means_codes(vectors, config), num_codes=config.num_codes)
    of_codes = {"num_codes", "levels", "latent_dim", "beta", "vector_dim", "dataset", "tiny"}
    left_out = tuple(
        field.name
        for field in dataclasses.fields(config)
        if field.name not in of_codes and not field.name.startswith("code")
    )
    name = columns.split.sequences.name.split("/")[-1]
    options = common.training_options(config, name, f"codes-{row}", left_out=left_out, row=row)
    kept = ("workdir", "description", "accept_changed_code")
    codes = recipes.rq_vae_codes(vectors, config, **{key: options[key] for key in kept}, progress=False)
    return build(codes, num_codes=config.num_codes)


def published_numbers(row: str, config: Config) -> Published:
    """The paper's numbers, beside a row that is not of its setting."""
    if row in BASELINES or config.data or config.tiny or config.dataset not in PAPER:
        return NONE
    numbers = published(FOUR, "table 1 of the TIGER paper", *PAPER[config.dataset])
    return numbers._replace(incomparable=NO_TEXT)


def note_of(config: Config) -> str:
    """The numbers of independent runs."""
    if config.data or config.tiny or config.dataset not in PAPER:
        return ""
    shown = (
        f"{name}: {', '.join(f'{m} {v:.4f}' for m, v in zip(FOUR, of[config.dataset], strict=True))}"
        for name, of in INDEPENDENT.items()
    )
    return f"independent runs with item texts: {'; '.join(shown)}"


def run(config: Config) -> None:
    """Trains, tests and stores every row."""
    check_run(config)
    config = common.shrink_if_tiny(config, **TINY)
    rows, sequences = rows_of(config), load(config)
    columns = next_item.resident(leave_one_out(sequences, short="train"))
    dataset = "synthetic" if config.tiny and not config.data else sequences.name.split("/")[-1]
    for row in rows:
        protocol = Protocol(columns.split.rule, seen=config.seen, ks=KS, selection="ndcg@10")
        fitted: Fitted | None = None
        settings: dict[str, Any] = {}
        model: Any = None
        if row in BASELINES:
            untrained = floors.fit(row, columns, protocol, config, EXPERIMENT, dataset)
            model, variables, protocol, settings = untrained[:4]
            measured = columns
        else:
            ids = ids_of(row, columns, config)
            settings = {**common.describe_settings(config), "codes": usage(ids)}
            print(f"{row}: {', '.join(f'{n} {v:.4g}' for n, v in settings['codes'].items())}", flush=True)
            protocol = protocol._replace(loss="ce of codes")
            common.check_label(row, "ce")
            options = common.training_options(config, dataset, row, row=row)
            made, fitted = recipes.train(columns, ids, protocol, config, **options)
            model, measured = task.scorer(made, width=config.width), recipes.with_ids(columns, ids)
            variables = fitted.variables
        found = next_item.run_test(model, measured, protocol, variables, num_devices=config.num_devices)
        path = common.save(
            config.results,
            experiment=EXPERIMENT,
            dataset=dataset,
            model=row,
            config=settings,
            protocol=protocol,
            seeds=config.seeds,
            metrics=found,
            fitted=fitted,
            note="" if fitted is None else note_of(config),
            **published_numbers(row, config).fields(),
        )
        print(f"{row}: {common.means(found)}\nsaved {path}", flush=True)


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
