"""Views for contrastive learning: a random operator for each example, and truncation to the last events.

The choice is that of TiCoSeRec and CoSeRec (see operators.py): uniform and independent for each example and
view, among all operators for sequences longer than a threshold and among a smaller set for the others.
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
from jaxrec.augment.operators import Draws, Edit, Operator
from jaxrec.augment.similarity import SimilarItems
from jaxrec.types import Array, Key

Plan = tuple[tuple[Array, ...], ...]


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """A random choice among operators, then truncation: key, sequences → augmented sequences.

    `view(...)` does all at once. In training, `plan` is computed once for a data set (`plan_in_blocks`) and
    kept on the device, and each step calls `apply` with its part of the plan: the same results, faster.

    operators: for sequences of more than `threshold` events; threshold -1: for all.
    short: for the others. window: most recent events kept. zero: whether unaugmented sequences become empty
    (mode 'zero' of the reference) or stay unchanged ('original'). widths: see `by_width`; they only change
    the speed.
    """

    operators: tuple[Operator, ...]
    short: tuple[Operator, ...] = ()
    threshold: int = -1
    window: int = 50
    zero: bool = False
    widths: tuple[int, ...] = WIDTHS

    def __post_init__(self) -> None:
        if self.threshold != -1 and self.threshold < 1:
            raise ValueError(
                f"threshold={self.threshold}: must be -1 (one set for all sequences) or at least 1"
            )
        if not self.operators or (self.threshold > 0) != bool(self.short):
            raise ValueError(
                f"threshold={self.threshold}, {len(self.operators)} operators, {len(self.short)} for short: "
                "give at least one operator, and some for short sequences exactly if there is a threshold"
            )
        if self.window < 1:
            raise ValueError(f"window={self.window}: must be at least 1")

    @property
    def distinct(self) -> tuple[Operator, ...]:
        """The operators, each once, in the order of a plan's parts."""
        return tuple(dict.fromkeys(self.operators + self.short))

    def __call__(
        self,
        key: Key,
        items: Array,
        times: Array | None,
        length: Array,
        similar: SimilarItems | None = None,
        *,
        unaugmented: Array | None = None,
    ) -> tuple[Array, Array]:
        """Augments right-aligned sequences.

        Args:
          key: one key, or one per sequence [B]: then a result depends on its own key only.
          items: int32 [B, W], padding 0.
          times: int32 [B, W + 1], where the last column is the time of the event after the last item, or
            [B, W] if it is unknown: then the last item has no gap and is never picked; None for operators
            that use no times.
          length: int32 [B].
          similar: needed by operators that substitute or insert.
          unaugmented: bool [B], sequences that are not augmented; None: all are.

        Returns: items int32 [B, window] right-aligned, padding 0, and their length int32 [B].
        """
        self._check(similar)
        plan = self.plan(times, length, width=items.shape[1])
        return self.apply(
            key, plan=plan, items=items, length=length, similar=similar, unaugmented=unaugmented
        )

    def plan(self, times: Array | None, length: Array, *, width: int) -> Plan:
        """What depends on the times alone, for sequences of width `width`: a tree of arrays [B, …]."""
        if times is None:
            times = jnp.zeros((length.shape[0], width + 1), jnp.int32)
        gaps_of_all = ops.gaps_by_age(times, length, width)

        def compute(width: int, gaps: Array, length: Array, gapped: Array) -> Plan:
            narrow = ops.Gaps(gaps[:, :width], length, gapped)

            def counts(rate: float) -> Array:
                return jnp.asarray(ops.event_counts(rate, gaps.shape[1]))[length]

            return tuple(op.plan(narrow, counts, self.window) for op in self.distinct)

        return by_width(compute, width, length, *gaps_of_all, widths=self.widths)

    def edit(
        self, seeds: Array, plan: Plan, length: Array, *, width: int, unaugmented: Array | None = None
    ) -> Edit:
        """The random part: which event every output slot reads.

        seeds: see random_words.py, uint32 [B, 2]; width: largest length.
        """
        choice = self._choose(random_words.words(seeds, random_words.CHOICE_OFFSET, 1)[:, 0], length)
        word = random_words.words(seeds, random_words.START_OFFSET, 1)[:, 0]
        choice, word = jax.lax.optimization_barrier((choice, word))  # else XLA recomputes them for every slot
        spans = [
            op.span(part, length, word) if op.span else (jnp.zeros_like(length),) * 2
            for op, part in zip(self.distinct, plan, strict=True)
        ]
        order = jnp.zeros((1, self.window), jnp.int32)
        if any(op.span for op in self.distinct):
            low, count = (_select(choice, column) for column in zip(*spans, strict=True))
            order = self._order(seeds, low=low, count=count, width=width)
        draws = Draws(word, order)
        edits = [
            op.edit(part, length, draws, self.window) for op, part in zip(self.distinct, plan, strict=True)
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
        similar: SimilarItems | None = None,
        *,
        end: Array | None = None,
        width: int | None = None,
        unaugmented: Array | None = None,
    ) -> tuple[Array, Array]:
        """Augments sequences whose plan is known; arguments and result as for a call.

        items: int32 [B, W] right-aligned, or a flat column [N] of all events with `end` [B], the index after
          each sequence's last event, and `width`, the largest length.
        """
        if end is None:
            width = items.shape[1]
            end = (1 + jnp.arange(items.shape[0], dtype=jnp.int32)) * width
            items = items.reshape(-1)
        if width is None:
            raise ValueError("width=None: with a flat column of items, give the largest length")
        self._check(similar)
        seeds = random_words.row_seeds(key, length.shape[0])
        edit = self.edit(seeds, plan, length, width=width, unaugmented=unaugmented)
        return apply_edit(seeds, edit=edit, items=items, end=end, similar=similar)

    def _check(self, similar: SimilarItems | None) -> None:
        if similar is None and any(op.replaces for op in self.distinct):
            raise ValueError("similar=None: an operator of this view inserts or substitutes similar items")

    def _order(self, seeds: Array, low: Array, count: Array, width: int) -> Array:
        """`operators.shuffle` of the spans."""

        def compute(width: int, seeds: Array, low: Array, count: Array) -> Array:
            return ops.shuffle(
                random_words.words(seeds, random_words.ORDER_OFFSET, width),
                low=low,
                count=count,
                window=self.window,
            )

        needed = jnp.where(low < self.window, low + count, 0)
        return by_width(compute, width, needed, seeds, low, count, widths=self.widths)

    def _choose(self, word: Array, length: Array) -> Array:
        """Index among the distinct operators, [B]."""
        index = {op: i for i, op in enumerate(self.distinct)}

        def draw(candidates: tuple[Operator, ...]) -> Array:
            return jnp.array([index[op] for op in candidates], jnp.int32)[word % len(candidates)]

        choice = draw(self.operators)
        return choice if not self.short else jnp.where(length > self.threshold, choice, draw(self.short))


def apply_edit(
    seeds: Array, edit: Edit, items: Array, end: Array, similar: SimilarItems | None
) -> tuple[Array, Array]:
    """Applies an edit: items int32 [B, V] right-aligned, and their length int32 [B].

    items: a flat column [N]; end: index after each sequence's last event, [B]; seeds: those of the edit.
    """
    window = edit.code.shape[1]
    code = jnp.flip(edit.code, 1)
    length = jnp.minimum(edit.length, window)
    real = jnp.arange(window) >= window - length[:, None]
    index = jnp.where(real, end[:, None] - 1 - (code >> 2), 0)
    action = jnp.where(real, code & 3, ops.MASK)
    item = items.at[index].get(mode="promise_in_bounds")
    if similar is not None:
        other = similar.item.at[item].get(mode="promise_in_bounds")
        drawn = similar.draw(random_words.words(seeds, random_words.SUBSTITUTE_OFFSET, window))
        other = jnp.where(other > 0, other, drawn)  # no conditional, which would break the fused loop
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
    similar: SimilarItems | None = None,
    *,
    window: int | None = None,
    widths: tuple[int, ...] = WIDTHS,
) -> tuple[Array, Array]:
    """Applies one operator to every sequence; keeps the last `window` events (None: the input's width)."""
    view = View((operator,), window=window or items.shape[1], widths=widths)
    return view(key, items, times, length, similar)


def plan_in_blocks(view: View, times: Array | None, length: Array, *, width: int, block: int = 512) -> Plan:
    """The plan of a whole data set, in blocks that bound memory; arguments as for `View.plan`."""
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
    """The pairs of views of an example: C(num_views, 2) pairs of two independent draws."""
    return ((view, view),) * (num_views * (num_views - 1) // 2)


def enumerated_pairs(
    operators: Sequence[Operator], num_views: int, *, window: int = 50
) -> tuple[tuple[View, View], ...]:
    """All pairs of the first `num_views` operators, in order: 'combinatorial_enumerate' of the references,
    whose operators are crop, mask, reorder, insert, substitute.
    """
    if not 2 <= num_views <= len(operators):
        raise ValueError(f"num_views={num_views}: must be 2 to {len(operators)}, the number of operators")
    views = [View((op,), window=window) for op in operators[:num_views]]
    return tuple(itertools.combinations(views, 2))


def operators_by_initials(letters: str, **operators: Operator) -> tuple[Operator, ...]:
    """Operators by the initials of their names: chosen("SIM", substitute=…, insert=…, mask=…, crop=…)."""
    initials = {name[0].upper(): op for name, op in operators.items()}
    unknown = sorted(set(letters) - set(initials))
    if unknown or not letters:
        known = "".join(sorted(initials))
        raise ValueError(f"letters={letters!r}: must be initials of operators, some of {known}")
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
      official_bug: reproduces the official code, which collects user ids from the first lines of a file
        sorted by that rank and then compares them with line numbers, so that it mostly takes other users.
      user_ids: int [U], the ids in that file; needed for official_bug.

    Returns: bool [U].
    """
    if not 0 <= ratio <= 1:
        raise ValueError(f"ratio={ratio}: must lie between 0 and 1, it is a share of the users")
    first = gap_variance_rank < int(ratio * len(gap_variance_rank))
    if not official_bug:
        return first
    if user_ids is None:
        raise ValueError("user_ids=None: official_bug compares the ids of the file; give them")
    return np.isin(gap_variance_rank, np.asarray(user_ids)[first].astype(np.int64))
