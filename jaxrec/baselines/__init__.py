"""Methods without gradient descent: any number is read against these.

Each counts training events, of a protocol's `Data` or of a `TrainingEvents` of your own arrays, and gives a
`types.Baseline`: a model that the protocols rank as they rank a trained one, and its variables.

random              products of random vectors: what chance gives
popularity          the number of training events
session_popularity  the number of events in the history so far, then of training events
item_knn            similarity to the last item of the history, by the users or sessions that have both
markov              how often an item followed the last one
matrix_item_knn     similarities to all items of the history
matrix_user_knn     what the most similar users have
ease                a linear autoencoder in closed form
"""

from jaxrec.baselines.ease import ease
from jaxrec.baselines.item_knn import item_knn
from jaxrec.baselines.markov import markov
from jaxrec.baselines.matrix_knn import matrix_item_knn, matrix_user_knn
from jaxrec.baselines.popularity import popularity
from jaxrec.baselines.random import random
from jaxrec.baselines.session_popularity import session_popularity
from jaxrec.data.events.training_events import TrainingEvents

__all__ = [
    "TrainingEvents",
    "ease",
    "item_knn",
    "markov",
    "matrix_item_knn",
    "matrix_user_knn",
    "popularity",
    "random",
    "session_popularity",
]
