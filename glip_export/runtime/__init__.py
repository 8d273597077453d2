"""Running a bundle: the Detector, and one session file a backend."""
