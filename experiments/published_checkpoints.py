"""Evaluates weights that authors published with our code, and compares with their numbers.

The S3-Rec code family (CoSeRec, TiCoSeRec, ICLRec, RepPad, TADA) tests on the last event of each user, ranks
all items and sets the score of items seen before to 0. Under that rule the published numbers are reproduced
to four decimals. Rows ending in +exclude exclude seen items instead, as our own tables do.

Run:     python -m experiments.published_checkpoints
Also:    --checkpoint weights.pt --dataset Toys (any left-padded weights of the family, .npz, .pt or .pth)

TADA's GRU4Rec reads its left padding (id 0, whose vector is not zero) before the first item. Its rows do the
same; rows with +skip-padding start at the first item.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import check_seeds, save
from jaxrec import baselines
from jaxrec import config as command_line
from jaxrec.config import check_run
from jaxrec.convert import s3rec
from jaxrec.data import store
from jaxrec.data.events.interactions import Sequences
from jaxrec.data.events.split import leave_one_out
from jaxrec.data.sources import coserec, ticoserec
from jaxrec.data.store import File, github
from jaxrec.data.synthetic.sequences import markov_chain
from jaxrec.nn.sequential.gru4rec import GRU4Rec
from jaxrec.nn.sequential.sasrec import SASRec
from jaxrec.packing import Packing
from jaxrec.protocols import next_item
from jaxrec.tasks.next_item import query_batch, retriever
from jaxrec.types import Array, Baseline, Context, Protocol, Retriever, Variables

EXPERIMENT = "published_checkpoints"
SELECTION = "metrics, by the authors"
BASELINES = {"random": baselines.random, "popularity": baselines.popularity}
METRICS = ("hit@5", "ndcg@5", "hit@10", "ndcg@10", "hit@20", "ndcg@20")
Module = SASRec | GRU4Rec


class Published(NamedTuple):
    """Weights for coserec/Beauty. files: the same weights as .npz, and as their authors publish them."""

    model: str
    files: tuple[File, File]
    loss: str
    metrics: tuple[float, ...] = ()  # in the order of METRICS; () where no number was published
    source: str = ""
    note: str = ""

    @property
    def row(self) -> str:
        """The name of its row, which ends in its loss of the next item."""
        return f"{self.model}-{self.loss.split(' ')[0]}"


def _files(name: str, packed: tuple[str, int], original: tuple[str, int], *address: str) -> tuple[File, File]:
    """The file in both forms, with sha256 and size. address: repository, commit, path of the second form."""
    route = github(*address)
    return File(f"checkpoints/{name}.npz", *packed), File(f"checkpoints/{name}.pt", *original, (route,))


PUBLISHED = (
    Published(
        "reppad-sasrec",
        _files(
            "RepPad-SASRec-Beauty-1",
            ("ba986837e2908ad0857c2125f6e797769e7c88cc878b791114bad06b53d89b47", 3265871),
            ("3755218c7db0ce9f3b649ba3b5bf163bfc56c01faa98ce20120c8214dd9edef0", 3524537),
            "KingGugu/RepPad",
            "fc85b8237588afd788f74649968a12b4fe7dbe3e",
            "SASRec/src/output/SASRec-Beauty-1.pt",
        ),
        "bce",
        (0.0370, 0.0242, 0.0591, 0.0312, 0.0919, 0.0394),
        "log of the run beside the weights",
    ),
    Published(
        "iclrec",
        _files(
            "ICLRec-Beauty-1",
            ("f7a4cfc8313d0a8403fbab6ea6981def716e0a73f0da991c456c69f20ca591b4", 3079237),
            ("c0fcdcd73848ec64995373b130001fdc845beabb5aa509682dcd526280e0717e", 3315874),
            "salesforce/ICLRec",
            "2890e6c3ff6a22c6699fc19cb863b66786c1cde4",
            "src/output/ICLRec-Beauty-1.pt",
        ),
        "bce + contrastive",
        (0.0500, 0.0326, 0.0744, 0.0403, 0.1058, 0.0483),
        "README of the official code",
    ),
    Published(
        "coserec",
        _files(
            "CoSeRec-Beauty-0",
            ("93b54520d9ca546bfcc22faf7bfcd2c9594a49fce54a4e525d5ca6bc88a4620d", 3268669),
            ("87abd3d659481d3f2677500db67aa5a79f028ae256c879212b7e9390920411e1", 3519593),
            "YChen1993/CoSeRec",
            "692cb4108c458bfb60c1bcd0daa5f2a12e0b362d",
            "src/output/CoSeRec-Beauty-0.pt",
        ),
        "bce + contrastive",
        note="no log was published; the official program prints for these weights HIT@5 0.0504, "
        "NDCG@5 0.0339, HIT@10 0.0726, NDCG@10 0.0410, HIT@20 0.1035, NDCG@20 0.0488",
    ),
    Published(
        "tada-gru4rec",
        _files(
            "TADA-GRU4Rec-Beauty-original",
            ("c2e3e9ba78b5ecd163fe8dd6933950c109669339b9bf8aa729f7cd3d1843f1b1", 3179517),
            ("666304b74bd3bdd72100197620c6f62c647f71a19cb0b39d1dba9b4ac8678990", 3431071),
            "KingGugu/TADA",
            "9a3649bf268c7dbf223bf4001904a5f86c39dc82",
            "src/weight/GRU4Rec-Beauty-original.pt",
        ),
        "bce",
    ),
)

DATASETS: Mapping[str, Mapping[str, str]] = {
    "coserec": {
        "Beauty": "Beauty", "Sports": "Sports_and_Outdoors", "Toys": "Toys_and_Games", "Yelp": "Yelp"
    },
    "ticoserec": {"Beauty": "Beauty", "Sports": "Sports", "Home": "Home", "Yelp": "Yelp-A"},
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config:
    """Evaluates published weights, or those of a file."""

    checkpoint: str = ""  # .npz, .pt or .pth with a state_dict; empty: the published ones
    dataset: str = "Beauty"  # Beauty, Sports, Toys, Yelp or Home, or the source's own name for it
    source: Literal["coserec", "ticoserec"] = "coserec"  # source of the item ids of the weights
    heads: int = 2  # attention heads, which the file does not state
    max_len: int = 50  # events read by a GRU, which the file does not state
    seen: tuple[Literal["zero", "exclude"], ...] = ("zero", "exclude")  # seen items: score 0, or excluded
    tiny: bool = False  # random weights on synthetic data, in seconds, to check that everything runs
    seeds: tuple[int, ...] = (0,)  # of the random baseline, and of the weights of --tiny
    num_devices: int = 1  # devices that share the ranking
    results: str = "runs/results"  # folder of result files
    workdir: str = "runs/published_checkpoints"  # where --tiny writes its weights

    def __post_init__(self) -> None:
        for name in ("heads", "max_len", "num_devices"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        check_seeds(self.seeds)
        if not self.seen or len(set(self.seen)) != len(self.seen):
            raise ValueError(f"seen={self.seen}: give 'zero', 'exclude' or both")
        names = DATASETS[self.source]
        if self.dataset not in (*names, *names.values()):
            near = difflib.get_close_matches(self.dataset, names, n=1, cutoff=0.0)[0]
            known = ", ".join(names)
            raise ValueError(f"dataset={self.dataset!r}: {self.source} has {known}; the nearest is {near}")
        if not self.checkpoint and not self.tiny and (self.dataset, self.source) != ("Beauty", "coserec"):
            what = (
                f"dataset={self.dataset!r} of {self.source}: the published weights are for Beauty of coserec"
            )
            raise ValueError(f"{what}; name other weights with --checkpoint")
        if self.checkpoint and self.tiny:
            raise ValueError("checkpoint and tiny: --tiny makes weights of its own; give one of the two")


def load(config: Config) -> Sequences:
    """The sequences of a data set."""
    if config.tiny:
        return markov_chain(num_users=96, num_items=40, noise=0.1).sequences
    name = DATASETS[config.source].get(config.dataset, config.dataset)
    return coserec.load(name) if config.source == "coserec" else ticoserec.load(name)


def locate(files: tuple[File, File]) -> Path:
    """The path of the weights, checked; downloaded into the cache if neither file is found."""
    file = next((f for f in files if store.find_file(f) is not None), files[-1])
    store.read_file(file)
    path = store.find_file(file)
    assert path is not None  # `read` has just found it
    return path


def module_of(path: str | Path, sequences: Sequences, *, heads: int) -> tuple[Module, Variables]:
    """The module and variables of a file of weights, which must fit the items of a data set.

    Raises:
      ValueError: not weights of the family; the table has neither num_items + 1 rows (padding and items) nor
        num_items + 2 (and a mask id); the heads do not divide the width.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file; give the path of a .npz, .pt or .pth file")
    state = s3rec.read(path)
    tables = (state.get(f"{names.items}.weight") for names in (s3rec.S3REC, s3rec.RECBOLE))
    table = next((t for t in tables if t is not None), None)
    rows = sequences.num_items + 1 if table is None or table.ndim != 2 else len(table)
    mask_rows = rows - 1 - sequences.num_items
    if mask_rows not in (0, 1):
        raise ValueError(
            f"{path}: the item table has {rows:,} rows, but {sequences.name} has {sequences.num_items:,} "
            f"items, so {sequences.num_items + 1:,} rows or, with a mask id, one more were expected; "
            "give the data set the weights were trained on (--dataset, --source)"
        )
    try:
        module, variables = s3rec.from_state_dict(state, num_heads=heads, mask_rows=mask_rows)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if isinstance(module, SASRec) and module.dim % heads:
        raise ValueError(f"heads={heads}: must divide the width {module.dim} of {path}")
    return module, variables


ENCODED = Retriever(lambda v, queries, context: v["query"][queries["user"]], lambda v: v["items"])


def encode(
    model: Retriever, variables: Variables, queries: Mapping[str, np.ndarray], data: next_item.Data
) -> Variables:
    """The variables of `ENCODED`: a vector of every user and item, which all rules for seen items rank."""
    users = data.split.sequences.num_users

    @jax.jit
    def vectors(variables: Variables, queries: Mapping[str, Array], context: Context) -> Variables:
        query = jax.lax.map(lambda batch: model.query(variables, batch, context), dict(queries))
        at = jnp.where(queries["mask"], queries["user"], users)
        by_user = jnp.zeros((users, query.shape[-1])).at[at].set(query, mode="drop")
        return {"query": by_user, "items": model.items(variables)}

    return vectors(variables, jax.device_put(dict(queries)), dict(data.columns))


def padded(model: GRU4Rec, max_len: int) -> Retriever:
    """A GRU as in the family's code: it reads all slots of a left-padded row; the last state is the query."""

    apply: Any = model.apply

    def query(variables: Variables, queries: Mapping[str, Array], context: Context) -> Array:
        items = query_batch(queries, context, None, max_len)["items"]
        return apply(variables, items, train=False)[:, -1]

    return Retriever(query, lambda variables: apply(variables, method="item_table"))


def retrievers_of(module: Module, packed: Packing | None, max_len: int) -> dict[str, Retriever]:
    """{suffix of the row's name: retriever}."""
    if isinstance(module, SASRec):
        return {"": retriever(module, packed)}
    return {
        "": padded(module.clone(skip_padding=False), max_len),
        "+skip-padding": padded(module.clone(skip_padding=True), max_len),
    }


def rank(
    name: str,
    model: Retriever | Baseline,
    variables: Variables,
    data: next_item.Data,
    config: Config,
    *,
    seeds: tuple[int, ...],
    paper: Published | None = None,
    compare: bool = True,
) -> dict[str, dict[str, float]]:
    """Test metrics by name of the row, with a row for each rule for seen items; printed and stored.

    variables have a leading axis of seeds; the means over it are returned. compare: whether published numbers
    are of this form of the model.
    """
    found = {}
    for seen in config.seen:
        row = name if seen == "zero" else f"{name}+exclude"
        loss, selection = (paper.loss, SELECTION) if paper else ("", "none")
        protocol = Protocol(seen=seen, loss=loss, selection=selection)
        tested = next_item.run_test(model, data, protocol, variables, num_devices=config.num_devices)
        published: dict[str, float] = {}
        same_rule = compare and seen == "zero"
        if paper and same_rule and paper.metrics:
            published = dict(zip(METRICS, paper.metrics, strict=True))
        save(
            config.results,
            experiment=EXPERIMENT,
            dataset=data.split.sequences.name.replace("/", "-"),
            model=row,
            config=describe_settings(config, seen),
            protocol=protocol,
            seeds=seeds,
            metrics=tested,
            published=published,
            source=paper.source if paper and published else "",
            note=note_of(paper, same_rule=same_rule),
            baseline=paper is None,
        )
        found[row] = {
            metric: float(np.mean([v[metric] for v in tested.metrics])) for metric in tested.metrics[0]
        }
        print(_line(row, found[row]), flush=True)
        if published:
            print(_line("· published", published))
    return found


def note_of(paper: Published | None, *, same_rule: bool) -> str:
    """Remarks on a row. same_rule: whether it is measured as in the authors' program."""
    notes = ["weights of the authors, nothing was trained here"] if paper else []
    return "; ".join([*notes, *([paper.note] if paper and paper.note and same_rule else [])])


def describe_settings(config: Config, seen: str) -> dict[str, Any]:
    """The settings that affect what is computed."""
    settings = {"source": config.source, "seen": seen, "max_len": config.max_len, "tiny": config.tiny}
    return settings | (
        {"heads": config.heads, "file": Path(config.checkpoint).name} if config.checkpoint else {}
    )


def _line(name: str, values: Mapping[str, float]) -> str:
    return f"{name:<34}" + " ".join(f"{values[metric]:>8.4f}" for metric in METRICS)


def random_weights(config: Config, sequences: Sequences) -> list[Path]:
    """Writes files with random weights, one for each encoder."""
    modules: tuple[Module, ...] = (
        SASRec(sequences.num_items, dim=8, inner_dim=16, num_layers=1, max_len=12, extra_rows=1),
        GRU4Rec(sequences.num_items, dim=8, hidden_dim=8, extra_rows=1),
    )
    Path(config.workdir).mkdir(parents=True, exist_ok=True)
    paths = []
    for module in modules:
        key = jax.random.key(config.seeds[0])
        variables = jax.jit(lambda key, m=module: m.init(key, jnp.ones((1, 4), jnp.int32), train=False))(key)
        paths.append(Path(config.workdir) / f"{type(module).__name__.lower()}.npz")
        np.savez(paths[-1], **s3rec.to_state_dict(module, variables))  # type: ignore[arg-type]
    return paths


class Weights(NamedTuple):
    """Name of the row, module and variables of a file, and its published numbers."""

    name: str
    module: Module
    variables: Variables
    paper: Published | None


def run(config: Config) -> dict[str, dict[str, float]]:
    """Evaluates the baselines and every file of weights; returns test metrics by name of the row.

    Raises:
      ValueError: a file is absent or does not fit, see `module_of`; nothing is stored then.
    """
    check_run(config)
    sequences = load(config)
    read = weights_of(config, sequences)
    data = next_item.resident(leave_one_out(sequences))
    print(f"{sequences.name}: {sequences.num_users:,} users, {sequences.num_items:,} items")
    print(" " * 34 + " ".join(f"{metric:>8}" for metric in METRICS))
    found: dict[str, dict[str, float]] = {}
    for name, fit in BASELINES.items():
        baseline = fit(data)
        found |= rank(name, baseline, baseline.for_seeds(config.seeds), data, config, seeds=config.seeds)
    for weights, module, variables, paper in read:
        longest = module.max_len if isinstance(module, SASRec) else config.max_len
        made = next_item.batches(data.split.test, longest)
        assert made.packed is not None
        for ending, model in retrievers_of(module, made.packed, longest).items():
            vectors = encode(model, variables, made.queries, data)
            one = jax.tree.map(lambda leaf: leaf[None], vectors)
            row = weights + ending
            found |= rank(row, ENCODED, one, data, config, seeds=(0,), paper=paper, compare=not ending)
    return found


def weights_of(config: Config, sequences: Sequences) -> list[Weights]:
    """Reads and checks the weights to evaluate."""
    named: list[tuple[str, Path, Published | None]]
    if config.checkpoint or config.tiny:
        paths = random_weights(config, sequences) if config.tiny else [Path(config.checkpoint)]
        stems = [re.sub(r"[^A-Za-z0-9_+@-]+", "-", path.stem).strip("-_+@") for path in paths]
        named = [(stem or "weights", path, None) for stem, path in zip(stems, paths, strict=True)]
    else:
        named = [(paper.row, locate(paper.files), paper) for paper in PUBLISHED]
    return [Weights(n, *module_of(path, sequences, heads=config.heads), paper) for n, path, paper in named]


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
