"""The similarities of items and the vectors of views that `ticoserec` chooses from."""

from __future__ import annotations

from collections.abc import Mapping

from jaxrec.recipes import ticoserec_views as views
from jaxrec.tasks import contrastive

SIMILARITIES: Mapping[str, views.Similarity] = {  # of items, before training
    "item_cf_iuf": views.item_cf_iuf,
    "item_cf": views.item_cf,
    "item2vec": views.item2vec,
    "random": views.random,
}
FORMS: Mapping[str, views.Form] = {  # the vector of a view
    "mean": views.pooled(contrastive.mean_of_events),
    "last": views.pooled(contrastive.last_event),
    "flat": views.Form(views.flat_task, mask_value=-1e4),
}
