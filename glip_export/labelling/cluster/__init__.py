"""The same work on the machines of a Ray cluster: Ray Data schedules it, tries again, and grows with the cluster."""
