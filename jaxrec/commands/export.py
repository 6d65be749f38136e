"""jaxrec export: a trained run as a folder that answers without jaxrec.

jaxrec export runs/mine --out exported
python exported/reader.py a,b,c
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Literal

import tyro


@dataclasses.dataclass(frozen=True)
class Options:
    """A trained run as a program for CPU, CUDA and TPU, with a reader that needs no jaxrec."""

    run: tyro.conf.Positional[str]  # folder of the run
    out: str = ""  # folder to write, new or of an earlier export
    k: int = 100  # longest list of recommendations that can be read
    seed: int | Literal["mean"] | None = None  # of the parameters; by default the best on validation
    onnx: bool = False  # write model.onnx too


def run(options: Options) -> None:
    """Writes the folder.

    Raises:
      ValueError, ImportError, OSError: as of `serve.load` and `serve.export.export`.
    """
    from jaxrec import serve
    from jaxrec.serve import export

    if not options.out:
        raise ValueError("--out: name the folder to write")
    loaded = serve.load(options.run, seed=options.seed)
    print(loaded, file=sys.stderr)
    export.export(loaded, options.out, k=options.k, onnx=options.onnx)
    print(f"{options.out}: written; python {options.out}/reader.py answers from it", file=sys.stderr)
