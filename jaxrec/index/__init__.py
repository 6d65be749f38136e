"""From vectors or scores of items to ranks and the best items.

chunked  scores of all items a block at a time, exact: counts, and the best k
rank     ranks of targets by a protocol
top_k    the best items by a protocol, which of them are relevant, and the rank
measure  inner product, cosine, Euclidean distance
exact    the best of millions of vectors, exact
cur      the best by a scorer that is no product, from few of its scores
"""
