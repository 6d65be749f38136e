"""Settings of Sphinx; `make docs` writes the sources by docs/pages.py and then runs it."""

import functools
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from docs.docstrings import as_rst, short_signature

project = "jaxrec"
author = "The jaxrec developers"
copyright = author
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "jaxrec"
html_copy_source = False
smartquotes = False  # `--option` stays as it is typed
toc_object_entries = False
myst_heading_anchors = 3
default_role = "code"
napoleon_numpy_docstring = False
autodoc_default_options = {"members": True, "ignore-module-all": True}
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
maximum_signature_line_length = 100
suppress_warnings = ["ref.python"]  # signatures show short names, and two modules may have one of a name


def read_docstring(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = as_rst(lines)


def read_signature(
    app: Any, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    known = vars(sys.modules.get(getattr(obj, "__module__", None) or "", sys))
    return signature and short_signature(signature, known), returns and short_signature(returns, known)


def skip(app: Any, what: str, name: str, obj: Any, skipped: bool, options: Any) -> bool | None:
    """Leaves out what the signature of a class says already; None: as Sphinx would.

    These are the fields of a NamedTuple, and fields of a module whose default is a function.
    """
    if (getattr(obj, "__doc__", None) or "").startswith("Alias for field number"):
        return True
    default = isinstance(obj, functools.partial) or "." not in getattr(obj, "__qualname__", ".")
    return True if what == "class" and default else None


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", read_docstring, priority=400)  # Napoleon comes after it
    app.connect("autodoc-process-signature", read_signature)
    app.connect("autodoc-skip-member", skip)
