"""Weights of TorchEasyRec's DBMTL (alibaba/TorchEasyRec, tzrec/models/dbmtl.py) to ours.

Sizes are read off the shapes; `fields` are what shapes do not tell, such as `mlp`. All tasks must
have the same widths, and layers without norm. The model reads one vector an example: the embedding group of
the source stands before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxrec.convert.state_dict import Converted, Locations, State, convert, count, dense, shape
from jaxrec.nn.multitask.dbmtl import DBMTL


def dbmtl(state: State, tasks: Sequence[str], parents: Sequence[Sequence[str]], **fields: Any) -> Converted:
    """DBMTL, with experts where the source has them.

    Args:
      state: the state_dict.
      tasks: names of the towers, in the order of the output.
      parents: for each task the names of those it reads (`relation_tower_names`), in their order.

    Raises:
      ValueError: a parent that is no task, a task without a relation layer, which the source may leave out
        and our module needs, or parameters that do not fit.
    """
    numbers = {name: i for i, name in enumerate(tasks)}
    graph = _graph(numbers, parents)
    bottom_dims, locations = read_mlp(state, "bottom_mlp", ("bottom",))
    num_experts = count(state, r"mmoe\.expert_mlps\.(\d+)\.", least=0)
    expert_dims: tuple[int, ...] = ()
    for i in range(num_experts):
        expert_dims, found = read_mlp(state, f"mmoe.expert_mlps.{i}", ("experts",), i)
        locations |= found
    tower_dims: tuple[int, ...] = ()
    relation_dims: tuple[int, ...] = ()
    for name, i in numbers.items():
        tower_dims, found = read_mlp(state, f"task_mlps.{name}", ("towers",), i)
        relation_dims, relation = read_mlp(state, f"relation_mlps.{name}", (f"relation_{i}",))
        if not relation_dims:
            raise ValueError(f"relation_mlps.{name}: missing; our DBMTL has a relation layer for each task")
        locations |= found | relation | dense(f"task_outputs.{i}", ("heads", "logit"), i)
        if num_experts:
            locations |= dense(f"mmoe.gate_finals.{i}", ("gate", "logits"), i)
    first = ["bottom_mlp"] * bool(bottom_dims) or ["mmoe.expert_mlps.0"] * bool(expert_dims)
    key = [*first, f"task_mlps.{tasks[0]}" if tower_dims else f"relation_mlps.{tasks[0]}"][0]
    num_features = shape(state, f"{key}.mlp.0.perceptron.0.weight")[1]
    sizes: dict[str, Any] = {
        "bottom_dims": bottom_dims,
        "num_experts": num_experts,
        "expert_dims": expert_dims,
        "tower_dims": tower_dims,
        "relation_dims": relation_dims,
    }
    model = DBMTL(graph, **{**sizes, **fields})
    return convert(model, state, locations, np.zeros((1, num_features), np.float32))


def read_mlp(
    state: State, key: str, path: tuple[str, ...], *member: int
) -> tuple[tuple[int, ...], Locations]:
    """Of a stack of (linear, activation), and its widths; none where there is no such stack."""
    locations: Locations = {}
    dims: list[int] = []
    while (layer := f"{key}.mlp.{len(dims)}.perceptron.0") + ".weight" in state:
        locations |= dense(layer, (*path, f"layer_{len(dims)}"), *member)
        dims.append(shape(state, f"{layer}.weight")[0])
    return tuple(dims), locations


def _graph(numbers: dict[str, int], parents: Sequence[Sequence[str]]) -> tuple[tuple[int, ...], ...]:
    """Parents by number."""
    if len(parents) != len(numbers):
        raise ValueError(f"parents={parents}: must be one sequence for each of the tasks {list(numbers)}")
    unknown = sorted({name for names in parents for name in names} - set(numbers))
    if unknown:
        raise ValueError(f"parents: {', '.join(unknown)} must be among the tasks {list(numbers)}")
    return tuple(tuple(numbers[name] for name in names) for names in parents)
