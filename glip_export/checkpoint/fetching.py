"""Where weights come from: a local path or an address on the Hugging Face hub."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from glip_export.checkpoint.reading import check_file
from glip_export.checkpoint.sharded import is_index, shard_names
from glip_export.errors import CheckpointError


def resolve_weights(weights: str | Path) -> Path:
    """The file that --weights names: a path, or hf://OWNER/REPO/FILE through huggingface_hub's cache.

    Of a sharded model it is the index, which its folder may stand for; its shards are fetched too.
    Raises CheckpointError if there is no such file, the address is malformed or it cannot be fetched.
    """
    text = str(weights)
    # Path("hf://owner/repo") has already lost a slash.
    address = re.fullmatch(r"hf:/{1,2}(.*)", text)
    if address is None:
        return check_file(Path(text))
    parts = address[1].split("/")
    if len(parts) < 3 or not all(re.fullmatch(r"[A-Za-z0-9_][\w.\-]*", part, re.ASCII) for part in parts):
        raise CheckpointError(
            f"{text}: expected hf://OWNER/REPO/FILE, such as hf://GLIPModel/GLIP/glip_a_tiny_o365.pth"
        )
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise CheckpointError(f"{text}: needs huggingface_hub: pip install 'glip-export[hub]'") from error
    logging.getLogger("huggingface_hub").setLevel(
        logging.ERROR
    )  # or it warns of every retry before we say what is wrong
    try:
        path = Path(hf_hub_download("/".join(parts[:2]), "/".join(parts[2:])))
        for shard in shard_names(path) if is_index(path) else ():
            hf_hub_download("/".join(parts[:2]), "/".join([*parts[2:-1], shard]))
        return path
    except CheckpointError:
        raise
    except Exception as error:  # its HTTP library's errors change with its versions
        reason = next(iter(str(error).split("\n")), "") or type(error).__name__
        raise CheckpointError(
            f"{text}: cannot be fetched ({reason}); check the address and the network, or give a local file"
        ) from error
