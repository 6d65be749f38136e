"""The measurements of `experiments.speed`, one file for each family."""
