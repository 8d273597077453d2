"""How a Triton model is set up: what `glip-export triton` writes into config.pbtxt and the model reads there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from glip_export.errors import GlipExportError
from glip_export.image import MAX_PIXELS


@dataclass(frozen=True)
class TritonSettings:
    """Of one model; what is not for Triton itself stands in config.pbtxt as a parameter of the same name.

    Raises GlipExportError for a number out of bounds.
    """

    backend: str = "onnxruntime"  # of the Detector
    threads: int = 0  # of an instance; 0: the usable cores, shared among the instances
    instances: int = 1  # processes, on each GPU where the backend runs on one
    max_batch: int = 8  # pictures
    max_wait_us: int = 2000  # that the first picture of a batch waits for others
    max_queue: int = 256  # requests that wait; more are refused
    max_bytes: int = 32_000_000  # of an encoded picture
    max_pixels: int = 25_000_000  # of a picture as given
    max_names: int = 1500  # of a prompt; LVIS has 1203
    image_cache_bytes: int = 256_000_000  # of pictures' features, in each instance; 0 for none

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise GlipExportError(f"{_option(name)} is {getattr(self, name)}; it is {least} or more")
        if self.max_pixels > MAX_PIXELS:
            raise GlipExportError(f"{_option('max_pixels')} is {self.max_pixels}; it is {MAX_PIXELS} or less")

    def to_parameters(self) -> dict[str, str]:
        """What the model itself reads."""
        return {name: str(getattr(self, name)) for name in _PARAMETERS}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> TritonSettings:
        """Of a model's configuration as Triton gives it; raises GlipExportError naming a parameter that is wrong."""
        given = {name: str(value["string_value"]) for name, value in config.get("parameters", {}).items()}
        kinds = {field.name: field.type for field in fields(cls)}
        values: dict[str, Any] = {"max_batch": int(config["max_batch_size"]), "instances": _instances(config)}
        for name in _PARAMETERS:
            if name in given:
                values[name] = given[name] if kinds[name] == "str" else _whole_number(name, given[name])
        return cls(**values)


_LEAST = {
    "threads": 0, "instances": 1, "max_batch": 1, "max_wait_us": 0, "max_queue": 1, "max_bytes": 1, "max_pixels": 1000,
    "max_names": 1, "image_cache_bytes": 0,
}  # fmt: skip
_PARAMETERS = ("backend", "threads", "max_bytes", "max_pixels", "max_names", "image_cache_bytes")


def _instances(config: Mapping[str, Any]) -> int:
    return max(1, sum(int(group.get("count", 1)) for group in config.get("instance_group", [])))


def _whole_number(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise GlipExportError(f"config.pbtxt: parameter {name} is {text!r}, not a whole number") from None


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
