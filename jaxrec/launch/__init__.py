"""Several processes that train together: `python -m jaxrec.launch` here, or one on each host of a cluster."""
