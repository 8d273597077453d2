"""Data sets made of a run's shards: COCO, YOLO, JSON lines, Parquet; anew at any time, with nothing detected again."""
