"""What `experiments.speed` times, a file for each family of figures."""
