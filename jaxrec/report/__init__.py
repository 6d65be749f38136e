"""Results on disk, and the tables and plots made from them."""
