"""The options of `jaxrec train`: those of the kind of data, and every setting of the model's recipe."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import io
import math
import textwrap
import tokenize
import types
import typing
from collections.abc import Collection
from typing import Annotated, Any, Literal

import numpy as np
import optax
import tyro

from jaxrec.recipes.compute import later, without_defaults
from jaxrec.train import arguments
from jaxrec.tuning import options as sweep_options
from jaxrec.tuning.options import SweepOptions
from jaxrec.tuning.reads import follow, plain

EventSplit = Literal["last", "time", "user", "sessions"]
ClickSplit = Literal["last", "time", "user"]
TableSplit = Literal["random", "time"]
MatrixSplit = Literal["random", "last"]
Calibrate = Literal["platt", "histogram", "isotonic"] | None  # of `protocols.calibrating.FITS`
# Options that say where and how a run is kept, or how long it may take; they change no number.
KEEPING = ("data", "run", "num_devices", "save_every", "accept_changed_code", "profile", "deterministic")
# Options that runs kept before they existed do not name, and their defaults: left out of the settings then.
ADDED: dict[str, Any] = {
    "delimiter": "", "real_ids": (), "allow": (), "streaming": False, "user_feature_columns": (),
    "item_feature_columns": (), "feature_separator": "|", "hard": 0, "hard_first": 0.01, "hard_last": 0.05,
    "hard_walks": 1000, "calibrate": None, "grow": False,
}  # fmt: skip
NOT_NEGATIVE = (
    "patience", "k_core", "num_layers", "weight", "weight_decay", "regularisation", "max_norm", "clip",
    "counterfactual", "calibrator", "mba", "auxiliary", "utilisation", "l2", "penalty", "prior_std",
    "anneal_epochs", "warm_up", "hybrid_after",
)  # fmt: skip
NUMBERS: dict[Any, tuple[str, tuple[type, ...]]] = {
    int: ("a whole number", (int, np.integer)),
    float: ("a number", (int, float, np.integer, np.floating)),
    bool: ("True or False", (bool, np.bool_)),
}
UNFINISHED = ("minutes", "epochs", "trials", "budget")  # that may change while a run is not finished


@dataclasses.dataclass(frozen=True)
class Options(SweepOptions):
    """The options that every model has."""

    data: str = ""  # the file to train on: CSV, TSV, Parquet or JSON lines, also gzipped
    run: str = ""  # folder of the run, which is made; a run that was interrupted there goes on
    delimiter: str = ""  # of a CSV file, such as ';' or '\t'; by default a tab for .tsv, a comma otherwise
    seeds: tuple[int, ...] = (0,)  # runs that are trained together, such as 0 1 2
    minutes: float = 0.0  # training ends after the epoch in which this time is spent; 0: no limit
    warm_start: str = ""  # folder of a finished run of the same model, whose parameters this one begins with
    grow: bool = False  # with --warm-start: all its ids stay, new ones come behind, and its optimiser goes on
    num_devices: int = 1  # devices that share each batch
    accumulate_steps: int = later(1)  # parts in which a step goes through its batch, for less memory
    save_every: int = 1  # epochs between checkpoints
    accept_changed_code: bool = False  # go on with what other code trained; results name both
    profile: str = ""  # folder of a record of one epoch, for TensorBoard or Perfetto
    deterministic: bool = False  # equal bits on a GPU, too, at some cost of speed


@dataclasses.dataclass(frozen=True)
class EventOptions(Options):
    """The options of models of events."""

    user: str = "user"  # column of users, or of sessions with --split sessions
    item: str = "item"  # column of items
    time: str = "time"  # column of seconds; '': the order of the lines is the order in time
    real_ids: tuple[str, ...] = ()  # ids that look like a missing value but are real, such as NA
    k_core: int = 0  # users and items with fewer events are taken out until none is left; 0: all stay


@dataclasses.dataclass(frozen=True)
class SequenceOptions(EventOptions):
    """The options of models of sequences."""

    split: EventSplit = "last"  # test on each user's last event, the last events, other users, last sessions
    keep_seen: bool = False  # items of the history stay candidates, for data where users come back to items
    beyond: tuple[int, ...] = ()  # lengths of lists to measure by coverage, novelty and slices, such as 10 20
    item_vectors: str = ""  # file of frozen vectors of items (text, images), which the model reads, too
    item_vector_ids: str = ""  # file with the item of each row, for --item-vectors with a .npy file


@dataclasses.dataclass(frozen=True)
class OrderedOptions(EventOptions):
    """The options of models of items, which rank by a history, and of methods that count in order."""

    split: ClickSplit = "last"  # test on each user's last event, the last events in time, or other users
    keep_seen: bool = False  # items of the history stay candidates, for data where users come back to items
    beyond: tuple[int, ...] = ()  # lengths of lists to measure by coverage, novelty and slices, such as 10 20


@dataclasses.dataclass(frozen=True)
class CodeOptions(OrderedOptions):
    """The options of models that name items by codes."""

    item_vectors: str = ""  # file of vectors of items (text, images) to make codes of; by default co-visits
    item_vector_ids: str = ""  # file with the item of each row, for --item-vectors with a .npy file


@dataclasses.dataclass(frozen=True)
class AttributedOptions(OrderedOptions):
    """The options of models of items that read attributes of them."""

    item_attributes: str = ""  # file with a line for each item: its id, and columns of attributes
    attributes: tuple[str, ...] = ()  # the columns of attributes; none: all but that of items
    attribute_separator: str = "|"  # between several values in a cell; '': a cell is one value


@dataclasses.dataclass(frozen=True)
class ClickOptions(EventOptions):
    """The options of click models of events."""

    split: ClickSplit = "last"  # test on each user's last event, the last events in time, or other users
    calibrate: Calibrate = None  # corrects the probabilities by the labels of validation; by default nothing


@dataclasses.dataclass(frozen=True)
class CategoryOptions(ClickOptions):
    """The options of click models of events that read a category of each item."""

    item_attributes: str = ""  # file with a line for each item: its id, and columns such as its category
    category: str = ""  # the column of categories, of which an item has one


@dataclasses.dataclass(frozen=True)
class MatrixOptions(EventOptions):
    """The options of models of an interaction matrix, which has each user's item once."""

    split: MatrixSplit = "random"  # test on a tenth of each user's items at random, or on the last one
    beyond: tuple[int, ...] = ()  # lengths of lists to measure by coverage, novelty and so on, such as 10 20
    item_vectors: str = ""  # file of vectors of items' content, for models that embed new items by it
    item_vector_ids: str = ""  # file with the item of each row, for --item-vectors with a .npy file


@dataclasses.dataclass(frozen=True)
class RatingOptions(EventOptions):
    """The options of models of explicit ratings."""

    value: str = "rating"  # column of ratings
    split: Literal["random"] = "random"  # a tenth of the ratings is for validation, another one for test


@dataclasses.dataclass(frozen=True)
class ActionOptions(EventOptions):
    """The options of models of items and actions."""

    value: str = "rating"  # column of actions: whole numbers from 1 on, such as ratings
    positive: tuple[int, ...] = ()  # the actions of events that are worth recommending, such as 4 5
    split: Literal["time"] = "time"  # test on the last tenth of the events, validation on the one before
    beyond: tuple[int, ...] = ()  # lengths of lists to measure by coverage, novelty and slices, such as 10 20


@dataclasses.dataclass(frozen=True)
class TransferOptions(EventOptions):
    """The options of models that take a run over to the classes of users."""

    warm_start: str = ""  # folder of a finished run of nextitnet, which is adapted
    user_labels: str = ""  # file with a line for each user: its id, as --user names it, and its class
    label: str = "label"  # column of classes in that file
    ranked: bool = False  # classes are things to list: measured by hit@5 and mrr@5, not accuracy and AUC
    split: Literal["random"] = "random"  # a tenth of the users of each class validates, another one tests


@dataclasses.dataclass(frozen=True)
class AttributedMatrixOptions(MatrixOptions):
    """The options of models of an interaction matrix that read attributes of items."""

    item_attributes: str = ""  # file with a line for each item: its id, and columns of attributes
    attributes: tuple[str, ...] = ()  # the columns of attributes; none: all but that of items
    attribute_separator: str = "|"  # between several values in a cell; '': a cell is one value


@dataclasses.dataclass(frozen=True)
class UserFeatureOptions(MatrixOptions):
    """The options of models of an interaction matrix that read features of users, too."""

    user_features: str = ""  # file of users' categories: a column of users, as --user names it, and others
    user_feature_columns: tuple[str, ...] = ()  # the columns of features; none: all but that of users
    feature_separator: str = "|"  # between several values in a cell; '': a cell is one value


@dataclasses.dataclass(frozen=True)
class FeatureOptions(UserFeatureOptions):
    """The options of models of an interaction matrix that read features of users and items, too."""

    item_features: str = ""  # the same of items, as --item names them
    item_feature_columns: tuple[str, ...] = ()  # the columns of features; none: all but that of items


@dataclasses.dataclass(frozen=True)
class FeedbackOptions(FeatureOptions):
    """The options of models of an interaction matrix that read dislikes and items shown in vain, too."""

    feedback: str = ""  # column of 1 (clicked), 0 (shown, not clicked), -1 (disliked); '': all are clicks


@dataclasses.dataclass(frozen=True)
class TableOptions(Options):
    """The options of models of labelled rows."""

    labels: tuple[str, ...] = ()  # columns of 0 and 1, a task each
    categorical: tuple[str, ...] = ()  # columns of categories
    numeric: tuple[str, ...] = ()  # columns of numbers
    time: str = ""  # column of seconds, for --split time
    split: TableSplit = "random"  # test on rows at random, or on the last ones in time
    calibrate: Calibrate = None  # corrects the probabilities by the labels of validation; by default nothing
    allow: tuple[str, ...] = ()  # columns that look like a label, but are known before it, so may be read


def with_recipe(
    kind: type[Options], recipe: Any, losses: Collection[str] = (), documented: type | None = None
) -> type[Any]:
    """The options of a kind of data and those of a recipe as one dataclass, which checks all of them.

    recipe: a dataclass, or one of its objects, whose values are then the defaults. losses: the first is the
    default of `--loss`; none: there is no such option. documented: see `documented_fields`, for the recipe.

    Raises:
      ValueError: the two have an option of one name.
    """
    both = {f.name for f in dataclasses.fields(kind)} & {f.name for f in dataclasses.fields(recipe)}
    if both:
        raise ValueError(f"{recipe}: its fields {sorted(both)} are options of every model; rename them")
    fields: list[Any] = documented_fields(kind) + documented_fields(recipe, documented)
    if losses:
        names = tuple(losses)
        choice = _with_help(_choice(names), "what the model is trained to minimise")
        fields.append(("loss", choice, dataclasses.field(default=names[0])))

    def check(options: Any) -> None:
        for part in (recipe, kind):
            checks = getattr(part if isinstance(part, type) else type(part), "__post_init__", None)
            if checks is not None:
                checks(options)
        check_options(options)

    return dataclasses.make_dataclass("Options", fields, frozen=True, namespace={"__post_init__": check})


def documented_fields(part: Any, documented: type | None = None) -> list[Any]:
    """Fields of a dataclass with their comments as help, as `dataclasses.make_dataclass` takes them.

    documented: the dataclass whose fields of the same names have the comments; None: the same.
    """
    kind = part if isinstance(part, type) else type(part)
    hints: dict[str, Any] = typing.get_type_hints(kind, include_extras=True)
    found = []
    comments: dict[str, str] = {}
    for base in reversed((documented or kind).__mro__):
        comments |= _comments(base) if dataclasses.is_dataclass(base) else {}
    for field in dataclasses.fields(kind):
        hint = _with_help(hints[field.name], comments.get(field.name, ""))
        value = field.default if part is kind else getattr(part, field.name)
        default = dataclasses.field(default=value, metadata=field.metadata)
        found.append((field.name, hint, default))
    return found


def _with_help(hint: Any, text: str) -> Any:
    """A type with the help of its option."""
    annotated: Any = Annotated
    return annotated[hint, tyro.conf.arg(help=text)]


def _choice(names: tuple[str, ...]) -> Any:
    """The type of one of these names."""
    literal: Any = Literal
    return literal[names]


def _comments(part: type[Any]) -> dict[str, str]:
    """What stands behind the fields of a class as comments, by field."""
    source = textwrap.dedent(inspect.getsource(part))
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    by_line = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}
    found = {}
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    for node in definition.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
            said = [by_line[line] for line in lines if line in by_line]
            found[node.target.id] = " ".join(said).removesuffix("  fmt: skip")
    return found


def recipe_of(options: Any, recipe: Any) -> Any:
    """The recipe among the options."""
    kind, given = recipe if isinstance(recipe, type) else type(recipe), plain(options)
    made = kind(**{f.name: getattr(given, f.name) for f in dataclasses.fields(recipe) if f.init})
    return follow(made, options)


def adam(recipe: Any) -> optax.GradientTransformation:
    """The optimiser of models of labelled examples."""
    return optax.adam(recipe.learning_rate)


def made(options_type: type[Any], given: dict[str, Any]) -> Any:
    """Options from Python.

    Raises:
      ValueError: there is no option of a name; the message names the nearest.
    """
    known = [field.name for field in dataclasses.fields(options_type)]
    for name in given:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise ValueError(f"{name}={given[name]!r}: no such option; the nearest is {nearest!r}")
    return options_type(**given)


def check_options(options: Any) -> None:
    """Raises ValueError for values that no model can have.

    Sizes, epochs and batches are at least 1, learning rates positive, dropout within [0, 1), a choice is one
    of those that there are.
    """
    for field in dataclasses.fields(options):
        _check_form(field, getattr(options, field.name))
    if not 0 <= options.minutes < math.inf:
        raise ValueError(f"minutes={options.minutes}: must be positive, or 0 for no limit")
    arguments.check_seeds(options.seeds)
    searched = sweep_options.check(options)
    for name, other in {"minutes": "--budget", "warm_start": "settings of that run"}.items():
        if searched and getattr(options, name):
            raise ValueError(f"{name}={getattr(options, name)!r}: does not go with --sweep; give {other}")
    if options.grow and not options.warm_start:
        raise ValueError("grow=True: is of a run that grows; name it by --warm-start")
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if isinstance(value, float) and math.isnan(value):
            raise ValueError(f"{field.name}={value}: must be a number")
        if isinstance(value, bool) or value is None:
            continue
        at_least_one = field.name in (
            "epochs", "num_devices", "accumulate_steps", "save_every", "max_len", "evaluate_every"
        )  # fmt: skip
        if (at_least_one or field.name.endswith(("dim", "batch_size", "num_heads"))) and value < 1:
            raise ValueError(f"{field.name}={value}: must be at least 1")
        if field.name in NOT_NEGATIVE and value < 0:
            raise ValueError(f"{field.name}={value}: must be positive, or 0")
        if field.name.endswith(("learning_rate", "temperature", "init_std")) and not 0 < value < math.inf:
            raise ValueError(f"{field.name}={value}: must be positive and finite")
        if field.name.endswith(("dropout", "momentum", "b2")) and not 0 <= value < 1:
            raise ValueError(f"{field.name}={value}: must lie in [0, 1)")


def _check_form(field: dataclasses.Field[Any], value: Any) -> None:
    """Raises ValueError for a value, given in Python, that the command line would not take either: one that
    is none of the choices, one text in place of several, or no number where one is expected."""
    annotated = typing.get_origin(field.type) is Annotated
    hint = typing.get_args(field.type)[0] if annotated else field.type
    choices = typing.get_args(hint)
    if typing.get_origin(hint) is Literal and value not in choices:
        raise ValueError(f"{field.name}={value!r}: must be one of {', '.join(map(str, choices))}")
    if typing.get_origin(hint) is tuple and isinstance(value, str):
        raise ValueError(f"{field.name}={value!r}: must be several values, such as ({value!r},)")
    several = typing.get_origin(hint) is tuple
    kind = hint if hint in NUMBERS else choices[0] if several or types.NoneType in choices else None
    if kind in NUMBERS:
        what, forms = NUMBERS[kind]
        for given in value if several else () if value is None else (value,):
            if not isinstance(given, forms) or (kind is not bool and isinstance(given, bool)):
                raise ValueError(f"{field.name}={value!r}: {given!r} is not {what}")


def described(options: Any) -> dict[str, Any]:
    """The settings that decide what is computed, in JSON types; infinity as text."""
    found = {n: v for n, v in dataclasses.asdict(plain(options)).items() if n not in KEEPING}
    found = {n: v for n, v in found.items() if n not in ADDED or v != ADDED[n]}
    found = without_defaults(plain(options), found)
    return {n: str(v) if isinstance(v, float) and math.isinf(v) else v for n, v in found.items()}
