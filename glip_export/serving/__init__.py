"""Serving a bundle: an HTTP service with a live page, and model repositories for Triton Inference Server."""
