"""Views for contrastive learning: an operator chosen for each example, cut to the last `window` events.

The choice follows TiCoSeRec and CoSeRec (see operators.py): uniform, independent for each example and view,
among all operators for rows longer than a threshold and among a smaller set for the others.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.augment import operators as ops
from jaxrec.augment import random_words
from jaxrec.augment.by_width import WIDTHS, by_width
from jaxrec.augment.operators import Edit, Operator, Random
from jaxrec.augment.similarity import Similar
from jaxrec.types import Array, Key

Plan = tuple[tuple[Array, ...], ...]


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """A random choice among operators, then truncation: key, rows → augmented rows.

    `view(...)` does all at once. In training, `plan` is computed once for a data set (`plan_rows`) and kept
    on the device, and each step calls `apply` with the plan's rows of the batch: the same results, faster.

    operators: for rows of more than `threshold` events; threshold -1: for all rows.
    short: for the others. window: events kept. zero: rows left un-augmented become empty ('zero' mode of the
    reference) rather than stay as they are ('original'). widths: see `by_width`; they change only the speed.
    """

    operators: tuple[Operator, ...]
    short: tuple[Operator, ...] = ()
    threshold: int = -1
    window: int = 50
    zero: bool = False
    widths: tuple[int, ...] = WIDTHS

    def __post_init__(self) -> None:
        if self.threshold != -1 and self.threshold < 1:
            raise ValueError(f"threshold={self.threshold}: must be -1 (one set for all rows) or at least 1")
        if not self.operators or (self.threshold > 0) != bool(self.short):
            raise ValueError(
                f"threshold={self.threshold}, {len(self.operators)} operators, {len(self.short)} for short: "
                "give at least one operator, and some for short rows exactly if there is a threshold"
            )
        if self.window < 1:
            raise ValueError(f"window={self.window}: must be at least 1")

    @property
    def distinct(self) -> tuple[Operator, ...]:
        """The operators, each once: the order of a plan's parts."""
        return tuple(dict.fromkeys(self.operators + self.short))

    def __call__(
        self,
        key: Key,
        items: Array,
        times: Array | None,
        length: Array,
        similar: Similar | None = None,
        *,
        unaugmented: Array | None = None,
    ) -> tuple[Array, Array]:
        """Augments right-aligned rows.

        Args:
          key: one key, or one for each row [B]: a row's result depends on its own key only.
          items: int32 [B, W], padding 0.
          times: int32 [B, W + 1], the last column being the time of the event after the last item, or [B, W]
            if it is unknown: then the last item has no gap and is never picked; None for operators that
            read no times.
          length: int32 [B].
          similar: needed by operators that substitute or insert.
          unaugmented: bool [B], rows to leave out; None: no row.

        Returns: items int32 [B, window] right-aligned, padding 0, and their length int32 [B].
        """
        self._check(similar)
        plan = self.plan(times, length, width=items.shape[1])
        return self.apply(key, plan, items, length, similar, unaugmented=unaugmented)

    def plan(self, times: Array | None, length: Array, *, width: int) -> Plan:
        """What depends on the times alone: a tree of arrays with leading axis B, rows being `width` wide."""
        if times is None:
            times = jnp.zeros((length.shape[0], width + 1), jnp.int32)
        rows = ops.gaps_by_age(times, length, width)

        def compute(width: int, gaps: Array, length: Array, gapped: Array) -> Plan:
            rows = ops.GapRows(gaps[:, :width], length, gapped)

            def floors(rate: float) -> Array:
                return jnp.asarray(ops.floor_table(rate, gaps.shape[1]))[length]

            return tuple(op.plan(rows, floors, self.window) for op in self.distinct)

        return by_width(compute, width, length, *rows, widths=self.widths)

    def edit(
        self, seeds: Array, plan: Plan, length: Array, *, width: int, unaugmented: Array | None = None
    ) -> Edit:
        """The random part: which event every output slot reads.

        seeds: see random_words.py, uint32 [B, 2]; width: no row is longer.
        """
        choice = self._choose(random_words.words(seeds, random_words.CHOICE, 1)[:, 0], length)
        word = random_words.words(seeds, random_words.START, 1)[:, 0]
        choice, word = jax.lax.optimization_barrier(
            (choice, word)
        )  # or XLA works them out again for every slot
        spans = [
            op.span(part, length, word) if op.span else (jnp.zeros_like(length),) * 2
            for op, part in zip(self.distinct, plan, strict=True)
        ]
        order = jnp.zeros((1, self.window), jnp.int32)
        if any(op.span for op in self.distinct):
            low, count = (_select(choice, column) for column in zip(*spans, strict=True))
            order = self._order(seeds, low, count, width)
        random = Random(word, order)
        edits = [
            op.edit(part, length, random, self.window) for op, part in zip(self.distinct, plan, strict=True)
        ]
        code = _select(choice[:, None], [e.code for e in edits])
        new_length = _select(choice, [e.length for e in edits])
        if unaugmented is not None:
            code = jnp.where(unaugmented[:, None], 4 * jnp.arange(self.window), code)
            new_length = jnp.where(unaugmented, 0 if self.zero else length, new_length)
        return jax.lax.optimization_barrier(Edit(code, new_length))

    def apply(
        self,
        key: Key,
        plan: Plan,
        items: Array,
        length: Array,
        similar: Similar | None = None,
        *,
        end: Array | None = None,
        width: int | None = None,
        unaugmented: Array | None = None,
    ) -> tuple[Array, Array]:
        """Augments rows whose plan is known; arguments and result as for a call.

        items: int32 [B, W] right-aligned, or a flat column [N] of all events together with `end` [B], the
          place after each row's last event, and `width`, the largest length.
        """
        if end is None:
            width = items.shape[1]
            end = (1 + jnp.arange(items.shape[0], dtype=jnp.int32)) * width
            items = items.reshape(-1)
        if width is None:
            raise ValueError("width=None: with a flat column of items, give the largest length of a row")
        self._check(similar)
        seeds = random_words.seeds(key, length.shape[0])
        edit = self.edit(seeds, plan, length, width=width, unaugmented=unaugmented)
        return execute(seeds, edit, items, end, similar)

    def _check(self, similar: Similar | None) -> None:
        if similar is None and any(op.replaces for op in self.distinct):
            raise ValueError("similar=None: an operator of this view inserts or substitutes similar items")

    def _order(self, seeds: Array, low: Array, count: Array, width: int) -> Array:
        """`operators.shuffle` of the spans."""

        def compute(width: int, seeds: Array, low: Array, count: Array) -> Array:
            return ops.shuffle(random_words.words(seeds, random_words.ORDER, width), low, count, self.window)

        reach = jnp.where(low < self.window, low + count, 0)
        return by_width(compute, width, reach, seeds, low, count, widths=self.widths)

    def _choose(self, word: Array, length: Array) -> Array:
        """Index among the distinct operators, [B]."""
        place = {op: i for i, op in enumerate(self.distinct)}

        def draw(candidates: tuple[Operator, ...]) -> Array:
            return jnp.array([place[op] for op in candidates], jnp.int32)[word % len(candidates)]

        choice = draw(self.operators)
        return choice if not self.short else jnp.where(length > self.threshold, choice, draw(self.short))


def execute(
    seeds: Array, edit: Edit, items: Array, end: Array, similar: Similar | None
) -> tuple[Array, Array]:
    """Reads the items of an edit: items int32 [B, V] right-aligned, and their length.

    items: a flat column [N]; end: the place after each row's last event, [B]; seeds: as given to the edit.
    """
    window = edit.code.shape[1]
    code = jnp.flip(edit.code, 1)
    length = jnp.minimum(edit.length, window)
    real = jnp.arange(window) >= window - length[:, None]
    place = jnp.where(real, end[:, None] - 1 - (code >> 2), 0)
    action = jnp.where(real, code & 3, ops.MASK)
    item = items.at[place].get(mode="promise_in_bounds")
    if similar is not None:
        other = similar.item.at[item].get(mode="promise_in_bounds")
        drawn = similar.draw(random_words.words(seeds, random_words.LONER, window))
        other = jnp.where(other > 0, other, drawn)  # without a condition: that breaks up the one fused loop
        item = jnp.where(action == ops.SIMILAR, other, item)
    return jnp.where(action == ops.MASK, 0, item), length


def _select(choice: Array, options: Sequence[Array]) -> Array:
    """options[choice], elementwise."""
    out = options[0]
    for i, option in enumerate(options[1:], 1):
        out = jnp.where(choice == i, option, out)
    return out


def augment(
    operator: Operator,
    key: Key,
    items: Array,
    times: Array | None,
    length: Array,
    similar: Similar | None = None,
    *,
    window: int | None = None,
    widths: tuple[int, ...] = WIDTHS,
) -> tuple[Array, Array]:
    """One operator on every row, cut to the last `window` events (None: as many as the rows are wide)."""
    view = View((operator,), window=window or items.shape[1], widths=widths)
    return view(key, items, times, length, similar)


def plan_rows(view: View, times: Array | None, length: Array, *, width: int, block: int = 512) -> Plan:
    """The plan of all rows of a data set, in blocks that bound memory; arguments as for `View.plan`."""
    count = length.shape[0]
    blocks = -(-count // block)

    def split(x: Array) -> Array:
        padded = jnp.pad(x, [(0, blocks * block - count)] + [(0, 0)] * (x.ndim - 1))
        return padded.reshape(blocks, block, *x.shape[1:])

    if times is None:
        plan = jax.lax.map(lambda n: view.plan(None, n, width=width), split(length))
    else:
        plan = jax.lax.map(lambda x: view.plan(*x, width=width), (split(times), split(length)))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], plan)


def random_pairs(view: View, num_views: int = 2) -> tuple[tuple[View, View], ...]:
    """The pairs of views of one example: each of the C(num_views, 2) pairs draws twice, independently."""
    return ((view, view),) * (num_views * (num_views - 1) // 2)


def enumerated_pairs(
    operators: Sequence[Operator], num_views: int, *, window: int = 50
) -> tuple[tuple[View, View], ...]:
    """Every pair among the first `num_views` operators, in order: 'combinatorial_enumerate'.

    The references give them as crop, mask, reorder, insert, substitute.
    """
    if not 2 <= num_views <= len(operators):
        raise ValueError(f"num_views={num_views}: must be 2 to {len(operators)}, the number of operators")
    views = [View((op,), window=window) for op in operators[:num_views]]
    return tuple(itertools.combinations(views, 2))


def chosen(letters: str, **operators: Operator) -> tuple[Operator, ...]:
    """Operators by the initials of their names: chosen("SIM", substitute=…, insert=…, mask=…, crop=…)."""
    initials = {name[0].upper(): op for name, op in operators.items()}
    unknown = sorted(set(letters) - set(initials))
    if unknown or not letters:
        known = "".join(sorted(initials))
        raise ValueError(f"letters={letters!r}: must name operators by their initials, some of {known}")
    return tuple(initials[letter] for letter in letters)


def unaugmented_users(
    gap_variance_rank: np.ndarray,
    ratio: float,
    *,
    user_ids: np.ndarray | None = None,
    official_bug: bool = False,
) -> np.ndarray:
    """The users whose views are not augmented: the int(ratio * U) whose time gaps vary least.

    Args:
      gap_variance_rank: int [U], 0 for the user whose gaps vary least.
      ratio: share of the users, `var_rank_not_aug_ratio` of the official code.
      official_bug: the official code reads a file sorted by that rank, collects the user ids on its first
        lines, and then compares these ids with line numbers, so that mostly other users are left out.
      user_ids: int [U], the ids in that file; needed for the official rule.

    Returns: bool [U].
    """
    if not 0 <= ratio <= 1:
        raise ValueError(f"ratio={ratio}: must lie between 0 and 1, it is a share of the users")
    first = gap_variance_rank < int(ratio * len(gap_variance_rank))
    if not official_bug:
        return first
    if user_ids is None:
        raise ValueError("user_ids=None: the official rule compares the ids of the file, give them")
    return np.isin(gap_variance_rank, np.asarray(user_ids)[first].astype(np.int64))
