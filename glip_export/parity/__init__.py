"""Whether a backend gives what PyTorch gives: metrics, the ladder of graphs, the report, where a difference starts."""
