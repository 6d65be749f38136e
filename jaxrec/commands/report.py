"""jaxrec report: tables of the results in a folder."""

from __future__ import annotations

from jaxrec.report import __main__ as program


def main(args: list[str]) -> int:
    """`python -m jaxrec.report` under this name."""
    return program.main(args, prog="jaxrec report")
