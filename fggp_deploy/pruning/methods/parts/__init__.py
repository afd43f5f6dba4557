"""What several pruning methods share."""
