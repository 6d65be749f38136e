"""jaxrec embed: the vectors of items or users of a trained run, with their raw ids.

jaxrec embed runs/mine items --out items.npz
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Annotated, Literal

import tyro


@dataclasses.dataclass(frozen=True)
class Options:
    """The vectors of items or users of a trained run; their (best) product is the score of `recommend`."""

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]  # folder of the run
    what: tyro.conf.Positional[Literal["items", "users"]]  # whose vectors
    out: str = ""  # .npz (arrays ids, vectors), .npy (records id, vector) or .parquet (columns id, vector)
    seed: int | Literal["mean"] | None = None  # of the parameters; by default the best on validation


def run(options: Options) -> None:
    """Writes the vectors.

    Raises:
      ValueError: another form of file; as of `serve.load` and `Run.embed`.
      ImportError: Parquet without pyarrow.
      OSError: a file can't be read or written.
    """
    from jaxrec import serve
    from jaxrec.serve import embed
    from jaxrec.serve.files import check_parent

    embed.check_path(options.out)
    check_parent(options.out)
    loaded = serve.load(options.run, seed=options.seed)
    print(loaded, file=sys.stderr)
    found = loaded.embed(options.what)
    embed.write(options.out, found)
    count, *several, width = found.vectors.shape
    each = "".join(f" times {number}" for number in several)
    print(f"{options.out}: {count:,}{each} vectors of {width}", file=sys.stderr)
