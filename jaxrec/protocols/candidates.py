"""Candidates of an interaction matrix other than all items: those of a set, given ones, sampled ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from jaxrec.data.events.held_out import Sets
from jaxrec.data.events.split import Queries
from jaxrec.protocols.next_item import TEST_DRAW, VALIDATION_DRAW, sampled_candidates
from jaxrec.types import ONLY, Protocol

if TYPE_CHECKING:
    from jaxrec.protocols.retrieval import Data, Part


def check_set(data: Data, sets: Sets, protocol: Protocol) -> None:
    """Raises ValueError unless a set that candidates are of is one of the data and has all relevant items."""
    if protocol.candidates == "all":
        return
    known = sorted(name for name in data.columns if name.startswith(ONLY))
    if protocol.candidates not in known:
        raise ValueError(
            f"protocol.candidates={protocol.candidates!r}: {data.split.sequences.name} has no such set of "
            f"items; it has {', '.join(known) or 'none'}"
        )
    relevant, _ = data.split.relevant(sets)
    outside = relevant[~data.columns[protocol.candidates][relevant]]
    if outside.size:
        raise ValueError(
            f"protocol.candidates={protocol.candidates!r}: item "
            f"{data.split.sequences.item_ids[outside[0] - 1]} is relevant ({outside.size:,} such) and not in "
            "the set; rank among all items"
        )


def given_or_sampled(
    data: Data, sets: Sets, order: np.ndarray, protocol: Protocol, part: Part, mask: np.ndarray
) -> np.ndarray:
    """The candidates of each query, given or sampled, [batches, B, n]."""
    kind, _, text = protocol.candidates.partition("-")
    if kind not in ("sampled", "given") or not text.isdecimal() or int(text) < 1:
        raise ValueError(
            f"protocol.candidates={protocol.candidates!r}: expected 'all', or 'sampled-99', 'given-99' and "
            "the like"
        )
    given = getattr(data.split.candidates, part) if kind == "given" else None
    if kind == "given" and given is not None and given.shape[1] != int(text):
        raise ValueError(
            f"protocol.candidates={protocol.candidates!r}: {data.split.sequences.name} gives "
            f"{given.shape[1]} candidates for each query of {part}"
        )
    if given is None:
        if kind == "given" and all(own is None for own in data.split.candidates):
            raise ValueError(
                f"protocol.candidates={protocol.candidates!r}: {data.split.sequences.name} gives no "
                f"candidates; sample them with 'sampled-{text}'"
            )
        relevant, offsets = data.split.relevant(sets)
        queries = Queries(sets.user, sets.length, relevant[offsets[:-1]])
        draw = VALIDATION_DRAW if part == "validation" else TEST_DRAW
        chosen = sampled_candidates(data, queries, int(text), draw, seen=protocol.seen)
    else:
        chosen = given[order]
    filled = np.ones((mask.size, int(text)), np.int32)
    filled[: len(chosen)] = chosen
    return filled.reshape(*mask.shape, -1)
