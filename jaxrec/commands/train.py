"""jaxrec train: a model on a file of your own, beside its baselines, into a run folder.

Run:     jaxrec train MODEL --data FILE --run FOLDER …
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxrec.commands.training import listing

if TYPE_CHECKING:  # `jaxrec train --help` imports neither JAX nor Flax
    from jaxrec.serve.run_folder import Kept

USAGE = """usage: jaxrec train MODEL --data FILE --run FOLDER …

  jaxrec train sasrec --data events.csv --user uid --item sku --time ts --run runs/mine
  jaxrec train mmoe --data rows.csv --labels click buy --categorical city --numeric price --run runs/table
  jaxrec train my_package.models:MyModel --fields dim=64 --data events.csv --run runs/own

`jaxrec train MODEL --help` lists the options of a model, every setting of its recipe among them."""


def train(model: Any, data: Any, *, run: str | Path, **settings: Any) -> Kept:
    """Trains a model on a file or a data frame, and keeps it in a run folder.

    Args:
      model: a name of `jaxrec train --help`, or the import path of a module of yours, such as
        "my_package.models:MyModel".
      data: the path of a file (CSV, TSV, Parquet, JSON lines, also gzipped), or a data frame.
      run: the folder, which is made. A run that was interrupted there goes on; one that is finished is given
        back. Either is refused where other code trained it, unless `accept_changed_code` is given.
      settings: the options of `jaxrec train MODEL --help`, under their names with underscores.

    Returns:
      What the folder keeps: `jaxrec.serve.load(run)` serves it.

    Raises:
      ValueError: a setting, a column or the model is wrong, before anything is trained or written; the folder
        holds another run.
      OSError: a file can't be read or written.
    """
    from jaxrec.commands.training import options as found
    from jaxrec.commands.training.models import chosen, options_type
    from jaxrec.commands.training.run import train_run
    from jaxrec.commands.training.source import source_of
    from jaxrec.config import make_deterministic

    name, entry = chosen(model, labelled="labels" in settings)
    given = {
        "data": str(data) if isinstance(data, str | Path) else "a data frame",
        "run": str(run),
        **settings,
    }
    options = found.made(options_type(entry), given)
    if options.deterministic:
        make_deterministic()
    return train_run(name, entry, options, source_of(data))


def main(args: list[str]) -> int:
    """Reads the model's options from the command line and trains it."""
    if not args or args[0] in ("-h", "--help"):
        print(f"{USAGE}\n{listing.shown()}")
        return 0
    if args[0].startswith("-"):
        raise ValueError(f"{args[0]}: name the model first, as in `jaxrec train sasrec {args[0]} …`")
    from jaxrec import config
    from jaxrec.commands.training.models import chosen, options_type
    from jaxrec.commands.training.run import train_run
    from jaxrec.commands.training.source import source_of

    labelled = any(word.split("=")[0] == "--labels" for word in args)
    name, entry = chosen(args[0], labelled=labelled)
    title = " ".join((entry.recipe.__doc__ or "").split())
    options = config.cli(
        options_type(entry), prog=f"jaxrec train {args[0]}", description=title, args=args[1:]
    )
    if options.deterministic:
        config.make_deterministic()
    source = source_of(options.data)
    print(config.device_line())
    if idle := config.idle_accelerator_warning():
        print(idle, file=sys.stderr)
    config.enable_compilation_cache()
    train_run(name, entry, options, source)
    return 0
