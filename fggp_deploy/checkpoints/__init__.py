"""What the stages read and write: checkpoints, sparse models, provenance."""
