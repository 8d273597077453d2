"""Stands for TensorRT where there is none: its names, and engines that PyTorch runs on the given stream and addresses.

With this folder's parent first on the path `import tensorrt` gives it, in commands too. Everything around NVIDIA's
engine is real then: memory, streams, CUDA graphs, profiles, plugins' registration, the session and what is above it.
Tests alone use it. An engine is a JSON text that says which graph of which bundle it stands for (`stand_in_build.py`).
"""

from __future__ import annotations

import enum
import json
from types import SimpleNamespace
from typing import Any

import numpy as np

from .running import Engine

__version__ = "11.4.0.106"


class TensorIOMode(enum.Enum):
    NONE, INPUT, OUTPUT = range(3)


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def log(self, severity: int, message: str) -> None:
        raise NotImplementedError


class ExecutionContextAllocationStrategy(enum.Enum):
    STATIC, ON_PROFILE_CHANGE, USER_MANAGED = range(3)


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        self.logger = logger

    def deserialize_cuda_engine(self, data: bytes) -> Engine | None:
        try:
            words = json.loads(data)
        except ValueError:
            self.logger.log(ILogger.ERROR, "the stand-in was given no engine of its own")
            return None
        modes = TensorIOMode.INPUT, TensorIOMode.OUTPUT
        return Engine(words, modes, lambda message: self.logger.log(ILogger.ERROR, message))


def nptype(dtype: Any) -> Any:
    return np.dtype(dtype).type


# -- what the plugins are made of


class IPluginV3:
    pass


class IPluginCapability:
    pass


class IPluginV3OneCore(IPluginCapability):
    pass


class IPluginV3OneBuild(IPluginCapability):
    pass


class IPluginV3OneRuntime(IPluginCapability):
    pass


class IPluginCreatorV3One:
    pass


class PluginFieldType(enum.Enum):
    FLOAT32, INT32 = range(2)


class PluginField:
    def __init__(self, name: str, data: Any, type: PluginFieldType) -> None:
        self.name, self.data, self.type = name, data, type


class PluginFieldCollection(list):  # type: ignore[type-arg]
    pass


_registry = SimpleNamespace(all_creators=[])
_registry.register_creator = lambda creator, namespace="": _registry.all_creators.append(creator)


def get_plugin_registry() -> Any:
    return _registry
