"""How large the activations are on a set of pictures: their extremes, or by ONNX Runtime's own histograms."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from glip_export.bundle.files import atomic_path, atomic_write_text

METHODS = ("minmax", "percentile", "entropy")  # as in cli.quantize, which imports nothing heavy
PERCENTILE = 99.99
BINS = 2048
AT_ONCE = 16  # tensors that a run gives back whole
PICTURES = "/pictures"  # how many, in a file of histograms

Arrays = Mapping[str, NDArray]


class RangeFinder:
    """Collects how large each of a graph's values is, picture by picture; what it knows can be saved between two.

    Extremes and mean squares are reduced inside the graph, so that memory is the graph's own. Histograms (of
    onnxruntime.quantization) read AT_ONCE values whole at a time, and need a run for each so many.
    """

    def __init__(self, path: Path, names: Sequence[str], method: str, threads: int | None = None) -> None:
        self.names = list(names)
        self.method = method
        self.pictures = 0
        self.squares: dict[str, float] = dict.fromkeys(names, 0.0)  # sums over pictures of the mean square
        self._largest: dict[str, float] = dict.fromkeys(names, 0.0)
        self._collector = _collector(method)
        model = onnx.load(path, load_external_data=False)
        self._own = [output.name for output in model.graph.output]
        _add_statistics(model.graph, self.names)
        if self._collector is not None:
            known = set(self._own)
            model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
        self._session = session_of(model.SerializeToString(), path.parent, threads)

    def add(self, inputs: Arrays) -> dict[str, NDArray]:
        """Notes the values for one picture, and gives the graph's own outputs."""
        facts = [f"{name}{fact}" for name in self.names for fact in _FACTS]
        wanted = [*self._own, *facts]
        found = dict(zip(wanted, self._session.run(wanted, dict(inputs)), strict=True))
        for name in self.names:
            low, high, squares, size = (float(found[f"{name}{fact}"]) for fact in _FACTS)
            self._largest[name] = max(self._largest[name], abs(low), abs(high))
            self.squares[name] += squares / size
        self.pictures += 1
        if self._collector is not None:
            for start in range(0, len(self.names), AT_ONCE):
                group = self.names[start : start + AT_ONCE]
                with contextlib.redirect_stdout(io.StringIO()):  # the library prints what it does
                    self._collector.collect(dict(zip(group, self._session.run(group, dict(inputs)), strict=True)))
        return {name: found[name] for name in self._own}

    def outputs(self, inputs: Arrays) -> dict[str, NDArray]:
        """The graph's own outputs, of a picture that is noted already."""
        return dict(zip(self._own, self._session.run(self._own, dict(inputs)), strict=True))

    def ranges(self) -> dict[str, float]:
        """The largest magnitude to keep of each value, by name."""
        if self._collector is None or not self._collector.histogram_dict:
            return dict(self._largest)
        with contextlib.redirect_stdout(io.StringIO()):
            found = self._collector.compute_collection_result()
        return {name: max(abs(float(low)), abs(float(high))) for name, (low, high, *_) in found.items()}

    def mean_squares(self) -> dict[str, float]:
        """Of each value over all pictures, by name."""
        return {name: total / max(self.pictures, 1) for name, total in self.squares.items()}

    def save(self, path: Path) -> None:
        """Writes what was noted so far, whole or not at all."""
        if self._collector is not None:
            arrays: dict[str, Any] = {PICTURES: self.pictures}
            for name, parts in self._collector.histogram_dict.items():
                arrays.update({f"{name}/{place}": np.asarray(part) for place, part in enumerate(parts)})
            with atomic_path(path.with_suffix(".npz"), lasting=False) as temporary:
                np.savez(temporary, **arrays)
        facts = {"pictures": self.pictures, "largest": self._largest, "squares": self.squares}
        atomic_write_text(path, json.dumps(facts))

    def load(self, path: Path) -> None:
        """Goes on from what `save` wrote, if it is there and of the same values."""
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            histograms: dict[str, tuple[Any, ...]] = {}
            if self._collector is not None:
                with np.load(path.with_suffix(".npz")) as arrays:
                    if int(arrays[PICTURES]) != facts["pictures"]:  # killed between the two files
                        return
                    for name in self.names if facts["pictures"] else ():
                        histograms[name] = tuple(arrays[f"{name}/{place}"] for place in range(5))
        except (OSError, ValueError, KeyError, BadZipFile):
            return
        if set(facts["largest"]) == set(self.names):
            self.pictures, self._largest, self.squares = facts["pictures"], facts["largest"], facts["squares"]
            if self._collector is not None:
                self._collector.histogram_dict = histograms


_FACTS = {"_lowest": "ReduceMin", "_highest": "ReduceMax", "_squares": "ReduceSumSquare", "_size": "Size"}


def _add_statistics(graph: onnx.GraphProto, names: Sequence[str]) -> None:
    for name in names:
        for fact, op_type in _FACTS.items():
            node = onnx.helper.make_node(op_type, [name], [f"{name}{fact}"], f"{name}{fact}")
            if op_type != "Size":
                node.attribute.append(onnx.helper.make_attribute("keepdims", 0))
            graph.node.append(node)
            graph.output.append(onnx.ValueInfoProto(name=f"{name}{fact}"))


def _collector(method: str) -> Any:
    if method == "minmax":
        return None
    from onnxruntime.quantization.calibrate import HistogramCollector

    return HistogramCollector(method, False, BINS, 255, PERCENTILE, "same")


def session_of(model: bytes, folder: Path, threads: int | None = None) -> onnxruntime.InferenceSession:
    """A serialized graph on the CPU, whose external data lie in the folder and are read where they are."""
    options: Any = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_mem_pattern = False
    if threads is not None:
        options.intra_op_num_threads = threads
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder.resolve()))
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
