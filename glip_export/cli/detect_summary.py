"""What `glip-export detect` prints at its end: a table that stays short, and the counts of all pictures."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from rich.table import Table
from rich.text import Text

from glip_export.cli.detect_inputs import Found
from glip_export.errors import visible
from glip_export.results.detections import Detections

PICTURES, ROWS, NAMES = 20, 20, 10  # pictures of the table, detections of each, names that are counted in words


class Summary:
    """Counts all pictures; remembers what the table shows of the first ones."""

    def __init__(self, threshold: float) -> None:
        """threshold: the score from which on a detection counts."""
        self.pictures = 0
        self.failures = 0
        self._threshold = threshold
        self._names: Counter[str] = Counter()
        self._table = Table(title=f"detections that score {threshold:g} or more")
        for column in ("picture", "name", "score", "box (xyxy, pixels)"):
            self._table.add_column(column, justify="right" if column == "score" else "left")

    def add(self, picture: Found, detections: Detections) -> None:
        """A picture's detections."""
        self.pictures += 1
        shown = detections.above(self._threshold)
        self._names.update(shown.names)
        if self.pictures > PICTURES:
            return
        for name, score, box in zip(shown.names[:ROWS], shown.scores, shown.boxes, strict=False):
            self._add_row(picture, name, f"{score:.3f}", ", ".join(f"{side:.1f}" for side in box))
        if len(shown) > ROWS:
            self._add_row(picture, f"and {len(shown) - ROWS} more", "", "")
        if not len(shown):
            best = f"best score {detections.scores[0]:.3f}" if len(detections) else "none at all"
            self._add_row(picture, "none", "", best)

    def table(self) -> Table:
        """The first pictures, and how many more there are."""
        if self.pictures > PICTURES:
            self._table.caption = f"and {self.pictures - PICTURES} more pictures"
        return self._table

    def lines(self, seconds: float, written: list[Path]) -> list[str]:
        """Pictures, detections by name, errors, speed, and where things are."""
        speed = self.pictures / seconds if seconds else 0
        lines = [f"{self.pictures} picture(s) in {seconds:.2f} s, {speed:.2f} pictures/s"]
        if self.failures:
            lines[0] += f"; {self.failures} could not be used, as told above"
        counted = [f"{name} {count}" for name, count in self._names.most_common(NAMES)]
        if len(self._names) > NAMES:
            counted.append(f"and {len(self._names) - NAMES} more names")
        lines.append(f"{self._names.total()} detection(s){': ' if counted else ''}{', '.join(counted)}")
        if written:
            lines.append(f"Wrote {', '.join(map(str, written))}")
        return list(map(visible, lines))

    def _add_row(self, picture: Found, *cells: str) -> None:
        # As Text: what users name is no markup, and no line or escape sequence of its own.
        self._table.add_row(*(Text(visible(cell)) for cell in (str(picture.relative), *cells)))
