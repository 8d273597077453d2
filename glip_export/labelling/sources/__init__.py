"""What can be labelled: folders, lists, Parquet, WebDataset shards, prefixes of object stores, each as a Source."""

from glip_export.labelling.sources.opening import open_source
from glip_export.labelling.sources.source import Source

__all__ = ["Source", "open_source"]
