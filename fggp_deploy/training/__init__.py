"""Our training loop: the only place that knows devices, precision and optimizers."""
