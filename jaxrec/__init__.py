"""Recommender models in JAX and Flax: a model is a pure function, a result carries its protocol.

data          data sets to validated columns to splits: `jaxrec.data.load("movielens/ml-100k")`
nn            models; augment, losses, metrics, optim, packing, sampling: functions around them
tasks         a model and a loss as four pure functions, which is all that training knows
train         fit and evaluate, one compiled program each, on one device or several
convert       published PyTorch weights; report: tables of results beside published numbers

`jaxrec.__version__` is the version of the installed package. Where jaxrec is not installed, reading it raises
importlib.metadata.PackageNotFoundError.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    __version__: str
else:

    def __getattr__(name: str) -> str:
        """The version, read when asked for: the package also runs where it is not installed."""
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib.metadata import version

        return version(__name__)
