"""Events of users with items: files, sequences, sessions, their splits and batches."""
