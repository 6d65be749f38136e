"""New items of a run of factors, from their content: the tower that maps it to vectors, kept beside the run.

    keep(folder, tower)                       writes content_tower.npz into the folder of a finished run
    embed_new(run, ids, content)              vectors of new items, for the run's vectors of users
    with_new_items(run, ids, content)         the run with these items among its own: write it to another
                                              folder by `run_folder.write`, and recommend as from any run

Vectors of items that the run knows, and so the scores of users for them, stay what they are.
"""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.data.events.factor_columns import check_content
from jaxrec.data.vocab import as_raw_ids
from jaxrec.serve import modules
from jaxrec.serve.embed import Embeddings
from jaxrec.serve.files import write_whole
from jaxrec.serve.run_folder import Kept
from jaxrec.types import Variables

if TYPE_CHECKING:
    from jaxrec.serve.load import Run

FILE = "content_tower.npz"
_DESCRIPTION = "description"  # an array of JSON text; the others are variables, by their paths


class Tower(NamedTuple):
    """What makes vectors of new items.

    module: with a method new_items(content [N, F], factors) -> [N, D], such as `nn.retrieval.cb2cf.CB2CF` or
    `nn.retrieval.dropoutnet.DropoutNet`. variables: with a leading axis of the run's seeds. width: F.
    factors: width of the factors that the module reads, 0 where it reads none.
    """

    module: Any
    variables: Variables
    width: int
    factors: int = 0


def keep(folder: str | Path, tower: Tower) -> None:
    """Writes the tower into the folder of a run, whole or not at all.

    Raises:
      ValueError: the module can't be kept (`modules.describe`). OSError: the file can't be written.
    """
    described = {
        "module": modules.describe(tower.module),
        "width": tower.width,
        "factors": tower.factors,
    }
    flat = flax.traverse_util.flatten_dict(jax.tree.map(np.asarray, dict(tower.variables)), sep="/")
    arrays = {**flat, _DESCRIPTION: np.array(json.dumps(described))}
    write_whole(Path(folder) / FILE, lambda file: np.savez(file, allow_pickle=False, **arrays))


def read(folder: str | Path) -> Tower:
    """The tower of a run's folder. It imports the module that the file names: read what you trust.

    Raises:
      ValueError: there is none, or the file is damaged.
    """
    path = Path(folder) / FILE
    if not path.exists():
        raise ValueError(
            f"{folder}: keeps no tower of content ({FILE}), so it makes no vectors of new items; train "
            "DropoutNet or CB2CF and keep its tower by `serve.content.keep`"
        )
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        described = json.loads(str(arrays.pop(_DESCRIPTION)))
        width, factors = int(described["width"]), int(described["factors"])
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: is damaged ({error}); keep the tower again") from None
    variables = flax.traverse_util.unflatten_dict(arrays, sep="/")
    return Tower(modules.build(described["module"]), variables, width, factors)


def load_content(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Raw ids [N] and content [N, F] from the arrays `item` and `vectors` of a .npz file.

    Raises:
      ValueError: the file is no such archive.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return archive["item"], archive["vectors"]
    except (ValueError, KeyError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path}: must be a .npz file with the arrays item and vectors ({error}); write it with np.savez"
        ) from None


def embed_new(run: Run, ids: Sequence[Any] | np.ndarray, content: Any) -> Embeddings:
    """Vectors of new items, by the seed whose parameters the run answers with.

    ids: raw ids, none of which the run knows. content: [N, F], as wide as the tower was trained with, and
    made in the same way (of words by the same weights and directions).

    Raises:
      ValueError: as `with_new_items`, or the run answers with the mean of its seeds.
    """
    if run.seed == "mean":
        raise ValueError(f"{run.path}: seed='mean': vectors are of one seed; load the run with one")
    raw, made = _made(run, ids, content)
    return Embeddings(raw, made[run.kept.seeds.index(run.seed)])


def with_new_items(run: Run, ids: Sequence[Any] | np.ndarray, content: Any) -> Kept:
    """The run, all its seeds, with further items behind its own. Arguments as of `embed_new`.

    Raises:
      ValueError: the run is not one of factors, or keeps no tower; an id is known to the run or given twice;
        content has another shape, an entry that is not finite, or an item for which all entries are 0.
    """
    raw, made = _made(run, ids, content)
    kept = run.kept
    items = np.concatenate([np.asarray(kept.variables["items"]), made], axis=1)
    known = np.asarray(kept.vocabulary["item"])
    if raw.dtype.kind != known.dtype.kind:
        raw, known = raw.astype(str), known.astype(str)
    counts = None if kept.counts is None else np.pad(kept.counts, (0, len(raw)))
    return kept._replace(
        variables={**kept.variables, "items": items},
        vocabulary={**kept.vocabulary, "item": np.concatenate([known, raw])},
        counts=counts,
    )


def _made(run: Run, ids: Sequence[Any] | np.ndarray, content: Any) -> tuple[np.ndarray, np.ndarray]:
    """Raw ids and the vectors of every seed, [S, N, D], after all checks."""
    if run.kept.kind != "factors" or "items" not in run.kept.variables:
        raise ValueError(
            f"{run.path}: a {run.kept.kind} run; new items join vectors of items, which a run of factors has"
        )
    tower = read(run.path)
    raw = as_raw_ids("ids", ids)
    names = [str(value) for value in raw.tolist()]
    known = {str(value) for value in run.ids("item").raw.tolist()}
    twice = [name for name, count in Counter(names).items() if count > 1 or name in known]
    if twice:
        raise ValueError(
            f"ids: item {twice[0]!r} is known to the run or given twice ({len(twice)} such); new items have "
            "ids of their own"
        )
    table = check_content("content", content, len(raw), tower.width)
    empty = np.flatnonzero(~table.any(axis=1))
    if empty.size:
        raise ValueError(
            f"content: item {names[empty[0]]!r} has none, all entries are 0 ({empty.size} such), so nothing "
            "tells it from others; leave it out"
        )

    def of_seed(variables: Variables) -> jax.Array:
        return tower.module.apply(variables, jnp.asarray(table), tower.factors, method="new_items")

    found = np.asarray(jax.jit(jax.vmap(of_seed))(dict(tower.variables)), np.float32)
    width = np.shape(run.kept.variables["items"])[-1]
    if found.shape[0] != len(run.kept.seeds) or found.shape[2] != width:
        raise ValueError(
            f"{run.path}: the tower makes vectors {found.shape} of [seeds, items, width], the run has "
            f"{len(run.kept.seeds)} seeds and vectors of {width}; keep the tower that belongs to the run"
        )
    if not np.isfinite(found).all():
        raise ValueError(
            f"{run.path}: vectors of new items are not finite; the tower's parameters are damaged"
        )
    return raw, found
