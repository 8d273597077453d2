"""TensorRT: lowering of the graphs, plugins, engines."""
