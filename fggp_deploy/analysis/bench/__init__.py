"""The benchmark of a model in ONNX Runtime; `benchmark.bench` is the entry point."""
