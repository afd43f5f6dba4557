"""From ONNX operators to steps of a kernel program.

Each module holds one family of operators: its matchers, and `MATCHERS`, which lists them by
operator. `matching` collects these, so that a new family is one file and one entry there. `fusion`
fuses the nodes after a layer into it: an addition, an activation, quantization.

A matcher is given a node and its graph. It returns a `LoweredLayer`, or None if the kernels cannot
compute the node exactly; that node stays with ONNX Runtime.
"""
