"""Models of retrieval: a user's history to vectors that are compared with those of all items."""
