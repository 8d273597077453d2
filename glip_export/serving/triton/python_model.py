"""What Triton's python backend runs: one Detector in each instance, answering the batches that Triton makes.

Every request is answered as the Detector answers it for that picture alone; what is wrong with one request is its own
TritonError. The message begins with a code, as in the HTTP server: bad_image, bad_prompt or internal.

Of Triton's Python interface only tensors, errors and the log are used: with metrics of our own (`MetricFamily`) a
process of Triton 2.51 crashed whenever its server ended, and with them and `is_cancelled` the server itself did twice.
"""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from glip_export.errors import GlipExportError, ImageError, PromptError
from glip_export.processes import usable_cores
from glip_export.results.detections import Detections
from glip_export.runtime.detector import Detector
from glip_export.runtime.request_batch import BatchDetector, Request
from glip_export.serving.triton.model_config import GRAPHS_PARAMETER, HOST_NMS_PARAMETER, runs_on_gpu
from glip_export.serving.triton.settings import TritonSettings
from glip_export.serving.triton.tensors import INPUTS, read_requests, write_detections

BUNDLE = "bundle"  # beside model.py
WARM_UP_PROMPT = "person. dog. car. chair"


class GlipModel:
    """Triton's TritonPythonModel."""

    def initialize(self, args: dict[str, str]) -> None:
        """Opens the bundle, its hashes checked, and answers one request to be warm; what fails keeps the model down."""
        import triton_python_backend_utils as pb_utils

        self._pb = pb_utils
        config = json.loads(args["model_config"])
        self._settings = settings = TritonSettings.from_config(config)
        folder = Path(args["model_repository"], args["model_version"])
        parameters = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
        if args["model_instance_kind"] == "GPU" and runs_on_gpu(settings.backend):
            # Before any CUDA library looks: this process then has the one GPU that Triton gave its instance.
            os.environ["CUDA_VISIBLE_DEVICES"] = args["model_instance_device_id"]
        if GRAPHS_PARAMETER in parameters:
            from glip_export.serving.triton.bls_session import open_bls_detector

            host_nms = parameters.get(HOST_NMS_PARAMETER) == "1"
            detector = open_bls_detector(pb_utils, folder / BUNDLE, parameters[GRAPHS_PARAMETER], host_nms)
        else:
            detector = Detector.open(folder / BUNDLE, settings.backend, _threads(settings))
        self._batch = BatchDetector(detector, settings.max_batch, settings.image_cache_bytes, settings.max_pixels)
        if GRAPHS_PARAMETER not in parameters:  # Triton warms those graphs up itself, and may load them after this
            self._warm_up()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response a request, in their order."""
        rows: list[Request] = []
        places: list[range | Exception] = []  # of each request's rows, or why it has none
        for request in requests:
            try:
                own = read_requests(self._tensors(request), self._settings)
                places.append(range(len(rows), len(rows) + len(own)))
                rows += own
            except GlipExportError as error:
                places.append(error)
            except Exception as error:  # what one request brings about is not for the others
                self._pb.Logger.log_error(traceback.format_exc())
                places.append(error)
        results = self._answer(rows)
        return [
            self._error(place) if isinstance(place, Exception) else self._response([results[i] for i in place])
            for place in places
        ]

    def finalize(self) -> None:
        """Lets go of the Detector."""
        self._batch.detector = None  # type: ignore[assignment]

    def _tensors(self, request: Any) -> dict[str, np.ndarray]:
        given = {name: self._pb.get_input_tensor_by_name(request, name) for name in INPUTS}
        return {name: tensor.as_numpy() for name, tensor in given.items() if tensor is not None}

    def _answer(self, rows: Sequence[Request]) -> list[Detections | Exception]:
        """Of each row; where the whole batch fails for no reason of a user's, each is tried alone."""
        try:
            return list(self._batch.detect_each(rows))
        except Exception:
            self._pb.Logger.log_error(traceback.format_exc())
        results: list[Detections | Exception] = []
        for row in rows:
            try:
                results += self._batch.detect_each([row])
            except Exception as error:
                self._pb.Logger.log_error(traceback.format_exc())
                results.append(error)
        return results

    def _response(self, results: Sequence[Detections | Exception]) -> Any:
        detections = [result for result in results if isinstance(result, Detections)]
        if len(detections) < len(results):
            return self._error(next(result for result in results if not isinstance(result, Detections)))
        outputs = write_detections(detections)
        return self._pb.InferenceResponse([self._pb.Tensor(name, array) for name, array in outputs.items()])

    def _error(self, error: Exception) -> Any:
        kinds = self._pb.TritonError
        if isinstance(error, ImageError):
            code, kind = "bad_image", kinds.INVALID_ARG
        elif isinstance(error, PromptError):
            code, kind = "bad_prompt", kinds.INVALID_ARG
        else:
            code, kind = "internal", kinds.INTERNAL
        words = str(error) if isinstance(error, GlipExportError) else "the server failed on this request; see its log"
        return self._pb.InferenceResponse(error=kinds(f"{code}: {words}", kind))

    def _warm_up(self) -> None:
        """A grey picture of the usual size: graphs are planned, kernels compiled and memory taken before users come."""
        picture = np.full((20, 30, 3), 128, np.uint8)  # resized like any other, but within every limit
        (result,) = self._batch.detect_each([Request(picture, WARM_UP_PROMPT)])
        if isinstance(result, GlipExportError):
            raise result


def _threads(settings: TritonSettings) -> int | None:
    """Of this instance: together they take the cores once."""
    if runs_on_gpu(settings.backend):
        return settings.threads or None
    return settings.threads or max(1, usable_cores() // settings.instances)
