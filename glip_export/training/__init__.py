"""Training a GLIP: its losses, scenes to learn from, and a loop that can be stopped and continued."""
