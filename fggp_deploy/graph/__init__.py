"""What holds for any ONNX graph: how the outputs of two runs of one network are compared."""
