"""Docstrings of this project as reStructuredText, which Sphinx reads.

They are written as plain text: code in single backquotes, `name: what it is` with its next lines indented,
an indented block where lines have to stay as they are. Sections such as `Args:` are left to Napoleon.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any

from docs.pages import PACKAGES

_SECTION = re.compile(r"(Args|Returns|Raises|Yields|Attributes|Examples?|Notes?):$")
_CODE = re.compile(r"(`[^`]*`)")


def as_rst(lines: list[str]) -> list[str]:
    """A docstring's lines, unindented, as reStructuredText.

    >>> as_rst(["Mean of |x|.", "", "x: numbers,", "  any shape.", "y: others."])
    ['Mean of \\\\|x\\\\|.', '', '- x: numbers,', '  any shape.', '- y: others.', '']
    """
    found: list[str] = []
    section = False
    for paragraph in _paragraphs(lines):
        first, *rest = paragraph
        section = bool(_SECTION.match(first)) or (section and first.startswith(" "))
        if first.lstrip().startswith(">>>"):
            found += [*paragraph, ""]
        elif section:
            found += [*map(_escaped, paragraph), ""]
        elif first.startswith("  "):
            found += ["::", "", *("    " + line for line in paragraph), ""]
        elif any(line.startswith(" ") for line in rest):
            found += [*_listed(paragraph), ""]
        else:
            found += [*map(_escaped, paragraph), ""]
    return found


def short_signature(text: str, known: Mapping[str, Any] | None = None) -> str:
    """A signature without the modules of its types, and without the fields that Flax adds to each module.

    Types of this project keep theirs, after the ~ by which Sphinx links to a name and shows its last part.
    known: the names of the module that it is of; there
      may be types of one name in several modules.

    >>> short_signature("(dim: ~typing.Any = None, task: jaxrec.types.Task = <function f>, parent: A = <B>)")
    '(dim: Any = None, task: ~jaxrec.types.Task = f)'
    """
    text = re.sub(r", parent: .*(?=\))", "", text)
    text = re.sub(r"<function ([\w.]+)>", r"\1", text.replace(".<locals>", ""))
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text)
    text = re.sub(r"(\w)\(\s+# attributes.*?\s\)(?=[,)])", r"\1(...)", text, flags=re.DOTALL)
    text = re.sub(r"= <[^<>]*>", "= ...", text)  # a value that has no name
    text = re.sub(r"~?\b((?:[a-z_]\w*\.)+)(?=[A-Za-z_])", lambda path: _prefix(path[1]), text)
    return re.sub(r"(?<![\w.~'\"])(?<!= )([A-Z]\w*)\b(?!\()", lambda name: _whole(name[1], known or {}), text)


def _prefix(path: str) -> str:
    """What stands before the last part of a name: a path from a module that is no package stays as it is."""
    package = path.partition(".")[0]
    return f"~{path}" if package in PACKAGES else "" if package in sys.modules else path


def _whole(name: str, known: Mapping[str, Any]) -> str:
    """The name of a class of this project with its module."""
    home = getattr(known.get(name), "__module__", "") if isinstance(known.get(name), type) else ""
    return f"~{home}.{name}" if home.partition(".")[0] in PACKAGES else name


def _paragraphs(lines: list[str]) -> list[list[str]]:
    found: list[list[str]] = [[]]
    for line in lines:
        if line.strip():
            found[-1].append(line)
        elif found[-1]:
            found.append([])
    return [paragraph for paragraph in found if paragraph]


def _listed(paragraph: list[str]) -> list[str]:
    """A paragraph whose indented lines continue the line above: an item for each line that is not
    indented."""
    return [
        "  " + _escaped(line.strip()) if line.startswith(" ") else "- " + _escaped(line) for line in paragraph
    ]


def _escaped(line: str) -> str:
    """A line in which nothing outside backquotes has a meaning to reStructuredText."""
    parts = _CODE.split(line)
    parts[::2] = [re.sub(r"([*|]|_(?!\w))", r"\\\1", part) for part in parts[::2]]
    return "".join(parts)
