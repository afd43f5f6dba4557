"""ONNX graphs: reading untrusted files, constants, readers of values, shapes, comparing outputs."""
