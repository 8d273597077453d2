"""The house: which room may import which, no circles, and a line on each room's door."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "glip_export"
README = PACKAGE.parent / "README.md"
FILES = sorted(path for path in PACKAGE.rglob("*.py"))

# From the top of the house to the ground: a room imports from rows below its own, and of its own row without a circle.
ROWS = (
    ("cli", "bench", "training"),
    ("client",),
    ("parity", "evaluation", "labelling", "serving"),
    ("runtime",),
    ("trt",),
    ("graphs",),
    ("results", "bundle"),
    ("model", "image"),
    ("config", "prompt", "hints", "checkpoint", "names"),
    ("phrases",),
    ("errors", "processes", "addresses", "__init__"),
)
FLOOR = {room: len(ROWS) - number for number, row in enumerate(ROWS) for room in row}
ROOMS = sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists())
MOST_LOOSE_FILES = 10


def test_every_room_has_its_row() -> None:
    loose = {path.stem for path in PACKAGE.glob("*.py")}
    assert {*ROOMS, *loose} == FLOOR.keys()
    assert len(loose) <= MOST_LOOSE_FILES


@pytest.mark.parametrize("room", FLOOR)
def test_imports_go_downwards(room: str) -> None:
    above = [
        f"{_name(file)} imports {_name(target)}"
        for file in FILES
        if _room(file) == room
        for target in _imported(file)
        if FLOOR[_room(target)] > FLOOR[room]
    ]
    assert not above


def test_no_rooms_import_each_other_in_a_circle() -> None:
    rooms = {
        room: {_room(target) for file in FILES if _room(file) == room for target in _imported(file)} for room in FLOOR
    }
    assert not _circle({room: targets - {room} for room, targets in rooms.items()})


def test_no_files_import_each_other_in_a_circle() -> None:
    assert not _circle({_name(file): {_name(target) for target in _imported(file)} - {_name(file)} for file in FILES})


@pytest.mark.parametrize(
    "door", [path for path in FILES if path.name == "__init__.py"], ids=lambda path: path.parent.name
)
def test_a_room_says_what_it_is_for(door: Path) -> None:
    text = ast.get_docstring(ast.parse(door.read_text(encoding="utf-8")))
    assert text and text.splitlines()[0].endswith(".")


def test_the_readme_names_every_room() -> None:
    table = README.read_text(encoding="utf-8").partition("| folder |")[2].partition("\n\n")[0]
    named = set(re.findall(r"(\w+)/`", table))
    assert set(ROOMS) <= named


def test_a_circle_and_an_arrow_up_are_found(tmp_path: Path) -> None:
    assert _circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) and not _circle({"a": {"b", "c"}, "b": {"c"}, "c": set()})
    file = tmp_path / "late.py"
    file.write_text("def f():\n    from glip_export.cli.console import console\n    return console\n")
    (target,) = _imported(file)
    assert _room(target) == "cli"


def _imported(file: Path) -> Iterator[Path]:
    """The files of the package that a file imports, inside functions and for types too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules: Iterable[str] = (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            modules = (f"{node.module}.{alias.name}" for alias in node.names)
        else:
            continue
        yield from filter(None, map(_file, modules))


def _file(module: str) -> Path | None:
    """glip_export.config.yacs and glip_export.config.yacs.layer are both config/yacs.py; None outside the package."""
    parts = module.split(".")
    if parts[0] != PACKAGE.name:
        return None
    for length in (len(parts), len(parts) - 1):
        place = PACKAGE.joinpath(*parts[1:length])
        for path in (place.with_suffix(".py"), place / "__init__.py"):
            if path.exists():
                return path
    return None


def _room(file: Path) -> str:
    inside = file.relative_to(PACKAGE) if file.is_relative_to(PACKAGE) else file
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


def _name(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


def _circle(graph: Mapping[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []
