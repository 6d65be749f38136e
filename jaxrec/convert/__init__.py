"""Published PyTorch weights to Flax variables, one file per code base."""
