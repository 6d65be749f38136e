"""What `jaxrec train` is made of: the list of models, options, data, training by kind of data, the folder."""
