"""TDM and JTM (arXiv:1801.02294, arXiv:1902.07565): settings, training, and what their trees are searched by.

    tree = tree_building.random(data.num_items, seed=0), .from_categories(…) or .from_vectors(…)
    model, fitted = train(data, protocol, Recipe(), tree, seeds=…, workdir=…, description=…)
        data: `protocols.next_item.Data` (the events before each target are its history) or
        `protocols.retrieval.Data` (all other training items are). fitted.variables: {"params": …,
        "batch_stats": …} with a leading axis of seeds; `jax.tree.map(lambda leaf: leaf[i],
        fitted.variables)` are those of one. Selection ranks what a beam of Recipe.beam nodes finds.
    score_items(model, variables, tree) -> `index.scored.ScoreItems`
        of histories int32 [B, L], right-aligned, 0 is padding, as queries, with L = model.max_len
        (`tasks.tree.histories` makes them of columns). Make it within the compiled search:
        jax.jit(lambda variables, tree, histories: trees.search(
            tree, score_items(model, variables, tree), histories, k, width))
    by_beam(model, width=…) -> `types.Scorer` of such variables
        any protocol measures a search by it, with the column "tree" in the context:
        retrieval.run_test(
            by_beam(model, width=200), data, protocol, fitted.variables, columns={"tree": tree})
    learn_tree(model, variables, data, recipe, tree) -> `tree_learning.Learned`, JTM's next tree
    item_vectors(model, variables, tree) -> [V, D], padding first: `from_vectors` makes TDM's next tree of it
        Train again on either; JTM goes on from the same variables (initial=fitted.variables).

`jtm` gives a recipe of JTM, by levels: score_items and by_beam then take by_level=True. For sequences
by_beam takes ordered=True.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrec.index import tree_learning
from jaxrec.index.tree_learning import Learned
from jaxrec.index.tree_sampling import negatives_by_level
from jaxrec.index.trees import Tree, check_items
from jaxrec.nn.retrieval.tdm import TDM
from jaxrec.protocols import items, next_item, retrieval
from jaxrec.protocols.interests import numbered_event
from jaxrec.protocols.items import Data
from jaxrec.segments import sum_by_id
from jaxrec.tasks.tree import TREE, History, before, by_beam, log_likelihood, others, score_items, tree_nodes
from jaxrec.train import parallel
from jaxrec.train.epoch import Plan, shuffled
from jaxrec.train.fit import Fitted, Phase, Selection
from jaxrec.train.reuse import fit_reusing
from jaxrec.types import Array, Context, Key, Protocol, Task, Variables

__all__ = ["Recipe", "build", "by_beam", "item_vectors", "learn_tree", "score_items", "taught", "train"]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a scorer of nodes is trained. Widths are the paper's, and negatives those of MovieLens-20M."""

    dim: int = 24  # width of the vectors of items and nodes
    windows: tuple[int, ...] = (50,)  # events of each window, oldest first; one where there is no order
    attention: tuple[int, ...] = (36,)  # hidden layers of the attention unit; (): plain means, as in JTM
    dims: tuple[int, ...] = (128, 64, 24)  # layers
    batch_norm: bool = True  # before each activation
    by_level: bool = False  # JTM: a node is scored with the ancestors of the history on its level
    num_negatives: int = 100  # of each target on all levels together, about
    beam: int = 100  # nodes of a level that selection keeps
    learning_rate: float = 1e-3  # of Adam
    batch_size: int = 256  # targets per step
    epochs: int = 5  # epochs to train
    evaluate_every: int = 1  # epochs between evaluations on validation
    patience: int = 0  # evaluations without a better one before a seed stops; 0: never


def jtm(**changes: Any) -> Recipe:
    """JTM: histories of levels, plain means."""
    return Recipe(**{"attention": (), "by_level": True, **changes})


def build(recipe: Recipe, tree: Tree, *, num_devices: int = 1) -> TDM:
    """The scorer of the nodes of a tree, or of another of as many leaves and the same capacity."""
    return TDM(
        tree.num_ids,
        recipe.dim,
        recipe.windows,
        recipe.attention or None,
        recipe.dims,
        batch_norm=recipe.batch_norm,
        axis_name=parallel.axis_name(num_devices),
    )


def taught(model: TDM, data: Data, recipe: Recipe, tree: Tree) -> Task:
    """What the scorer is taught: all nodes above a target against others of their levels.

    Raises:
      ValueError: several windows for a matrix, whose histories have no order; fewer negatives than levels.
    """
    negatives = negatives_by_level(tree.depth, recipe.num_negatives)
    return tree_nodes(model, _history(data, recipe), negatives, by_level=recipe.by_level)


def _history(data: Data, recipe: Recipe) -> History:
    if isinstance(data, next_item.Data):
        return before(sum(recipe.windows))
    if len(recipe.windows) > 1:
        raise ValueError(
            f"windows={recipe.windows}: the items of a matrix have no order, so that windows mean nothing; "
            f"give one, such as ({sum(recipe.windows)},)"
        )
    return others(sum(recipe.windows))


def every_target(data: Data, batch_size: int) -> Plan:
    """Each training event once an epoch: of a sequence those with an event before them, of a matrix all, also
    the only one of a user, whose history is empty.

    Raises:
      ValueError: there is none.
    """
    least, number = _targets(data)
    whole = shuffled(number, min(batch_size, max(number, 1)))

    def draw(key: Key, context: Context) -> tuple[Mapping[str, Array], Array]:
        drawn, ok = whole.draw(key, context)
        return {**drawn, "example": _example(drawn["example"], context, least)}, ok

    return Plan(whole.num_steps, draw, {"history": "before" if least else "others"})


def _targets(data: Data) -> tuple[int, int]:
    """Events before a target at least, 0 for a matrix, and the number of targets."""
    if isinstance(data, retrieval.Data):
        return 0, len(data.columns["pair_user"])
    return 1, int(np.maximum(np.asarray(data.columns["length"], np.int64) - 1, 0).sum())


def _example(number: Array, context: Context, least: int) -> Array:
    return numbered_event(number, context, least) if least else number


def train(data: Data, protocol: Protocol, recipe: Recipe, tree: Tree, **options: Any) -> tuple[TDM, Fitted]:
    """Trains for all seeds at once; each keeps the parameters of its best evaluation on validation.

    protocol: `protocol.selection` is the metric, of what a beam finds (`by_beam`). options: seeds, workdir,
    description, num_devices, initial and other arguments of `train.fit.fit`. The description should name
    the tree: runs of one description must have the same.

    Raises:
      ValueError: an item of the data has no leaf; as `taught`, `every_target` and `train.fit.fit`.
    """
    check_items(tree, np.arange(1, data.num_items + 1))
    model = build(recipe, tree, num_devices=options.get("num_devices", 1))
    asked: Any = next_item.evaluation if isinstance(data, next_item.Data) else retrieval.evaluation
    ranked = by_beam(
        model,
        width=recipe.beam,
        ordered=isinstance(data, next_item.Data),
        exclude=protocol.seen == "exclude",
        by_level=recipe.by_level,
        num_items=data.num_items,
    )
    every = min(recipe.evaluate_every, recipe.epochs)
    evaluation = asked(ranked, data, protocol, "validation")
    fitted = fit_reusing(
        [Phase("train", taught(model, data, recipe, tree), recipe.epochs)],
        optax.adam(recipe.learning_rate),
        every_target(data, recipe.batch_size),
        {**data.columns, TREE: tree},
        Selection(evaluation, protocol.selection, every, recipe.patience or None),
        vocabulary=items.vocabulary(data),
        **options,
    )
    return model, fitted


def item_vectors(model: TDM, variables: Variables, tree: Tree) -> Array:
    """Vectors of the items, which are those of their leaves, padding first: [count + 1, D], of one seed."""
    table: Any = model.apply(variables, method="table")
    found: Array = table[: int(tree.count) + 1]
    return found


def learn_tree(
    model: TDM,
    variables: Variables,
    data: Data,
    recipe: Recipe,
    tree: Tree,
    *,
    gap: int = 7,
    lazy: float = 0.0,
    block: int = 1024,
) -> Learned:
    """JTM's next tree: items move to where their training samples are likeliest under one seed's variables.

    The weight of an item at a node is the sum of log p over its training samples, with the histories of the
    old tree. A leaf has the item's own vector, so that the last level is the same wherever an item is.

    gap, lazy: see `index.tree_learning.learn`; 2^gap nodes at most are scored for each sample at a time.
    block: samples at a time.
    """
    history, (least, number) = _history(data, recipe), _targets(data)
    context = {name: jnp.asarray(column) for name, column in data.columns.items()}
    numbers = np.full(-(-number // block) * block, -1, np.int32)
    numbers[:number] = np.arange(number)
    blocks, size = jnp.asarray(numbers.reshape(-1, block)), int(tree.count) + 1

    @functools.partial(jax.jit)
    def sums(variables: Variables, tree: Tree, context: Context, blocks: Array, nodes: Array) -> Array:
        def add(total: Array, number: Array) -> tuple[Array, None]:
            example = _example(jnp.maximum(number, 0), context, least)
            item, events = history(jax.random.key(0), example, context)
            item = jnp.where(number >= 0, item, 0)
            found = log_likelihood(
                model, variables, tree, item, events, nodes[item], by_level=recipe.by_level
            )
            return total + sum_by_id(found, item, size), None

        return jax.lax.scan(add, jnp.zeros((size, nodes.shape[1])), blocks)[0]

    def weigh(nodes: np.ndarray) -> np.ndarray:
        of_leaves = bool(nodes[0, 0] >= len(tree.leaves) - 1)
        asked = np.pad(nodes[:, :1] if of_leaves else nodes, ((1, 0), (0, 0)))
        found = np.asarray(sums(variables, tree, context, blocks, jnp.asarray(asked, jnp.int32)))[1:]
        return np.broadcast_to(found, nodes.shape)

    return tree_learning.learn(tree, weigh, gap=gap, lazy=lazy)


NEEDS: Mapping[str, str] = {  # what `jaxrec train` does not do
    "tdm": "a tree of the items, built and searched: see experiments/retrieval/learned_index.py",
}
