"""Published settings, and the functions that build a model, its objective and its task from them.

One file for each family of models. A recipe is a frozen dataclass whose defaults are those of a paper or of
its authors' code; the functions of the same file build what it describes. Experiments import them.
"""
