"""Every Flax Linen module of jaxrec: fields are hyper-parameters, calls return logits or vectors."""
