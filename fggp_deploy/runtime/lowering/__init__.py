"""From ONNX operators to steps of a kernel program."""
