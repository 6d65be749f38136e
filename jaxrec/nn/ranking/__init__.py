"""Models that score one example at a time, one a file."""
