"""Clients of the servers: what `Detector.detect` gives, computed elsewhere."""
