"""jaxrec embed: the vectors of items or users of a trained run, with their raw ids.

jaxrec embed runs/mine items --out items.npz
jaxrec embed runs/mine items --content new.npz --out new_items.npz     new items, from their content
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
    content: str = ""  # .npz (arrays item, vectors) of the content of new items, which are embedded instead
    out: str = ""  # .npz (arrays ids, vectors), .npy (records id, vector) or .parquet (columns id, vector)
    seed: int | Literal["mean"] | None = None  # of the parameters; by default the best on validation


def run(options: Options) -> None:
    """Writes the vectors.

    Raises:
      ValueError: another form of file; content of users; as of `serve.load`, `Run.embed` and
        `serve.content.embed_new`.
      ImportError: Parquet without pyarrow.
      OSError: a file can't be read or written.
    """
    from jaxrec import serve
    from jaxrec.serve import content, embed
    from jaxrec.serve.files import check_parent

    if options.content and options.what != "items":
        raise ValueError(f"content={options.content!r}: is of new items; embed items, or leave it out")
    embed.check_path(options.out)
    check_parent(options.out)
    loaded = serve.load(options.run, seed=options.seed)
    print(loaded, file=sys.stderr)
    if options.content:
        found = content.embed_new(loaded, *content.load_content(options.content))
    else:
        found = loaded.embed(options.what)
    embed.write(options.out, found)
    count, *several, width = found.vectors.shape
    each = "".join(f" times {number}" for number in several)
    print(f"{options.out}: {count:,}{each} vectors of {width}", file=sys.stderr)
