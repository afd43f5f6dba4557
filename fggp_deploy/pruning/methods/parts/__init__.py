"""Parts that several pruning methods share."""
