"""Models of content, from a file of events and one of vectors to recommendations of new items."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrec import serve
from jaxrec.commands.train import train
from jaxrec.serve import content, run_folder
from tests.commands.small_data import EVENTS, ITEMS, write_events, write_vectors

SMALL: dict[str, dict[str, Any]] = {
    "dropoutnet": {"hidden_dim": 4, "dim": 3, "batch_size": 8, "pairs_per_user": 4, "top": 5},
}


@pytest.mark.parametrize("name", SMALL)
def test_a_trained_run_recommends_new_items(name: str, tmp_path: Path) -> None:
    events, vectors = write_events(tmp_path / "events.csv"), write_vectors(tmp_path / "vectors.npz")
    shared: dict[str, Any] = {"teacher_dim": 3, "teacher_epochs": 2, "epochs": 2, "evaluate_every": 1}
    folder = tmp_path / "run"
    train(
        name, events, run=folder, item_vectors=str(vectors), seeds=(0, 1), **EVENTS, **shared, **SMALL[name]
    )
    run = serve.load(folder)
    new = f"sku{ITEMS}"
    with np.load(vectors) as archive:
        given = archive["vectors"][ITEMS:]
    run_folder.write(tmp_path / "more", content.with_new_items(run, [new], given))
    (answer,) = serve.load(tmp_path / "more").recommend(["u3"], k=ITEMS + 1)
    assert new in answer.items
    made = content.embed_new(run, [new], given).vectors[0]
    users = run.embed("users")
    score = made @ users.vectors[users.ids.tolist().index("u3")]
    np.testing.assert_allclose(answer.scores[answer.items.tolist().index(new)], score, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="ease reads no content of items; leave --item-vectors out"):
        train("ease", events, run=tmp_path / "other", item_vectors=str(vectors), **EVENTS)
