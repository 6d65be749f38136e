"""Published settings, and the functions that build a model, its objective and its task from them.

A family a file. A recipe is a frozen dataclass whose defaults are those of a paper or of its authors' code;
functions beside it build what it describes. Experiments import them.
"""
