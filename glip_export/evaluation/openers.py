"""What opens a detector, here or in another process, or on another machine that has the bundle elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from glip_export.config import GlipConfig
from glip_export.runtime.detector import Detector

Change = Callable[[GlipConfig], GlipConfig]


@runtime_checkable
class Opener(Protocol):
    """It can be pickled, and is small."""

    @property
    def bundle(self) -> Path:
        """That it opens."""
        ...

    def __call__(self) -> Detector:
        """Opens it."""
        ...

    def at(self, bundle: Path) -> Opener:
        """The same for the same bundle at another place."""
        ...


@dataclass(frozen=True)
class BundleOpener:
    """Opens a bundle with a configuration that differs from its own in what no graph depends on."""

    bundle: Path
    backend: str
    config: GlipConfig
    threads: int | None = None
    weights: str | None = None

    def __call__(self) -> Detector:
        """See `Detector.open`."""
        return Detector.open(self.bundle, self.backend, self.threads, self.weights).reconfigured(self.config)

    def at(self, bundle: Path) -> BundleOpener:
        """Opens the bundle there."""
        return replace(self, bundle=bundle)


@dataclass(frozen=True)
class _Changed:
    opener: Callable[[], Detector]
    change: Change

    @property
    def bundle(self) -> Path:
        """The opener's; AttributeError where it does not tell."""
        return self.opener.bundle  # type: ignore[attr-defined]

    def __call__(self) -> Detector:
        return _reconfigured(self.opener(), self.change)

    def at(self, bundle: Path) -> _Changed:
        """Opens the bundle there."""
        return replace(self, opener=self.opener.at(bundle))  # type: ignore[attr-defined]


def changed(detector: Detector | Callable[[], Detector], change: Change) -> Detector | Callable[[], Detector]:
    """An open detector, or what opens one, that goes by a configuration that differs in what no graph depends on."""
    return _Changed(detector, change) if callable(detector) else _reconfigured(detector, change)


def _reconfigured(detector: Detector, change: Change) -> Detector:
    return detector.reconfigured(change(detector.config))
