"""ODinW: many small data sets in COCO's format, each with a task's YAML that says what it is asked for."""
