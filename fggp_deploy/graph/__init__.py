"""ONNX graphs: reading files that nobody vouches for, constants, uses, and comparing outputs."""
