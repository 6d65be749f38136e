"""From vectors or scores of items to ranks and the best items.

chunked      scores of all items a block at a time, exact: counts, and the best k
rank         ranks of targets by a protocol
top_k        the best items by a protocol, which of them are relevant, and the rank
measure      inner product, cosine, Euclidean distance
exact        the best of millions of vectors, exact
approximate  the same by jax.lax.approx_max_k
clusters     the best of the nearest lists of a k-means
k_means      k-means on the device
aggregate    lists that trade scores for different categories
several      the best by any of a query's vectors, without repeats
cur          the best by a scorer that is no product, from few of its scores
scored       what searches by any scorer share
graphs       walks over a proximity graph by any scorer
graph_build  proximity graphs of vectors, or of what queries find relevant
paths        the items on a beam's best paths of codes, by a scorer that is any function
paths_learning  which paths items lie on, by coordinate descent
recall       how much of the exact result another search finds
trees        a beam's best of a tree, by a scorer that is any function
stored       indexes as files
libraries    indexes of faiss, hnswlib and usearch
"""
