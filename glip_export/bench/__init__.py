"""glip-bench: how fast a bundle runs on its backends, and whether they agree while they do."""
