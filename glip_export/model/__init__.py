"""GLIP in plain PyTorch, one file a part, to be read beside the paper (Li et al., CVPR 2022)."""
