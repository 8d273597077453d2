"""Which operators of PyTorch are called, of those that run something."""

from __future__ import annotations

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class Calls(TorchDispatchMode):
    """The operators that made new values."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        if not (function.is_view or name.startswith("empty") or name in ("new_empty", "_unsafe_view", "detach")):
            self.names.append(name)
        return function(*args, **(kwargs or {}))
