"""Which model a user means, one of the recipes or a module of their own, and its options."""

from __future__ import annotations

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
