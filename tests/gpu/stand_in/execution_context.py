"""What an IExecutionContext of TensorRT notes and insists on; `tests/runtime/cuda/fake_tensorrt.py` has one too."""

from __future__ import annotations

from typing import Any

SCRATCH = 4096  # bytes an execution asks for, times its pictures
Shape = tuple[int, ...]


class ExecutionContext:
    """Profile, shapes, addresses and scratch memory; what executes is the subclass's."""

    def __init__(self, profiles: list[Any]) -> None:
        self.profile: int | None = None
        self.shapes: dict[str, Shape] = {}
        self.addresses: dict[str, int] = {}
        self.memory = (0, 0)
        self._profiles = profiles
        self._changed = True  # the shapes, since the last execution

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        self.profile = profile
        return 0 <= profile < len(self._profiles)

    def set_input_shape(self, name: str, shape: Shape) -> bool:
        assert self.profile is not None, "no profile yet"
        bounds = self._profiles[self.profile][name]
        if not all(low <= size <= high for low, size, high in zip(bounds["min"], shape, bounds["max"], strict=True)):
            return False
        self._changed |= self.shapes.get(name) != shape
        self.shapes[name] = shape
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert address % 256 == 0
        self.addresses[name] = address
        return True

    def set_device_memory(self, pointer: int, size: int) -> None:
        self.memory = pointer, size

    def update_device_memory_size_for_shapes(self) -> int:
        return SCRATCH * next(iter(self.shapes.values()))[0]

    def note_run(self, capturing: bool) -> None:
        """Before each execution."""
        assert not (capturing and self._changed), "captured without a run since the shapes changed"
        assert self.memory[1] >= self.update_device_memory_size_for_shapes()
        self._changed = False
