"""NVIDIA Triton Inference Server: the model repository, and what its python backend runs."""
