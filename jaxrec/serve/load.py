"""A finished run that answers questions: `load(folder)`, then `recommend`, `score` or `embed`."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxrec.serve import modules
from jaxrec.serve.embed import Embeddings, embed
from jaxrec.serve.ids import Ids
from jaxrec.serve.recommend import Question, Recommendation, given_histories, stream
from jaxrec.serve.run_folder import Kept, read
from jaxrec.serve.score import classes, score
from jaxrec.serve.seeds import Seed, choose_seed, variables_of
from jaxrec.serve.shapes import check_shapes
from jaxrec.types import Protocol, Variables


def load(folder: str | Path, *, seed: Seed | None = None) -> Run:
    """The run in a folder, with the parameters of one of its seeds.

    seed: its number; "mean": the mean of all seeds' scores; None: the best on validation by the run's
        selection metric.

    Raises:
      ValueError: the folder is no finished run, or a damaged one (`run_folder.read`); its arrays are not
        those of its module any more; it has no such seed.
    Warns (UserWarning) where the file of a module of one's own has changed since the run was trained.
    """
    kept = read(folder)
    check_shapes(kept, str(folder))
    own, code = kept.settings.get("module"), kept.settings.get("code")
    if own and modules.code_of(own.partition(":")[0]) != code:
        warnings.warn(
            f"{folder}: the file of {own} has changed since this run was trained; where "
            "its computation did, these are not the answers that were measured: restore it, or train again",
            stacklevel=2,
        )
    chosen, why = choose_seed(kept, seed)
    return Run(str(folder), kept, chosen, why, variables_of(kept, chosen))


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Run:
    """A run, ready to answer.

    seed, why: whose parameters answer, and why. variables: on the device, without an axis of seeds unless the
    seed is "mean".
    """

    path: str
    kept: Kept
    seed: Seed
    why: str
    variables: Variables

    def __str__(self) -> str:
        return f"{self.path}: {self.kept.name}, seed {self.seed} ({self.why})"

    def __repr__(self) -> str:
        return f"Run({self})"

    @property
    def module(self) -> Any:
        """The Linen module, a user's own too; of a baseline its `Retriever` or `Scorer`."""
        return self.kept.module

    @property
    def vocabulary(self) -> Mapping[str, np.ndarray]:
        """Raw ids of items and users: id i is raw[i - 1]."""
        return self.kept.vocabulary

    @property
    def protocol(self) -> Protocol:
        """How the run was measured."""
        return self.kept.protocol

    def ids(self, kind: Literal["item", "user"]) -> Ids:
        """Raw ids of items or users.

        Raises:
          ValueError: the run has none.
        """
        if kind not in self.kept.vocabulary:
            other = "score" if self.kept.kind == "table" else "histories (histories=, --history)"
            raise ValueError(f"{self.path}: a {self.kept.kind} run without {kind} ids; use {other}")
        return self._ids[kind]

    @functools.cached_property
    def _ids(self) -> dict[str, Ids]:
        return {kind: Ids(kind, raw) for kind, raw in self.kept.vocabulary.items()}

    @functools.cached_property
    def programs(self) -> dict[Any, Any]:
        """Compiled programs by their shapes."""
        return {}

    def recommend(
        self,
        users: Iterable[Any] | Literal["all"] | None = None,
        histories: Iterable[Iterable[Any]] | None = None,
        **options: Any,
    ) -> list[Recommendation]:
        """The best items of each user or history, best first, in a list; see `stream` for the arguments."""
        return list(self.stream(users, histories, **options))

    def stream(
        self,
        users: Iterable[Any] | Literal["all"] | None = None,
        histories: Iterable[Iterable[Any]] | None = None,
        *,
        k: int = 10,
        seen: Literal["exclude", "keep"] | None = None,
        candidates: Iterable[Any] | None = None,
        block: Iterable[Any] = (),
        cold: Literal["error", "popularity"] = "error",
        times: Iterable[Iterable[int]] | None = None,
        at: int | None = None,
        actions: Iterable[Iterable[int]] | None = None,
    ) -> Iterator[Recommendation]:
        """The best items of each user or history, one after the other, in the order that they are asked in.

        Ids and times may be lists, arrays or columns of a data frame.

        users: raw ids of users of the run, whose history is all their events in it; "all": all of them.
        histories: or raw ids of items, oldest first, of anybody.
        k: items at most; there are fewer where fewer candidates are left.
        seen: whether items of the history are taken out; None: as the run was measured (`protocol.seen`).
        candidates: raw ids that alone may be recommended; twice counts once. block: raw ids that may not.
        cold: what a user that the run does not know, or an empty history, gets: an error that names it, or
            the items with the most training events.
        times: seconds since 1970 of the events of `histories`, for a model that reads times.
        at: seconds since 1970 of the question, for such a model; None: the latest event of the run and of the
            histories.
        actions: of the events of `histories`, whole numbers from 1, for a model that reads them.

        Raises:
          ValueError: a wrong argument, ids that the run does not know, or scores that are not finite.
        """
        return stream(
            self,
            Question(
                users=users,
                histories=histories,
                k=k,
                seen=seen,
                candidates=candidates,
                block=block,
                cold=cold,
                times=times,
                at=at,
                actions=actions,
            ),
        )

    def score(
        self, rows: Any, *, at: int | None = None, delimiter: str | None = None
    ) -> dict[str, np.ndarray]:
        """Probabilities of each label for rows of raw columns, {label: float32 [N]}, see `score.score`."""
        return score(self, rows, at=at, delimiter=delimiter)

    def classify(self, histories: Iterable[Iterable[Any]]) -> dict[str, np.ndarray]:
        """Probabilities of each class after histories of anybody, {class: float32 [N]}, see `score.classes`.

        histories: raw ids of items, oldest first.
        """
        return classes(self, given_histories(self, histories))

    def embed(self, what: Literal["items", "users"]) -> Embeddings:
        """Vectors of all items or users with their raw ids, see `embed.embed`."""
        return embed(self, what)
