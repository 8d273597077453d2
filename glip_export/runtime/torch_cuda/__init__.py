"""The backend torch:cuda: the bundle's own graphs, run node by node in PyTorch on a GPU, with our CUDA kernels."""
