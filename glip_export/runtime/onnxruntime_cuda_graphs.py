"""ONNX Runtime's own CUDA graphs of one graph: which runs become one, and with what memory.

What ONNX Runtime asks for (its CUDA provider with enable_cuda_graph, and a run's option gpu_graph_id; docs of the CUDA
provider, "Using CUDA Graphs", and its source):
- Each id has one set of shapes and ADDRESSES, of inputs and outputs alike. So a captured run has buffers that stay, and
  what is given and what is returned is copied in and out on the device.
- It captures within the first run of an id, after runs of its own that let its memory grow. The id -1 is a plain run.
- A graph belongs to the thread that captured it, and a session cannot let go of one. So the key holds the thread, and
  the `limit` first that repeat are kept and no others: memory stays flat however many shapes come.
- Every node has to be the provider's, but for arithmetic on shapes: with a copy between the CPU and the GPU inside the
  graph, the session is refused when it is made. NonMaxSuppression waits for the GPU, which no capture may: the fusion
  head is not tried.
- A kernel that copies from the host's memory is captured with an address that is gone at the next launch, and nothing
  says so. So the first outputs are compared with those of a plain run.
- A capture that fails may leave the process's CUDA context without use, which no fallback mends. So they are not made
  unless asked for.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from glip_export.runtime.cuda.arrays import DeviceArray
from glip_export.runtime.session import one_line

REMEMBERED = 4  # keys seen once that are remembered, for each graph that may be kept
PLAIN_ID = -1
LARGEST_DIFFERENCE = 1e-2  # of the first captured outputs to the plain ones', rms to rms

Outputs = dict[str, DeviceArray]


@dataclass(frozen=True)
class Static:
    """A captured run: its id, its binding, and the buffers that this names."""

    number: int
    binding: Any
    inputs: Outputs = field(default_factory=dict)
    outputs: Outputs = field(default_factory=dict)


class CapturedRuns:
    """The captured runs of one graph, by shape and thread: the second run of a key captures, further ones launch.

    trouble: why nothing more is captured, if something failed; all runs are plain then.
    """

    def __init__(self, limit: int, trouble: str = "") -> None:
        self.limit = limit
        self.trouble = trouble
        self._kept: dict[Hashable, Static] = {}
        self._seen: OrderedDict[Hashable, None] = OrderedDict()
        self._number = 0

    def __len__(self) -> int:
        return len(self._kept)

    def run(
        self,
        shapes: Hashable,
        plain: Callable[[], Outputs],
        prepare: Callable[[int], Static],
        launch: Callable[[Static], Outputs],
    ) -> Outputs:
        """Runs once, whichever way.

        prepare: buffers and binding for an id. launch: runs it; of an id's first launch ONNX Runtime makes the graph.
        """
        key = (shapes, threading.get_ident())
        if key in self._kept and not self.trouble:
            return launch(self._kept[key])
        outputs = plain()
        if self.trouble or len(self._kept) >= self.limit:
            return outputs
        if key not in self._seen:
            self._note(key)
            return outputs
        del self._seen[key]
        self._number += 1
        try:
            static = prepare(self._number)
            self.trouble = _difference(outputs, launch(static))
        except Exception as error:  # onnxruntime's own exceptions share no base
            self.trouble = one_line(error)
        if self.trouble:
            self.clear()
        else:
            self._kept[key] = static
        return outputs

    def clear(self) -> None:
        """Drops the buffers; the graphs go with the session."""
        self._kept.clear()
        self._seen.clear()

    def _note(self, key: Hashable) -> None:
        self._seen[key] = None
        while len(self._seen) > REMEMBERED * self.limit:
            self._seen.popitem(last=False)


def _difference(plain: Outputs, captured: Outputs) -> str:
    """What is wrong with a captured run's outputs, or ""."""
    for name, array in plain.items():
        expected, found = np.asarray(array), np.asarray(captured[name])
        scale = float(np.sqrt(np.mean(np.square(expected, dtype=np.float64)))) or 1.0
        difference = float(np.sqrt(np.mean(np.square(found.astype(np.float64) - expected)))) / scale
        if not difference <= LARGEST_DIFFERENCE:
            return f"a captured run's {name} is {difference:.2g} (rms) from the plain run's"
    return ""
