"""A finished run answers questions: `run = serve.load(folder)`, then `recommend`, `score` or `embed`.

    run.recommend(users=["u1"], k=10)   the best items with their scores
    run.score(rows)                     probabilities of each label for rows of raw columns
    run.embed("items")                  vectors with raw ids

`run_folder` says what a folder holds. Loading imports the module that the run names, which runs its code.
"""

from jaxrec.serve.load import Run, load

__all__ = ["Run", "load"]
