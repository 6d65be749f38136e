"""Two measurements of cold items, which are never mixed: among themselves, and among all items.

A model can order cold items well and never show one beside warm items, so a number of the first kind says
nothing of the second. Both have the queries of users who have a relevant item, and exclude what the user
has of training.

    "cold"  candidates and relevant items are the cold items of test (`candidates="only-cold-test"`)
    "all"   candidates are all items; relevant are cold items and, if any were taken out of training, warm
            ones; `share_cold@k` is the share of the lists that cold items have, cold_recall@k and the like
            count cold relevant items alone, warm_recall@k warm ones. Cold items of validation are candidates
            that are never relevant, also for users who have them
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from jaxrec.data.events.item_cold import COLD, COLD_TEST, COLD_VALIDATION, ItemCold
from jaxrec.protocols import retrieval
from jaxrec.types import ONLY, Context, Protocol, Tested, Variables

GROUP_METRICS = ("recall", "ndcg")  # that "all" has of cold and of warm relevant items alone


class Data(NamedTuple):
    """The data of each question about one training part: see `data.events.item_cold.ItemCold`.

    Columns of training (pairs, lengths) are the same in all of them.
    """

    split: ItemCold
    validation: retrieval.Data
    cold: retrieval.Data
    warm: retrieval.Data | None
    both: retrieval.Data


def resident(split: ItemCold) -> Data:
    """The columns of each question on the device, with the masks of cold items that its candidates need."""
    of_all = {COLD: split.sets[COLD]}
    return Data(
        split,
        validation=retrieval.resident(split.validation, sets={COLD_VALIDATION: split.sets[COLD_VALIDATION]}),
        cold=retrieval.resident(split.cold, sets={COLD_TEST: split.sets[COLD_TEST], **of_all}, shown=(COLD,)),
        warm=None if split.warm is None else retrieval.resident(split.warm),
        both=retrieval.resident(split.both, sets=of_all, shown=(COLD,)),
    )


def validation_protocol(data: Data, *, ks: tuple[int, ...], selection: str, loss: str = "") -> Protocol:
    """Cold items of validation among themselves, by which models are selected."""
    return Protocol(
        split=data.split.validation.rule,
        candidates=f"{ONLY}{COLD_VALIDATION}",
        ks=ks,
        loss=loss,
        selection=selection,
    )


def run_test(
    model: retrieval.Ranked,
    data: Data,
    protocol: Protocol,
    variables: Variables,
    *,
    columns: Context | None = None,
    num_devices: int = 1,
) -> Mapping[str, tuple[Protocol, Tested]]:
    """Both measurements, "cold" and "all", each with its protocol; arguments as of `retrieval.run_test`.

    protocol: of validation, whose loss, cut-offs, ties and selection hold for the tests too.
    """

    def measured(part: retrieval.Data, candidates: str) -> tuple[Protocol, Tested]:
        asked = protocol._replace(split=part.split.rule, candidates=candidates)
        tested = retrieval.run_test(model, part, asked, variables, columns=columns, num_devices=num_devices)
        return asked, tested

    everything = measured(data.both, "all")
    groups = {"cold": data.cold} | ({} if data.warm is None else {"warm": data.warm})
    merged = [dict(of_seed) for of_seed in everything[1].metrics]
    for group, part in groups.items():
        found = everything[1] if part is data.both else measured(part, "all")[1]
        for of_seed, values in zip(merged, found.metrics, strict=True):
            of_seed |= {
                f"{group}_{name}@{k}": values[f"{name}@{k}"] for k in protocol.ks for name in GROUP_METRICS
            }
    return {
        "cold": measured(data.cold, f"{ONLY}{COLD_TEST}"),
        "all": (everything[0], everything[1]._replace(metrics=merged)),
    }
