"""The vectors of views that `ticoserec` chooses from."""

from __future__ import annotations

from collections.abc import Mapping

from jaxrec.recipes import ticoserec_views as views
from jaxrec.tasks import contrastive

FORMS: Mapping[str, views.Form] = {  # the vector of a view
    "mean": views.pooled(contrastive.mean_of_events),
    "last": views.pooled(contrastive.last_event),
    "flat": views.Form(views.flat_task, mask_value=-1e4),
}
