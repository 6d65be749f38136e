"""jaxrec: from a file of one's own to answers.

Run:     jaxrec VERB …   (or python -m jaxrec VERB …)

A verb's module is imported when it is asked for, so that `jaxrec --help` takes no time.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

VERBS: Mapping[str, str] = {
    "data": "list, download, describe and check data sets and files of your own",
    "train": "train a model on a file of yours, beside its baselines, into a run folder",
    "recommend": "items for users or histories, by a trained run",
    "score": "probabilities of each label for the rows of a file, by a trained run",
    "embed": "the vectors of items or users of a trained run",
    "export": "a trained run as a file that needs jax alone",
    "compare": "the differences of runs or results, with intervals over users and seeds",
    "report": "tables of the results in a folder",
}


def usage() -> str:
    """What `jaxrec --help` prints."""
    lines = [f"  {verb:<10} {what}" for verb, what in VERBS.items()]
    return "\n".join(["usage: jaxrec VERB …", "", *lines, "", "`jaxrec VERB --help` says what a verb takes."])


def main(args: Sequence[str] | None = None) -> int:
    """Runs a verb. Returns 0, 2 after an error that a user can correct, 130 after Ctrl-C, 141 where the
    reader of the output has closed it.

    Such an error (a wrong value, a file that cannot be read or written, a library that is not installed) is
    one line on stderr. An error from inside a library keeps its traceback, since it is a bug.
    """
    words = list(sys.argv[1:] if args is None else args)
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return 0
    verb, rest = words[0], words[1:]
    if verb not in VERBS:
        nearest = difflib.get_close_matches(verb, VERBS, n=1, cutoff=0.0)[0]
        return _fail("jaxrec", f"no verb {verb!r}: the nearest is {nearest!r}; --help lists all")
    try:
        code = run_verb(importlib.import_module(f"jaxrec.commands.{verb}"), verb, rest)
        sys.stdout.flush()  # so that a closed pipe is noticed here
        return code
    except BrokenPipeError:
        from jaxrec.data.__main__ import end_silently

        return end_silently()
    except KeyboardInterrupt:
        print(f"\njaxrec {verb}: interrupted; run the same command to continue", file=sys.stderr)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(130)  # threads of the runtime may abort the process while Python shuts down
    except (OSError, ImportError) as error:
        from jaxrec.data.__main__ import describe_error

        return _fail(f"jaxrec {verb}", describe_error(error))
    except ValueError as error:
        from jaxrec import provenance

        if not provenance.raised_outside_libraries(error):
            raise
        return _fail(f"jaxrec {verb}", str(error))


def run_verb(module: ModuleType, verb: str, args: Sequence[str]) -> int:
    """Runs a verb's `main(args)`, or reads its `Options` and gives them to its `run`."""
    if hasattr(module, "main"):
        return int(module.main(list(args)) or 0)
    from jaxrec import config  # imports JAX

    options: Any = config.cli(module.Options, prog=f"jaxrec {verb}", description=module.__doc__, args=args)
    config.enable_compilation_cache()
    return int(module.run(options) or 0)


def _fail(prog: str, message: str) -> int:
    print(f"{prog}: error: {' '.join(message.split())}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
