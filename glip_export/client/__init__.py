"""Clients of the servers: what `Detector.detect` gives, computed elsewhere."""

from glip_export.client.http import Client
from glip_export.errors import ServerError

__all__ = ["Client", "ServerError"]
