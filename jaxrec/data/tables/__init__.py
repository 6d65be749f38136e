"""Labelled tables: reading, encoding of columns, splits, click histories, the guard against leakage."""
