"""Weights of torch-rechub's models of several interests to ours: MIND, ComiRec and SINE.

Their ids, of users too, start at 1, with 0 for padding, as ours do. In MIND and ComiRec the embeddings of the
user and each interest go through one linear layer without a bias, and all vectors have length 1. The first
feature of users is their id; further ones may start at 0, so that our ids are theirs plus 1.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from jaxrec.convert.state_dict import Converted, Location, Locations, State, convert, shape
from jaxrec.nn.retrieval.comirec import ComiRecDR, ComiRecSA
from jaxrec.nn.retrieval.mind import MIND
from jaxrec.nn.retrieval.sine import SINE

UNUSED = ("capsule.relu.0.weight", "multi_interest_sa.W3")  # nothing reads them
TABLES = "embedding.embed_dict"
ROWS = np.zeros((1, 1), np.int32)


def mind(state: State, *, num_interests: int, **fields: Any) -> Converted:
    """MIND: as many interests for every user, the nearest one is read out.

    num_interests and `fields` are what shapes do not tell, such as max_len and `over`.
    """
    form, locations = _tables(state)
    locations["capsule.linear.weight"] = Location(("params", "shared", "kernel"), turned=True)
    form |= {"num_interests": num_interests, "adaptive": False}
    return _converted(MIND(**{**form, **fields}), state, locations)


def comirec_sa(state: State, **fields: Any) -> Converted:
    """ComiRec-SA without positions; `fields` are those that shapes do not tell, such as max_len."""
    form, locations = _tables(state)
    locations["multi_interest_sa.W1"] = Location(("params", "hidden", "kernel"))
    locations["multi_interest_sa.W2"] = Location(("params", "heads", "kernel"))
    hidden, interests = shape(state, "multi_interest_sa.W2")
    form |= {"hidden_dim": hidden, "num_interests": interests, "positions": False}
    return _converted(ComiRecSA(**{**form, **fields}), state, locations)


def comirec_dr(state: State, **fields: Any) -> Converted:
    """ComiRec-DR; `fields` are those that shapes do not tell, such as `over`."""
    form, locations = _tables(state)
    locations["capsule.w"] = Location(("params", "transform"), (None,))
    _, length, outputs, _ = shape(state, "capsule.w")
    form |= {"max_len": length, "num_interests": outputs // form["dim"]}
    return _converted(ComiRecDR(**{**form, **fields}), state, locations)


def _tables(state: State) -> tuple[dict[str, Any], Locations]:
    """Fields of a model and locations: tables of the items and of the features of users.

    Raises:
      ValueError: there is no feature of users.
    """
    users = [f"{TABLES}.{name}.weight" for name in user_features(state)]
    if not users:
        raise ValueError(f"{TABLES}: no feature of users; expected the user's id at least")
    rows, dim = shape(state, f"{TABLES}.item_id.weight")
    form = {
        "num_items": rows - 1,
        "dim": dim,
        "num_users": shape(state, users[0])[0] - 1,
        "user_dim": shape(state, users[0])[1],
        "profile": tuple(shape(state, key) for key in users[1:]),
        "normalised": True,
    }
    locations = {
        f"{TABLES}.item_id.weight": Location(("params", "item_embedding")),
        users[0]: Location(("params", "user", "user_embedding")),
        "convert_user_weight": Location(("params", "user", "output", "kernel")),
    }
    for field, key in enumerate(users[1:]):
        locations[key] = Location(("params", "user", f"profile_embedding_{field}"), padded=True)
    return form, locations


def user_features(state: State) -> list[str]:
    """Names of the features of users, in the order in which their embeddings are joined."""
    pattern = rf"{re.escape(TABLES)}\.(?!item_id\.)(.+)\.weight"
    return [found[1] for key in state if (found := re.fullmatch(pattern, key))]


def _converted(model: Any, state: State, locations: Locations) -> Converted:
    used = {key: value for key, value in state.items() if key not in UNUSED}
    users = np.ones((1, 1 + len(model.profile)) if model.profile else 1, np.int32)
    return convert(model, used, locations, ROWS, users=users, train=False)


def sine(state: State, **fields: Any) -> Converted:
    """SINE, with torch-rechub's mistake: the next intention is multiplied by Σ 1/|x_d|.

    A row without events attends to its padding, all slots alike.

    `fields` are those that shapes do not tell, such as temperature.
    """
    rows, dim = shape(state, "item_embedding.weight")
    hidden, interests = shape(state, "w_k2")
    column = (slice(None), None)  # theirs is [n, 1], ours [n]
    locations: Locations = {
        "item_embedding.weight": Location(("params", "item_embedding")),
        "concept_embedding.weight": Location(("params", "prototypes")),
        "position_embedding.weight": Location(("params", "position_embedding")),
        "w_1": Location(("params", "concept_kernel")),
        "w_2": Location(("params", "concept_weight"), column),
        "w_3": Location(("params", "assign_kernel")),
        "w_k1": Location(("params", "weighting_kernel")),
        "w_k2": Location(("params", "weighting_weight"), turned=True),
        "w_4": Location(("params", "next_kernel")),
        "w_5": Location(("params", "next_weight"), column),
    }
    form: dict[str, Any] = {
        "num_items": rows - 1,
        "dim": dim,
        "hidden_dim": hidden,
        "max_len": shape(state, "position_embedding.weight")[0],
        "num_interests": interests,
        "num_prototypes": shape(state, "concept_embedding.weight")[0],
        "norms": ("length", "length", "none", "harmonic"),
        "positions": "everywhere",
        "shared_hidden": True,
        "empty": "padding",
    }
    return convert(SINE(**{**form, **fields}), state, locations, ROWS, train=False)
