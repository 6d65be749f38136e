"""Raw ids of a run to the numbers of its model; what the run does not know is named."""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxrec.data.vocab import as_raw_ids, is_text

SHOWN = 50  # unknown ids that a message names; how many others there are it says
SEARCHED = 50_000  # ids among which the nearest one is looked for


@dataclasses.dataclass(frozen=True, eq=False)
class Ids:
    """The raw ids of a run's items or users: id i has the raw id raw[i - 1]. kind: "item" or "user"."""

    kind: str
    raw: np.ndarray

    @functools.cached_property
    def _order(self) -> np.ndarray:
        return np.argsort(self.raw, kind="stable")

    def numbers(self, values: Sequence[Any] | np.ndarray) -> np.ndarray:
        """Ids of raw ids, int32 [N], 0 where the run does not know one.

        Raises:
          ValueError: text for a run whose ids are integers, or integers for one whose ids are text.
        """
        if not len(values):
            return np.zeros(0, np.int32)
        if isinstance(values, str):
            raise ValueError(f"{self.kind}s={values!r}: one text; give a list of raw ids")
        given = as_raw_ids(f"{self.kind}s", values)
        if is_text(given) != is_text(self.raw):
            theirs, ours = ("integers", "text") if is_text(self.raw) else ("text", "integers")
            example = str(self.raw[0]) if is_text(self.raw) else int(self.raw[0])
            raise ValueError(
                f"{self.kind}s: {given[0].item()!r} and its like are {theirs}, but the {self.kind} ids of "
                f"this run are {ours}, such as {example!r}; give them as the data had them ('007' is not 7)"
            )
        place = np.minimum(np.searchsorted(self.raw, given, sorter=self._order), len(self.raw) - 1)
        index = self._order[place]
        return np.where(self.raw[index] == given, index + 1, 0).astype(np.int32)

    def known(self, values: Sequence[Any] | np.ndarray, where: str, remedy: str = "") -> np.ndarray:
        """Ids of raw ids, int32 [N].

        where: what gives them, for messages. remedy: what else can be done about unknown ones.

        Raises:
          ValueError: the run does not know some, which are all named.
        """
        found = self.numbers(values)
        unknown = list(dict.fromkeys(np.asarray(values)[found == 0].tolist())) if len(found) else []
        if unknown:
            shown = ", ".join(map(self._with_nearest, unknown[:SHOWN]))
            others = f" and {len(unknown) - SHOWN:,} others" if len(unknown) > SHOWN else ""
            raise ValueError(
                f"{where}: the run has no {self.kind} {shown}{others}; it knows the {len(self.raw):,} "
                f"{self.kind}s of its training file{remedy}"
            )
        return found

    def from_text(self, texts: Sequence[str]) -> list[Any]:
        """Raw ids from the words of a command line or the lines of a file.

        Raises:
          ValueError: the run's ids are integers, and a word is not how one is written ('007' is not 7).
        """
        if is_text(self.raw):
            return list(texts)
        plain = [_is_integer(text) for text in texts]
        if all(plain):
            return [int(text) for text in texts]
        bad = [text for text, good in zip(texts, plain, strict=True) if not good]
        raise ValueError(
            f"{self.kind}s: {', '.join(map(repr, bad[:SHOWN]))}: the {self.kind} ids of this run are "
            f"integers such as {int(self.raw[0])}, written without zeros in front; correct them"
        )

    @functools.cached_property
    def texts(self) -> dict[str, int]:
        """Each raw id as it is typed, with its place in `raw`."""
        return {str(raw): place for place, raw in enumerate(self.raw.tolist())}

    def _with_nearest(self, value: Any) -> str:
        if len(self.raw) > SEARCHED:
            return repr(value)
        nearest = difflib.get_close_matches(str(value), self.texts, n=1)
        if not nearest:
            return repr(value)
        return f"{value!r} (nearest: {self.raw[self.texts[nearest[0]]].item()!r})"


def _is_integer(text: str) -> bool:
    """Whether a text is how an integer is written."""
    try:
        return str(int(text)) == text
    except ValueError:
        return False
