"""The sessions of `experiments.sequential.stamp`."""

from __future__ import annotations

from typing import Any

from experiments import common
from jaxrec.data.events.session_order import repeats_together
from jaxrec.data.events.sessions import Sessions
from jaxrec.data.synthetic.click_sessions import noisy_cycle


def load(config: Any) -> Sessions:
    """The sessions of a data set or of your own file; synthetic for --tiny."""
    found = common.load_sessions(config, config.dataset, synthetic=noisy_cycle)
    return found if config.order == "time" else repeats_together(found, fixed=config.order == "file-fixed")


def dataset_name(config: Any, name: str) -> str:
    """The data set's name in results and folders."""
    return name if config.data else "tiny" if config.tiny else config.dataset
