"""The verbs of `glip-export eval`, a file each; what they share is in options.py and running.py."""
