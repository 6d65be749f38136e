"""Deep Retrieval (Gao et al., arXiv:2007.07203): settings, training, and what its paths are searched by.

    model, learned = train(data, protocol, Recipe(), seeds=…, workdir=…, description=…)
        data: `protocols.next_item.Data` (the events before each target are its history) or
        `protocols.retrieval.Data` (all other training items are). learned.variables:
        {"params": …, "paths": …} with a leading axis of seeds; `jax.tree.map(lambda leaf: leaf[i], …)` are
        those of one. Selection ranks the items that a search of `recipe.width` paths returns.
    index(model, variables, recipe) -> `index.paths.Paths` of one seed's variables
    searcher(model, variables) -> users, score_items and next_code, to be made within the compiled search:
        jax.jit(lambda variables, index, histories: search(model, variables, index, histories, k, width))

Widths of layers and rounds are ours; the paper names K, D, J, the beam, α and η.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrec.index import paths
from jaxrec.index.paths import Paths
from jaxrec.index.paths_learning import PathScores, draw_paths, no_scores
from jaxrec.index.scored import Found
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.retrieval.deep_retrieval import DeepRetrieval, GRUOfHistory, MeanOfHistory
from jaxrec.optim.loss_weighting import static
from jaxrec.protocols import items, next_item, retrieval
from jaxrec.protocols.items import Data
from jaxrec.recipes.nann import every_target
from jaxrec.sampling import popularity_table
from jaxrec.tasks import deep_retrieval as task
from jaxrec.tasks.nann import History
from jaxrec.tasks.objectives import Objective, full_softmax, sampled_softmax, with_tables
from jaxrec.train.fit import Fitted, Phase, Selection
from jaxrec.train.parallel import over_seeds
from jaxrec.train.reuse import fit_reusing
from jaxrec.types import Array, Context, Key, Protocol, Variables


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How Deep Retrieval is trained; K, D and J of a set of some ten thousand items."""

    dim: int = 64  # width of the vectors of items, codes and users
    max_len: int = 50  # most recent events read
    num_codes: int = 100  # K, nodes of a layer
    depth: int = 2  # D, layers
    paths_per_item: int = 3  # J, distinct paths of each item
    hidden_dims: tuple[int, ...] = (128,)  # widths of the hidden layers of each layer's MLP
    reader_dims: tuple[int, ...] = ()  # widths of the hidden layers that read the mean of events
    recurrent: bool = False  # a GRU reads the events, as in the paper; False: their mean, of whatever order
    shared: bool = True  # one table of items for events and for the softmax; the paper has two
    num_samples: int = 1000  # items a batch of the softmax, by popularity; 0: all items
    width: int = 50  # beam that selection searches with, and whose paths the M-step reads
    listed: int = 50  # S, paths of each item that have a score
    alpha: float = 3e-5  # α, weight of the penalty on items of a path
    decay: float = 0.999  # η, of scores, with each example of an item
    sweeps: int = 3  # of coordinate descent
    capacity: int = 100  # most items of a path
    rounds: int = 4  # training of the parameters, each but the last followed by learning of the paths
    epochs: int = 2  # of each round
    batch_size: int = 256  # targets per step
    learning_rate: float = 1e-3  # of Adam, which begins anew in each round

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if type(value) is int and value < (field.name != "num_samples"):
                raise ValueError(f"{field.name}={value}: must be at least {int(field.name != 'num_samples')}")
        if not self.alpha >= 0 or not 0 < self.decay <= 1:
            raise ValueError(f"alpha={self.alpha}, decay={self.decay}: must be 0 or more, and in (0, 1]")


class Learned(NamedTuple):
    """What alternation ends with.

    variables: of each seed, {"params": …, "paths": …}, those of the round whose search was best on
    validation. rounds: what each round's training gave. best: that round, from 0, of each seed.
    """

    variables: Variables
    rounds: tuple[Fitted, ...]
    best: tuple[int, ...]

    def joined(self) -> Fitted:
        """One run that took as long as all rounds, with the history of the last one."""
        last = self.rounds[-1]
        return last._replace(
            variables=self.variables,
            best_value=[self.rounds[number].best_value[seed] for seed, number in enumerate(self.best)],
            steps=sum(fitted.steps for fitted in self.rounds),
            seconds=sum(fitted.seconds for fitted in self.rounds),
            compile_seconds=sum(fitted.compile_seconds for fitted in self.rounds),
        )


def build(data: Data, recipe: Recipe) -> DeepRetrieval:
    """The structure model, with random paths.

    Raises:
      ValueError: the capacity has no room for all items.
    """
    reader = Factory(GRUOfHistory) if recipe.recurrent else Factory(MeanOfHistory, dims=recipe.reader_dims)
    model = DeepRetrieval(
        data.num_items,
        draw_paths,
        recipe.dim,
        recipe.max_len,
        recipe.num_codes,
        recipe.depth,
        recipe.paths_per_item,
        recipe.hidden_dims,
        reader,
        recipe.shared,
    )
    places = data.num_items * recipe.paths_per_item
    if places > model.num_paths * recipe.capacity:
        raise ValueError(
            f"capacity={recipe.capacity}: {model.num_paths:,} paths have no room for {places:,} places of "
            f"items; take at least {-(-places // model.num_paths)}"
        )
    return model


def softmax_of(data: Data, recipe: Recipe) -> Objective:
    """The softmax over items, of all or of popular ones that are drawn."""
    if not recipe.num_samples:
        return full_softmax()
    counts = np.maximum(_counts(data), 1)  # an item without a training event learns to score low
    return sampled_softmax(recipe.num_samples, popularity_table(counts, alpha=1.0))


def train(
    data: Data,
    protocol: Protocol,
    recipe: Recipe,
    *,
    seeds: tuple[int, ...],
    workdir: str | Path,
    description: Mapping[str, Any],
    **options: Any,
) -> tuple[DeepRetrieval, Learned]:
    """Alternates between training the parameters and learning the paths, for all seeds at once.

    A round is a run of its own below workdir, so that one that was killed goes on from its last round.

    protocol: `protocol.selection` is the metric of what a search returns. options: num_devices and other
    arguments of `train.fit.fit`.

    Raises:
      ValueError: as `build`, `recipes.nann.every_target` and `train.fit.fit`.
    """
    model = build(data, recipe)
    plan = every_target(data, recipe.batch_size)
    ranked = task.by_paths(model, width=recipe.width, capacity=recipe.capacity)
    asked: Any = next_item.evaluation if isinstance(data, next_item.Data) else retrieval.evaluation
    selection = Selection(
        asked(ranked, data, protocol, "validation"), protocol.selection, every=recipe.epochs, keep="last"
    )
    objective = softmax_of(data, recipe)
    learn = task.deep_retrieval(model, objective, history=_history(data))
    phase = Phase("train", learn, recipe.epochs, static())
    observed = jax.jit(over_seeds(functools.partial(_learn_paths, model, data, recipe, plan.draw), mapped=3))
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32))
    lists = jax.vmap(lambda _: no_scores(data.num_items + 1, recipe.listed))(keys)
    variables, rounds = None, []
    for number in range(recipe.rounds):
        fitted = fit_reusing(
            [phase],
            optax.adam(recipe.learning_rate),
            plan,
            with_tables(data.columns, objective),
            selection,
            seeds=seeds,
            workdir=Path(workdir, f"round-{number}"),
            description={**description, **dataclasses.asdict(recipe), "round": number},
            vocabulary=items.vocabulary(data),
            initial=variables,
            **options,
        )
        rounds.append(fitted)
        if number + 1 < recipe.rounds:
            folded = jax.vmap(lambda key, n=number: jax.random.fold_in(key, n))(keys)
            variables, lists = observed(folded, fitted.variables, lists, dict(data.columns), _targets(data))
    return model, _best_rounds(rounds)


def _learn_paths(
    model: DeepRetrieval,
    data: Data,
    recipe: Recipe,
    draw: Callable[[Key, Context], tuple[Mapping[str, Array], Array]],
    key: Key,
    variables: Variables,
    lists: PathScores,
    context: Context,
    counts: Array,
) -> tuple[Variables, PathScores]:
    """One seed's variables with the paths of its M-step, and the scores of paths."""
    examples, _ = draw(key, context)
    settings: dict[str, Any] = {"width": recipe.width, "decay": recipe.decay, "history": _history(data)}
    lists = task.observe_paths(model, variables, lists, examples, context, **settings)
    settings = {"alpha": recipe.alpha, "sweeps": recipe.sweeps, "capacity": recipe.capacity}
    return task.choose_paths(model, variables, lists, counts, **settings), lists


def _best_rounds(rounds: list[Fitted]) -> Learned:
    """For each seed the variables of the round of its best value, the first of equal ones."""
    best = np.argmax([fitted.best_value for fitted in rounds], axis=0)
    every = [fitted.variables for fitted in rounds]
    chosen = jax.tree.map(lambda *leaves: jnp.stack([leaves[r][s] for s, r in enumerate(best)]), *every)
    return Learned(chosen, tuple(rounds), tuple(map(int, best)))


def _counts(data: Data) -> np.ndarray:
    """Training events of each id, [V]."""
    return np.bincount(data.split.training_events().item, minlength=data.num_items + 1)


def _targets(data: Data) -> np.ndarray:
    """N_v, training examples of each id, [V]: the first event of a sequence has no history and is none."""
    if not isinstance(data, next_item.Data):
        return _counts(data)
    begun = np.asarray(data.columns["start"])[np.asarray(data.columns["length"]) > 0]
    first = np.asarray(data.columns["items"])[begun]
    return _counts(data) - np.bincount(first, minlength=data.num_items + 1)


def _history(data: Data) -> History:
    return "before" if isinstance(data, next_item.Data) else "others"


# --- search ------------------------------------------------------------------------------------------


def index(model: DeepRetrieval, variables: Variables, recipe: Recipe) -> Paths:
    """The index of one seed's variables. Raises ValueError where a path has more items than the capacity."""
    numbers = jnp.asarray(variables["paths"]["of_items"])
    codes = np.asarray(paths.codes_of(numbers, num_codes=model.num_codes, depth=model.depth))
    return paths.build(codes, num_codes=model.num_codes, capacity=recipe.capacity)


def search(
    model: DeepRetrieval, variables: Variables, built: Paths, histories: Array, k: int, width: int
) -> Found:
    """The k best items of histories int32 [B, L], right-aligned, 0 is padding, by the softmax embeddings, of
    those on the `width` most probable paths. Wrap it in jax.jit with model, k and width static.

    To rank by another scorer, call `index.paths.search` with it.
    """
    x = model.apply(variables, histories, train=False)
    scorer, step = task.softmax_scorer(model, variables), task.next_code_of(model, variables)
    return paths.search(built, scorer, x, k, width, next_code=step)


NEEDS: Mapping[str, str] = {  # what `jaxrec train` does not do
    "deep-retrieval": "rounds of learning the paths, and a search by them: see "
    "experiments/retrieval/learned_index.py",
}
