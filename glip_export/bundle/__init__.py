"""The folder that all stages share: its manifest and hashes, its external data, files written whole or not at all."""

from glip_export.bundle.baked_file import BakedFile
from glip_export.bundle.bundle import Bundle, installed_versions, newest_bundle, write_manifest
from glip_export.bundle.manifest import File, Graph, Weights

__all__ = ["BakedFile", "Bundle", "File", "Graph", "Weights", "installed_versions", "newest_bundle", "write_manifest"]
