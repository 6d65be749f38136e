"""(key, sequences) → sequences: operators, item similarity, and views for contrastive learning."""
