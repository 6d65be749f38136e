"""Models that take a finished run over to another task: the class of each user, named by a second file."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrec.commands.training.options import recipe_of
from jaxrec.commands.training.prepared import BaselineRow, Prepared
from jaxrec.commands.training.source import Source, as_file_name, load_interactions, sha256_of
from jaxrec.data.events.batching import labelled_columns
from jaxrec.data.events.interactions import Sequences
from jaxrec.data.events.known_ids import with_known_ids
from jaxrec.data.tables.columns import Coded
from jaxrec.data.tables.rows import read_rows
from jaxrec.protocols import profiles
from jaxrec.recipes.trainable_apart import TransferModel
from jaxrec.serve import queries, run_folder
from jaxrec.serve.run_folder import Histories, Kept
from jaxrec.train.trial import Trial
from jaxrec.tuning.reads import optimiser
from jaxrec.types import Variables

RULE = "80 % / 10 % / 10 % of the users of each class at random"
LEAST = 3  # users of a class that is in all three parts
SHOWN = 5  # items or users that a message names


class Labelled(NamedTuple):
    """Events over the items of a run, and the class of each user, from 1; 0 where the file has none."""

    sequences: Sequences
    label: np.ndarray
    classes: tuple[str, ...]


def read(options: Any, source: Source) -> Labelled:
    """Reads the events, numbers their items as the run of `--warm-start` does, and reads the classes.

    Raises:
      ValueError: there is no run or no file of classes; an event is of an item that the run does not know; a
        user has two classes, or an empty one; there are fewer than two classes of three users.
    """
    _check_given(options)
    known = run_folder.read(options.warm_start).vocabulary["item"]
    found = with_known_ids(load_interactions(source, options, value=None, k_core=options.k_core), item=known)
    if new := found.item_ids[len(known) :].tolist():
        raise ValueError(
            f"{found.name}: has {len(new):,} items that the run in {options.warm_start} does not know, such "
            f"as {', '.join(map(repr, new[:SHOWN]))}: its vectors of items are frozen; remove their events, "
            "or pre-train on data that have them"
        )
    sequences = found.to_sequences()
    return Labelled(sequences, *_read_classes(options, sequences.user_ids))


def _check_given(options: Any) -> None:
    if not options.warm_start:
        raise ValueError(
            "warm_start='': the model adapts a finished run of nextitnet; make one of the events of all "
            "users (`jaxrec train nextitnet …`), and name its folder by --warm-start"
        )
    if options.grow:
        raise ValueError("grow=True: the items are those of the run already; leave --grow out")
    if not options.user_labels:
        raise ValueError(
            "user_labels='': name the file with the class of each user by --user-labels, and its column by "
            "--label"
        )
    sha256_of("user_labels", Path(options.user_labels))


def _read_classes(options: Any, user_ids: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    """The class of each user of the events, int32 [U], 0 for none, and the names of the classes."""
    named = {options.user: "user", options.label: "label"}
    rows = read_rows(options.user_labels, categorical=named, numeric={})
    texts: dict[str, list[str]] = {}
    for name in named:
        column = rows.columns[name]
        assert isinstance(column, Coded)
        if (column.codes < 0).any():
            raise ValueError(
                f"{rows.place(int((column.codes < 0).argmax()))}: {name!r} is missing; fill it in, or remove "
                "the line"
            )
        texts[name] = np.asarray(column.values)[column.codes].tolist()
    users, labels = map(list, (texts[options.user], texts[options.label]))
    of_user = dict(zip(users, labels, strict=True))
    if len(of_user) < len(users):
        twice = next(user for user, lines in Counter(users).items() if lines > 1)
        raise ValueError(f"{options.user_labels}: user {twice!r} has two lines; leave one of them")
    given = [of_user.get(str(raw), "") for raw in np.asarray(user_ids).tolist()]
    classes, counts = np.unique([name for name in given if name], return_counts=True)
    if (counts >= LEAST).sum() < 2:
        shown = ", ".join(f"{name!r}: {n}" for name, n in zip(classes[:SHOWN], counts[:SHOWN], strict=True))
        raise ValueError(
            f"{options.user_labels}: users with events have the classes {{{shown}}}; at least two classes "
            f"must have {LEAST} users, one for each part of the split: name another column by --label, or "
            "write users as the events do"
        )
    number = {name: at for at, name in enumerate(classes.tolist(), 1)}
    return np.array([number.get(name, 0) for name in given], np.int32), tuple(classes.tolist())


def split(data: Labelled, *, ranked: bool, task: str) -> profiles.Data:
    """The users with a class, at random in three parts; the few of a rare class are all for training."""
    sequences = data.sequences
    users = np.flatnonzero(data.label)
    chosen = queries.selected(Histories(sequences.items, sequences.offsets), users)
    label, drawn = data.label[users], np.random.default_rng(0)
    parts: list[list[np.ndarray]] = [[], [], []]
    for number in range(1, len(data.classes) + 1):
        of_class = drawn.permutation(np.flatnonzero(label == number)).astype(np.int32)
        held = max(1, round(0.1 * len(of_class))) if len(of_class) >= LEAST else 0
        for part, found in zip(parts, np.split(of_class, [held, 2 * held]), strict=True):
            part.append(found)
    test, validation, train = (np.sort(np.concatenate(part)) for part in parts)
    columns = labelled_columns(
        chosen.items,
        chosen.offsets,
        label,
        num_items=sequences.num_items,
        num_classes=len(data.classes),
    )
    sizes = {"train": train, "validation": validation, "test": test}
    return profiles.Data(
        sequences.name,
        task,
        RULE,
        columns,
        data.classes,
        **sizes,
        num_items=sequences.num_items,
        ranked=ranked,
    )


def prepare(
    name: str, entry: TransferModel, options: Any, data: Labelled, *, trial: Trial | None = None
) -> Prepared:
    """Builds the adapted model and what it is trained by. trial: of a search of settings."""
    recipe, kept = recipe_of(options, entry.recipe), run_folder.read(options.warm_start)
    where = f"warm_start={options.warm_start!r}"
    before = kept.settings.get("model", kept.name)
    if before != entry.source:
        raise ValueError(f"{where}: is a run of {before}; name one of {entry.source}, which {name} adapts")
    if len(kept.seeds) not in (1, len(options.seeds)):
        raise ValueError(
            f"{where}: has {len(kept.seeds)} seeds and this run {len(options.seeds)}; give as many, or start "
            "from a run of one seed"
        )
    try:
        module = entry.module(kept.module, len(data.classes), recipe)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    target = split(data, ranked=options.ranked, task=options.label)
    sequences, tx = data.sequences, optimiser(entry.optimiser, recipe, trial)
    vocabulary = {"item": np.asarray(sequences.item_ids), "user": np.asarray(sequences.user_ids)}
    return Prepared(
        name=f"{name}-{recipe.how}-ce",
        dataset=as_file_name(f"{sequences.name}-{options.label}"),
        module=module,
        protocol=profiles.protocol(target, "ce"),
        train=functools.partial(
            profiles.train,
            module,
            target,
            tx,
            epochs=recipe.epochs,
            batch_size=recipe.batch_size,
            patience=recipe.patience or None,
        ),
        test=functools.partial(profiles.run_test, module, target, num_devices=options.num_devices),
        baselines=functools.partial(_floors, target, tuple(options.seeds)),
        kept={
            "kind": "profile",
            "columns": {options.user: "user", options.item: "item"},
            "vocabulary": vocabulary,
            "histories": Histories(sequences.items, sequences.offsets, sequences.times),
            "outputs": {of: number for number, of in enumerate(data.classes)},
        },
        vocabularies=vocabulary,
        shapes=None,
        begin=_begin(entry, module, kept, options.seeds),
        notes=_notes(data, target),
        next_command=(
            f"jaxrec score RUN users.csv --out classes.csv   (a column {options.user}; "
            f"{vocabulary['user'][0]} is one)"
        ),
    )


def _begin(
    entry: TransferModel, module: Any, kept: Kept, seeds: Sequence[int]
) -> Callable[[Variables, Sequence[int]], Variables]:
    """(drawn variables, seeds) -> the same with the parameters of the run, of its one seed or of each."""

    def begin(drawn: Variables, drawn_seeds: Sequence[int]) -> Variables:
        made = []
        for place, seed in enumerate(drawn_seeds):
            at = 0 if len(kept.seeds) == 1 else list(seeds).index(seed)
            own, theirs = (
                jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), tree["params"])
                for tree, i in ((drawn, place), (kept.variables, at))
            )
            made.append(entry.initial(module, kept.module, own, theirs))
        return {"params": jax.tree.map(lambda *leaves: np.stack(leaves), *made)}

    return begin


def _floors(target: profiles.Data, seeds: tuple[int, ...]) -> list[BaselineRow]:
    """Random logits, and the shares of the classes in training."""
    untrained = profiles.protocol(target, "", "none")
    tests = {"random": profiles.random_test, "popularity": profiles.popularity_test}
    return [BaselineRow(name, test(target, seeds), untrained) for name, test in tests.items()]


def _notes(data: Labelled, target: profiles.Data) -> list[str]:
    """How many users and classes there are, and who is left out."""
    counts = np.bincount(data.label, minlength=len(data.classes) + 1)
    largest = counts[1:].max() / counts[1:].sum()
    notes = [
        f"{target.name}: {len(data.label):,} users, {counts[1:].sum():,} of them with one of "
        f"{len(data.classes):,} classes (the largest has {largest:.1%}); {target.rule}: "
        f"{len(target.train):,} for training, {len(target.validation):,} for validation, "
        f"{len(target.test):,} for test"
    ]
    if counts[0]:
        notes.append(f"{counts[0]:,} users have no class: they are not trained on, and can be scored")
    if rare := int((counts[1:] < LEAST).sum()):
        notes.append(f"{rare:,} classes have fewer than {LEAST} users, all of which are for training")
    return notes
