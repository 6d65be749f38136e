"""What `serve.export` writes into a folder as `reader.py`: each needs jax, flatbuffers and NumPy alone."""
