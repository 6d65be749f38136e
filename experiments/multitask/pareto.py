"""Fronts of two objectives: what a model gains in one for what it loses in the other.

Two towers share a bottom of four units. In the synthetic data (`data.synthetic.objectives`) what raises
clicks also raises stays for one group of users and lowers them for the other, so that weights can suit a
user. Each point of a front is a trained model:

    static       the weights of the losses, from `points` of click: w and 1 - w
    pe-ltr       the least weight of click, b, and of stay, 1 - b - `slack` (Lin et al., RecSys 2019)
    mgda         the shortest combination of the gradients (Sener and Koltun, NeurIPS 2018); one point
    personal     the same for each example, in closed form, of gradients by the shared units; one point
    paperec      an actor learns weights for each example, by the reward of PAPERec (Xie et al., WWW 2021),
                 objectives brought to one scale; one point
    paperec-raw  the same with gradients as they are
    single-task  a model for each objective

A row's parameters are those of the epoch of best validation AUC, the mean of the two. Rows whose weights
differ by example also have on test: `weight/click`, the mean weight of a click, `weight_spread`, its
deviation over examples, and `residual`, the root mean square of |Σ w g|, objectives brought to one scale. The
figure is beside the results. No paper reports these data.

Departs from PAPERec: no list, no critic (`tasks.personalised.by_actor`).

Run:     python -m experiments.multitask.pareto
Also:    --dataset census; --rows static personal --points 0.2 0.8 --seeds 0
Expect:  AUC of click and stay, three seeds: a model for each task .854 and .869. With shared experts and
         fixed weights the two trade: .95 on clicks .854 and .544, .5 .851 and .787, .35 .837 and .850, .05
         .813 and .868; MGDA .842 and .852, PE-LTR at .5 .844 and .842. No shared model reaches both models
         of one task. Weights of each user (personal .854 and .753, paperec .853 and .720, its raw reward
         .847 and .761) lie on the side of clicks. Boosted trees have .849 and .861.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from experiments import common, floors
from experiments.multitask.training import Model, Trained, join_tests, train
from jaxrec import config as command_line
from jaxrec import data
from jaxrec.config import check_run
from jaxrec.data.synthetic.objectives import two_objectives
from jaxrec.data.tables.impressions import ImpressionSplit
from jaxrec.nn.layers.features import FeatureEmbedding
from jaxrec.optim import gradient_balancing as balancing
from jaxrec.optim.loss_weighting import Weighting, static
from jaxrec.optim.personal_weights import balanced_gram, personal_weights, squared_residual
from jaxrec.protocols import impressions
from jaxrec.recipes import objectives as recipes
from jaxrec.recipes.multitask import SHARED
from jaxrec.report.tradeoff import tradeoff_curve
from jaxrec.tasks.multitask import Target, multitask
from jaxrec.tasks.personalised import Choose, by_actor, closed_form, conflicts, personalised
from jaxrec.types import Array, Outputs

EXPERIMENT = "pareto"


class Row(NamedTuple):
    """A front. weighting: of a point, from the names of both losses; None: of its own for each example.

    choose: these weights. swept: whether it has a model for each of the points. alone: whether each objective
    has its own model.
    """

    weighting: Callable[[list[str], float, Config], Weighting] | None = None
    choose: Choose | None = None
    actor: bool = False
    swept: bool = False
    alone: bool = False


def bounded(names: list[str], point: float, config: Config) -> Weighting:
    """PE-LTR with the lower bounds of a point; what they leave is `slack`."""
    bounds = np.array([point, 1 - point]) * (1 - config.slack)
    return balancing.pe_ltr(SHARED, dict(zip(names, bounds.tolist(), strict=True)))


ROWS: Mapping[str, Row] = {
    "static": Row(lambda names, w, config: static(dict(zip(names, (w, 1 - w), strict=True))), swept=True),
    "pe-ltr": Row(bounded, swept=True),
    "mgda": Row(lambda names, w, config: balancing.mgda(SHARED)),
    "personal": Row(choose=closed_form),
    "paperec": Row(choose=by_actor(), actor=True),
    "paperec-raw": Row(choose=by_actor(normalised=False), actor=True),
    "single-task": Row(lambda names, w, config: static(), alone=True),
}
TINY: Mapping[str, Any] = {"epochs": 2, "batch_size": 64, "points": (0.2, 0.8), "actor_dims": (8,)}


@dataclasses.dataclass(frozen=True)
class Config(common.Options, recipes.Front):
    """Trains and tests the points of each front, and draws them."""

    dataset: Literal["synthetic", "census"] = "synthetic"  # census: income and never married
    rows: tuple[str, ...] = (*floors.CLICKS, *ROWS)  # fronts
    points: tuple[float, ...] = (0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95)  # of the fronts that are swept
    slack: float = 0.2  # pe-ltr: the share of the weights that no bound gives away
    workdir: str = "runs/pareto"  # folder of checkpoints and logs; a run found there is continued

    def __post_init__(self) -> None:
        common.check_rows(self.rows, (*floors.CLICKS, *ROWS))
        common.check(self, "epochs", "patience", "batch_size", "dim", "save_every")
        if not self.points or not all(0 < point < 1 for point in self.points):
            raise ValueError(f"points={self.points}: give at least one, each between 0 and 1")
        if not 0 <= self.slack <= 1:
            raise ValueError(f"slack={self.slack}: must be in 0..1; 0 leaves nothing to choose")


def load(config: Config) -> ImpressionSplit:
    """Examples of two objectives."""
    if config.dataset == "census" and not config.tiny:
        return data.load("census/income", kind="impressions")
    return two_objectives(600 if config.tiny else 20_000).split


def read_logits(k: int) -> Callable[[Outputs], Array]:
    """The k-th logit of a model with weights."""
    return lambda outputs: outputs["logits"][:, k]


def build(
    row: str, point: float, targets: list[Target], features: FeatureEmbedding, config: Config
) -> list[Model]:
    """The models of a point of a front."""
    made, names = ROWS[row], [target.name for target in targets]
    if made.actor:
        targets = [target._replace(output=read_logits(k)) for k, target in enumerate(targets)]
    module = (recipes.with_actor if made.actor else recipes.shared_bottom)(features, config)
    if made.choose is not None:
        task = personalised(module, targets, made.choose)
        return [Model(row, task, targets, "auc", terms=("actor",) if made.actor else ())]
    assert made.weighting is not None
    if made.alone:
        return [Model(f"{row}-{t.name}", multitask(module, [t]), [t], f"auc/{t.name}") for t in targets]
    name = f"{row}-{point:g}" if made.swept else row
    weighting = made.weighting(names, point, config)
    return [Model(name, multitask(module, targets), targets, "auc", weighting=weighting)]


def add_weights(
    row: str, run: Trained, columns: impressions.Data, features: FeatureEmbedding, config: Config
) -> list[dict[str, float]]:
    """Metrics with those of the test examples' weights, of rows whose weights differ by example."""
    targets = impressions.targets(columns)
    if ROWS[row].actor:
        targets = [target._replace(output=read_logits(k)) for k, target in enumerate(targets)]
    module = (recipes.with_actor if ROWS[row].actor else recipes.shared_bottom)(features, config)
    read = conflicts(module, targets)
    batch = {name: column.reshape(-1, *column.shape[2:]) for name, column in columns.test.items()}

    def of_seed(variables: Any) -> tuple[Array, Array]:
        gram, outputs = read(variables, batch)
        gram = balanced_gram(gram, where=jax.numpy.asarray(batch["mask"]))
        weights = outputs["weights"] if ROWS[row].actor else personal_weights(gram)
        return weights[:, 0], squared_residual(weights, gram)

    first, squared = (
        np.asarray(found)[:, batch["mask"]] for found in _by_seed(of_seed, run.fitted.variables)
    )
    task = columns.tasks[0]
    return [
        {
            **metrics,
            f"weight/{task}": float(first[s].mean()),
            "weight_spread": float(first[s].std()),
            "residual": float(np.sqrt(squared[s].mean())),
        }
        for s, metrics in enumerate(run.test.metrics)
    ]


def _by_seed(function: Callable[[Any], Any], variables: Any) -> Any:
    return jax.jit(lambda stacked: jax.lax.map(function, stacked))(variables)


def run(config: Config) -> None:
    """Trains, tests and stores every point, and draws the fronts."""
    check_run(config)
    config = common.shrink_if_tiny(config, **TINY)
    split = load(config)
    columns = impressions.resident(split)
    features, targets = impressions.features(split.impressions, config.dim), impressions.targets(columns)
    floors.measure(config, EXPERIMENT, columns, features.fields, targets)
    first, second = (f"auc/{task}" for task in columns.tasks)
    fronts: dict[str, list[tuple[float, float]]] = {}
    path: Path | None = None
    for row in (row for row in config.rows if row in ROWS):
        for point in config.points if ROWS[row].swept else (0.5,):
            models = build(row, point, targets, features, config)
            runs = [
                train(m, columns, config, **common.training_options(config, columns.name, m.name, row=m.name))
                for m in models
            ]
            found = join_tests(runs, keep=lambda name: "/" in name)
            if ROWS[row].choose is not None:
                found = found._replace(metrics=add_weights(row, runs[0], columns, features, config))
            name = row if ROWS[row].alone else models[0].name
            path = common.save(
                config.results,
                experiment=EXPERIMENT,
                dataset=columns.name,
                model=name,
                config={**common.describe_settings(config, left_out=("points",)), "point": point},
                protocol=impressions.protocol(
                    columns, "each task's auc" if ROWS[row].alone else "auc", models[0].loss
                ),
                seeds=config.seeds,
                metrics=found,
                fitted=runs[0].fitted,
            )
            print(f"{name}: test {common.means(found)}\nsaved {path}", flush=True)
            mean = [float(np.mean([metrics[m] for metrics in found.metrics])) for m in (first, second)]
            fronts.setdefault(row, []).append((mean[0], mean[1]))
    if path is not None:
        draw(fronts, (first, second), columns.name, path.parent / "fronts.png")


def draw(
    fronts: Mapping[str, list[tuple[float, float]]], axes: tuple[str, str], name: str, path: Path
) -> None:
    """Plots the AUC of one objective against that of the other, if matplotlib is installed."""
    labels = {"title": f"{name}: fronts of two objectives", "cost": axes[0], "value": axes[1]}
    try:
        print(f"saved {tradeoff_curve(fronts, path, **labels, scale='linear')}")
    except ImportError as error:
        print(f"no figure of the fronts: {error}")


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
