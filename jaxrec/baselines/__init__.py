"""Methods without gradient descent: any number is read against these.

Each reads training events, of a protocol's `Data` or of a `TrainingEvents` of your own arrays, and gives a
`types.Baseline`: a model that the protocols rank as they rank a trained one, and its variables.

random              products of random vectors: what chance gives
popularity          the number of training events
session_popularity  the number of events in the history so far, then of training events
item_knn            similarity to the last item of the history, by the users or sessions that have both
markov              how often an item followed the last one
matrix_item_knn     similarities to all items of the history
matrix_user_knn     what the most similar users have
item_cf             co-occurrence with all items of the history, damped by popularity (and users' activity)
etrec               the item-based collaborative filtering of Alibaba Cloud PAI
swing               pairs of users that share both items and few others
p3alpha, rp3beta    random walks of three steps
co_visitation       how near items stand to the last ones in training
slim                a sparse linear model
ease                a linear autoencoder in closed form
ials                vectors of users and items by alternating least squares
biased_mf           the same for explicit ratings, with biases
content_knn         likeness of content to the items of the history, for new items too
content_ridge       a linear map from content to a factor model's vectors, for new items
linear_prior        ials whose items have a linear prior from content, for new items

Of tables of labelled rows there are the base rate, logistic regression, boosted trees, and logistic
regression on their leaves: `jaxrec.baselines.click_tables`.
"""

from jaxrec.baselines.biased_mf import biased_mf
from jaxrec.baselines.co_visitation import co_visitation
from jaxrec.baselines.content_knn import content_knn
from jaxrec.baselines.content_ridge import content_ridge
from jaxrec.baselines.ease import ease
from jaxrec.baselines.etrec import etrec
from jaxrec.baselines.ials import ials
from jaxrec.baselines.item_cf import item_cf
from jaxrec.baselines.item_knn import item_knn
from jaxrec.baselines.linear_prior import linear_prior
from jaxrec.baselines.markov import markov
from jaxrec.baselines.matrix_knn import matrix_item_knn, matrix_user_knn
from jaxrec.baselines.popularity import popularity
from jaxrec.baselines.random import random
from jaxrec.baselines.rp3beta import p3alpha, rp3beta
from jaxrec.baselines.session_popularity import session_popularity
from jaxrec.baselines.slim import slim
from jaxrec.baselines.swing import swing
from jaxrec.data.events.training_events import TrainingEvents

__all__ = [
    "TrainingEvents",
    "biased_mf",
    "co_visitation",
    "content_knn",
    "content_ridge",
    "ease",
    "etrec",
    "ials",
    "item_cf",
    "item_knn",
    "linear_prior",
    "markov",
    "matrix_item_knn",
    "matrix_user_knn",
    "p3alpha",
    "popularity",
    "random",
    "rp3beta",
    "session_popularity",
    "slim",
    "swing",
]
