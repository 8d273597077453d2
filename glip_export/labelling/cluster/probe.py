"""What a machine says of its glip_export. Sent to it as it stands, for it may have none: the standard library alone."""

from __future__ import annotations

import hashlib
import importlib.util
import os


def installed_package() -> str:
    """The SHA-256 over the package's Python files, in the order of their names; "" without the package."""
    found = importlib.util.find_spec("glip_export")
    if found is None or found.origin is None:
        return ""
    root = os.path.dirname(found.origin)
    digest = hashlib.sha256()
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            if name.endswith(".py"):
                path = os.path.join(folder, name)
                digest.update(os.path.relpath(path, root).replace(os.sep, "/").encode() + b"\0")
                with open(path, "rb") as file:
                    digest.update(file.read() + b"\0")
    return digest.hexdigest()
