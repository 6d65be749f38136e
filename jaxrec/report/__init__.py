"""Result files, and the tables and plots made from them."""
