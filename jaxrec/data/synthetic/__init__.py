"""Generated data sets with known answers."""
