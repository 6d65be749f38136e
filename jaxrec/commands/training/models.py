"""Which model a user means, one of the recipes or a module of their own, its options, and which it reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from jaxrec.commands.training import listing, own_module
from jaxrec.commands.training.options import (
    ActionOptions,
    AttributedMatrixOptions,
    AttributedOptions,
    CategoryOptions,
    ClickOptions,
    CodeOptions,
    FeatureOptions,
    FeedbackOptions,
    MatrixOptions,
    OrderedOptions,
    RatingOptions,
    SequenceOptions,
    TableOptions,
    TransferOptions,
    UserFeatureOptions,
    with_recipe,
)
from jaxrec.recipes.trainable import (
    ClickModel,
    CountingModel,
    ItemModel,
    RatingModel,
    RetrievalModel,
    SequenceModel,
    SuccessorModel,
)
from jaxrec.recipes.trainable_apart import SemanticIdModel, TransferModel
from jaxrec.recipes.trainable_rankings import ActionModel, RankedModel


def chosen(model: str, *, labelled: bool) -> tuple[str, Any]:
    """A model's name and entry. labelled: whether a module of one's own reads labelled rows, not events.

    Raises:
      ValueError: there is no such model.
    """
    if ":" in model:
        return own_module.own(model, labelled=labelled)
    return model, listing.find(model)


def options_type(entry: Any) -> type[Any]:
    """The dataclass of a model's options."""
    if isinstance(entry, SequenceModel):
        return with_recipe(SequenceOptions, entry.recipe, entry.objectives, entry.documented)
    if isinstance(entry, RetrievalModel) and entry.feedback:
        return with_recipe(FeedbackOptions, entry.recipe)
    if isinstance(entry, RetrievalModel) and entry.reads_features:
        of_items = "item" in entry.reads_features
        return with_recipe(FeatureOptions if of_items else UserFeatureOptions, entry.recipe)
    attributed = getattr(entry, "attributes", False)
    if isinstance(entry, RetrievalModel | CountingModel):
        return with_recipe(AttributedMatrixOptions if attributed else MatrixOptions, entry.recipe)
    if isinstance(entry, ItemModel | RankedModel | SuccessorModel):
        return with_recipe(AttributedOptions if attributed else OrderedOptions, entry.recipe)
    if isinstance(entry, ActionModel):
        return with_recipe(ActionOptions, entry.recipe)
    if isinstance(entry, SemanticIdModel):
        return with_recipe(CodeOptions, entry.recipe)
    if isinstance(entry, TransferModel):
        return with_recipe(TransferOptions, entry.recipe)
    if isinstance(entry, RatingModel):
        return with_recipe(RatingOptions, entry.recipe)
    if isinstance(entry, ClickModel):
        return with_recipe(CategoryOptions if entry.category else ClickOptions, entry.recipe)
    return with_recipe(TableOptions, entry.recipe)


def overridden(entry: Any, options: Any, overrides: Mapping[str, Any]) -> Any:
    """Options with other values for settings of the recipe, the loss or the seeds.

    Raises:
      ValueError: an override is of something else, such as the data, which are read already, or no value.
    """
    known = {field.name for field in dataclasses.fields(options)}
    if unknown := sorted(set(overrides) - known):
        raise ValueError(f"overrides: no option {', '.join(unknown)}; `jaxrec train MODEL --help` lists all")
    settings = {"loss", "seeds", *(field.name for field in dataclasses.fields(entry.recipe))}
    if others := sorted(set(overrides) - settings):
        raise ValueError(
            f"overrides: {', '.join(others)}: no setting of the recipe, the loss or the seeds, so it would "
            "have no effect; give it to the command, or to fit"
        )
    return dataclasses.replace(options, **overrides) if overrides else options


def check_read(
    model: str, entry: Any, options: Any, seen: set[str], by_training: Callable[[], set[str]]
) -> None:
    """Raises ValueError for a setting of the recipe, of which some are of several models, that is not the
    default and that nothing reads.

    seen: settings that were read while the model was built. by_training: gives those that training reads,
    which takes a while. A counting method reads all of its own, while it is fitted.
    """
    usual = {field.name: field.default for field in dataclasses.fields(options)}
    names = [field.name for field in dataclasses.fields(entry.recipe)]
    changed = [name for name in names if getattr(options, name) != usual[name]]
    if set(changed) <= seen or isinstance(entry, CountingModel):
        return
    reads = seen | by_training()
    for name in changed:
        if name not in reads:
            raise ValueError(
                f"{name}={getattr(options, name)!r}: {model} does not read it, and would be trained as "
                "without it; leave it out"
            )
