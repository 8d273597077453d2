"""What every source can do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

from glip_export.labelling.items import Item

if TYPE_CHECKING:
    import pyarrow


class Source(Protocol):
    """Pictures in an order that the source's files alone decide. It can be pickled; nothing stays open between calls.

    carried: names and types of the values that each Item carries; None for none.
    """

    @property
    def carried(self) -> pyarrow.Schema | None:
        """Names and types of what the items carry."""

    def items(self) -> Iterator[Item]:
        """All pictures, from the first one each time, in the memory of some thousand; what cannot be read is one."""

    def count(self) -> int | None:
        """How many there are, where it takes no longer than a moment to say."""

    def describe(self) -> dict[str, Any]:
        """What the source is, for a summary in JSON: its kind, what was given, and what is particular to it."""
