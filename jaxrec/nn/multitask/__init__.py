"""Models of several tasks: a vector of features [B, F] to one logit a task."""
