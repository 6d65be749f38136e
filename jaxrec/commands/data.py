"""jaxrec data: lists, downloads, describes and checks data sets and files of your own."""

from __future__ import annotations

from jaxrec.data import __main__ as program


def main(args: list[str]) -> int:
    """`python -m jaxrec.data` under this name."""
    return program.main(args, prog="jaxrec data")
