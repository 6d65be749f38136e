"""HSTU over movies and ratings in turn (Zhai et al., ICML 2024, arXiv:2402.17152, section 2.2).

Retrieval and ranking from one model, on MovieLens-100K. An event is a movie and, after it, the rating that it
got: the action. All users are cut at the same two moments, the first 80 % of events for training, 10 % each
for validation and test, so nothing of the future is known. Every event of a part that has one before it is
asked:

    ranking    is the rating 4 or 5 ("liked"), the movie and all earlier events known: AUC, log loss, and
               normalised entropy (log loss over that of a constant; the paper's metric for ranking)
    retrieval  which movie comes next, of events whose rating is 4 or 5: full ranking without the earlier ones

Earlier events of the same part are read with their ratings, as a server would know them. Most users of the
later parts are new; the model knows none by number.

    generative            both losses on one pass over each user's events, of equal weight
    generative-ranking    the loss of ranking alone
    generative-retrieval  the loss of retrieval alone
    random, popularity    floors of retrieval
    rates                 floor of ranking: log-odds of the movie's and of the user's share of liked, so far

In tables the names of trained rows end in their losses: `generative-bce-ssm` and so on.

A row that is trained to retrieve keeps the parameters of the best validation NDCG@10, `generative-ranking`
those of the best AUC. No number was published for these data: the paper's ranking is measured on industrial
logs.

Run:     python -m experiments.sequential.hstu_generative
Also:    --rows generative --seeds 0, --no-times
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

from experiments.saving import means, save
from experiments.settings import check, described
from jaxrec import config as command_line
from jaxrec import metrics, packing
from jaxrec.config import check_run
from jaxrec.data.events.batching import event_windows
from jaxrec.data.events.interactions import Interactions
from jaxrec.data.events.split import Queries, split_by_time
from jaxrec.data.sources import movielens
from jaxrec.data.synthetic.sequences import markov_chain
from jaxrec.nn.layers.dropout import counter_bits
from jaxrec.nn.sequential.hstu_generative import GenerativeHSTU
from jaxrec.optim.loss_weighting import static
from jaxrec.packing import Packing
from jaxrec.protocols import next_item as ranking
from jaxrec.tasks import generative
from jaxrec.tasks.objectives import uniform_softmax
from jaxrec.train.epoch import Plan, shuffled
from jaxrec.train.evaluate import (
    evaluate,
    impression_metrics,
    make_rank,
    make_scores,
    ranking_metrics,
)
from jaxrec.train.fit import Fitted, Phase, Selection
from jaxrec.train.reuse import fit_reusing
from jaxrec.types import Array, Context, Evaluation, Protocol

EXPERIMENT = "hstu_generative"
Part = Literal["validation", "test"]
Row = Literal["random", "popularity", "rates", "generative", "generative-ranking", "generative-retrieval"]
ROWS: tuple[Row, ...] = (
    "random",
    "popularity",
    "rates",
    "generative",
    "generative-ranking",
    "generative-retrieval",
)
LOSSES: Mapping[str, dict[str, float]] = {  # weights
    "generative": {"ranking": 1.0, "retrieval": 1.0},
    "generative-ranking": {"ranking": 1.0, "retrieval": 0.0},
    "generative-retrieval": {"ranking": 0.0, "retrieval": 1.0},
}
SHORT = {"ranking": "bce", "retrieval": "ssm"}  # of the losses, in names: ssm is the sampled softmax
RATINGS = 5
LIKED = (4, 5)
SHARES = (0.8, 0.9)  # of the events, before validation and before test
KS = (5, 10, 20, 50)
TEMPERATURE = 0.05
SMOOTHING = 5.0  # events of the average share that the floor adds to those of a movie or user
TINY: Mapping[str, Any] = {
    "dim": 8,
    "key_dim": 8,
    "num_layers": 1,
    "max_len": 12,
    "num_samples": 8,
    "epochs": 2,
    "every": 1,
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains and tests the rows of the table, one after the other. Sizes: the public code's for ML-1M."""

    rows: tuple[Row, ...] = ROWS  # rows of the table
    seeds: tuple[int, ...] = (0, 1, 2)  # trained together, one compilation
    tiny: bool = False  # made-up events and two epochs, in seconds: to see that all works
    times: bool = True  # HSTU's bias by time
    dim: int = 50  # width of tokens
    key_dim: int = 50  # of queries and keys, and of values and gates, of the one head
    num_layers: int = 2  # units
    max_len: int = 200  # events of a user that are read at a time
    dropout: float = 0.2  # of tokens, and of each unit's output
    num_samples: int = 128  # negatives of each event in retrieval
    epochs: int = 100  # at most; the best one counts
    every: int = 2  # epochs between evaluations
    patience: int = 5  # evaluations without a better one before a seed stops; 0: never
    batch_size: int = 32  # users a step
    learning_rate: float = 1e-3  # of Adam
    b2: float = 0.98  # decay of Adam's second moment
    num_devices: int = 1  # devices that share each batch
    save_every: int = 10  # epochs between checkpoints
    accept_changed_code: bool = False  # go on with what other code trained; results name both
    results: str = "runs/results"  # folder of result files
    workdir: str = "runs/hstu_generative"  # folder of checkpoints and logs; a run found there is continued

    def __post_init__(self) -> None:
        check(self, "dim", "key_dim", "num_layers", "num_samples", "epochs", "every", "batch_size",
              "num_devices", "save_every")  # fmt: skip
        if self.max_len < 2 or self.patience < 0:
            raise ValueError(
                f"max_len={self.max_len}, patience={self.patience}: must be at least 2, and at least 0"
            )


def effective(config: Config) -> Config:
    """The settings with those of --tiny in place of defaults, and at least one evaluation."""
    if config.tiny:
        defaults = {field.name: field.default for field in dataclasses.fields(Config)}
        kept = {name: value for name, value in TINY.items() if getattr(config, name) == defaults[name]}
        config = dataclasses.replace(config, **kept)
    return dataclasses.replace(config, every=min(config.every, config.epochs))


class Data(NamedTuple):
    """retrieval: the split whose queries are liked; ranking: queries of all events, by part.

    actions: rating of each event, 1..5, int32 [N], in the order of the sequences; columns: of the device;
    rule: how parts were cut.
    """

    retrieval: ranking.Data
    ranking: Mapping[Part, Queries]
    actions: np.ndarray
    columns: dict[str, Any]
    rule: str

    @property
    def num_items(self) -> int:
        return self.retrieval.num_items


def made_up() -> Interactions:
    """Users who start one after the other along a cycle of 40 movies, and like every other one of them.

    Which ones is known of a user from earlier ratings alone.
    """
    chain = markov_chain(80, 40, min_length=6, max_length=20, noise=0.2).sequences
    number = np.arange(chain.items.size) - chain.offsets[:-1][chain.event_users]
    value = np.where((chain.items + chain.event_users) % 2 == 1, 5, 2).astype(np.float32)
    return Interactions.from_raw(
        "tiny",
        chain.event_users,
        chain.items,
        1 + 12 * chain.event_users + 60 * number,
        value,
        order="sorted",
    )


def is_liked(queries: Queries, actions: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Whether each target was liked, bool [M]; actions [N], events of a user from offsets [U + 1]."""
    return np.isin(actions[offsets[queries.user] + queries.length], LIKED)


def load(config: Config) -> Data:
    """Events with ratings, cut at two moments."""
    events = made_up() if config.tiny else movielens.load_interactions("ml-100k")
    assert events.time is not None and events.value is not None
    if not np.isin(events.value, range(1, RATINGS + 1)).all():
        raise ValueError(
            f"{events.name}: ratings must be whole, from 1 to {RATINGS}; others are no action here"
        )
    actions = events.value.astype(np.int32)[events.event_order()]
    first, second = (int(np.quantile(events.time, share)) for share in SHARES)
    split = split_by_time(events.to_sequences(), first, second, targets="all")

    def liked(queries: Queries) -> Queries:
        kept = is_liked(queries, actions, split.sequences.offsets)
        return Queries(*(column[kept] for column in queries))

    wanted = dataclasses.replace(
        split,
        validation=liked(split.validation),
        test=liked(split.test),
        rule=f"{split.rule}, of rating {' or '.join(map(str, LIKED))}",
    )
    resident = ranking.resident(wanted)
    of_all: dict[Part, Queries] = {"validation": split.validation, "test": split.test}
    return Data(resident, of_all, actions, resident.columns | {"actions": actions}, split.rule)


def model_of(data: Data, config: Config) -> GenerativeHSTU:
    """HSTU over two tokens an event."""
    return GenerativeHSTU(
        data.num_items,
        RATINGS,
        dim=config.dim,
        num_layers=config.num_layers,
        key_dim=config.key_dim,
        value_dim=config.key_dim,
        max_len=config.max_len,
        dropout=config.dropout,
        linear_dropout=config.dropout,
        time_bias=config.times,
        bits=counter_bits,
    )


def plan_of(data: Data, config: Config) -> tuple[Plan, Packing]:
    """Every user once an epoch, and the rows that a batch of their events is packed into."""
    lengths = np.minimum(data.columns["length"], config.max_len)
    rows = packing.rows_needed(
        lengths, config.batch_size, config.max_len, multiple=config.num_devices, deviations=3.0
    )

    def read(context: Context, user: Array) -> Array:
        return jnp.minimum(context["length"][user], config.max_len)

    plan = shuffled(len(lengths), config.batch_size, lengths=read, rows=rows, width=config.max_len)
    return plan, Packing(rows, config.max_len)


def ask_retrieval(model: GenerativeHSTU, data: Data, part: Part, of: Protocol, config: Config) -> Evaluation:
    """The next movie of each liked query among all."""
    split = data.retrieval.split
    queries = split.validation if part == "validation" else split.test
    mixed = np.random.default_rng(0).permutation(len(queries.user))  # so that batches fill as many rows
    queries = Queries(*(column[mixed] for column in queries))
    ranked = ranking.ranking(queries, model.max_len - 1, batch_size=min(256, len(mixed)))
    scorer = generative.retriever(model, ranked.rows)
    measure = make_rank(scorer, of, num_items=data.num_items, history=data.retrieval.history)
    return Evaluation(measure, ranked.queries, ranking_metrics(of.ks), of)


def ask_ranking(model: GenerativeHSTU, data: Data, part: Part, of: Protocol, config: Config) -> Evaluation:
    """Whether each event was liked, many in one pass, half of a window at least being known before each."""
    fresh = config.max_len // 2
    windows = event_windows(data.ranking[part], config.max_len, stride=fresh, batch_size=32)
    measure = make_scores(generative.action_score(model, LIKED), functools.partial(generative.windows, model))
    summarise = functools.partial(liked_metrics, labels=labels_of(data, part))
    return Evaluation(measure, windows, summarise, of)


def labels_of(data: Data, part: Part) -> np.ndarray:
    """1 where the target of a query of `part` was liked, float32 [M]."""
    offsets = data.retrieval.split.sequences.offsets
    return is_liked(data.ranking[part], data.actions, offsets).astype(np.float32)


def liked_metrics(
    scores: np.ndarray, windows: Mapping[str, np.ndarray], *, labels: np.ndarray
) -> dict[str, float]:
    """AUC, log loss and normalised entropy of log-odds [batches, B, L] where a window asks for an event."""
    query = windows["query"]
    return metrics_of(np.asarray(scores)[query >= 0], labels[query[query >= 0]])


def metrics_of(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Metrics of log-odds [M] against labels [M]."""
    columns = {"mask": np.ones(len(labels), bool), "label/liked": labels}
    found = impression_metrics(("liked",))(scores[:, None], columns)
    named = {name.removesuffix("/liked"): value for name, value in found.items()}
    return named | {
        "normalized_entropy": float(metrics.normalized_entropy(jnp.asarray(scores), jnp.asarray(labels)))
    }


def rates(data: Data, part: Part) -> np.ndarray:
    """Log-odds of a movie's share of liked, plus the user's before the event, less the average: [M]."""
    queries, start = data.ranking[part], data.retrieval.split.sequences.offsets
    items, lengths = data.retrieval.split.sequences.items, np.diff(start)
    liked = np.isin(data.actions, LIKED).astype(float)
    number = np.arange(len(items)) - np.repeat(start[:-1], lengths)
    trained = number < np.repeat(data.columns["length"], lengths)
    average = liked[trained].mean()
    count = np.bincount(items[trained], minlength=data.num_items + 1)
    likes = np.bincount(items[trained], liked[trained], minlength=data.num_items + 1)
    so_far = np.concatenate([[0.0], np.cumsum(liked)])
    of_user = so_far[start[queries.user] + queries.length] - so_far[start[queries.user]]

    def log_odds(likes: np.ndarray, count: np.ndarray) -> np.ndarray:
        share = (likes + SMOOTHING * average) / (count + SMOOTHING)
        return np.log(share / (1 - share))

    target = queries.target
    scores = log_odds(likes[target], count[target]) + log_odds(of_user, queries.length)
    return (scores - np.log(average / (1 - average))).astype(np.float32)


def train(row: Row, data: Data, of: Mapping[str, Protocol], config: Config) -> tuple[GenerativeHSTU, Fitted]:
    """Trains a row for all seeds."""
    model = model_of(data, config)
    plan, rows = plan_of(data, config)
    objective = uniform_softmax(data.num_items, config.num_samples, temperature=TEMPERATURE)
    task = generative.generative(model, objective, positive=LIKED, packed=rows)
    retrieves = LOSSES[row]["retrieval"] > 0
    asked = (
        ask_retrieval(model, data, "validation", of["retrieval"], config)
        if retrieves
        else ask_ranking(model, data, "validation", of["ranking"], config)
    )
    fitted = fit_reusing(
        [Phase("train", task, config.epochs, weighting=static(LOSSES[row]))],
        optax.adam(config.learning_rate, b2=config.b2),
        plan,
        data.columns,
        Selection(
            asked,
            "ndcg@10" if retrieves else "auc",
            every=config.every,
            patience=config.patience or None,
        ),
        seeds=config.seeds,
        workdir=Path(config.workdir) / dataset_name(config) / row,
        description={"row": row, **described(config)},
        vocabulary=ranking.vocabulary(data.retrieval),
        num_devices=config.num_devices,
        save_every=config.save_every,
        accept_changed_code=config.accept_changed_code,
    )
    return model, fitted


def dataset_name(config: Config) -> str:
    return "tiny" if config.tiny else "ml-100k"


def model_name(row: Row) -> str:
    """The row's name in tables: with the losses that train it, bce to rank and ssm to retrieve."""
    trained = [short for loss, short in SHORT.items() if LOSSES.get(row, {}).get(loss)]
    return "-".join([row, *trained])


def protocols(data: Data, loss: str, selection: str) -> dict[str, Protocol]:
    """How each of the two questions is measured."""
    return {
        "retrieval": Protocol(data.retrieval.split.rule, ks=KS, loss=loss, selection=selection),
        "ranking": Protocol(data.rule, "impressions", "keep", "half", (), loss, selection),
    }


def run(config: Config) -> None:
    """Trains, tests and stores every row."""
    check_run(config)
    config = effective(config)
    data = load(config)
    for row in config.rows:
        fitted: Fitted | None = None
        found: dict[str, list[dict[str, float]]] = {}
        weights = LOSSES.get(row, {})
        losses = [name for name in ("ranking", "retrieval") if weights.get(name)]
        selection = "none" if not losses else "ndcg@10" if "retrieval" in losses else "auc"
        of = protocols(data, " + ".join(losses), selection)
        if row == "rates":
            found["ranking"] = [metrics_of(rates(data, "test"), labels_of(data, "test"))] * len(config.seeds)
        elif not losses:
            scorer = ranking.random(data.retrieval) if row == "random" else ranking.popularity(data.retrieval)
            variables = ranking.floor_variables(config.seeds)
            asked = ranking.evaluation(scorer, data.retrieval, of["retrieval"], "test")
            columns = data.retrieval.columns
            found["retrieval"] = evaluate(asked, variables, columns, num_devices=config.num_devices)
        else:
            model, fitted = train(row, data, of, config)
            if "retrieval" in losses:
                asked = ask_retrieval(model, data, "test", of["retrieval"], config)
                found["retrieval"] = evaluate(
                    asked, fitted.variables, data.columns, num_devices=config.num_devices
                )
            if "ranking" in losses:
                asked = ask_ranking(model, data, "test", of["ranking"], config)
                found["ranking"] = evaluate(
                    asked, fitted.variables, data.columns, num_devices=config.num_devices
                )
        for question, values in found.items():
            path = save(
                config.results,
                experiment=EXPERIMENT,
                dataset=f"{dataset_name(config)}-{question}",
                model=model_name(row),
                config=described(config) if fitted else {},
                protocol=of[question],
                seeds=config.seeds,
                metrics=values,
                fitted=fitted,
            )
            print(f"{model_name(row)}, {question}: {means(values)}\nsaved {path}", flush=True)


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
