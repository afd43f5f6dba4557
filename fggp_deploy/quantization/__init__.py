"""Quantized activations, and the dense int8 baseline."""
