"""The three graphs as Triton models of their own, called from the python backend (business logic scripting).

Tensors go through the host: features are held there between prompts, and rows of several requests are joined there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from glip_export.bundle.files import MANIFEST, sha256_file
from glip_export.bundle.manifest import parse_manifest
from glip_export.config import GlipConfig
from glip_export.errors import BackendError, BundleError
from glip_export.graphs.contracts import FUSION_HEAD, GraphSpec, graphs_of
from glip_export.runtime.detector import Detector
from glip_export.runtime.host_nms import finished
from glip_export.runtime.session import GraphSession, one_line, shapes_of
from glip_export.serving.triton.model_config import CANDIDATES

FILES = "graphs.json"  # beside the manifest: path in the repository -> SHA-256, of what the graphs' models load


def open_bls_detector(pb_utils: Any, folder: Path, prefix: str, host_nms: bool) -> Detector:
    """A Detector whose graphs are the Triton models <prefix>_<graph> of the same repository.

    folder: holds the bundle's manifest and graphs.json. Raises BundleError if a model's file is not what was written.
    """
    try:
        manifest = parse_manifest(json.loads((folder / MANIFEST).read_bytes()), folder)
        hashes: dict[str, str] = json.loads((folder / FILES).read_bytes())
        repository = folder.parents[2]  # <repository>/<model>/<version>/bundle
        for name, sha256 in hashes.items():
            if sha256_file(repository / name) != sha256:
                raise BundleError(f"{repository / name} is damaged or was changed: its SHA-256 is not that of {FILES}")
    except (OSError, ValueError) as error:
        raise BundleError(f"{folder} cannot be read ({error}): write the repository again") from error
    return Detector(BlsSession(pb_utils, prefix, manifest.config, host_nms), manifest.config, manifest.image_size)


class BlsSession(GraphSession):
    """See `Session` for shapes. Raises BackendError where a model fails."""

    def __init__(self, pb_utils: Any, prefix: str, config: GlipConfig, host_nms: bool = False) -> None:
        """host_nms: whether the fusion head stops at the candidates of NMS."""
        self.name = f"triton:{prefix}"
        self._pb = pb_utils
        self._prefix = prefix
        self.specs = graphs_of(config)
        self._host_nms = config.detection if host_nms else None

    def _run(self, spec: GraphSpec, arrays: tuple[np.ndarray, ...]) -> list[Any]:
        outputs = spec.outputs if self._host_nms is None or spec is not FUSION_HEAD else CANDIDATES
        request = self._pb.InferenceRequest(
            model_name=f"{self._prefix}_{spec.name}",
            requested_output_names=[tensor.name for tensor in outputs],
            inputs=[
                self._pb.Tensor(tensor.name, np.ascontiguousarray(array, tensor.dtype))
                for tensor, array in zip(spec.inputs, arrays, strict=True)
            ],
            preferred_memory=self._pb.PreferredMemory(self._pb.TRITONSERVER_MEMORY_CPU),
        )
        response = request.exec()
        if response.has_error():
            raise BackendError(
                f"the Triton model {self._prefix}_{spec.name} failed ({shapes_of(spec, arrays)}): "
                f"{one_line(response.error())}"
            )
        given = {tensor.name(): tensor for tensor in response.output_tensors()}
        found = [given[tensor.name].as_numpy() for tensor in outputs]
        if self._host_nms is None or spec is not FUSION_HEAD:
            return found
        return finished(found, self._host_nms)
