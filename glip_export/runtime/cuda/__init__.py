"""CUDA for the TensorRT backends: the driver's calls in `driver`, everything that decides in the other files."""
